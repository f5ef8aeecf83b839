"""Measure the tones of what a model makes beside those of photos of the same places.

    python bench/tones.py MODEL DATA [--split val] [--pairs 40]

Maps, evenly chosen, are rendered, of large ones the first 512 px, with what is mirrored at their
borders around them: a model sees nothing beyond a border, and paints there what it never paints
elsewhere. Printed are the mean, the standard deviation and the percentiles of all levels of 0..255
of the three colours.
`examples/brightness.py` mends a mean or a contrast that is a little off.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from labels import painter, spread

from maptile2sat.datasets.pairs import choose_map_side
from maptile2sat.training.data import Pairs

SIDE, MARGIN, STRIDE = 512, 128, 16
PERCENTILES = (5, 25, 50, 75, 95)


def tones(levels: npt.NDArray[np.uint8]) -> dict[str, float | list[float]]:
    """Return the mean, the standard deviation and the percentiles of levels."""
    return {
        "mean": round(float(levels.mean()), 1),
        "deviation": round(float(levels.std()), 1),
        "percentiles": [round(float(value), 1) for value in np.percentile(levels, PERCENTILES)],
    }


def main() -> None:
    """Run the measurement and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or folder of a local model")
    parser.add_argument("data", type=Path, help="folder with train/ and val/, as for training")
    parser.add_argument("--split", default="val", choices=("train", "val"))
    parser.add_argument("--map-side", help="left or right; default: as dataset.json says")
    parser.add_argument("--pairs", type=int, default=40)
    options = parser.parse_args()
    paint = painter(options.model)
    pairs = Pairs.find(
        options.data / options.split, choose_map_side(options.data, options.map_side)
    )
    made, photos = [], []
    for number in spread(pairs, options.pairs):
        pair = pairs[number]
        side = min(SIDE, pair.map.shape[0]) // STRIDE * STRIDE
        around = ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
        wide = np.pad(pair.map[:side, :side], around, "symmetric")
        made.append(paint(wide, number)[MARGIN:-MARGIN, MARGIN:-MARGIN].ravel())
        photos.append(pair.image[:side, :side].ravel())
    found = {"made": tones(np.concatenate(made)), "photos": tones(np.concatenate(photos))}
    print(json.dumps({**found, "pairs": len(made)}, indent=2))


if __name__ == "__main__":
    main()
