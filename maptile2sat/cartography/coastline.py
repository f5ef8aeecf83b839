"""The sea from `natural=coastline`: land lies left of the way, water right of it."""

from __future__ import annotations

import numpy as np

from maptile2sat.cartography.box import Box, Points
from maptile2sat.cartography.chains import is_ring, join, present_parts
from maptile2sat.cartography.shapes import Polygon, enclosed, polygonal


class AmbiguousCoastError(ValueError):
    """The coastlines do not say where the sea is."""


def sea(ways: list[Points], box: Box) -> Polygon | None:
    """Return the sea inside `box`.

    Args:
        ways: Coastlines in pixels (y down), each in its own direction; NaN for missing nodes.
        box: The extract's box; open ends are led to its nearest side and closed along it.

    Returns:
        The sea, or `None` if there is no coastline in the box.

    Raises:
        AmbiguousCoastError: If ends lie too far inside, or lines cross or contradict.
    """
    open_lines, rings = _lines_in_box(ways, box)
    if not open_lines and not rings:
        return None
    whole = box.polygon()
    islands, basins = _split_rings(rings)
    if open_lines:
        _check_crossings(open_lines)
        water = polygonal(whole.difference(_land(open_lines, box)))
    elif islands:
        water = whole
    else:
        water = whole.difference(whole)
    for island in islands:
        water = polygonal(water.difference(island))
    for basin in basins:
        water = polygonal(water.union(polygonal(basin.intersection(whole))))
    for island in islands:  # islands in basins
        if any(basin.contains(island) for basin in basins):
            water = polygonal(water.difference(island))
    return None if water.is_empty else water


def _lines_in_box(ways: list[Points], box: Box) -> tuple[list[Points], list[Points]]:
    """Return the open lines, led to the border, and the rings that touch the box."""
    parts = [part for way in ways for part in present_parts(way)]
    open_lines: list[Points] = []
    rings: list[Points] = []
    for line in join(parts, directed=True):
        pieces = box.clip(line)
        if is_ring(line) and len(pieces) == 1 and len(pieces[0]) == len(line):
            rings.append(line)
            continue
        if is_ring(line) and not pieces:
            if _holds_box(line, box):
                rings.append(line)
            continue
        for piece in join(pieces, directed=True):
            extended = box.extended(piece)
            if extended is None:
                raise AmbiguousCoastError("a coastline ends far inside the extract")
            open_lines.append(extended)
    return open_lines, rings


def _holds_box(ring: Points, box: Box) -> bool:
    from shapely import Point

    middle = Point((box.left + box.right) / 2, (box.top + box.bottom) / 2)
    return bool(enclosed(ring).contains(middle))


def _split_rings(rings: list[Points]) -> tuple[list[Polygon], list[Polygon]]:
    """Return rings with land inside (counter-clockwise on the map) and those with water."""
    islands: list[Polygon] = []
    basins: list[Polygon] = []
    for ring in rings:
        x, y = ring[:, 0], ring[:, 1]
        twice_area = float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))
        polygon = enclosed(ring)
        (islands if twice_area < 0 else basins).append(polygon)  # y grows southwards
    return islands, basins


def _check_crossings(lines: list[Points]) -> None:
    from shapely import STRtree
    from shapely.geometry import LineString

    shapes = [LineString(line) for line in lines]
    tree = STRtree(shapes)
    first, second = tree.query(shapes, predicate="intersects")
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        if a < b and not np.array_equal(lines[a][-1], lines[b][0]):
            if np.array_equal(lines[b][-1], lines[a][0]):
                continue
            raise AmbiguousCoastError("coastlines cross at the edge of the extract")
    if not all(shape.is_simple for shape in shapes):
        raise AmbiguousCoastError("a coastline crosses itself")


def _land(lines: list[Points], box: Box) -> Polygon:
    """Close the open lines along the box, counter-clockwise, so that land is inside."""
    from shapely import union_all

    starts = sorted((box.position(line[0]), at) for at, line in enumerate(lines))
    ends = sorted((box.position(line[-1]), at) for at, line in enumerate(lines))
    follows: dict[int, int] = {}
    for position, at in ends:
        later = [item for item in starts if item[0] >= position] or starts
        follows[at] = later[0][1]
    if len(set(follows.values())) != len(lines):
        raise AmbiguousCoastError("coastlines run against each other")
    polygons = []
    waiting = set(follows)
    while waiting:
        first = at = waiting.pop()
        parts = []
        while True:
            parts.append(lines[at])
            following = follows[at]
            start, end = box.position(lines[at][-1]), box.position(lines[following][0])
            if start != end:
                parts.append(box.corners_between(start, end))
            at = following
            if at == first:
                break
            waiting.discard(at)
        ring = np.vstack(parts)
        polygons.append(enclosed(np.vstack([ring, ring[:1]])))
    return union_all(polygons)
