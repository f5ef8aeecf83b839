"""A raster warped to another grid, such as that of a zoom, tile by tile.

Each aligned 256 px tile is warped by itself from the source's own pixels. (A window of a
WarpedVRT depends on where it is cut, so it would not do.)
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.enums import Resampling
from rasterio.warp import SUPPORTED_RESAMPLING, reproject

from maptile2sat.errors import SourceError, UsageError
from maptile2sat.gdal import ignore_missing_position
from maptile2sat.geo.crs import HALF_WORLD, MAX_LATITUDE, WEB_MERCATOR, converted, poles
from maptile2sat.geo.grid import TILE, BBox, Grid, Window, mercator_grid
from maptile2sat.sources.base import Read, Source, blank
from maptile2sat.sources.options import SourceOptions
from maptile2sat.sources.tiles import TiledSource

MAX_SHRINK = 16.0
"""How many source pixels may become one in each direction; more would not fit in memory."""

MAX_PIXELS = int(2 * MAX_SHRINK * TILE) ** 2
"""Most source pixels that are read for one tile."""

AWAY = 32
"""Pixels around a pole in which one pixel of a map in degrees or web mercator is like no other."""

_REACH = {
    Resampling.nearest: 1,
    Resampling.bilinear: 1,
    Resampling.cubic: 2,
    Resampling.cubic_spline: 2,
    Resampling.lanczos: 3,
}
"""Radius of the resampling kernels in pixels; 1 for those not listed."""

_ROUNDING = 1e-6
"""Part by which pixels of one size may seem to shrink, for their places are rounded."""


class Methods(NamedTuple):
    """How to resample where pixels shrink, and elsewhere.

    Each tile has the method of its own place: that of all of an area would change with the area.
    """

    shrinking: Resampling
    other: Resampling

    def at(self, ratio: float) -> Resampling:
        """Return how to resample where so many source pixels become one, in one direction."""
        return self.shrinking if ratio > 1.0 + _ROUNDING else self.other

    def reach(self, ratio: float) -> int:
        """Return how many source pixels around its own place a warped pixel may depend on.

        Args:
            ratio: How many of them become one, in one direction at most.
        """
        return math.ceil(max(_REACH.get(method, 1) for method in self) * max(1.0, ratio)) + 2


class Steps(NamedTuple):
    """Source columns and rows that a step of one pixel of the new grid crosses."""

    across: float
    down: float

    def ratio(self, *, pole: bool) -> float:
        """Return how many source pixels become one, in one direction at most.

        Args:
            pole: Whether it is at a pole: there all columns of a map meet, however fine the new
                grid is, so that rows alone tell.
        """
        return self.down if pole else max(self)


class WarpLoader:
    """Warps tiles of a raster; a `TileLoader`.

    Args:
        raster: Where the pixels come from.
        grid: The grid to warp to.
        resampling: One of rasterio's names; None: what suits the place of each tile.

    Raises:
        UsageError: If the resampling is not known.
    """

    def __init__(self, raster: Source, grid: Grid, resampling: str | None) -> None:
        ignore_missing_position()
        self._raster = raster
        self._grid = grid
        self._methods = methods_of(resampling)

    def load(self, x: int, y: int) -> Read | None:
        """Return tile `x`, `y` of the new grid, None if the raster has nothing there."""
        tile = Window(x * TILE, y * TILE, TILE, TILE)
        info = self._raster.info
        try:
            defined = _defined(self._grid, tile, info.grid)
            touched = info.grid.window(defined, self._grid.crs)
            middle = self._grid.window(defined, self._grid.crs).intersection(tile)
            steps = steps_of(self._grid, middle, info.grid)
        except UsageError:
            return None  # beyond where the raster's CRS is defined
        window = touched.grown(self._methods.reach(max(steps)))
        if _taken_for_missing(info.grid.transform(window)):
            window = window.grown(1)
        places = [
            place
            for place in _places(info.grid, window)
            if any(info.grid.pieces(place, info.extent))
        ]
        if not places:
            return None
        if window.width * window.height > MAX_PIXELS:
            middle = self._grid.transform(tile) @ (TILE / 2, TILE / 2)
            raise SourceError(
                f"{info.name} is too distorted at {middle[0]:.6g},{middle[1]:.6g} of "
                f"{self._grid.crs} to be warped: give a smaller --bbox, or leave out what warps it"
            )
        return self._warp([(self._raster.read(place), place) for place in places], tile, steps)

    def discard(self, x: int, y: int) -> None:
        """Do nothing: no copy is kept."""

    def close(self) -> None:
        """Close the raster."""
        self._raster.close()

    def _warp(self, reads: list[tuple[Read, Window]], tile: Window, steps: Steps) -> Read | None:
        grid = self._raster.info.grid
        reads = [(read, window) for read, window in reads if read.mask.any()]
        parts = [(read, window, turn) for read, window in reads for turn in _turns(grid, window)]
        if not parts:
            return None
        if len(parts) == 1 and reads[0][0].mask.all():
            # Without an alpha band pixels beyond the window would count as black, but the
            # window is larger than the tile on all sides.
            read, window, turn = parts[0]
            bands = np.moveaxis(read.image, -1, 0)
            image = self._reproject(bands, window, turn, tile, steps)
            return Read(
                np.ascontiguousarray(np.moveaxis(image, 0, -1)),
                np.full((TILE, TILE), 255, np.uint8),
            )
        warped = blank(tile)
        for part in parts:
            there = self._warp_masked(*part, tile, steps)
            np.copyto(warped.image, there.image, where=there.mask[..., None] > 0)
            np.maximum(warped.mask, there.mask, out=warped.mask)
        return warped

    def _warp_masked(
        self, read: Read, window: Window, turn: float, tile: Window, steps: Steps
    ) -> Read:
        alpha = read.mask[None]
        bands = np.concatenate([np.moveaxis(read.image, -1, 0), alpha])
        warped = self._reproject(bands, window, turn, tile, steps, alpha=4)
        covered = self._reproject(alpha, window, turn, tile, steps)[0] >= 128
        mask = np.where(covered & (warped[3] > 0), np.uint8(255), np.uint8(0))
        image = np.ascontiguousarray(np.moveaxis(warped[:3], 0, -1))
        image[mask == 0] = 0
        return Read(image, mask)

    def _reproject(
        self,
        bands: npt.NDArray[np.uint8],
        window: Window,
        turn: float,
        tile: Window,
        steps: Steps,
        *,
        alpha: int = 0,
    ) -> npt.NDArray[np.uint8]:
        warped = np.zeros((len(bands), TILE, TILE), np.uint8)
        source = self._raster.info.grid
        reproject(
            np.ascontiguousarray(bands),
            warped,
            src_transform=Affine.translation(turn, 0) @ source.transform(window),
            src_crs=source.crs,
            dst_transform=self._grid.transform(tile),
            dst_crs=self._grid.crs,
            resampling=self._methods.at(steps.ratio(pole=at_pole(self._grid, tile, source))),
            src_alpha=alpha,
            dst_alpha=alpha,
            tolerance=0,
            # Kernels grow with the true ratio, not with GDAL's estimate from the window
            XSCALE=repr(1 / max(1.0, steps.across)),
            YSCALE=repr(1 / max(1.0, steps.down)),
            # GDAL looks for the part of the source that it needs at some points only, which miss
            # where longitudes jump
            SOURCE_EXTRA=max(window.width, window.height),
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
    extent = extent_on(grid, raster.info.grid, raster.info.extent, raster.info.name)
    ratio = max(steps_of(grid, extent, raster.info.grid))
    if ratio > MAX_SHRINK:
        finest = zoom + math.ceil(math.log2(ratio / MAX_SHRINK))
        raise SourceError(
            f"zoom {zoom} is {ratio:.0f} times coarser than {raster.info.name}: "
            f"use zoom {finest} or more, or make a smaller copy of the map first"
        )
    loader = WarpLoader(raster, grid, options.resampling)
    about = raster.info
    info = dataclasses.replace(about, grid=grid, extent=extent)
    workers = min(4, os.cpu_count() or 1)
    return TiledSource(info, loader, workers=workers, cache_bytes=options.cache_bytes)


def methods_of(name: str | None) -> Methods:
    """Return the resampling of that name; without one, some that neither alias nor ring.

    Args:
        name: One of rasterio's names, or None.

    Raises:
        UsageError: If the name is not known.
    """
    if name is None:
        return Methods(Resampling.average, Resampling.bilinear)
    # a sum of colours is no colour, and depends on where GDAL begins
    known = {method.name: method for method in SUPPORTED_RESAMPLING if method is not Resampling.sum}
    if name not in known:
        raise UsageError(f"resampling '{name}' is not known: say one of {', '.join(known)}")
    return Methods(known[name], known[name])


def steps_of(grid: Grid, window: Window, source: Grid) -> Steps:
    """Measure the source pixels per pixel of `grid` at the middle of `window`.

    At a pole, where longitudes say nothing, they are measured beside it.

    Raises:
        UsageError: If it lies beyond where the CRS of `source` is defined.
    """
    at = grid.transform(window)
    middle = (window.width // 2, window.height // 2)
    if at_pole(grid, Window(window.col + middle[0], window.row + middle[1], 1, 1), source):
        middle = (middle[0] + 2 * AWAY, middle[1])
    points = [at @ middle, at @ (middle[0] + 1, middle[1]), at @ (middle[0], middle[1] + 1)]
    xs, ys = converted(grid.crs, source.crs, *zip(*points, strict=True))
    inverse = ~source.affine
    (c0, r0), *others = (inverse @ point for point in zip(xs, ys, strict=True))
    pixel = math.hypot(source.affine.a, source.affine.d)
    across = source.turn / pixel if source.turn else math.inf  # once around the world
    (c1, r1), (c2, r2) = (
        (math.remainder(c - c0, across) if math.isfinite(c) else math.nan, r - r0)
        for c, r in others
    )
    steps = Steps(math.hypot(c1, c2), math.hypot(r1, r2))
    return steps if all(math.isfinite(step) for step in steps) else Steps(1.0, 1.0)


def at_pole(grid: Grid, place: Window, source: Grid) -> bool:
    """Whether a place is so near a pole that the longitudes of `source` say nothing of sizes.

    Args:
        grid: The grid of the place.
        place: A pixel, or more.
        source: The grid that is measured.
    """
    if grid.turn is not None or source.turn is None:
        return False
    west, south, east, north = grid.bounds(place)
    away = AWAY * math.hypot(grid.affine.a, grid.affine.d)
    return any(
        math.hypot(max(west - pole.x, 0.0, pole.x - east), max(south - pole.y, 0.0, pole.y - north))
        < away
        for pole in poles(grid.crs)
    )


def _defined(grid: Grid, tile: Window, source: Grid) -> BBox:
    """Return a tile's bounds, those in degrees less what the source's CRS ends before."""
    bounds = grid.bounds(tile)
    if not grid.crs.is_geographic:
        return bounds
    last = 90.0 if source.zoom is None else MAX_LATITUDE
    return bounds._replace(south=max(bounds.south, -last), north=min(bounds.north, last))


def _places(grid: Grid, window: Window) -> list[Window]:
    """Return where the pixels of a window may lie in the columns of a raster.

    Longitudes go around all rasters in degrees, but the columns of those alone whose pixels
    divide the circle; others are looked for on either side too.
    """
    if grid.wrap is not None or grid.turn is None or grid.affine.b or grid.affine.d:
        return [window]
    around = round(grid.turn / abs(grid.affine.a))
    return [window, *(window.shifted(cols, 0).grown(1) for cols in (-around, around))]


def _turns(grid: Grid, window: Window) -> list[float]:
    """Return how far a window is to be moved, in its CRS, so that PROJ's longitudes meet it.

    They end at 180 degrees east and west, while columns go on: a window that crosses is looked
    at twice, as it lies and once around the world.
    """
    if grid.turn is None:
        return [0.0]
    west, _, east, _ = grid.bounds(window)
    turns = [0.0]
    if east > grid.turn / 2:
        turns.append(-grid.turn)
    if west < -grid.turn / 2:
        turns.append(grid.turn)
    return turns


def _taken_for_missing(transform: Affine) -> bool:
    """Whether GDAL would take a transform for none at all (units of one from the origin)."""
    return bool(
        (transform.a, transform.b, transform.c) == (1, 0, 0)
        and (transform.d, abs(transform.e), transform.f) == (0, 1, 0)
    )


def extent_on(grid: Grid, source: Grid, window: Window, name: str) -> Window:
    """Return the pixels of a grid that a window of another reaches.

    Args:
        grid: The grid.
        source: The grid of the window.
        window: The window.
        name: What lies there, for messages.

    Raises:
        SourceError: If it reaches beyond where one of the CRSs is defined.
    """
    if source.crs == grid.crs and source.turn is not None:
        west, south, east, north = source.bounds(window)
        last = HALF_WORLD if source.crs == WEB_MERCATOR else 90.0
        shift = source.turn if source.crs.is_geographic and west < -source.turn / 2 else 0.0
        box = BBox(west, max(south, -last), min(east, west + source.turn), min(north, last))
        return grid.window(box._replace(west=box.west + shift, east=box.east + shift), grid.crs)
    at = source.transform(window) @ Affine.scale(window.width, window.height)
    try:
        return grid.touched(at, source.crs)
    except UsageError as error:
        raise SourceError(
            f"{name} cannot be brought to {grid.crs}, {error}: crop it first"
        ) from error
