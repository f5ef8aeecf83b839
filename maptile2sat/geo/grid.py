"""The pixel grid: integer pixel coordinates of a map, and the way to and from its CRS.

All windows, noise and blocks of a render are integers of one grid. Longitude and latitude
appear only where a user's bounding box comes in and where a transform is written out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from affine import Affine
from rasterio.crs import CRS

from maptile2sat.errors import UsageError
from maptile2sat.geo.crs import (
    HALF_WORLD,
    MAX_LATITUDE,
    WEB_MERCATOR,
    WGS84,
    converted,
    ground_distance,
    latitude,
    longitude,
    mercator_x,
    mercator_y,
    spanned,
    turn_of,
)

TILE = 256
"""Side of a map tile in pixels."""

MAX_ZOOM = 30
"""Deepest zoom of a web mercator grid (columns still fit into 64-bit integers)."""

TOLERANCE = 1e-3
"""Part of a pixel by which a window may miss a pixel border and still be on it."""


_DEGREES = Affine.scale(1e-4)
"""Degrees per pixel of outlines that are wanted in degrees."""


class Window(NamedTuple):
    """A rectangle of whole pixels of a grid; `col` and `row` may be negative."""

    col: int
    row: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column to the right of the window."""
        return self.col + self.width

    @property
    def bottom(self) -> int:
        """First row below the window."""
        return self.row + self.height

    @property
    def empty(self) -> bool:
        """Whether the window holds no pixel."""
        return self.width <= 0 or self.height <= 0

    def grown(self, margin: int) -> Window:
        """Return the window with `margin` more pixels on every side."""
        return Window(
            self.col - margin, self.row - margin, self.width + 2 * margin, self.height + 2 * margin
        )

    def shifted(self, cols: int, rows: int) -> Window:
        """Return the window moved by whole pixels."""
        return Window(self.col + cols, self.row + rows, self.width, self.height)

    def intersection(self, other: Window) -> Window:
        """Return the part common to both; its `empty` is true when there is none."""
        col, row = max(self.col, other.col), max(self.row, other.row)
        return Window(
            col,
            row,
            max(0, min(self.right, other.right) - col),
            max(0, min(self.bottom, other.bottom) - row),
        )

    def contains(self, other: Window) -> bool:
        """Whether `other` lies wholly inside this window."""
        return self.intersection(other) == other

    def slices(self, inside: Window) -> tuple[slice, slice]:
        """Return (row, column) slices of this window in an array that covers `inside`."""
        top, left = self.row - inside.row, self.col - inside.col
        return slice(top, top + self.height), slice(left, left + self.width)


class BBox(NamedTuple):
    """West, south, east, north in the units of some CRS; west > east crosses 180 degrees."""

    west: float
    south: float
    east: float
    north: float


