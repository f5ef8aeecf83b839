"""Pages of the site that lie outside of this folder: the README, cards, logs and what they show.

Links are relative to where files lie in the repository, so that they work there. This brings those
pages into the site, and makes links relative to where pages lie in the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
OUTSIDE = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE",
    "bench/README.md",
    "bench/scaling.png",
    "examples/README.md",
    "models/TRAINING.md",
    "models/fcn/README.md",
    "models/features/LICENSE",
    "models/features/README.md",
    "models/maps/README.md",
    "models/osm/README.md",
)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages, under their names in the repository."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make links relative to the page's place in the site."""
    here = Path(page.file.abs_src_path).resolve().parent

    def moved(link: re.Match[str]) -> str:
        path = Path(posixpath.normpath((here / link[0]).as_posix()))
        for base in (DOCS, ROOT):
            if path.is_relative_to(base):
                place = posixpath.dirname(page.file.src_uri)
                return posixpath.relpath(path.relative_to(base).as_posix(), place or ".")
        return link[0]

    return LINK.sub(moved, markdown)
