"""The HTML report: one file that needs nothing else, for any screen."""

from __future__ import annotations

import base64
import io
from html import escape

from PIL import Image

from maptile2sat._version import __version__
from maptile2sat.evaluation.catalogue import (
    METRICS,
    PIXELWISE,
    PUBLISHED,
    PUBLISHED_SOURCE,
    show,
)
from maptile2sat.evaluation.charts import class_chart, level_chart, spectrum_chart
from maptile2sat.evaluation.halves import Figure
from maptile2sat.evaluation.result import Evaluation
from maptile2sat.evaluation.verdict import EVEN

JPEG_QUALITY = 88

_STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8882; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.2; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th, td { text-align: left; padding: .45rem .6rem .45rem 0; border-top: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; } td.n { white-space: nowrap; font-variant-numeric: tabular-nums; }
small { opacity: .75; } .best { font-weight: 700; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; }
.note { background: var(--soft); padding: .6rem .9rem; border-radius: .4rem; }
.charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); }
svg { height: auto; }
@media (max-width: 40rem) {
  .figures thead { display: none; }
  .figures tr { display: block; border-top: 1px solid var(--line); padding: .5rem 0; }
  .figures td { display: block; border: 0; padding: .1rem 0; white-space: normal; }
  .figures td[data-label]::before { content: attr(data-label) ": "; opacity: .75; }
}
"""


def write_page(found: Evaluation, sheet: Image.Image) -> str:
    """Return the report as HTML."""
    names = " and ".join(escape(model.name) for model in found.models)
    verb = "does" if len(found.models) == 1 else "do"
    parts = [
        f"<h1>How real {verb} {names} look?</h1>",
        _facts(found),
        *(f'<p class="note">{escape(text)}</p>' for text in found.warnings),
        _verdict(found),
        "<h2>Figures that rank</h2>",
        "<p>“Real” is what real photos of the same kind score in place of generated ones, by the "
        "same measure: nothing can be expected to do better. ± is the standard deviation over "
        "halves of the places; two models are compared on the same halves, where they differ more "
        "surely.</p>",
        _table(found, [name for name, metric in METRICS.items() if metric.ranks]),
        *_left_out(found),
        "<h2>Other figures</h2>",
        _pixelwise_words(found),
        _table(
            found,
            [name for name, metric in METRICS.items() if not metric.ranks],
            published=True,
        ),
        "<h2>Where it differs</h2>",
        _charts(found),
        "<h2>Pictures</h2>",
        f'<figure><img alt="Rows of map, generated and real" src="{_data(sheet)}"></figure>',
        _small_print(found),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>maptile2sat evaluate: {names}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _facts(found: Evaluation) -> str:
    how = (
        "squares of their own pixels"
        if found.protocol == "crops"
        else "each half resized whole, antialiased (the way of the literature)"
    )
    return (
        f"<p>{found.pairs:,} held-out pairs of the set {escape(found.data)}, {found.squares:,} "
        f"pictures of 256 × 256 px ({how}), seed {found.seed}.</p>"
    )


def _verdict(found: Evaluation) -> str:
    if len(found.models) == 1:
        return ""
    names = [model.name for model in found.models]
    won = {name: sum(1 for best in found.better.values() if best == name) for name in names}
    even = sum(1 for best in found.better.values() if best == EVEN)
    text = ", ".join(f"{escape(name)} is better in {count}" for name, count in won.items())
    return (
        f'<p class="note">Of {len(found.better)} figures that rank, {text}; {even} are even '
        "(too near to tell, or both as good as "
        "real photos).</p>"
    )


def _table(found: Evaluation, names: list[str], *, published: bool = False) -> str:
    head = ["Figure", *(model.name for model in found.models)]
    head.append("Published" if published else "Real")
    rows = []
    for name in names:
        figures = [model.figures.get(name) for model in found.models]
        if any(figure is None for figure in figures):
            continue
        metric = METRICS[name]
        way = {"lower": "Lower is better. ", "higher": "Higher is better. ", "neither": ""}
        cells = [
            f"<td><strong>{metric.title}</strong><br><small>{way[metric.better]}{metric.words}"
            "</small></td>"
        ]
        for model, figure in zip(found.models, figures, strict=True):
            best = " best" if found.better.get(name) == model.name else ""
            cells.append(
                f'<td class="n{best}" data-label="{escape(model.name)}">'
                f"{_with_spread(name, figure)}</td>"
            )
        last = PUBLISHED[found.protocol].get(name) if published else _floor(figures[0])
        cells.append(f'<td class="n" data-label="{head[-1]}">{show(name, last)}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f'<table class="figures"><thead><tr>{titles}</tr></thead>{"".join(rows)}</table>'


def _floor(figure: Figure | None) -> float | None:
    return None if figure is None else figure.floor


def _with_spread(name: str, figure: Figure | None) -> str:
    if figure is None:
        return "–"
    spread = "" if figure.spread is None else f" <small>± {show(name, figure.spread)}</small>"
    return show(name, figure.value) + spread


def _left_out(found: Evaluation) -> list[str]:
    return [
        f'<p class="note">Left out: {escape(what)}: {escape(why)}.</p>'
        for what, why in found.left_out.items()
    ]


def _pixelwise_words(found: Evaluation) -> str:
    compared = ", ".join(METRICS[name].title for name in PIXELWISE)
    values = ", ".join(
        f"{METRICS[name].title} {show(name, value)}"
        for name, value in PUBLISHED[found.protocol].items()
    )
    return (
        f"<p>None of these ranks. {compared} compare pixel by pixel with the one real photo: a map "
        "does not say where each tree stands, so a blurred picture beats a sharp one. For scale, "
        f"{escape(PUBLISHED_SOURCE)}: {values}.</p>"
    )


def _charts(found: Evaluation) -> str:
    charts = [
        ("Detail by size: a good model lies on the real line", spectrum_chart(found)),
        ("Distance of texture patches by the size of detail", level_chart(found)),
    ]
    if found.models[0].classes:
        for key, title, label in (
            ("std", "Contrast in each class of the map", "std of grey levels"),
            ("iou", "What a network finds of each class", "IoU, 0 to 1"),
        ):
            charts.append((title, class_chart(found, key, label)))
    boxes = (
        f"<figure><figcaption><small>{title}</small></figcaption>{svg}</figure>"
        for title, svg in charts
    )
    return f'<div class="charts">{"".join(boxes)}</div>'


def _data(sheet: Image.Image) -> str:
    packed = io.BytesIO()
    sheet.save(packed, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode("ascii")


def _small_print(found: Evaluation) -> str:
    models = "; ".join(f"{escape(model.id)}, {escape(model.numerics)}" for model in found.models)
    return (
        f"<p><small>maptile2sat {__version__}; {models}; classes read by the network "
        f"{escape(found.fcn)}. Generated pictures are synthetic. All figures are in "
        "metrics.json.</small></p>"
    )
