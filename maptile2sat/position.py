"""Whether the position that a raster states can be one."""

from __future__ import annotations

from affine import Affine
from rasterio.crs import CRS

from maptile2sat.projection import FARTHEST

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
