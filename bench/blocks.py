"""Measure whether a model paints the steps that JPEG leaves in photos.

    python bench/blocks.py MODEL DATA [--pairs 24]

A photo stored as JPEG has a step between blocks of 8 px. A generator whose training crops all
began at the same place in a block can learn where blocks end, and paint a grid of 8 px. For each
place in a block: the mean difference between a pixel there and the one before it (to its left, or
above), over the mean of all places; place 0 is a block's first pixel. Without a grid all are
about 1. Photos have to begin with a block of their file: halves on the left, or of a side that is a
multiple of 8.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from labels import STRIDE, Pixels, painter, spread

from maptile2sat.datasets.pairs import choose_map_side
from maptile2sat.training.data import JPEG_BLOCK, Pairs


def steps(picture: Pixels) -> npt.NDArray[np.float64]:
    """Return the steps of each place, (2, 8): between columns and between rows."""
    grey = picture.astype(np.float64).mean(-1)
    found = []
    for axis in (1, 0):
        gaps = np.abs(np.diff(grey, axis=axis)).mean(1 - axis)
        # difference k is that of pixel k + 1; of the first block it is not known for place 0
        blocks = gaps[JPEG_BLOCK - 1 :]
        blocks = blocks[: len(blocks) // JPEG_BLOCK * JPEG_BLOCK].reshape(-1, JPEG_BLOCK)
        found.append(blocks.mean(0) / blocks.mean())
    return np.array(found)


def main() -> None:
    """Run the measurement and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or folder of a model")
    parser.add_argument("data", type=Path, help="folder with val/, as for training")
    parser.add_argument("--map-side", help="left or right; default: as dataset.json says")
    parser.add_argument("--pairs", type=int, default=24)
    options = parser.parse_args()
    paint = painter(options.model)
    pairs = Pairs.find(options.data / "val", choose_map_side(options.data, options.map_side))
    chosen = spread(pairs, options.pairs)
    made, real = [], []
    for number in chosen:
        pair = pairs[number]
        side = pair.map.shape[0] // STRIDE * STRIDE
        made.append(steps(paint(pair.map[:side, :side], number)))
        real.append(steps(pair.image[:side, :side]))
    report = {
        name: dict(zip(("columns", "rows"), np.mean(parts, 0).round(3).tolist(), strict=True))
        for name, parts in (("generated", made), ("photos", real))
    }
    print(json.dumps({**report, "pairs": len(chosen)}))


if __name__ == "__main__":
    main()
