"""Charts of an evaluation as SVG text that takes the page's colours."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np

from maptile2sat.evaluation.result import Evaluation

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
