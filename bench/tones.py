"""Measure the tones of what a model makes beside those of photos of the same places.

    python bench/tones.py MODEL DATA [--split val] [--pairs 40]

The middle of the first 512 px of maps, evenly chosen, is rendered. Printed are the
mean, the standard deviation and the percentiles of all levels of 0..255 of the three colours.
`examples/brightness.py` mends a mean or a contrast that is a little off.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from labels import painter, spread

from maptile2sat.training.pairs import Pairs

SIDE, MARGIN = 512, 128
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
    parser.add_argument("--map-side", default="right")
    parser.add_argument("--pairs", type=int, default=40)
    options = parser.parse_args()
    paint = painter(options.model)
    pairs = Pairs.find(options.data / options.split, options.map_side)
    middle = slice(MARGIN, SIDE - MARGIN)
    made, photos = [], []
    for number in spread(pairs, options.pairs):
        pair = pairs[number]
        made.append(paint(pair.map[:SIDE, :SIDE], number)[middle, middle])
        photos.append(pair.image[middle, middle])
    found = {"made": tones(np.stack(made)), "photos": tones(np.stack(photos))}
    print(json.dumps({**found, "pairs": len(made)}, indent=2))


if __name__ == "__main__":
    main()
