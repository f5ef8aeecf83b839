"""Outlines: what a rectangle of one CRS spans in another, across poles and 180 degrees too."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.crs import CRS

from maptile2sat.errors import UsageError
from maptile2sat.projection import (
    EARTH_RADIUS,
    MAX_LATITUDE,
    WEB_MERCATOR,
    WGS84,
    converted,
    turn_of,
)

STEPS = 20
"""Points per side of an outline to begin with."""

MAX_STEPS = 20 << 10
"""Most points per side of an outline."""

SETTLED = 1e-3
"""Part of a pixel by which twice as many points may still move an outline's ends."""

Points = npt.NDArray[np.float64]
"""float64 (points, 2): x and y."""


class Pole(NamedTuple):
    """Where a pole lies in a CRS, and its latitude in degrees."""

    x: float
    y: float
    latitude: float


def spanned(at: Affine, crs: CRS, wanted: CRS, pixel: Affine) -> Points:
    """Return points of a CRS that span what a parallelogram of another covers.

    They are of its outline, as many as it takes. Where longitudes go around, those of the points
    go on across 180 degrees, and a pole inside spans all of them.

    Args:
        at: Maps the unit square to the parallelogram.
        crs: The CRS that `at` maps to.
        wanted: The CRS of the points.
        pixel: Maps pixels to `wanted`: how exact the ends must be.

    Returns:
        Points of `wanted`.

    Raises:
        UsageError: If some of it has no place there.
    """
    if crs == wanted:
        return np.column_stack(at @ (np.array([0.0, 1, 1, 0]), np.array([0.0, 0, 1, 1])))
    inverse, steps, last = ~pixel, STEPS, None
    while True:
        points = _outline(at, crs, wanted, steps)
        place = np.column_stack(inverse @ (points[:, 0], points[:, 1]))
        ends = np.concatenate([place.min(0), place.max(0)])
        if steps >= MAX_STEPS or (last is not None and np.abs(ends - last).max() < SETTLED):
            return points
        last, steps = ends, steps * 2


@lru_cache(maxsize=64)
def poles(crs: CRS) -> tuple[Pole, ...]:
    """Return the poles that have a place in a CRS."""
    found = []
    for latitude in (90.0, -90.0):
        try:
            x, y = (values[0] for values in converted(WGS84, crs, [0.0], [latitude]))
            back = converted(crs, WGS84, [x], [y])[1][0]
        except UsageError:
            continue  # as the far pole of a map of the other
        if abs(back - latitude) < 1e-6:
            found.append(Pole(x, y, latitude))
    return tuple(found)


def _outline(at: Affine, crs: CRS, wanted: CRS, steps: int) -> Points:
    """Return points all around a parallelogram, `steps` per side."""
    part, zero = np.arange(steps) / steps, np.zeros(steps)
    u = np.concatenate([part, zero + 1, 1 - part, zero])
    v = np.concatenate([zero, part, zero + 1, 1 - part])
    xs, ys = at @ (u, v)
    mercator = wanted == WEB_MERCATOR
    there = converted(crs, WGS84 if mercator else wanted, xs, ys)
    points = np.column_stack([np.asarray(values) for values in there])
    if not np.isfinite(points).all():
        raise UsageError(f"it reaches beyond where {crs if mercator else wanted} is defined")
    if turn_of(wanted) is None:
        return points
    points[:, 0] = _continuous(points[:, 0], xs, turn_of(crs))
    inside = [] if turn_of(crs) else poles_inside(at, crs)
    last = MAX_LATITUDE if mercator else 90.0
    if points[:, 1].min() >= last or points[:, 1].max() <= -last:
        raise UsageError(f"it lies beyond web mercator, which ends at {MAX_LATITUDE:.2f} degrees")
    if inside:
        lats = [points[:, 1].min(), points[:, 1].max(), *inside]
        points = np.array([(lon, lat) for lon in (-180.0, 180.0) for lat in (min(lats), max(lats))])
    points[:, 1] = points[:, 1].clip(-last, last)
    return _in_metres(points) if mercator else points


def _continuous(lons: Points, xs: Points, turn: float | None) -> Points:
    """Return longitudes of an outline without jumps at 180 degrees, where they came from `xs`."""
    if turn is None:
        lons = np.unwrap(lons, period=360.0)
        lons = lons - np.floor((lons.min() + 180.0) / 360.0 + 1e-9) * 360.0
    else:
        # PROJ may have brought longitudes beyond 180 back; those that they came from go on
        lons = lons + np.round((xs * (360.0 / turn) - lons) / 360.0) * 360.0
        lons = lons + (360.0 if lons.min() < -180.0 - 1e-9 else 0.0)
    within: Points = np.minimum(lons, lons.min() + 360.0)
    return within


def poles_inside(at: Affine, crs: CRS) -> list[float]:
    """Return the latitudes of the poles inside a parallelogram: no outline goes around them."""
    places = ((~at @ (pole.x, pole.y), pole.latitude) for pole in poles(crs))
    return [latitude for (u, v), latitude in places if 0 < u < 1 and 0 < v < 1]


def _in_metres(points: Points) -> Points:
    """Return longitudes and latitudes as EPSG:3857."""
    lon, lat = np.radians(points).T
    return EARTH_RADIUS * np.column_stack([lon, np.arcsinh(np.tan(lat))])
