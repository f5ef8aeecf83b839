"""The area of a render: what of the map is generated, and where the output's pixels lie."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from rasterio.crs import CRS

from maptile2sat.errors import SourceError, UsageError
from maptile2sat.geo.cells import Cells
from maptile2sat.geo.crs import parse_crs
from maptile2sat.geo.cutline import Cut, Cutline, read_cutline
from maptile2sat.geo.footprint import degrees_of
from maptile2sat.geo.grid import BBox, Grid, Window, check_degrees, mercator_grid, parse_bbox
from maptile2sat.rendering import mosaic
from maptile2sat.rendering.options import RenderOptions
from maptile2sat.rendering.regrid import (
    Target,
    default_resolution,
    grid_of_raster,
    nearest_zoom,
    needed_for,
    offset,
    snapped_grid,
)
from maptile2sat.sources import Source
from maptile2sat.sources.warp import extent_on

MAX_SIDE = 1 << 30
"""Longest side of an output in pixels: what GDAL can address."""

REACH = 64
"""Pixels around a cell that an output's pixel on another grid may be made of, at most."""


@dataclass(frozen=True)
class Area:
    """What is generated and what is written of it.

    Attributes:
        window: The pixels of the map to generate, on the map's grid.
        grid: The map's grid.
        target: Where the output's pixels lie.
        cutline: The polygons outside of which they are masked.
    """

    window: Window
    grid: Grid
    target: Target
    cutline: Cutline | None = None

    @property
    def regridded(self) -> bool:
        """Whether the output's pixels lie on another grid than the map's."""
        return self.target.grid != self.grid

    @property
    def changed(self) -> bool:
        """Whether the output's pixels are not just those generated."""
        return self.regridded or self.cutline is not None

    @cached_property
    def cut(self) -> Cut | None:
        """The cutline on the output's grid."""
        return None if self.cutline is None else self.cutline.on(self.target.grid)

    @cached_property
    def _cut_of_map(self) -> Cut | None:
        return None if self.cutline is None else self.cutline.on(self.grid)

    def shown(self, cell: mosaic.Cell) -> mosaic.Cell:
        """Return a cell with what lies outside of the cutline masked."""
        if self._cut_of_map is None:
            return cell
        return cell._replace(mask=cell.mask & self._cut_of_map.mask(cell.window))

    def wanted(self, cells: Cells) -> Callable[[Window], bool] | None:
        """Return which of the window's cells are to be generated; None means all."""
        if self._cut_of_map is None:
            return None
        touched = self._cut_of_map.cells(cells, REACH if self.regridded else 0)

        def near(cell: Window) -> bool:
            col, row = cells.place(cell)
            return bool(touched[row, col])

        return near


def check_combination(options: RenderOptions) -> None:
    """Refuse options of the output's grid that contradict each other.

    Raises:
        UsageError: If they do.
    """
    others = {
        "--bbox": options.bbox,
        "--dst-crs": options.dst_crs,
        "--resolution": options.resolution,
    }
    given = [name for name, value in others.items() if value is not None]
    if options.like is not None and given:
        raise UsageError(
            f"--like gives grid, CRS and extent of the output: leave out {' and '.join(given)}"
        )


def read_box(
    given: str | tuple[float, float, float, float] | None, crs: str
) -> tuple[BBox | None, CRS]:
    """Return the box asked for, if one is, and its CRS.

    Raises:
        UsageError: If one of them makes no sense.
    """
    bbox = None
    if given is not None:
        bbox = parse_bbox(given) if isinstance(given, str) else BBox(*given)
    known = parse_crs(crs)
    if bbox is not None and known.is_geographic:
        try:
            check_degrees(bbox)
        except UsageError as error:
            raise UsageError(
                f"{error} (for other coordinates pass --bbox-crs, for example EPSG:3857)"
            ) from error
    return bbox, known


