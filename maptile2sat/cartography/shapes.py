"""Polygons of rings that someone has drawn, who may have drawn anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from maptile2sat.cartography.box import Points
from maptile2sat.errors import SourceError

Polygon = Any
"""A shapely Polygon or MultiPolygon."""


def enclosed(ring: Points) -> Polygon:
    """Return what a closed line encloses, without the spikes that it may have; may be empty."""
    from shapely import make_valid
    from shapely.geometry import MultiPolygon
    from shapely.geometry import Polygon as ShapelyPolygon

    if len(ring) < 4:
        return MultiPolygon()
    polygon = ShapelyPolygon(ring)
    return polygon if polygon.is_valid else polygonal(make_valid(polygon))


def polygonal(area: Any) -> Polygon:
    """Return the polygons of `area` without the points and lines that set operations leave."""
    from shapely import get_parts
    from shapely.geometry import MultiPolygon

    if area.geom_type != "GeometryCollection":
        return area if area.geom_type in ("Polygon", "MultiPolygon") else MultiPolygon()
    parts = [part for found in get_parts(area).tolist() for part in get_parts(found).tolist()]
    return MultiPolygon([part for part in parts if part.geom_type == "Polygon"])


@contextmanager
def shape_errors(name: str) -> Iterator[None]:
    """Turn what geometry fails with into a `SourceError` about the extract `name`."""
    from shapely.errors import ShapelyError

    try:
        yield
    except ShapelyError as error:
        reason = " ".join(str(error).split())
        raise SourceError(
            f"{name} holds shapes that cannot be computed with ({reason}): take an extract of a "
            "smaller area, or mend its areas"
        ) from error