@dataclass(frozen=True)
class Grid:
    """Integer pixel coordinates over a coordinate reference system.

    Attributes:
        crs: The coordinate reference system.
        affine: Maps (column - `col0`, row - `row0`) of a pixel's upper left corner to `crs`.
        col0: Column of the grid at the origin of `affine`.
        row0: Row of the grid at the origin of `affine`.
        zoom: The zoom whose web mercator world grid this is, if it is one.
        wrap: Number of columns after which the world repeats itself, if it does.
    """

    crs: CRS
    affine: Affine
    col0: int = 0
    row0: int = 0
    zoom: int | None = None
    wrap: int | None = None

    @property
    def turn(self) -> float | None:
        """How far once around the world is in units of `crs`; None if x is not a longitude."""
        return turn_of(self.crs)

    def transform(self, window: Window) -> Affine:
        """Return the affine transform of a raster that covers `window`."""
        return self.affine @ Affine.translation(window.col - self.col0, window.row - self.row0)

    def bounds(self, window: Window) -> BBox:
        """Return the extent of `window` in `crs` (the hull, if the grid is rotated)."""
        at = self.transform(window)
        corners = [at @ (x, y) for x in (0, window.width) for y in (0, window.height)]
        xs, ys = [x for x, _ in corners], [y for _, y in corners]
        return BBox(min(xs), min(ys), max(xs), max(ys))

    def lonlat_bounds(self, window: Window) -> BBox:
        """Return the extent of `window` in degrees; east may exceed 180."""
        if self.zoom is not None:
            west, south, east, north = self.bounds(window)
            return BBox(longitude(west), latitude(south), longitude(east), latitude(north))
        at = self.transform(window) @ Affine.scale(window.width, window.height)
        points = spanned(at, self.crs, WGS84, _DEGREES)
        return BBox(*points.min(0).tolist(), *points.max(0).tolist())

    def window(self, bbox: BBox, crs: CRS = WGS84) -> Window:
        """Return the whole pixels that `bbox` touches.

        Args:
            bbox: The area; west > east means across 180 degrees when `crs` is geographic.
            crs: The CRS of `bbox`.

        Returns:
            The window, rounded outward with a tolerance of `TOLERANCE` pixels.

        Raises:
            UsageError: If the box has no area or cannot be expressed in this grid's CRS.
        """
        west, south, east, north = bbox
        if crs.is_geographic and west > east:
            east += 360.0
        if west >= east or south >= north:
            raise UsageError(
                f"the box {_show(bbox)} has no area: give west,south,east,north with south < north"
            )
        if crs.is_geographic:
            check_degrees(bbox)
            if self.zoom is not None:
                _check_in_mercator(bbox)
            if east - west > 360.0 + 1e-9:
                raise UsageError(f"the box {_show(bbox)} is wider than the world, 360 degrees")
        if self.zoom is not None and crs == WGS84:
            points = [
                (mercator_x(lon), mercator_y(lat)) for lon in (west, east) for lat in (south, north)
            ]
        else:
            at = Affine(east - west, 0.0, west, 0.0, north - south, south)
            try:
                return self.touched(at, crs)
            except UsageError as error:
                raise UsageError(f"the box {_show(bbox)} makes no sense here: {error}") from error
        return self._around(points)

    def touched(self, at: Affine, crs: CRS) -> Window:
        """Return the whole pixels that a parallelogram of another CRS touches.

        Args:
            at: Maps the unit square to the parallelogram.
            crs: The CRS that `at` maps to.

        Raises:
            UsageError: If some of it has no place in this grid's CRS.
        """
        return self._around(spanned(at, crs, self.crs, self.affine).tolist())

    def pieces(self, window: Window, extent: Window) -> Iterator[tuple[Window, Window]]:
        """Cut out of `window` what a source with data in `extent` holds of it.

        Args:
            window: The pixels wanted.
            extent: The pixels that the source has.

        Yields:
            Pairs (part in the source's own columns, the same part in `window`'s columns).
            They differ only by whole turns around the world, on grids that `wrap`.
        """
        if self.wrap is None:
            turns = range(1)
        else:
            first = math.floor((extent.col - window.right) / self.wrap)
            turns = range(first, math.ceil((extent.right - window.col) / self.wrap) + 1)
        for turn in turns:
            shift = turn * (self.wrap or 0)
            part = window.shifted(shift, 0).intersection(extent)
            if not part.empty:
                yield part, part.shifted(-shift, 0)

    def metres_per_pixel(self, window: Window) -> tuple[float, float]:
        """Return the ground size (across, down) of a pixel at the middle of `window`."""
        at = self.transform(window)
        middle = (window.width / 2, window.height / 2)
        points = [at @ middle, at @ (middle[0] + 1, middle[1]), at @ (middle[0], middle[1] + 1)]
        xs, ys = zip(*points, strict=True)
        lons, lats = converted(self.crs, WGS84, xs, ys)
        return (
            ground_distance(lons[0], lats[0], lons[1], lats[1]),
            ground_distance(lons[0], lats[0], lons[2], lats[2]),
        )

    def _around(self, points: Sequence[Sequence[float]]) -> Window:
        """Return the whole pixels that points of this grid's CRS span."""
        inverse = ~self.affine
        cols, rows = zip(*(inverse @ point for point in points), strict=True)
        left, top = math.floor(min(cols) + TOLERANCE), math.floor(min(rows) + TOLERANCE)
        right, bottom = math.ceil(max(cols) - TOLERANCE), math.ceil(max(rows) - TOLERANCE)
        return Window(left + self.col0, top + self.row0, max(1, right - left), max(1, bottom - top))


def mercator_grid(zoom: int) -> Grid:
    """Return the web mercator world grid of `zoom`, 256 px tiles, origin at the top left.

    Raises:
        UsageError: If `zoom` is not in 0..30.
    """
    if not 0 <= zoom <= MAX_ZOOM:
        raise UsageError(f"zoom {zoom} is not in 0..{MAX_ZOOM}")
    side = TILE << zoom
    size = 2 * HALF_WORLD / side
    affine = Affine(size, 0.0, -HALF_WORLD, 0.0, -size, HALF_WORLD)
    return Grid(WEB_MERCATOR, affine, zoom=zoom, wrap=side)


