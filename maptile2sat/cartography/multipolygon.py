"""Areas from closed ways and multipolygon relations, also where an extract has cut them."""

from __future__ import annotations

from typing import Any

import numpy as np

from maptile2sat.cartography.box import Box, Points
from maptile2sat.cartography.chains import is_ring, join, present_parts

Polygon = Any
"""A shapely Polygon or MultiPolygon."""


def assemble(outer: list[Points], inner: list[Points], box: Box) -> tuple[Polygon | None, bool]:
    """Build the area that the member ways of a multipolygon enclose.

    Rings are taken from the largest to the smallest, so that an island in a lake in an
    island comes out right. Open lines, whose rest the extract lacks, are clipped and closed
    along the box so that the smaller part is inside, or the part that holds the inner rings.

    Args:
        outer: Member ways of role outer or without a role; NaN for missing nodes.
        inner: Member ways of role inner.
        box: The extract's box.

    Returns:
        The area, `None` if nothing can be made of it, and whether it is certain: complete,
        or cut by the box and nowhere else.
    """
    rings, cut, sure_outer = _rings(outer, box)
    holes, cut_holes, sure_inner = _rings(inner, box)
    area = _paint(rings, holes)
    if cut:
        closed = _close(cut, box, holes)
        if closed is None:
            return _none_if_empty(area), False
        area = area.union(closed)
        if holes or cut_holes:
            area = _without(area, holes)
    if cut_holes:
        hole = _close(cut_holes, box, [])
        area = area.difference(hole) if hole is not None else area
        sure_inner = sure_inner and hole is not None
    return _none_if_empty(area), sure_outer and sure_inner


def _rings(ways: list[Points], box: Box) -> tuple[list[Polygon], list[Points], bool]:
    """Return closed rings as polygons, the open lines inside the box, and if all is usable."""
    from shapely import make_valid
    from shapely.geometry import Polygon as ShapelyPolygon

    parts = [part for way in ways for part in present_parts(way)]
    rings: list[Polygon] = []
    cut: list[Points] = []
    sure = True
    for line in join(parts, directed=False):
        if is_ring(line):
            polygon = ShapelyPolygon(line)
            rings.append(polygon if polygon.is_valid else make_valid(polygon))
            continue
        for piece in box.clip(line):
            closed = box.extended(piece)
            if closed is None:
                sure = False
            else:
                cut.append(closed)
    return rings, cut, sure


def _paint(rings: list[Polygon], holes: list[Polygon]) -> Polygon:
    """Add outer rings and cut inner rings out, from the largest to the smallest."""
    from shapely.geometry import Polygon as ShapelyPolygon

    if len(rings) == 1 and not holes:
        return rings[0]
    area: Polygon = ShapelyPolygon()
    order = [(ring.area, True, ring) for ring in rings] + [
        (hole.area, False, hole) for hole in holes
    ]
    for _, filled, ring in sorted(order, key=lambda item: -item[0]):
        area = area.union(ring) if filled else area.difference(ring)
    return area


def _without(area: Polygon, holes: list[Polygon]) -> Polygon:
    for hole in holes:
        area = area.difference(hole)
    return area


def _close(lines: list[Points], box: Box, holes: list[Polygon]) -> Polygon | None:
    """Return the part of the box that the open `lines` divide off, `None` if they are a muddle."""
    from shapely import box as shapely_box
    from shapely import make_valid
    from shapely.geometry import Polygon as ShapelyPolygon

    inside: Polygon = ShapelyPolygon()
    for line in lines:
        corners = box.corners_between(box.position(line[-1]), box.position(line[0]))
        polygon = make_valid(ShapelyPolygon(np.vstack([line, corners, line[:1]])))
        inside = inside.symmetric_difference(polygon)
    whole = shapely_box(box.left, box.top, box.right, box.bottom)
    rest = whole.difference(inside)
    if holes:
        points = [hole.representative_point() for hole in holes]
        within = sum(inside.contains(point) for point in points)
        if 2 * within != len(points):
            return inside if 2 * within > len(points) else rest
    if inside.is_empty or rest.is_empty:
        return None
    return inside if inside.area <= rest.area else rest


def _none_if_empty(area: Polygon) -> Polygon | None:
    area = polygonal(area)
    return None if area.is_empty else area


def polygonal(area: Any) -> Polygon:
    """Return the polygons of `area` without the points and lines that set operations leave."""
    from shapely import get_parts
    from shapely.geometry import MultiPolygon

    if area.geom_type != "GeometryCollection":
        return area if area.geom_type in ("Polygon", "MultiPolygon") else MultiPolygon()
    parts = [part for found in get_parts(area).tolist() for part in get_parts(found).tolist()]
    return MultiPolygon([part for part in parts if part.geom_type == "Polygon"])
