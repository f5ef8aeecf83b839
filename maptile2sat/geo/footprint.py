"""Where a window of a grid lies on Earth, as GeoJSON wants it: cut at the antimeridian.

RFC 7946, sections 3.1.6, 3.1.9 and 5.2: outer rings run counterclockwise, what crosses 180 degrees
is two polygons, and the box of such an area has its west larger than its east.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from affine import Affine

from maptile2sat.errors import UsageError
from maptile2sat.geo.crs import WGS84, converted
from maptile2sat.geo.grid import BBox, Grid, Window

STEPS = 16
"""Points along a side of an area whose sides are curved in degrees."""

DECIMALS = 9
"""Of degrees: a tenth of a millimetre."""

RAY_POINTS = 17
"""Points between the middle of an area and its border, by which longitudes are followed."""

HALVINGS = 14
"""How exactly the end of the Earth is found: 2 ** -14 of the way from the middle."""

POLAR = 60.0
"""Latitude beyond which two neighbouring rays pass a pole if their longitudes part."""

Ring = npt.NDArray[np.float64]


class Footprint(NamedTuple):
    """Where something lies.

    Attributes:
        geometry: GeoJSON Polygon or MultiPolygon in degrees.
        bbox: West, south, east, north in degrees; west > east across 180 degrees.
    """

    geometry: dict[str, Any]
    bbox: BBox


def footprint(grid: Grid, window: Window) -> Footprint:
    """Return where `window` lies; of what reaches beyond the Earth, such as corners, the rest.

    Raises:
        UsageError: If its middle lies beyond where the grid's CRS is defined.
    """
    ring = _outline(grid, window)
    # pixels whose centres are a pole's reach beyond it
    ring[:, 1] = np.clip(ring[:, 1], -90.0, 90.0)
    (west, south), (east, north) = ring.min(axis=0), ring.max(axis=0)
    if east - west >= 360.0:
        box = BBox(-180.0, _rounded(south), 180.0, _rounded(north))
        return Footprint(_polygons([_rectangle(box)]), box)
    parts = [
        part - (turn * 360.0, 0.0)
        for turn in range(math.floor((west + 180.0) / 360.0), math.ceil((east + 180.0) / 360.0))
        if len(part := _clipped(ring, turn * 360.0 - 180.0, turn * 360.0 + 180.0)) > 2
    ]
    box = BBox(*(_rounded(value) for value in (_turned(west), south, _turned(east), north)))
    if len(parts) == 1:  # an end at 180 degrees is that of the side that it is on
        box = box._replace(west=_rounded(parts[0][:, 0].min()), east=_rounded(parts[0][:, 0].max()))
    return Footprint(_polygons(parts), box)


def degrees_of(grid: Grid, window: Window) -> BBox:
    """Return what `window` spans in degrees, as `Grid.lonlat_bounds` does where that can.

    Raises:
        UsageError: As `footprint` does.
    """
    try:
        return grid.lonlat_bounds(window)
    except UsageError:  # some of it has no place on Earth
        west, south, east, north = footprint(grid, window).bbox
        return BBox(west, south, east + (360.0 if east < west else 0.0), north)


def _outline(grid: Grid, window: Window) -> Ring:
    """Return the border of a window as (longitude, latitude), longitudes going on past 180."""
    if grid.zoom is not None:
        return _rectangle(grid.lonlat_bounds(window))
    at = grid.transform(window) @ Affine.scale(window.width, window.height)
    xs, ys = zip(*(at @ point for point in _around()), strict=True)
    try:
        lons, lats = map(np.array, converted(grid.crs, WGS84, xs, ys))
    except UsageError:  # the corners around a disc, for example
        ring = _on_earth(at, grid).copy()
        return ring if _area(ring) > 0 else ring[::-1]
    if grid.crs.is_geographic:
        ring = np.column_stack([lons, lats])
        # PROJ may have brought longitudes beyond 180 back; those of the grid go on
        ring[:, 0] += np.round((np.array(xs) - lons) / 360.0) * 360.0
    else:
        ring = np.column_stack([np.unwrap(lons, period=360.0), lats])
        if abs(np.unwrap([ring[-1, 0], lons[0]], period=360.0)[1] - ring[0, 0]) > 1.0:
            return _around_pole(lats)
    return ring if _area(ring) > 0 else ring[::-1]


def _around() -> Iterator[tuple[float, float]]:
    """Yield points around the unit square."""
    steps = [step / STEPS for step in range(STEPS)]
    yield from ((0.0, part) for part in steps)
    yield from ((part, 1.0) for part in steps)
    yield from ((1.0, 1 - part) for part in steps)
    yield from ((1 - part, 0.0) for part in steps)


@lru_cache(maxsize=8)  # some projections take seconds, and it is asked several times
def _on_earth(at: Affine, grid: Grid) -> Ring:
    """Return the border of what of the unit square has a place on Earth, seen from its middle.

    Raises:
        UsageError: If the middle has none.
    """
    rays = [_ray(at, grid, u, v) for u, v in _around()]
    ends = np.array([ray[-1] for ray in rays])
    lats = list(ends[:, 1])
    for one, other in zip(rays, rays[1:] + rays[:1], strict=True):
        both = np.concatenate([one[:, 1], other[:, 1]])
        highest = both[np.abs(both).argmax()]
        if abs(one[-1, 0] - other[-1, 0]) > 90.0 and abs(highest) > POLAR:  # a pole between them
            lats.append(math.copysign(90.0, highest))
    if len(lats) > len(ends):
        return _rectangle(BBox(-180.0, min(lats), 180.0, max(lats)))
    return ends


def _ray(at: Affine, grid: Grid, u: float, v: float) -> Ring:
    """Return points from the middle of the unit square towards one of its border.

    They end where the Earth does, and their longitudes go on past 180.
    """
    parts = np.linspace(0.0, 1.0, RAY_POINTS)

    def until(reach: float) -> Ring:
        xs, ys = at @ (0.5 + (u - 0.5) * reach * parts, 0.5 + (v - 0.5) * reach * parts)
        lons, lats = converted(grid.crs, WGS84, xs, ys)
        return np.column_stack([np.unwrap(lons, period=360.0), lats])

    found, reach, step = until(0.0), 0.0, 1.0
    for _ in range(HALVINGS):
        with suppress(UsageError):
            found = until(reach + step)
            reach += step
        if reach == 1.0:
            break
        step /= 2
    return found


def _around_pole(lats: npt.NDArray[np.float64]) -> Ring:
    """Return the cap that reaches from a border that runs around a pole to the pole."""
    north = lats.mean() > 0
    edge = float(lats.min() if north else lats.max())
    return _rectangle(
        BBox(-180.0, edge, 180.0, 90.0) if north else BBox(-180.0, -90.0, 180.0, edge)
    )


def _rectangle(box: BBox) -> Ring:
    west, south, east, north = box
    return np.array([(west, south), (east, south), (east, north), (west, north)])


def _clipped(ring: Ring, low: float, high: float) -> Ring:
    """Return what of a ring lies between two longitudes (Sutherland and Hodgman, 1974)."""
    for edge, side in ((low, 1.0), (high, -1.0)):
        kept: list[tuple[float, float]] = []
        for (x0, y0), (x1, y1) in zip(np.roll(ring, 1, axis=0), ring, strict=True):
            inside0, inside1 = (x0 - edge) * side >= 0, (x1 - edge) * side >= 0
            if inside0 != inside1:
                kept.append((edge, y0 + (y1 - y0) * (edge - x0) / (x1 - x0)))
            if inside1:
                kept.append((x1, y1))
        ring = np.array(kept).reshape(-1, 2)
    # what lies along the cut has no width when it is written down
    return ring if len(ring) and np.ptp(ring[:, 0]) > 10.0**-DECIMALS else np.empty((0, 2))


def _area(ring: Ring) -> float:
    """Return the area of a ring; below 0 if it runs clockwise."""
    x, y = ring[:, 0], ring[:, 1]
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def _polygons(rings: list[Ring]) -> dict[str, Any]:
    coordinates = [
        [[[_rounded(x), _rounded(y)] for x, y in (*ring, ring[0])]]  # closed
        for ring in rings
    ]
    if len(coordinates) == 1:
        return {"type": "Polygon", "coordinates": coordinates[0]}
    return {"type": "MultiPolygon", "coordinates": coordinates}


def _turned(lon: float) -> float:
    """Return a longitude in -180..180."""
    return lon if -180.0 <= lon <= 180.0 else (lon + 180.0) % 360.0 - 180.0


def _rounded(value: float) -> float:
    return round(float(value), DECIMALS)