def raster_grid(crs: CRS, affine: Affine, width: int, height: int) -> tuple[Grid, Window]:
    """Return the grid that a raster lies on and the window that it fills.

    A web mercator raster whose pixels are those of a zoom gets that zoom's world grid, so
    that a map is the same map in any container. Other rasters get the lattice of their CRS,
    so that two crops of one raster agree; rotated ones start at their own corner.

    Args:
        crs: The raster's CRS.
        affine: The raster's transform.
        width: Columns of the raster.
        height: Rows of the raster.
    """
    affine = _straight(affine, width, height)
    zoom_grid = _matching_zoom(crs, affine, width, height)
    if zoom_grid is not None:
        col, row = ~zoom_grid.affine @ (affine.c, affine.f)
        return zoom_grid, Window(round(col), round(row), width, height)
    if affine.b or affine.d:
        return Grid(crs, affine), Window(0, 0, width, height)
    col, row = _nearest(affine.c / affine.a), _nearest(affine.f / affine.e)
    wrap = None
    if crs.is_geographic and abs(affine.a) > 0:
        turn = 360.0 / abs(affine.a)
        wrap = round(turn) if abs(turn - round(turn)) < TOLERANCE else None
    return Grid(crs, affine, col, row, wrap=wrap), Window(col, row, width, height)


def _straight(affine: Affine, width: int, height: int) -> Affine:
    """Leave out a rotation that moves no pixel: rounding of transforms leaves such behind."""
    across, down = abs(affine.b) * height, abs(affine.d) * width
    if across > TOLERANCE * abs(affine.a) or down > TOLERANCE * abs(affine.e):
        return affine
    return Affine(affine.a, 0.0, affine.c, 0.0, affine.e, affine.f)


def _nearest(position: float) -> int:
    """Round to the lattice; origins at half pixels, which are common, all go the same way."""
    return math.floor(position + 0.5 + TOLERANCE)


def _matching_zoom(crs: CRS, affine: Affine, width: int, height: int) -> Grid | None:
    if crs != WEB_MERCATOR or affine.b or affine.d or affine.a <= 0 or affine.e >= 0:
        return None
    zoom = round(math.log2(2 * HALF_WORLD / (TILE * affine.a)))
    if not 0 <= zoom <= MAX_ZOOM:
        return None
    grid = mercator_grid(zoom)
    for x, y in ((0, 0), (width, height)):
        col, row = ~grid.affine @ (affine @ (x, y))
        if abs(col - round(col)) > TOLERANCE or abs(row - round(row)) > TOLERANCE:
            return None
    left = round((~grid.affine @ (affine.c, affine.f))[0])
    right = round((~grid.affine @ (affine @ (width, height)))[0])
    return grid if right - left == width else None


def parse_bbox(text: str) -> BBox:
    """Read a box from text: four numbers apart by commas or blanks, brackets allowed.

    Raises:
        UsageError: If there are not exactly four finite numbers.
    """
    parts = text.strip().strip("[]()").replace(",", " ").split()
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(math.isfinite(number) for number in numbers):
        raise UsageError(
            f"'{text}' is not a box: give four numbers in one argument, "
            "--bbox west,south,east,north (for example 24.93,60.16,24.95,60.17)"
        )
    return BBox(*numbers)


def check_degrees(bbox: BBox) -> None:
    """Refuse a box whose numbers are no longitudes and latitudes.

    Raises:
        UsageError: If they are not.
    """
    if max(abs(bbox.west), abs(bbox.east)) > 360.0 or max(abs(bbox.south), abs(bbox.north)) > 90.0:
        raise UsageError(
            f"the box {_show(bbox)} is not in degrees: longitudes go from -180 to 180, latitudes "
            "from -90 to 90"
        )


def _check_in_mercator(bbox: BBox) -> None:
    if max(abs(bbox.south), abs(bbox.north)) > MAX_LATITUDE + 1e-9:
        raise UsageError(
            f"the box {_show(bbox)} reaches beyond web mercator, "
            f"which ends at latitude {MAX_LATITUDE:.4f} north and south"
        )


def _show(bbox: BBox) -> str:
    return ",".join(f"{value:g}" for value in bbox)
