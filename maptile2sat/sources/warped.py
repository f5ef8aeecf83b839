"""A raster warped to the web mercator grid of a zoom, tile by tile.

Each aligned 256 px tile is warped by itself from the source's own pixels. (A window of a
WarpedVRT depends on where it is cut, so it would not do.)
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.warp import SUPPORTED_RESAMPLING, reproject
from rasterio.warp import transform as transform_points

from maptile2sat.errors import SourceError, UsageError
from maptile2sat.grid import (
    HALF_WORLD,
    MAX_LATITUDE,
    TILE,
    WEB_MERCATOR,
    WGS84,
    BBox,
    Grid,
    Window,
    mercator_grid,
)
from maptile2sat.source import Read, Source, SourceInfo
from maptile2sat.sources.options import SourceOptions
from maptile2sat.sources.tiled import TiledSource

MAX_SHRINK = 16.0
"""How many source pixels may become one in each direction; more would not fit in memory."""

MAX_PIXELS = int(2 * MAX_SHRINK * TILE) ** 2
"""Most source pixels that are read for one tile."""

_REACH = {
    Resampling.nearest: 1,
    Resampling.bilinear: 1,
    Resampling.cubic: 2,
    Resampling.cubic_spline: 2,
    Resampling.lanczos: 3,
}
"""Radius of the resampling kernels in pixels; 1 for those not listed."""


class _Steps(NamedTuple):
    """Source columns and rows that a step of one pixel of the new grid crosses."""

    across: float
    down: float


class WarpLoader:
    """Warps tiles of a raster; a `TileLoader`.

    Args:
        raster: Where the pixels come from.
        grid: A web mercator grid.
        resampling: How to resample.
    """

    def __init__(self, raster: Source, grid: Grid, resampling: Resampling) -> None:
        self._raster = raster
        self._grid = grid
        self._resampling = resampling

    def load(self, x: int, y: int) -> Read | None:
        """Return tile `x`, `y` of the new grid, None if the raster has nothing there."""
        tile = Window(x * TILE, y * TILE, TILE, TILE)
        info = self._raster.info
        try:
            touched = info.grid.window(self._grid.bounds(tile), WEB_MERCATOR)
        except UsageError:
            return None  # beyond where the raster's CRS is defined
        try:
            steps = _steps(self._grid, tile, info.grid)
        except CPLE_BaseError:
            return None
        reach = _REACH.get(self._resampling, 1) * max(1.0, *steps)
        window = touched.grown(math.ceil(reach) + 2)
        if _taken_for_missing(info.grid.transform(window)):
            window = window.grown(1)
        if not any(info.grid.pieces(window, info.extent)):
            return None
        if window.width * window.height > MAX_PIXELS:
            raise SourceError(
                f"{info.name} is too distorted at tile {self._grid.zoom}/{x}/{y} to be warped: "
                "give a smaller --bbox, or leave -z out"
            )
        return self._warp(self._raster.read(window), window, tile, steps)

    def close(self) -> None:
        """Close the raster."""
        self._raster.close()

    def _warp(self, read: Read, window: Window, tile: Window, steps: _Steps) -> Read | None:
        if not read.mask.any():
            return None
        colours = np.moveaxis(read.image, -1, 0)
        alpha = read.mask[None]
        if read.mask.all():
            # Without an alpha band pixels beyond the window would count as black, but the
            # window is larger than the tile on all sides.
            image = self._reproject(colours, window, tile, steps)
            return Read(
                np.ascontiguousarray(np.moveaxis(image, 0, -1)),
                np.full((TILE, TILE), 255, np.uint8),
            )
        warped = self._reproject(np.concatenate([colours, alpha]), window, tile, steps, alpha=4)
        covered = self._reproject(alpha, window, tile, steps)[0] >= 128
        mask = np.where(covered & (warped[3] > 0), np.uint8(255), np.uint8(0))
        image = np.ascontiguousarray(np.moveaxis(warped[:3], 0, -1))
        image[mask == 0] = 0
        return Read(image, mask)

    def _reproject(
        self,
        bands: npt.NDArray[np.uint8],
        window: Window,
        tile: Window,
        steps: _Steps,
        *,
        alpha: int = 0,
    ) -> npt.NDArray[np.uint8]:
        warped = np.zeros((len(bands), TILE, TILE), np.uint8)
        source = self._raster.info.grid
        reproject(
            np.ascontiguousarray(bands),
            warped,
            src_transform=source.transform(window),
            src_crs=source.crs,
            dst_transform=self._grid.transform(tile),
            dst_crs=self._grid.crs,
            resampling=self._resampling,
            src_alpha=alpha,
            dst_alpha=alpha,
            tolerance=0,
            # Kernels grow with the true ratio, not with GDAL's estimate from the window
            XSCALE=repr(1 / max(1.0, steps.across)),
            YSCALE=repr(1 / max(1.0, steps.down)),
        )
        return warped


def warp_to_zoom(raster: Source, zoom: int, options: SourceOptions) -> TiledSource:
    """Return `raster` on the web mercator grid of `zoom`.

    Args:
        raster: The raster on its own grid; closed with the result.
        zoom: The zoom.
        options: The resampling and the memory for tiles.

    Raises:
        SourceError: If the zoom is much too coarse for the raster.
        UsageError: If the resampling is not known.
    """
    grid = mercator_grid(zoom)
    extent = _extent(raster.info, grid)
    middle = Window(extent.col + extent.width // 2, extent.row + extent.height // 2, 1, 1)
    steps = _steps(grid, middle, raster.info.grid)
    ratio = max(steps)
    if ratio > MAX_SHRINK:
        finest = zoom + math.ceil(math.log2(ratio / MAX_SHRINK))
        raise SourceError(
            f"zoom {zoom} is {ratio:.0f} times coarser than {raster.info.name}: "
            f"use zoom {finest} or more, or make a smaller copy of the map first"
        )
    loader = WarpLoader(raster, grid, _resampling(options.resampling, ratio))
    info = SourceInfo(raster.info.name, grid, extent, raster.info.attribution)
    workers = min(4, os.cpu_count() or 1)
    return TiledSource(info, loader, workers=workers, cache_bytes=options.cache_bytes)


def _resampling(name: str | None, ratio: float) -> Resampling:
    """Return the resampling of that name, or one that suits maps."""
    if name is None:
        return Resampling.average if ratio > 1.0 else Resampling.bilinear
    known = {method.name: method for method in SUPPORTED_RESAMPLING}
    if name not in known:
        raise UsageError(f"resampling '{name}' is not known: say one of {', '.join(known)}")
    return known[name]


def _steps(grid: Grid, tile: Window, source: Grid) -> _Steps:
    """Measure the source pixels per pixel of `grid` at the middle of `tile`."""
    at = grid.transform(tile)
    middle = (tile.width / 2, tile.height / 2)
    points = [at @ middle, at @ (middle[0] + 1, middle[1]), at @ (middle[0], middle[1] + 1)]
    xs, ys = transform_points(grid.crs, source.crs, *zip(*points, strict=True))
    inverse = ~source.affine
    (c0, r0), (c1, r1), (c2, r2) = (inverse @ point for point in zip(xs, ys, strict=True))
    steps = _Steps(math.hypot(c1 - c0, c2 - c0), math.hypot(r1 - r0, r2 - r0))
    return steps if all(math.isfinite(step) for step in steps) else _Steps(1.0, 1.0)


def _taken_for_missing(transform: Affine) -> bool:
    """Whether GDAL would take a transform for none at all (units of one from the origin)."""
    return bool(
        (transform.a, transform.b, transform.c) == (1, 0, 0)
        and (transform.d, abs(transform.e), transform.f) == (0, 1, 0)
    )


def _extent(info: SourceInfo, grid: Grid) -> Window:
    """Return the pixels of a web mercator grid that a raster reaches."""
    at = info.grid.transform(info.extent)
    width, height = info.extent.width, info.extent.height
    parts = [step / 32 for step in range(32)]
    around = (
        [(width * part, 0.0) for part in parts]
        + [(width, height * part) for part in parts]
        + [(width * (1 - part), height) for part in parts]
        + [(0.0, height * (1 - part)) for part in parts]
    )
    xs, ys = zip(*(at @ point for point in around), strict=True)
    if info.grid.crs == WEB_MERCATOR:
        box = BBox(min(xs), max(min(ys), -HALF_WORLD), max(xs), min(max(ys), HALF_WORLD))
        return grid.window(box, WEB_MERCATOR)
    lons, lats = (np.array(values) for values in transform_points(info.grid.crs, WGS84, xs, ys))
    if not (np.isfinite(lons).all() and np.isfinite(lats).all()):
        raise SourceError(f"{info.name} reaches beyond where its CRS is defined: crop it first")
    if not info.grid.crs.is_geographic:
        lons = np.unwrap(lons, period=360.0)
    lats = np.clip(lats, -MAX_LATITUDE, MAX_LATITUDE)
    if lats.min() == lats.max():
        raise SourceError(f"{info.name} lies beyond web mercator, which ends at 85.05 degrees")
    west, east = float(lons.min()), float(lons.max())
    turn = 360.0 if west < -180.0 else 0.0
    east = min(east, west + 360.0)
    return grid.window(BBox(west + turn, float(lats.min()), east + turn, float(lats.max())))
