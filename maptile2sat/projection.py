"""Coordinates: reference systems by name, points of one in another, and web mercator's formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import shorten

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform as transform_points

from maptile2sat.errors import UsageError

EARTH_RADIUS = 6378137.0
"""Radius of the web mercator sphere in metres (EPSG:3857)."""

HALF_WORLD = math.pi * EARTH_RADIUS
"""Distance from the centre to the edge of the web mercator square in metres."""

MAX_LATITUDE = 85.0511287798066
"""Northern and southern end of web mercator in degrees."""

FARTHEST = 1e12
"""Largest coordinate that can be meant, in any unit; PROJ never comes back from 1e20."""

MAX_REASON = 160
"""Longest text of GDAL that goes into a message; it may quote whole CRSs."""

WEB_MERCATOR = CRS.from_epsg(3857)
WGS84 = CRS.from_epsg(4326)


def parse_crs(text: str) -> CRS:
    """Return the CRS that `text` stands for: EPSG:4326, WKT, PROJ.

    Raises:
        UsageError: If it stands for none.
    """
    try:
        with rasterio.Env():  # or GDAL itself writes to stderr what it thinks of the text
            return CRS.from_user_input(text)
    except (CRSError, CPLE_BaseError, ValueError) as error:
        raise UsageError(f"'{text}' is not a CRS: say for example EPSG:3857") from error


def converted(
    crs: CRS, wanted: CRS, xs: Sequence[float], ys: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """Return points of one CRS as points of another.

    Raises:
        UsageError: If that cannot be done, as with metres taken for degrees.
    """
    far = max(map(abs, (*xs, *ys)))
    if far > FARTHEST:
        raise UsageError(f"there is no place on Earth with the coordinate {far:g} (in {crs})")
    try:
        there_x, there_y = transform_points(crs, wanted, xs, ys)
        # GDAL tires of errors: after twenty of a pair of CRSs it just returns infinity
        if not (np.isfinite(there_x).all() and np.isfinite(there_y).all()):
            raise CRSError("outside of the projection")
    except (RasterioError, CRSError, CPLE_BaseError) as error:
        reason = shorten(str(error), MAX_REASON, placeholder=" ...")
        raise UsageError(
            f"the point {xs[0]:g},{ys[0]:g} of {crs} has no place in {wanted} ({reason}): "
            "check the coordinates and both CRSs"
        ) from error
    return there_x, there_y


def turn_of(crs: CRS) -> float | None:
    """Return how far once around the world is in units of a CRS; None if x is no longitude."""
    if crs == WEB_MERCATOR:
        return 2 * HALF_WORLD
    return 360.0 if crs.is_geographic else None


def mercator_x(lon: float) -> float:
    """Return the easting in metres of a longitude in degrees (EPSG:3857)."""
    return math.radians(lon) * EARTH_RADIUS


def mercator_y(lat: float) -> float:
    """Return the northing in metres of a latitude in degrees (EPSG:3857)."""
    return math.asinh(math.tan(math.radians(lat))) * EARTH_RADIUS


def longitude(x: float) -> float:
    """Return the longitude in degrees of an easting in metres (EPSG:3857)."""
    return math.degrees(x / EARTH_RADIUS)


def latitude(y: float) -> float:
    """Return the latitude in degrees of a northing in metres (EPSG:3857)."""
    there = max(-700.0, min(700.0, y / EARTH_RADIUS))  # a pole; sinh knows no numbers beyond
    return math.degrees(math.atan(math.sinh(there)))


def ground_distance(lon1: float, lat1: float, lon2: float, lat2: float) -> float:
    """Return metres between two points on the sphere (haversine: at the poles too)."""
    lat1, lat2 = math.radians(lat1), math.radians(lat2)
    across = math.sin(math.radians(lon2 - lon1) / 2) ** 2 * math.cos(lat1) * math.cos(lat2)
    return (
        2 * EARTH_RADIUS * math.asin(math.sqrt(min(1.0, math.sin((lat2 - lat1) / 2) ** 2 + across)))
    )
