"""Time a whole render against its generator, as a ratio measured in one run.

    python bench/render.py [--side 4096] [--model maps] [--repeat 3]

The map is the sample map repeated over a square, written as a GeoTIFF first. TensorFlow is warm:
a small render runs before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import rasterio

from maptile2sat import open_source, render
from maptile2sat.grid import Window, mercator_grid
from maptile2sat.resources import sample_map


def write_map(path: Path, side: int) -> None:
    """Write a web mercator GeoTIFF of `side` px, the valid part of the sample map repeated."""
    with closing(open_source(sample_map())) as source:
        extent = source.info.extent
        image, mask = source.read(extent)
    rows, cols = np.where(mask.any(1))[0], np.where(mask.any(0))[0]
    tile = image[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    times = (-(-side // tile.shape[0]), -(-side // tile.shape[1]), 1)
    pixels = np.tile(tile, times)[:side, :side]
    window = Window(extent.col // 1024 * 1024, extent.row // 1024 * 1024, side, side)
    grid = mercator_grid(16)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=side,
        height=side,
        count=3,
        dtype="uint8",
        crs=grid.crs,
        transform=grid.transform(window),
        tiled=True,
        compress="deflate",
    ) as dataset:
        dataset.write(pixels.transpose(2, 0, 1))


def main() -> None:
    """Run the benchmark and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--model", default="maps")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        drawn, output = Path(scratch) / "map.tif", Path(scratch) / "out.tif"
        write_map(drawn, options.side)
        render(None, output, model=options.model)
        runs = [
            render(drawn, output, model=options.model, overwrite=True)
            for _ in range(options.repeat)
        ]
    ratios = [run.seconds / run.generator_seconds for run in runs]
    print(
        json.dumps(
            {
                "side": options.side,
                "model": runs[0].model,
                "precision": runs[0].precision,
                "wall_over_generator": round(statistics.median(ratios), 3),
                "useful_megapixels_per_second": round(
                    statistics.median(run.useful_megapixels_per_second for run in runs), 3
                ),
                "peak_rss_mb": runs[-1].peak_rss_mb,
            }
        )
    )


if __name__ == "__main__":
    main()
