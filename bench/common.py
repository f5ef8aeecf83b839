"""What the benchmarks share: a large map, and clocks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window as RasterWindow

from maptile2sat import open_source
from maptile2sat.geo.grid import Window, mercator_grid
from maptile2sat.paths import sample_map
from maptile2sat.sources.base import STYLE_TAG

ZOOM = 16
CORNER = 1024 * 18
"""Column and row of the grid at which large maps start: on the border of any cell."""


def write_map(path: Path, side: int, style: str = "maps") -> tuple[int, int]:
    """Write a web mercator GeoTIFF of `side` px, the valid part of a style's sample map repeated.

    Returns:
        Rows and columns after which it repeats.
    """
    with closing(open_source(sample_map(style))) as source:
        image, mask = source.read(source.info.extent)
    rows, cols = np.where(mask.any(1))[0], np.where(mask.any(0))[0]
    tile = image[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    across = np.tile(tile, (1, -(-side // tile.shape[1]), 1))[:, :side]
    grid, window = mercator_grid(ZOOM), Window(CORNER, CORNER, side, side)
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
        blockxsize=256,
        blockysize=256,
        compress="deflate",
        bigtiff="if_safer",
    ) as dataset:
        dataset.update_tags(**{STYLE_TAG: style})  # as `draw` says it: no labels
        for row in range(0, side, len(across)):
            height = min(len(across), side - row)
            part = RasterWindow(0, row, side, height)
            dataset.write(across[:height].transpose(2, 0, 1), window=part)
    return tile.shape[0], tile.shape[1]


@contextmanager
def clocks() -> Iterator[dict[str, float]]:
    """Give a dictionary that holds `wall` and `cpu` seconds of the block at its end."""
    times: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield times
    times["wall"] = time.perf_counter() - wall
    times["cpu"] = time.process_time() - cpu


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """Return the clocks of one call."""
    with clocks() as times:
        work()
    return times


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each clock over runs."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}
