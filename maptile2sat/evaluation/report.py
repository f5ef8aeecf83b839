"""The HTML report: one file that needs nothing else, for any screen."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from maptile2sat._version import __version__
from maptile2sat.evaluation.catalogue import (
    METRICS,
    PIXELWISE,
    PUBLISHED,
    PUBLISHED_SOURCE,
    show,
)
from maptile2sat.evaluation.measure import EVEN, Figure
from maptile2sat.evaluation.result import Evaluation

# Charts of an evaluation as SVG text that takes the page's colours

_INK = "#010203"  # a colour that nothing else has, replaced by the page's own
SHADES = ("#d9480f", "#1971c2")
REAL = "#868e96"


def spectrum_chart(found: Evaluation) -> str:
    """Return the power spectra of generated and real pictures, by wavelength."""
    figure, axes = _axes()
    radius = np.arange(1, len(found.real_profile) + 1)
    wavelength = 2 * len(radius) / radius
    axes.plot(wavelength, found.real_profile, color=REAL, linewidth=3, label="real")
    for model, shade in zip(found.models, SHADES, strict=False):
        axes.plot(wavelength, model.profile, color=shade, linewidth=1.5, label=model.name)
    axes.set_xscale("log", base=2)
    axes.invert_xaxis()
    ticks = [128, 64, 32, 16, 8, 4, 2]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("size of detail in pixels (coarse to fine)")
    axes.set_ylabel("strength in dB")
    axes.legend(frameon=False, labelcolor=_INK)
    return _svg(figure)


def class_chart(found: Evaluation, key: str, label: str) -> str:
    """Return bars by class of the map: real beside generated.

    Args:
        found: The evaluation, its maps of a known style.
        key: A figure of `Measured.classes` that also has `KEY_real`.
        label: Of the axis.
    """
    names = list(found.models[0].classes)
    real = [found.models[0].classes[name][f"{key}_real"] for name in names]
    made = [[model.classes[name][key] for name in names] for model in found.models]
    return _bars(found, names, real, made, label)


def level_chart(found: Evaluation) -> str:
    """Return bars of the sliced Wasserstein distance by pyramid level, finest first."""
    prefix = "swd_"
    keys = [key for key in found.models[0].figures if key.startswith(prefix)]
    real = [found.models[0].figures[key].floor or 0.0 for key in keys]
    made = [[model.figures[key].value for key in keys] for model in found.models]
    names = [f"{int(keys[0][len(prefix) :]) // int(key[len(prefix) :])} px" for key in keys]
    return _bars(found, names, real, made, "distance")


def _bars(
    found: Evaluation, names: list[str], real: list[float], made: list[list[float]], label: str
) -> str:
    figure, axes = _axes()
    series = [("real", REAL, real)]
    for model, shade, values in zip(found.models, SHADES, made, strict=False):
        series.append((model.name, shade, values))
    width = 0.8 / len(series)
    for number, (title, shade, values) in enumerate(series):
        places = np.arange(len(names)) + (number - (len(series) - 1) / 2) * width
        axes.bar(places, np.nan_to_num(values), width, color=shade, label=title)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel(label)
    axes.legend(frameon=False, labelcolor=_INK)
    return _svg(figure)


def _axes() -> tuple[Any, Any]:
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.set_facecolor("none")
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib as mpl

    page = io.StringIO()
    # letters as paths look the same everywhere; a fixed salt and no date make equal bytes
    with mpl.rc_context({"svg.hashsalt": "maptile2sat"}):
        figure.savefig(page, format="svg", transparent=True, metadata={"Date": None})
    text = page.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    return re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"|(<svg)', _scalable, text, count=1)


def _scalable(match: re.Match[str]) -> str:
    return f'{match[1] or match[2]} width="100%" role="img"'


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


# The contact sheet: map, generated and real picture side by side, row by row

Pixels = npt.NDArray[np.uint8]

ROWS = 8
GAP = 6
HEAD = 24
PAPER, INK = (250, 250, 248), (40, 40, 40)


def draw_sheet(columns: Sequence[tuple[str, Pixels]], places: Sequence[int]) -> Image.Image:
    """Return a picture of the sheet.

    Args:
        columns: Title and squares uint8 (N, side, side, 3) of each column.
        places: For each square the index of its pair; rows are of different pairs.
    """
    firsts = np.unique(np.asarray(places), return_index=True)[1]
    chosen = firsts[np.linspace(0, len(firsts) - 1, min(ROWS, len(firsts))).round().astype(int)]
    side = columns[0][1].shape[1]
    width = len(columns) * (side + GAP) + GAP
    sheet = Image.new("RGB", (width, HEAD + len(chosen) * (side + GAP) + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for number, (title, squares) in enumerate(columns):
        left = GAP + number * (side + GAP)
        pen.text((left, 5), _fitting(title, font, side), fill=INK, font=font)
        for row, index in enumerate(chosen):
            sheet.paste(Image.fromarray(squares[index]), (left, HEAD + GAP + row * (side + GAP)))
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "…"
    return text
