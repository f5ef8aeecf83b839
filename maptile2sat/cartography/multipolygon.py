"""Areas from closed ways and multipolygon relations, also where an extract has cut them."""

from __future__ import annotations

import numpy as np

from maptile2sat.cartography.box import Box, Points
from maptile2sat.cartography.chains import is_ring, join, present_parts
from maptile2sat.cartography.shapes import Polygon, enclosed, polygonal

_CLEAR = 0.25
"""Part of the box up to which the smaller side of a cut is taken for the area without doubt."""


def assemble(outer: list[Points], inner: list[Points], box: Box) -> tuple[Polygon | None, bool]:
    """Build the area that the member ways of a multipolygon enclose.

    Rings are taken from the largest to the smallest, so that an island in a lake in an
    island comes out right. Open lines, whose rest the extract lacks, are clipped and closed
    along the box, to a ring like the others: the side that holds the inner rings is inside,
    else the smaller one.

    Args:
        outer: Member ways of role outer or without a role; NaN for missing nodes.
        inner: Member ways of role inner.
        box: The extract's box.

    Returns:
        The area, `None` if nothing can be made of it, and whether it is certain: complete,
        or cut by the box and nowhere else, and not so that either side may be meant.
    """
    rings, cut, sure = _rings(outer, box)
    holes, cut_holes, sure_inner = _rings(inner, box)
    sure = sure and sure_inner
    if not rings and not cut:  # what lies around the holes was not in the extract
        return None, sure and not cut_holes and not _touch(holes, box)
    for lines, found, within in ((cut, rings, holes), (cut_holes, holes, [])):
        if lines:
            closed, clear = _close(lines, box, within)
            sure = sure and clear
            if closed is not None:
                found.append(closed)
    area = _paint(rings, holes, box if cut or cut_holes else None)
    return None if area.is_empty else area, sure


def _touch(areas: list[Polygon], box: Box) -> bool:
    """Return whether one of the areas reaches into the box."""
    whole = box.polygon()
    return any(area.intersects(whole) for area in areas)


def _rings(ways: list[Points], box: Box) -> tuple[list[Polygon], list[Points], bool]:
    """Return closed rings as polygons, the open lines inside the box, and if all is usable."""
    parts = [part for way in ways for part in present_parts(way)]
    rings: list[Polygon] = []
    cut: list[Points] = []
    sure = True
    for line in join(parts, directed=False):
        if is_ring(line):
            polygon = enclosed(line)
            if not polygon.is_empty:
                rings.append(polygon)
            continue
        for piece in box.clip(line):
            closed = box.extended(piece)
            if closed is None:
                sure = False
            else:
                cut.append(closed)
    return rings, cut, sure


def _paint(rings: list[Polygon], holes: list[Polygon], box: Box | None) -> Polygon:
    """Add outer rings and cut inner rings out, from the largest to the smallest.

    Args:
        rings: Outer rings.
        holes: Inner rings.
        box: Where sizes are compared, if some rings are known no farther than that.
    """
    from shapely.geometry import Polygon as ShapelyPolygon

    if len(rings) == 1 and not holes:
        return rings[0]
    whole = None if box is None else box.polygon()
    order = [
        (ring.area if whole is None else ring.intersection(whole).area, ring.area, filled, ring)
        for filled, found in ((True, rings), (False, holes))
        for ring in found
    ]
    area: Polygon = ShapelyPolygon()
    for _, _, filled, ring in sorted(order, key=lambda item: (-item[0], -item[1])):
        area = polygonal(area.union(ring) if filled else area.difference(ring))
    return area


def _close(lines: list[Points], box: Box, holes: list[Polygon]) -> tuple[Polygon | None, bool]:
    """Return the part of the box that the open `lines` divide off, and whether that is clear.

    `None` if they are a muddle.
    """
    from shapely.geometry import Polygon as ShapelyPolygon

    inside: Polygon = ShapelyPolygon()
    for line in lines:
        corners = box.corners_between(box.position(line[-1]), box.position(line[0]))
        polygon = enclosed(np.vstack([line, corners, line[:1]]))
        inside = polygonal(inside.symmetric_difference(polygon))
    rest = polygonal(box.polygon().difference(inside))
    if holes:
        points = [hole.representative_point() for hole in holes]
        within = sum(inside.contains(point) for point in points)
        if 2 * within != len(points):
            return (inside if 2 * within > len(points) else rest), True
    if inside.is_empty or rest.is_empty:
        return None, False
    smaller = inside if inside.area <= rest.area else rest
    return smaller, smaller.area <= _CLEAR * box.width * box.height
