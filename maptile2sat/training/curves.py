"""The curves of a run: losses and sample figures over the crops seen, for readers new to GANs."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maptile2sat.training.history import Line

NOT_LOSSES = {"step", "crops", "crops_per_second", "seconds", "waiting"}
SMOOTHED_OVER = 20
"""Curves are means over this fraction of a run, with the unsmoothed values faint behind."""


@dataclass(frozen=True)
class Theme:
    """Colours of a drawing: ground, text, grid, and one per curve."""

    ground: str
    ink: str
    grid: str
    curves: tuple[str, ...]


LIGHT = Theme(
    "#ffffff", "#24292f", "#d8dee4", ("#0b62a8", "#c2410c", "#157f3b", "#7c3aad", "#8a6d00")
)
DARK = Theme("none", "#d8dee6", "#3a424c", ("#6cb6ff", "#ffa657", "#7ee787", "#d2a8ff", "#e3c04a"))
# tell curves apart without colour
_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class Panel:
    """One diagram.

    Attributes:
        title: What it shows.
        explanation: How to read it, for people who do not know the method.
        curves: Numbers over crops, by the words of the legend.
        level: Where to draw a thin line that the curves aim at, if anywhere.
    """

    title: str
    explanation: str
    curves: Mapping[str, tuple[list[float], list[float]]]
    level: float | None = None


_DISTANCE = (
    "Distance from the photos (training crops)",
    "How far generated images are from the photos they should match. Falling is good. It levels "
    "off well above zero: no map tells where each tree stands.",
    {
        "l1": "pixel by pixel",
        "l1_pooled": "colours of small squares",
        "features": "texture, as the discriminator sees it",
        "photo": "texture, as a network that knows photos sees it",
    },
)
_LABELS = (
    "Labels on the map (training crops)",
    "What the generator overlooks of labels drawn over the map, and gets wrong of what is under "
    "them. Falling is good; what lies wholly under a label it can only guess.",
    {
        "labels_found": "labels taken for the map, or the map for labels",
        "labels_classes": "what is under them",
        "labels_cleaned": "how that looks",
    },
)
_CONTEST = (
    "Generator against discriminator",
    "One network invents images, a second tells them from photos; each learns from the other. "
    "Ups and downs are normal. The discriminator's curves near zero for long: the generator has "
    "lost.",
    {
        "critic_real": "discriminator's errors on photos",
        "critic_fake": "discriminator's errors on generated images",
        "adversarial": "generator's failures to convince",
    },
)
_GRID = (
    "Grid that upsampling leaves (training crops)",
    "How far the average pixel depends on its place in squares of 4 px. Photos are above zero "
    "too, because of their texture. Falling to their level is good.",
    {"grid": "generated images", "grid_photos": "photos"},
)
_SAMPLES = (
    (
        "sample_l1",
        "Distance from the photos (sample sheet)",
        "The same on held-out crops, which training never sees. It may rise a little as images get "
        "sharper. Rising for long while the curves above fall means that the training set is "
        "learned by heart: give more data.",
        None,
    ),
    (
        "sample_detail",
        "Fine detail (sample sheet)",
        "Contrast between neighbouring pixels, divided by that of the photos. 1 is as much detail "
        "as real; far below is blurred, far above is noisy.",
        1.0,
    ),
)


def panels(metrics: Sequence[Line], validation: Sequence[Line]) -> list[Panel]:
    """Sort what a run has logged into diagrams; those without data are left out.

    Args:
        metrics: Lines of `metrics.jsonl`.
        validation: Lines of `validation.jsonl`.
    """
    names = list(dict.fromkeys(name for line in metrics for name in line if name not in NOT_LOSSES))
    made = []
    for title, explanation, words in (_DISTANCE, _LABELS, _CONTEST, _GRID):
        ours = [name for name in names if _words_of(name) is words]
        known = [name for name in words if name in ours]
        curves = {
            words.get(name, name.replace("_", " ")): _curve(metrics, name)
            for name in [*known, *(name for name in ours if name not in words)]
        }
        made.append(Panel(title, explanation, curves))
    for name, title, explanation, level in _SAMPLES:
        curve = _curve(validation, name)
        made.append(Panel(title, explanation, {"held-out crops": curve} if curve[0] else {}, level))
    return [panel for panel in made if panel.curves]


def draw_curves(metrics: Sequence[Line], validation: Sequence[Line], path: Path) -> None:
    """Write a PNG of all diagrams, one above the other (whole or not at all).

    Args:
        metrics: Lines of `metrics.jsonl`; nothing is written without any.
        validation: Lines of `validation.jsonl`.
        path: The picture; replaced if it exists.
    """
    from matplotlib.figure import Figure

    shown = panels(metrics, validation)
    if not shown:
        return
    figure = Figure(figsize=(8, 3.4 * len(shown)), layout="constrained", facecolor=LIGHT.ground)
    grid = figure.subplots(len(shown), 1, squeeze=False)
    for axes, panel in zip(grid[:, 0], shown, strict=True):
        _plot(axes, panel, LIGHT)
        text = textwrap.fill(panel.explanation, 105)
        above = 10 * (text.count("\n") + 1) + 8
        axes.set_title(panel.title, loc="left", pad=above, fontsize=11, fontweight="bold")
        axes.annotate(
            text, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=8
        )
    temporary = path.with_suffix(".tmp")
    figure.savefig(temporary, format="png", dpi=110)
    temporary.replace(path)


def panel_png(panel: Panel, theme: Theme) -> bytes:
    """Draw one diagram without its words and return it as PNG, of a size that suits a phone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 2.9), layout="constrained", facecolor=theme.ground)
    _plot(figure.subplots(), panel, theme)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def smooth(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the running mean over a twentieth of the values, shorter at both ends."""
    window = np.ones(max(1, len(values) // SMOOTHED_OVER) // 2 * 2 + 1)
    if len(values) < len(window):
        return np.asarray(values, np.float64)
    count = np.convolve(np.ones(len(values)), window, "same")
    return np.convolve(np.asarray(values, np.float64), window, "same") / count


def _plot(axes: Any, panel: Panel, theme: Theme) -> None:
    axes.set_facecolor("none")
    for number, (words, (crops, values)) in enumerate(panel.curves.items()):
        colour = theme.curves[number % len(theme.curves)]
        dash = _DASHES[number % len(_DASHES)]
        even = smooth(values)
        if not np.array_equal(even, values):
            axes.plot(crops, values, color=colour, alpha=0.25, linewidth=0.8)
        mark = "o" if len(values) <= 30 else ""
        axes.plot(
            crops,
            even,
            linestyle=dash,
            color=colour,
            marker=mark,
            markersize=3,
            linewidth=1.6,
            label=words,
        )
    if panel.level is not None:
        axes.axhline(panel.level, color=theme.ink, linewidth=0.8, linestyle=":")
    axes.set_xlabel("training crops of 256 px seen", color=theme.ink, fontsize=9)
    axes.set_xlim(left=0)  # one start for all diagrams
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(colors=theme.ink, labelsize=9)
    axes.grid(color=theme.grid, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    if len(panel.curves) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=theme.ink)


def _words_of(name: str) -> Mapping[str, str]:
    """Return the words of the diagram in which a loss is shown."""
    for _, _, words in (_LABELS, _GRID):
        if name in words:
            return words
    contest = name == "adversarial" or name.startswith(("critic", "discriminator"))
    return (_CONTEST if contest else _DISTANCE)[2]


def _curve(lines: Sequence[Line], name: str) -> tuple[list[float], list[float]]:
    """Return crops and values of the lines that have `name`."""
    having = [line for line in lines if name in line]
    return [line["crops"] for line in having], [line[name] for line in having]
