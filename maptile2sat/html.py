"""HTML pages of one file that need nothing else: no scripts, no fonts, no pictures from elsewhere.

Everything that is not `Html` is text and is escaped where it goes in.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NewType

from PIL import Image

Html = NewType("Html", str)
"""Text that is HTML already."""

JPEG_QUALITY = 88

_STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8882; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.2; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0; }
table { border-collapse: collapse; font-size: .93rem; }
th, td { text-align: left; padding: .4rem .8rem .4rem 0; border-top: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 600; min-width: 6rem; }
.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
small { opacity: .75; } code { overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; display: block; } figure { margin: 1rem 0; }
pre { background: var(--soft); padding: .6rem .9rem; border-radius: .4rem; overflow-x: auto; }
.note { background: var(--soft); padding: .6rem .9rem; border-radius: .4rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
  gap: 1.5rem; }
.wide { overflow-x: auto; }
.wide td, .wide th { border: 0; padding: 0 .25rem .25rem 0; min-width: 0; white-space: nowrap;
  font-size: .8rem; }
.wide img { width: 8rem; max-width: none; }
summary { cursor: pointer; }
"""


def element(name: str, *parts: Html, kind: str = "") -> Html:
    """Return an element of HTML parts; `kind` is its class."""
    about = f' class="{escape(kind)}"' if kind else ""
    return Html(f"<{name}{about}>{''.join(parts)}</{name}>")


def text(value: object) -> Html:
    """Return anything as escaped text."""
    return Html(escape(str(value)))


def table(rows: Iterable[Sequence[Html]]) -> Html:
    """Return rows of cells, the first of each a heading."""
    lines = (
        element("tr", element("th", row[0]), *(element("td", cell) for cell in row[1:]))
        for row in rows
    )
    return element("table", *lines)


def picture(light: str, words: str, dark: str = "") -> Html:
    """Return a picture from data URIs, another in the dark if given; `words` say what it is."""
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">' if dark else ""
    return Html(f'<picture>{source}<img alt="{escape(words)}" src="{light}"></picture>')


def png_data(content: bytes) -> str:
    """Return a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def jpeg_data(image: Image.Image) -> str:
    """Return a picture, as JPEG, as a data URI."""
    packed = io.BytesIO()
    image.save(packed, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode("ascii")


def write_page(path: Path, title: str, parts: Iterable[Html]) -> None:
    """Write a page (whole or not at all).

    Args:
        path: The file; replaced if it exists.
        title: In words; also the first heading.
        parts: What follows it.
    """
    head = (
        '<meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # whatever a page has in it, a browser will fetch nothing
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{_STYLE}</style>"
    )
    body = "\n".join([element("h1", text(title)), *parts])
    temporary = path.with_suffix(".tmp")
    temporary.write_text(
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n',
        encoding="utf-8",
    )
    temporary.replace(path)
