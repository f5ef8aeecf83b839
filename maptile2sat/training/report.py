"""The report of a run: one HTML page of what was trained, how it went, and what to do next."""

from __future__ import annotations

import dataclasses
import io
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from maptile2sat._version import __version__
from maptile2sat.datasets.pairs import Pixels, list_pairs, read_description
from maptile2sat.errors import BundleError, TrainingError
from maptile2sat.html import Html, element, jpeg_data, picture, png_data, table, text, write_page
from maptile2sat.models.bundle import DESCRIPTION, Bundle, open_bundle
from maptile2sat.training import samples
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.files import (
    BUNDLE,
    METRICS,
    REPORT,
    SAMPLES,
    VALIDATION,
    Line,
    read_lines,
)

# The curves of a run: losses and sample figures over the crops seen, for readers new to GANs

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


STAGES, PLACES, THUMB = 5, 3, 192
_SHEET = re.compile(r"step-(\d{8})\.png")

_PRESETS = {
    "local": "a generator that sees a limited distance, so renders have no seams",
    "cleaner": "that part alone of such a generator which takes labels off maps",
    "pix2pix": "the U-Net of the pix2pix paper, its known faults mended",
    "seed": "the classic pix2pix notebook as it was",
}
_FIGURES = {
    "val_l1": ("mean difference of a pixel, on a scale where black is -1 and white 1", "L1"),
    "val_rmse": ("the same, where large differences count more", "RMSE"),
    "val_psnr": ("the same in decibels: higher is nearer to the photo", "PSNR"),
    "val_pairs": ("held-out pairs that were compared", "pairs"),
}


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the folder of a run says."""

    folder: Path
    config: TrainConfig
    metrics: list[Line]
    validation: list[Line]
    bundle: Bundle | None

    @property
    def last(self) -> Line:
        return self.metrics[-1]

    @property
    def complete(self) -> bool:
        return self.last["step"] >= self.config.steps


def write_report(run: Path, failure: str = "") -> Path | None:
    """Write `report.html` into the folder of a run, complete or not.

    Args:
        run: The folder.
        failure: Why the run broke off, if it did.

    Returns:
        The file, None if nothing was trained yet.

    Raises:
        TrainingError: If the folder is not that of a run.
    """
    found = _Run(
        run,
        TrainConfig.load(run / "config.json"),
        read_lines(run / METRICS),
        read_lines(run / VALIDATION),
        _bundle(run / BUNDLE),
    )
    if not found.metrics:
        return None
    parts = [
        _state(found, failure),
        *_facts(found),
        *_pictures(found),
        *_curves(found),
        *_figures(found),
        *_use(found),
        *_settings(found),
    ]
    path = run / REPORT
    write_page(path, f"Training of {run.resolve().name}", parts)
    return path


def spell_seconds(seconds: float) -> str:
    """Return a length of time for people, such as `2 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _bundle(folder: Path) -> Bundle | None:
    """Return the model that was exported into a run, None if there is none that can be read."""
    try:
        return open_bundle(folder) if (folder / DESCRIPTION).exists() else None
    except BundleError:
        return None


def _state(run: _Run, failure: str) -> Html:
    done = f"{run.last['step']:,} of {run.config.steps:,} steps"
    if failure:
        return element("p", text(f"Broke off after {done}: {failure}"), kind="note")
    if run.complete:
        return element("p", text(f"Complete: {done}."), kind="note")
    share = run.last["step"] / run.config.steps
    return element(
        "p",
        text(
            f"Stopped after {done} ({share:.0%}). Say the same command again to go on; everything "
            "below is what there is so far."
        ),
        kind="note",
    )


def _facts(run: _Run) -> list[Html]:
    config, last = run.config, run.last
    seconds = last.get("seconds", 0.0)
    rows = [("preset", f"{config.preset}: {_PRESETS.get(config.preset, 'own settings')}")]
    rows += _data(config)
    rows.append(("amount", f"{last['crops']:,.0f} crops of 256 px or their equal in pixels"))
    if seconds:
        rows.append(
            (
                "time",
                f"{spell_seconds(seconds)}, {last['crops'] / seconds:.1f} crops per second"
                f", {_waiting(run.metrics):.1%} of it waiting for data",
            )
        )
    rows.append(("computed in", config.precision))
    if run.bundle:
        rows.append(("model", run.bundle.id))
    heading = element("h2", text("What was trained"))
    return [heading, table([[text(name), text(value)] for name, value in rows])]


def _data(config: TrainConfig) -> list[tuple[str, str]]:
    """Return what is known of the pairs; their folder may be gone by now."""
    folder = Path(config.data)
    try:
        counts = [len(list_pairs(folder / split)) for split in ("train", "val")]
        said = read_description(folder)
    except TrainingError:
        return [("data", f"{folder} (no longer there)")]
    rows = [("data", f"{folder}: {counts[0]:,} pairs, and {counts[1]:,} held out")]
    if said.get("attribution"):
        rows.append(("attribution", str(said["attribution"])))
    return rows


def _waiting(metrics: Sequence[Line]) -> float:
    """Return the mean share of the time without a batch to train on."""
    return float(np.mean([line.get("waiting", 0.0) for line in metrics]))


def _pictures(run: _Run) -> list[Html]:
    sheets = _sheets(run)
    if not sheets:
        return []
    step, _ = sheets[-1]
    with Image.open(run.folder / SAMPLES / f"step-{step:08d}.png") as last:
        whole = jpeg_data(last.convert("RGB"))
    words = (
        "Places that training never saw: the map, what was made of it, and the photo. Streets, "
        "buildings, water and woods should be where the map has them; what a map does not show, "
        "such as single trees, cars and roofs, is invented."
    )
    parts = [
        element("h2", text(f"What it makes of maps after {step:,} steps")),
        element("p", text(words)),
        element("figure", picture(whole, "Rows of map, generated image and photo")),
    ]
    if len(sheets) > 1:
        parts += [element("h2", text("How it learned")), _stages(sheets)]
    return parts


def _sheets(run: _Run) -> list[tuple[int, list[samples.Row]]]:
    """Return a few sample sheets from first to last, with their steps."""
    paths = sorted((run.folder / SAMPLES).glob("step-*.png"))
    named = [(int(match[1]), path) for path in paths if (match := _SHEET.fullmatch(path.name))]
    named = [(step, path) for step, path in named if step <= run.last["step"] and _sound(path)]
    chosen = np.unique(np.linspace(0, len(named) - 1, min(STAGES, len(named))).round().astype(int))
    return [(named[index][0], samples.cut(named[index][1])) for index in chosen]


def _sound(path: Path) -> bool:
    """Say whether a sheet can be read; a report is worth more than one that cannot."""
    try:
        with Image.open(path) as opened:
            opened.load()
    except OSError:
        return False
    return True


def _stages(sheets: list[tuple[int, list[samples.Row]]]) -> Html:
    """Return a table: one line per place, one column per sheet."""
    titles = ["map", *(f"{step:,} steps" for step, _ in sheets), "photo"]
    lines = [element("tr", *(element("th", text(title)) for title in titles))]
    _, last = sheets[-1]
    for place, row in enumerate(last[:PLACES]):
        made = [rows[place].made for _, rows in sheets if place < len(rows)]
        cells = [
            element("td", picture(jpeg_data(_thumb(pixels)), f"place {place + 1}: {title}"))
            for title, pixels in zip(titles, [row.map, *made, row.photo], strict=False)
        ]
        lines.append(element("tr", *cells))
    return element("div", element("table", *lines), kind="wide")


def _thumb(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels).resize((THUMB, THUMB), Image.Resampling.BOX)


def _curves(run: _Run) -> list[Html]:
    boxes = []
    for panel in panels(run.metrics, run.validation):
        light, dark = (png_data(panel_png(panel, theme)) for theme in (LIGHT, DARK))
        drawn = picture(light, f"Curves: {', '.join(panel.curves)}", dark)
        words = element("p", element("small", text(panel.explanation)))
        boxes.append(element("div", element("h3", text(panel.title)), words, drawn))
    return [element("h2", text("Curves")), element("div", *boxes, kind="grid")]


def _figures(run: _Run) -> list[Html]:
    heading = element("h2", text("Final figures"))
    if run.bundle is None or not run.bundle.description.metrics:
        words = "Not measured yet: that is done when a run is complete and its model is exported."
        return [heading, element("p", text(words))]
    about = run.bundle.description
    rows = []
    for name, value in about.metrics.items():
        meaning, short = _FIGURES.get(name, ("", name))
        number = element("span", text(f"{value:g}"), kind="number")
        rows.append([text(short), number, text(meaning)])
    step = about.training.get("steps", run.last["step"])
    words = (
        f"Of the model as exported after {step:,} steps, on held-out pairs. They tell a broken "
        "model from a sound one but do not rank good ones: a blurred picture scores better than a "
        "sharp one whose trees stand elsewhere. Judge by the pictures."
    )
    return [heading, element("p", text(words)), table(rows)]


def _use(run: _Run) -> list[Html]:
    folder = shlex.quote(str(run.folder))
    model = shlex.quote(str(run.folder / BUNDLE))
    lines = [f"maptile2sat render MAP -o out.tif -m {model}"]
    if run.bundle is None:
        lines.insert(0, f"maptile2sat export {folder} -o {model}")
    return [
        element("h2", text("How to use it")),
        element("pre", element("code", text("\n".join(lines)))),
        element(
            "p",
            text(
                "MAP is any map in the style that it was trained on, at about the same scale: "
                "MBTiles, PMTiles, GeoTIFF or tiles. What it makes is synthetic: do not pass it "
                "off as real imagery."
            ),
        ),
    ]


def _settings(run: _Run) -> list[Html]:
    values = dataclasses.asdict(run.config)
    rows = [[element("code", text(name)), text(value)] for name, value in values.items()]
    summary = element("summary", text("All settings (config.json)"))
    version = element("p", element("small", text(f"maptile2sat {__version__}")))
    return [element("details", summary, table(rows)), version]
