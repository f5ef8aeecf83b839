"""Make the pictures of README and model cards: the sample map, and what a model makes of it.

    python examples/pictures.py [MODEL ...]      # writes docs/helsinki-MODEL.jpg; default: all

Full size, one map pixel to one pixel; the map was drawn from OpenStreetMap data.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image

import maptile2sat
from maptile2sat.models.bundle import find_bundle, shipped_bundles
from maptile2sat.paths import sample_map

DOCS = Path(__file__).parents[1] / "docs"
BETWEEN = 6
QUALITY = 86


def picture(model: str) -> Image.Image:
    """Return the valid part of the sample map and, right of it, its imagery."""
    source = sample_map(find_bundle(model).description.style)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.tif"
        maptile2sat.render(source, output, model=model)
        with rasterio.open(output) as dataset:
            made = dataset.read([1, 2, 3]).transpose(1, 2, 0)
    with closing(maptile2sat.open_source(source)) as opened:
        drawn, valid = opened.read(opened.info.extent)
    rows, cols = np.flatnonzero(valid.any(1)), np.flatnonzero(valid.any(0))
    inside = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
    gap = np.full((inside[0].stop - inside[0].start, BETWEEN, 3), 255, np.uint8)
    return Image.fromarray(np.concatenate([drawn[inside], gap, made[inside]], axis=1))


def main() -> None:
    """Write the pictures."""
    for model in sys.argv[1:] or [bundle.description.name for bundle in shipped_bundles()]:
        path = DOCS / f"helsinki-{Path(model).name}.jpg"
        picture(model).save(path, quality=QUALITY, optimize=True)
        print(path)


if __name__ == "__main__":
    main()
