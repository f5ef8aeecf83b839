"""Coordinates: reference systems by name, points of one in another, and web mercator's formulas."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
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

MAX_CRS_TEXT = 1 << 16
"""Most characters of a CRS; those of EPSG have 5,000 as PROJJSON."""

# PROJ would ask a server for grids, of a CRS that somebody else has chosen
os.environ["PROJ_NETWORK"] = "OFF"

WEB_MERCATOR = CRS.from_epsg(3857)
WGS84 = CRS.from_epsg(4326)

_KNOWN = ("EPSG", "ESRI", "IGNF", "OGC", "CRS", "NKG", "NRCAN", "IAU_[0-9]{4}", "AUTO")
"""Authorities of PROJ's database. GDAL takes codes of others for names of files."""

_AUTHORITY = re.compile(rf"(?:{'|'.join(_KNOWN)}):+[\w.,+-]+", re.I)
_DEFINITION = re.compile(
    r"(?:urn:(?:x-)?ogc:def:crs|https?://(?:www\.)?opengis\.net/def/crs)[:/]"
    rf"(?P<authority>{'|'.join(_KNOWN)})[:/][\w.]*[:/](?P<code>\w+)",
    re.I,
)
_NAMES = frozenset(("WGS84", "WGS72", "NAD27", "NAD83", "CRS84", "CRS83", "CRS27"))
_WKT = re.compile(r"[A-Za-z_]+\s*[\[(]")
_PROJ = re.compile(r"\+?\w+\s*=|\+\w")

_GRIDS = re.compile(r"\w*(?:grids|init|file|model|catalog)\s*=\s*", re.I)
"""Keys of PROJ whose values are names of files, wherever a text has them."""

_PLAIN = re.compile(
    r"(?:epsg:\d+|@?\w[\w.-]*(?:\s*,\s*@?\w[\w.-]*)*)(?=[\s;|\"\u201d\]\0]|$)", re.I
)
"""Such a value that stays in PROJ's own folder, or `@null`, which stands for no grid."""

_FILES = re.compile(r"PARAMETERFILE|GEOIDMODEL|PROJ4_GRIDS", re.I)
"""Keywords of WKT that are followed by names of files."""

_PATH = re.compile(
    r"(?:^|[\"\u201c\u201d,])\s*(?:PROJ\s+)?@?(?:[/\\.~]|[a-z]:[/\\])|://|\.\.[/\\]", re.I
)


def parse_crs(text: str) -> CRS:
    """Return the CRS that `text` stands for: EPSG:4326, WKT, PROJJSON, PROJ.

    A text may come from anybody's file, so none makes GDAL or PROJ open a path or an address.

    Raises:
        UsageError: If it stands for none, or names files.
    """
    text = text.strip()
    check_crs_text(text)
    try:
        with rasterio.Env():  # or GDAL itself writes to stderr what it thinks of the text
            if found := _DEFINITION.fullmatch(text):
                text = f"{found['authority']}:{found['code']}"
            if _WKT.match(text):
                return CRS.from_wkt(text)
            return CRS.from_user_input(json.loads(text) if text.startswith("{") else text)
    except (CRSError, CPLE_BaseError, ValueError, TypeError, RecursionError) as error:
        raise _no_crs(text) from error


def check_crs_text(text: str) -> None:
    """Make sure that a text is one of a CRS which GDAL and PROJ read without opening files.

    Raises:
        UsageError: If it is not.
    """
    text = text.strip()
    if len(text) > MAX_CRS_TEXT:
        raise _no_crs(text)
    if text.startswith("{"):
        try:
            content = json.loads(text)
            reaches = any(_PATH.match(each) or names_files(each) for each in _texts(content))
        except (ValueError, RecursionError) as error:
            raise _no_crs(text) from error
        known = str(content.get("type")).endswith("CRS")
    else:
        reaches = names_files(text)
        known = (
            text.upper() in _NAMES
            or any(form.fullmatch(text) for form in (_AUTHORITY, _DEFINITION))
            or any(form.match(text) for form in (_WKT, _PROJ))
        )
    if reaches:
        raise UsageError(
            f"the CRS '{_short(text)}' names files to read: give one without, such as EPSG:3857"
        )
    if not known:
        raise _no_crs(text)


def names_files(text: str) -> bool:
    """Whether a text with a CRS in it names files beyond PROJ's own folder."""
    return any(not _PLAIN.match(text, found.end()) for found in _GRIDS.finditer(text)) or bool(
        _FILES.search(text) and _PATH.search(text)
    )


def _texts(content: Any) -> Iterator[str]:
    """Yield all texts within JSON."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for each in content.values() if isinstance(content, dict) else content:
            yield from _texts(each)


def _no_crs(text: str) -> UsageError:
    return UsageError(f"'{_short(text)}' is not a CRS: say for example EPSG:3857")


def _short(text: str) -> str:
    plain = " ".join(text[: 2 * MAX_REASON].split())
    return plain if len(plain) <= MAX_REASON else f"{plain[:MAX_REASON]} ..."


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


# Outlines: what a rectangle of one CRS spans in another, across poles and 180 degrees too

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


# Whether the position that a raster states can be one

FINEST = 1e-8
"""Smallest side of a pixel that can be meant, in any unit: about a millimetre in degrees."""

MAX_LATTICE = 1 << 52
"""Most columns or rows from the origin of a CRS; beyond, numbers are not exact."""

FARTHEST_EAST = 540
"""Largest longitude that is meant: maps that cross 180 degrees may begin with any turn."""


def can_lie(crs: CRS, at: Affine, width: int, height: int) -> bool:
    """Whether a raster can lie there: numbers, with an area, in degrees those of the world.

    Args:
        crs: The CRS of `at`.
        at: The raster's transform.
        width: Columns of the raster.
        height: Rows of the raster.
    """
    corners = [at @ (x, y) for x in (0, width) for y in (0, height)]
    numbers = [at.a, at.b, at.c, at.d, at.e, at.f, *(value for point in corners for value in point)]
    if not all(abs(number) <= FARTHEST for number in numbers) or abs(at.determinant) <= 1e-24:
        return False
    if not (at.b or at.d) and max(abs(at.c / at.a), abs(at.f / at.e)) >= MAX_LATTICE:
        return False
    return not crs.is_geographic or _in_degrees(at, corners)


def _in_degrees(at: Affine, corners: list[tuple[float, float]]) -> bool:
    """Whether longitudes and latitudes can be those of a raster.

    Those of metres are not. Pixels at a pole, or where longitudes end, may reach over it.
    """
    across, down = abs(at.a) + abs(at.b), abs(at.d) + abs(at.e)
    if max(abs(at.a), abs(at.e)) > 90:
        return False
    return all(abs(x) <= FARTHEST_EAST + across and abs(y) <= 90 + down for x, y in corners)
