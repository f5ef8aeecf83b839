"""Bringing finished pixels to another grid: another CRS, pixel size, or that of a raster.

The new pixels are warped tile by tile (`WarpLoader`), each tile at its own place of the new
grid, whose pixels begin at multiples of their size as those of `gdalwarp -tap` do. So two areas
that overlap have the same pixels on the new grid too.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from maptile2sat.errors import UsageError
from maptile2sat.geo.crs import FARTHEST, FINEST, HALF_WORLD, WEB_MERCATOR, can_lie, poles_inside
from maptile2sat.geo.cutline import Cut
from maptile2sat.geo.grid import MAX_ZOOM, TILE, TOLERANCE, Grid, Window, raster_grid
from maptile2sat.output.raw_blocks import BlocksSource, RawBlocks
from maptile2sat.rendering.mosaic import near_map
from maptile2sat.sources.base import Read, blank
from maptile2sat.sources.raster import open_dataset
from maptile2sat.sources.warp import MAX_SHRINK, WarpLoader, at_pole, methods_of, steps_of

NEAR_POLE = 1024
"""Pixels of the output from a pole within which a map is needed all the way around it."""

LOOKS = 5
"""Places of a map, across and down, at which the size of its pixels is looked up."""

STRIP = 64
"""Tiles of a row whose part of a cutline is looked up at once."""


class Target(NamedTuple):
    """Where output pixels lie: a grid, and the window of it that they fill."""

    grid: Grid
    window: Window


def grid_of_raster(path: Path | str, *, allow_vrt: bool) -> Target:
    """Return the grid and extent of a raster, for an output that shall lie on it.

    Raises:
        UsageError: If it cannot be opened, has no CRS, or lies where nothing can lie.
        SourceError: If it wants to read what it may not.
    """
    try:
        with rasterio.Env(), open_dataset(str(path), allow_vrt=allow_vrt) as raster:
            crs, at, size = raster.crs, raster.transform, (raster.width, raster.height)
    except (RasterioError, CPLE_BaseError, OSError) as error:
        raise UsageError(
            f"{path}, whose grid was asked for, cannot be opened: {' '.join(str(error).split())}"
        ) from error
    if crs is None or at == Affine.identity():
        raise UsageError(f"{path}, whose grid was asked for, has no CRS or no georeference")
    if not can_lie(crs, at, *size):
        raise UsageError(
            f"{path}, whose grid was asked for, says that it lies where nothing can lie: give it "
            "a position first, gdal_translate -a_ullr WEST NORTH EAST SOUTH"
        )
    return Target(*raster_grid(crs, at, *size))


def snapped_grid(crs: CRS, resolution: tuple[float, float]) -> Grid:
    """Return the grid of a CRS whose pixels begin at multiples of their size.

    Args:
        crs: The CRS.
        resolution: Width and height of a pixel in its units.

    Raises:
        UsageError: If the resolution is not above 0, or beyond what can be meant.
    """
    across, down = resolution
    if not all(FINEST <= side <= FARTHEST for side in resolution):
        raise UsageError(
            f"a resolution of {across:g},{down:g} makes no sense: it must be above 0, "
            f"{FINEST:g} to {FARTHEST:g} units of {crs}"
        )
    grid = Grid(crs, Affine(across, 0.0, 0.0, 0.0, -down, 0.0))
    around = (grid.turn or math.nan) / across
    if math.isfinite(around) and abs(around - round(around)) < TOLERANCE:
        return Grid(crs, grid.affine, wrap=round(around))
    return grid


def default_resolution(source: Grid, window: Window, crs: CRS) -> float:
    """Return a pixel size in `crs` like that of the pixels in the middle of `window`.

    It is rounded to two digits, so that neighbouring areas mostly get the same.
    """
    return float(f"{_pixel_size(source, window, crs):.2g}")


def nearest_zoom(source: Grid, extent: Window) -> int:
    """Return the zoom whose pixels are nearest in size to those of a map, for any part of it.

    They are compared where a pixel is smallest in web mercator, which is nearest to the equator, so
    that no detail is lost anywhere.

    Args:
        source: Grid of the map.
        extent: All of its pixels.

    Raises:
        UsageError: If no place of the map that is looked at has one in web mercator.
    """
    sizes: list[float] = []
    for row, col in product(range(LOOKS), repeat=2):
        right, down = (extent.width - 1) * col, (extent.height - 1) * row
        place = Window(extent.col + right // (LOOKS - 1), extent.row + down // (LOOKS - 1), 1, 1)
        with suppress(UsageError):  # corners of maps of the world lie beside it
            sizes.append(_pixel_size(source, place, WEB_MERCATOR))
    size = min(sizes) if sizes else _pixel_size(source, extent, WEB_MERCATOR)
    return min(MAX_ZOOM, max(0, round(math.log2(2 * HALF_WORLD / (TILE * size)))))


def _pixel_size(source: Grid, window: Window, crs: CRS) -> float:
    """Return the side of a square in `crs` with the diagonal of a pixel of `window`."""
    unit = Grid(crs, Affine(1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    return math.hypot(*steps_of(source, window, unit)) / math.sqrt(2)


def offset(grid: Grid, other: Grid) -> tuple[int, int] | None:
    """Return (columns, rows) from `other` to `grid` if both have the same pixels, else None."""
    if grid.crs != other.crs:
        return None
    step = ~grid.affine @ other.affine
    same = all(
        abs(value - wanted) < 1e-9
        for value, wanted in zip((step.a, step.b, step.d, step.e), (1, 0, 0, 1), strict=True)
    )
    moved = (step.c + grid.col0 - other.col0, step.f + grid.row0 - other.row0)
    if not same or any(abs(value - round(value)) > TOLERANCE for value in moved):
        return None
    return round(moved[0]), round(moved[1])


def shrinkage(target: Target, source: Grid) -> float:
    """Return how many pixels of `source` become one of the target, in one direction at most.

    Raises:
        UsageError: If there are too many for the memory, or the map's CRS has no place for them.
    """
    window = target.window
    places = [
        Window(window.col + col, window.row + row, 1, 1)
        for col in (0, window.width // 2, window.width - 1)
        for row in (0, window.height // 2, window.height - 1)
    ]
    ratio = max(_ratios(target.grid, places, source))
    if ratio > MAX_SHRINK:
        raise UsageError(
            f"the output's pixels are {ratio:.0f} times as wide as the map's, {MAX_SHRINK:.0f} is "
            "the most: say a finer --resolution, or a lower -z"
        )
    return ratio


def _ratios(grid: Grid, places: list[Window], source: Grid) -> list[float]:
    """Measure how many pixels become one at those places that have one in the source's CRS.

    Raises:
        UsageError: If none has.
    """
    found: list[float] = []
    failed: UsageError | None = None
    for place in places:
        try:
            steps = steps_of(grid, place, source)
            found.append(steps.ratio(pole=at_pole(grid, place, source)))
        except UsageError as error:
            failed = error  # a corner may well lie beyond, as around a disc
    if failed is not None and not found:
        raise failed
    return found


def needed_for(target: Target, source: Grid, resampling: str | None, about: Window) -> Window:
    """Return the pixels of `source` that the pixels of the target are made of.

    Args:
        target: Where pixels are wanted.
        source: The grid they come from.
        resampling: As for `regrid`.
        about: What is taken for the target if that reaches beyond where the CRS of `source` is
            defined.

    Raises:
        UsageError: If the resampling is not known or the target too coarse.
    """
    ratio = shrinkage(target, source)
    try:
        touched = source.window(target.grid.bounds(target.window), target.grid.crs)
        near = target.window.grown(NEAR_POLE)
        at = target.grid.transform(near) @ Affine.scale(near.width, near.height)
        if source.turn and target.grid.turn is None and poles_inside(at, target.grid.crs):
            # columns all around: near a pole kernels reach over many of them
            wide = source.touched(at, target.grid.crs)
            touched = Window(wide.col, touched.row, wide.width, touched.height)
    except UsageError:
        touched = about
    return touched.grown(methods_of(resampling).reach(ratio))


def regrid(
    blocks: RawBlocks,
    grid: Grid,
    made: RawBlocks,
    target: Target,
    *,
    resampling: str | None,
    cut: Cut | None,
    fill: tuple[int, int, int],
) -> None:
    """Fill `made` with the pixels of `blocks` on another grid, and cut them.

    Masked pixels take no part in their neighbours. In flat memory.

    Args:
        blocks: The pixels to start from.
        grid: Their grid.
        made: Takes the pixels of the target.
        target: Where they lie. On `grid` itself pixels are copied.
        resampling: Name of a rasterio resampling; None: `average` in tiles where pixels shrink,
            `bilinear` where they grow.
        cut: Polygons on the target's grid, outside of which pixels are masked.
        fill: Colour of masked pixels.

    Raises:
        UsageError: If the resampling is not known.
        SourceError: If the target is too coarse.
        OSError: If the disk does not take them.
    """
    source = BlocksSource(blocks, grid)
    load: Callable[[Window], Read] = source.read
    if target.grid != grid:
        load = _warper(WarpLoader(source, target.grid, resampling), fill)
    workers = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, "regrid") as pool:
        for strip in _strips(target.window):
            inside = None if cut is None else cut.mask(strip)
            waiting: deque[tuple[Window, Future[Read]]] = deque()
            for tile in _tiles(strip):
                waiting.append((tile, pool.submit(load, tile)))
                if len(waiting) > 2 * workers:
                    _put(made, *waiting.popleft(), strip, inside, fill)
            while waiting:
                _put(made, *waiting.popleft(), strip, inside, fill)


def _put(
    made: RawBlocks,
    tile: Window,
    read: Future[Read],
    strip: Window,
    inside: npt.NDArray[np.uint8] | None,
    fill: tuple[int, int, int],
) -> None:
    """Write the part of a tile that lies in a strip, cut."""
    image, mask = read.result()
    part = tile.intersection(strip)
    rows, cols = part.slices(tile)
    if inside is not None:
        kept = np.zeros_like(mask)
        kept[rows, cols] = inside[part.slices(strip)]
        mask = mask & kept
        # beside the cutline the colours stay, so that lossy compression does not bleed
        image[~near_map(mask)] = fill
    made.write(part, image[rows, cols], mask[rows, cols])


def _warper(loader: WarpLoader, fill: tuple[int, int, int]) -> Callable[[Window], Read]:
    def load(tile: Window) -> Read:
        image, mask = loader.load(tile.col // TILE, tile.row // TILE) or blank(tile)
        image[mask == 0] = fill
        return Read(image, mask)

    return load


def _strips(window: Window) -> Iterator[Window]:
    """Yield the window in pieces of one row of tiles, not too wide."""
    for row in range(window.row // TILE, -(-window.bottom // TILE)):
        for col in range(window.col // TILE, -(-window.right // TILE), STRIP):
            yield Window(col * TILE, row * TILE, STRIP * TILE, TILE).intersection(window)


def _tiles(strip: Window) -> Iterator[Window]:
    """Yield the tiles that a strip touches."""
    for col in range(strip.col // TILE, -(-strip.right // TILE)):
        yield Window(col * TILE, strip.row // TILE * TILE, TILE, TILE)
