"""Measure how much labels on a map change what a model makes of it.

    python bench/labels.py MODEL DATA [--against BASELINE] [--picture labels.png]

Held-out maps are rendered as they are and with labels drawn over them as in training
(`maptile2sat.training.labels.draw`), with the same noise; labels follow from `--seed` and the
pair's number alone. With `--against`, the same maps go through a second model, such as one that
was trained without labels, and `ratio` says how much of its change is left. `--opacity 0.05` draws
the labels all but transparent: how sensitive a model is to what hardly shows. The picture shows
the sample map of Helsinki, bare and labelled, and what each model makes of both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from maptile2sat import open_source
from maptile2sat.datasets.pairs import choose_map_side
from maptile2sat.geo.grid import Window
from maptile2sat.models.bundle import find_bundle
from maptile2sat.models.device import choose_device
from maptile2sat.models.generator import generate, load_translator
from maptile2sat.models.noise import noise
from maptile2sat.paths import sample_map
from maptile2sat.rendering import mosaic
from maptile2sat.training.data import Pairs
from maptile2sat.training.labels.draw import annotate

STRIDE = 16
SAMPLE_SIDE = 512
SAMPLE_NUMBER = 11
"""Number of the sample map's labels: many of every kind."""

CELL = 768
GAP = 6

Pixels = npt.NDArray[np.uint8]
Paint = Callable[[Pixels, int], Pixels]
"""From a map, uint8 (side, side, 3), and the number of its noise to an image of the same kind."""


def painter(name: str, precision: str) -> Paint:
    """Return what a model makes of a map, as rendered; maps are mirrored at their borders.

    Args:
        name: Of the model, or its folder.
        precision: `auto` for whole numbers if the model has them, or as for `render`.
    """
    bundle = find_bundle(name)
    device = choose_device("cpu", precision, exact=bundle.exact)
    translator = load_translator(bundle, device, cell=CELL)

    def paint(drawn: Pixels, place: int) -> Pixels:
        core = Window(6 * CELL * place, 0, drawn.shape[1], drawn.shape[0])
        cell = mosaic.cells_of(core, translator).first
        whole = cell.grown(translator.halo)
        rest = (whole.right - core.right, whole.bottom - core.bottom)
        pads = ((translator.halo, rest[1]), (translator.halo, rest[0]), (0, 0))
        packed = translator.pack(np.pad(drawn, pads, "reflect"), noise(0, whole))
        return generate(translator, packed)[: core.height, : core.width]

    return paint


def labelled(drawn: Pixels, seed: int, number: int) -> Pixels:
    """Return the map with its labels, the same in every run."""
    return annotate(drawn, np.random.default_rng([seed, 6, number]))


def blended(drawn: Pixels, full: Pixels, opacity: float) -> Pixels:
    """Return the map with the labels of `full` at an opacity of 0..1."""
    return np.rint(drawn + opacity * (full.astype(np.float64) - drawn)).astype(np.uint8)


def spread(pairs: Pairs, count: int) -> list[int]:
    """Return the numbers of at most `count` pairs, evenly chosen."""
    places = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round()
    return [int(place) for place in np.unique(places)]


def gap(one: Pixels, other: Pixels) -> float:
    """Return the mean absolute difference in levels."""
    return float(np.abs(one.astype(np.int16) - other).mean())


def measure(
    paints: list[Paint], pairs: Pairs, count: int, seed: int, opacity: float
) -> list[dict[str, float]]:
    """Return each model's figures: means over the pairs, in levels of 0..255.

    `change` is the difference that labels make, `change_under_labels` that on the pixels that
    they cover, `l1` the distance of the images of bare maps from the photos.
    """
    chosen = spread(pairs, count)
    rows: list[list[tuple[float, float, float]]] = [[] for _ in paints]
    covers = []
    for number in chosen:
        pair = pairs[number]
        side = pair.map.shape[0] // STRIDE * STRIDE
        drawn, photo = pair.map[:side, :side], pair.image[:side, :side]
        full = labelled(drawn, seed, number)
        under = np.abs(full.astype(np.int16) - drawn).max(-1) > 12
        full = blended(drawn, full, opacity)
        covers.append(under.mean())
        for paint, row in zip(paints, rows, strict=True):
            bare, made = paint(drawn, number), paint(full, number)
            inside = gap(bare[under], made[under]) if under.any() else 0.0
            row.append((gap(bare, made), inside, gap(bare, photo)))
    names = ("change", "change_under_labels", "l1")
    cover = round(float(np.mean(covers)), 4)
    return [
        {
            **{
                name: round(float(value), 4)
                for name, value in zip(names, np.mean(row, 0), strict=True)
            },
            "labelled_share": cover,
            "pairs": len(chosen),
        }
        for row in rows
    ]


def sample(side: int, style: str) -> Pixels:
    """Return the middle of a style's sample map."""
    with closing(open_source(sample_map(style))) as source:
        extent = source.info.extent
        left = extent.col + (extent.width - side) // 2 // STRIDE * STRIDE
        top = extent.row + (extent.height - side) // 2 // STRIDE * STRIDE
        return source.read(Window(left, top, side, side))[0]


def draw(paints: list[Paint], path: Path, seed: int, style: str) -> None:
    """Write the picture: above the bare map, below the labelled one, models from left to right."""
    bare = sample(SAMPLE_SIDE, style)
    rows = []
    for drawn in (bare, labelled(bare, seed, SAMPLE_NUMBER)):
        parts = [drawn, *(paint(drawn, 0) for paint in paints)]
        between = np.full((SAMPLE_SIDE, GAP, 3), 255, np.uint8)
        joined = [piece for part in parts for piece in (part, between)][:-1]
        rows.append(np.concatenate(joined, axis=1))
    line = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    Image.fromarray(np.concatenate([rows[0], line, rows[1]])).save(path)


def main() -> None:
    """Run the measurement and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or folder of a model")
    parser.add_argument("data", type=Path, help="folder with val/, as for training")
    parser.add_argument("--against", help="a second model to compare with")
    parser.add_argument("--against-precision", default="auto", help="what the second computes in")
    parser.add_argument("--map-side", help="left or right; default: as dataset.json says")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--opacity", type=float, default=1.0, help="of the labels, 0..1")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    options = parser.parse_args()
    paints = [painter(options.model, "auto")]
    if options.against:
        paints.append(painter(options.against, options.against_precision))
    pairs = Pairs.find(options.data / "val", choose_map_side(options.data, options.map_side))
    figures = measure(paints, pairs, options.pairs, options.seed, options.opacity)
    report: dict[str, object] = {"model": {"name": options.model, **figures[0]}}
    if options.against:
        report["against"] = {"name": options.against, **figures[1]}
        report["ratio"] = round(figures[0]["change"] / figures[1]["change"], 4)
        report["l1_on_bare_maps"] = round(figures[0]["l1"] / figures[1]["l1"] - 1.0, 4)
    if options.picture:
        style = find_bundle(options.model).description.style
        draw(paints, options.picture, options.seed, style)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