def find_area(
    source: Source, options: RenderOptions, bbox: BBox | None, crs: CRS, *, pyramid: bool
) -> Area:
    """Return the area of a render, after checking that the map has any of it.

    Args:
        source: The map.
        options: The render.
        bbox: The box asked for; None for all of the map, or what the options say.
        crs: CRS of the box.
        pyramid: Whether the output is to lie on the grid of a zoom.

    Raises:
        UsageError: If there is nothing of the map in it, or it makes no sense.
    """
    check_combination(options)
    info = source.info
    bbox = None if bbox is None else _turned(bbox, crs, source)
    cutline = None if options.cutline is None else read_cutline(options.cutline)
    on_map = _asked_of_map(source, bbox, crs, cutline)
    grid, window = _output_grid(source, options, on_map, pyramid=pyramid)
    if window is None and grid == info.grid:
        window = on_map
    elif window is None:
        window = _window_on(grid, source, bbox, crs, cutline)
    target = Target(grid, window)
    _check_size(window)
    needed = window
    if grid != info.grid:
        needed = needed_for(target, info.grid, options.resampling, on_map)
    if not any(info.grid.pieces(needed, info.extent)):
        west, south, east, north = degrees_of(info.grid, info.extent)
        what = "cutline" if bbox is None and cutline is not None else "box"
        what = f"raster {options.like}" if options.like is not None else what
        raise UsageError(
            f"the {what} is outside the map {info.name}, which covers "
            f"{west:.5f},{south:.5f},{east:.5f},{north:.5f} (degrees)"
        )
    if grid != info.grid:
        needed = _there(needed, source)
    _check_size(needed)
    return Area(needed, info.grid, target, cutline)


def _turned(bbox: BBox, crs: CRS, source: Source) -> BBox:
    """Return a box in degrees with the longitudes by which a map knows it.

    A map across 180 degrees goes on, to 182 or from -182; those whose pixels do not divide the
    circle are not found there by counting columns.
    """
    grid, extent = source.info.grid, source.info.extent
    if not crs.is_geographic or grid.turn is None or grid.wrap is not None:
        return bbox
    east = bbox.east + (360.0 if bbox.west > bbox.east else 0.0)
    for turn in (0.0, 360.0, -360.0):
        moved = bbox._replace(west=bbox.west + turn, east=east + turn)
        if max(abs(moved.west), abs(moved.east)) > 360.0:
            continue
        if any(grid.pieces(grid.window(moved, crs), extent)):
            return moved if turn else bbox
    return bbox


def _asked_of_map(source: Source, bbox: BBox | None, crs: CRS, cutline: Cutline | None) -> Window:
    """Return the pixels of the map's grid that the area asked for touches."""
    info = source.info
    window = info.extent if bbox is None else info.grid.window(bbox, crs)
    if cutline is None:
        return window
    cut = cutline.on(info.grid)
    if bbox is not None:
        return cut.window(window)
    # where columns do not tell that they are the same place, that of the map's turn is meant
    return cut.window(towards=info.extent if info.grid.wrap is None else None)


def _output_grid(
    source: Source, options: RenderOptions, window: Window, *, pyramid: bool
) -> tuple[Grid, Window | None]:
    """Return the grid of the output, and its window if that is decided with it."""
    grid = source.info.grid
    found: Grid | None = None
    if pyramid:
        if grid.zoom is None:
            nearest = nearest_zoom(grid, source.info.extent)
            # one more keeps every detail
            found = mercator_grid(min(max(nearest, options.max_zoom or 0), nearest + 1))
    elif options.like is not None:
        found, like = grid_of_raster(options.like, allow_vrt=options.allow_vrt)
        moved = offset(found, grid)
        return (found, like) if moved is None else (grid, like.shifted(-moved[0], -moved[1]))
    elif options.dst_crs is not None or options.resolution is not None:
        crs = grid.crs if options.dst_crs is None else parse_crs(options.dst_crs)
        size = options.resolution
        if size is None and crs == grid.crs:
            return grid, None
        size = default_resolution(grid, window, crs) if size is None else size
        found = snapped_grid(crs, size if isinstance(size, tuple) else (size, size))
        found = grid if offset(found, grid) is not None else found
    return found or grid, None


def _window_on(
    grid: Grid, source: Source, bbox: BBox | None, crs: CRS, cutline: Cutline | None
) -> Window:
    """Return the pixels of another grid that the area asked for touches."""
    info = source.info
    if cutline is not None and bbox is not None:
        return cutline.on(grid).window(grid.window(bbox, crs))
    if cutline is not None:
        towards = None
        if info.grid.wrap is None and info.grid.turn is not None:
            # a map that ends beyond a CRS may have a cutline that does not
            with suppress(SourceError):
                towards = extent_on(grid, info.grid, info.extent, info.name)
        return cutline.on(grid).window(towards=towards)
    if bbox is not None:
        return grid.window(bbox, crs)
    return extent_on(grid, info.grid, info.extent, info.name)


def _there(window: Window, source: Source) -> Window:
    """Return what of a window the map has, if that is one piece."""
    info = source.info
    pieces = [place for _, place in info.grid.pieces(window, info.extent)]
    return pieces[0] if len(pieces) == 1 else window


def _check_size(window: Window) -> None:
    if max(window.width, window.height) > MAX_SIDE:
        raise UsageError(
            f"the area is {window.width}x{window.height} pixels: give a smaller --bbox, or a lower "
            "--zoom or coarser --resolution"
        )
