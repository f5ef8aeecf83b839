"""The report of a run: one HTML page of what was trained, how it went, and what to do next."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from maptile2sat._version import __version__
from maptile2sat.bundle import DESCRIPTION, Bundle, open_bundle
from maptile2sat.datasets.layout import Pixels, list_pairs, read_description
from maptile2sat.errors import BundleError, TrainingError
from maptile2sat.page import Html, element, jpeg_data, picture, png_data, table, text, write_page
from maptile2sat.training import sheet
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.curves import DARK, LIGHT, panel_png, panels
from maptile2sat.training.history import (
    BUNDLE,
    METRICS,
    REPORT,
    SAMPLES,
    VALIDATION,
    Line,
    read_lines,
)

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


def _sheets(run: _Run) -> list[tuple[int, list[sheet.Row]]]:
    """Return a few sample sheets from first to last, with their steps."""
    paths = sorted((run.folder / SAMPLES).glob("step-*.png"))
    named = [(int(match[1]), path) for path in paths if (match := _SHEET.fullmatch(path.name))]
    named = [(step, path) for step, path in named if step <= run.last["step"] and _sound(path)]
    chosen = np.unique(np.linspace(0, len(named) - 1, min(STAGES, len(named))).round().astype(int))
    return [(named[index][0], sheet.cut(named[index][1])) for index in chosen]


def _sound(path: Path) -> bool:
    """Say whether a sheet can be read; a report is worth more than one that cannot."""
    try:
        with Image.open(path) as opened:
            opened.load()
    except OSError:
        return False
    return True


def _stages(sheets: list[tuple[int, list[sheet.Row]]]) -> Html:
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
