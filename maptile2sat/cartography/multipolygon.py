"""Areas from closed ways and multipolygon relations, also where an extract has cut them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from maptile2sat.cartography.box import Box, Points
from maptile2sat.cartography.chains import is_ring, join, present_parts
from maptile2sat.cartography.shapes import Polygon, enclosed, polygonal

_CLEAR = 0.25
"""Part of the box up to which the smaller side of a cut is taken for the area without doubt."""

_SLIVER = 0.01
"""Square pixels in which two areas may differ by rounding."""

Segments = npt.NDArray[np.float64]
"""Pairs of points, (n, 2, 2)."""


def assemble(
    outer: list[Points],
    inner: list[Points],
    box: Box,
    unsaid: Sequence[Points] = (),
    *,
    complete: bool = False,
) -> tuple[Polygon | None, bool]:
    """Build the area that the member ways of a multipolygon enclose.

    If all members are there, the rings decide what is inside, as osmium has it: what lies in an
    odd number of them, whatever their roles. Roles count where members are missing and
    where rings cross.

    Rings are taken from the largest to the smallest, so that an island in a lake in an
    island comes out right. Open lines, whose rest the extract lacks, are clipped and closed
    along the box, to a ring like the others: the side that holds the inner rings is inside,
    else the smaller one.

    Args:
        outer: Member ways of role outer; NaN for missing nodes.
        inner: Member ways of role inner.
        box: The extract's box.
        unsaid: Member ways of any other role or none, which may be either.
        complete: Whether no member is missing.

    Returns:
        The area, `None` if nothing can be made of it, and whether it is certain: complete,
        or cut by the box and nowhere else, and not so that either side may be meant.
    """
    area, sure = _by_roles(outer, inner, unsaid, box)
    lines = _different([*outer, *inner, *unsaid])
    if complete and (len(lines) > 1 or (lines and area is None)):
        odd = _by_rings(lines)
        if odd is not None:
            if area is not None and odd.symmetric_difference(area).area <= _SLIVER:
                return area, True
            if _is_noded(lines):
                return odd, True
    return area, sure


def _by_roles(
    outer: list[Points], inner: list[Points], unsaid: Sequence[Points], box: Box
) -> tuple[Polygon | None, bool]:
    """Build an area by the roles of its members."""
    closed, rest = _apart(unsaid)
    either = [ring for ring in map(enclosed, closed) if not ring.is_empty]
    rings, cut, sure = _rings([*outer, *rest], box)
    holes, cut_holes, sure_inner = _rings(inner, box)
    sure = sure and sure_inner
    if not rings and not cut and not either:  # what is around the holes was not in the extract
        return None, sure and not cut_holes and not _touch(holes, box)
    for lines, found, within, perhaps in (
        (cut, rings, holes, either),
        (cut_holes, holes, [], []),
    ):
        if lines:
            side, clear = _close(lines, box, within, perhaps)
            sure = sure and clear
            if side is not None:
                found.append(side)
    area = _paint(rings, holes, either, box if cut or cut_holes else None)
    return None if area.is_empty else area, sure


def _by_rings(lines: list[Points]) -> Polygon | None:
    """Return what lies in an odd number of rings; `None` if some do not close."""
    rings = join(lines, directed=False)
    if not all(is_ring(ring) for ring in rings):  # a stretch that is there twice is gone
        rings = join(list(_segments(lines)), directed=False)
    if not rings or not all(is_ring(ring) for ring in rings):
        return None
    areas = [enclosed(ring) for ring in rings]
    while len(areas) > 1:  # in pairs, so that most of them are small
        pairs = zip(areas[::2], areas[1::2], strict=False)
        odd = [polygonal(first.symmetric_difference(second)) for first, second in pairs]
        areas = odd + areas[2 * len(odd) :]
    return None if areas[0].is_empty else areas[0]


def _segments(lines: list[Points]) -> Segments:
    """Return the stretches between nodes that are there an odd number of times."""
    segments: Segments = np.concatenate([_sorted_segments(line) for line in lines])
    different, counts = np.unique(segments, axis=0, return_counts=True)
    odd: Segments = different[counts % 2 == 1]
    return odd


def _sorted_segments(line: Points) -> Segments:
    """Return the stretches of `line` in an order that its direction and beginning do not change."""
    pairs = np.stack([line[:-1], line[1:]], axis=1)
    pairs = pairs[(pairs[:, 0] != pairs[:, 1]).any(axis=1)]
    swapped = (pairs[:, 0, 0] > pairs[:, 1, 0]) | (
        (pairs[:, 0, 0] == pairs[:, 1, 0]) & (pairs[:, 0, 1] > pairs[:, 1, 1])
    )
    pairs[swapped] = pairs[swapped, ::-1]
    order = np.lexsort(pairs.reshape(-1, 4).T)
    ordered: Segments = pairs[order]
    return ordered


def _different(lines: list[Points]) -> list[Points]:
    """Return the lines without those that are there already, in whatever direction."""
    if len(lines) < 2:
        return lines
    return list({_sorted_segments(line).tobytes(): line for line in lines}.values())


def _is_noded(lines: list[Points]) -> bool:
    """Return whether lines meet in their points and nowhere else."""
    from shapely import is_simple, linestrings, multilinestrings

    return bool(is_simple(multilinestrings(linestrings(_segments(lines)))))


def _apart(ways: Sequence[Points]) -> tuple[list[Points], list[Points]]:
    """Return what closes of `ways` among themselves, and the rest."""
    lines = join([part for way in ways for part in present_parts(way)], directed=False)
    return [line for line in lines if is_ring(line)], [line for line in lines if not is_ring(line)]


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


def _paint(
    rings: list[Polygon], holes: list[Polygon], either: list[Polygon], box: Box | None
) -> Polygon:
    """Add outer rings and cut inner rings out, from the largest to the smallest.

    Args:
        rings: Outer rings.
        holes: Inner rings.
        either: Rings that are outer or inner by what they lie in.
        box: Where sizes are compared, if some rings are known no farther than that.
    """
    from shapely.geometry import Polygon as ShapelyPolygon

    if len(rings) + len(either) == 1 and not holes:
        return (rings + either)[0]
    whole = None if box is None else box.polygon()
    order = [
        (ring.area if whole is None else ring.intersection(whole).area, ring.area, change, ring)
        for change, found in (
            ("union", rings),
            ("difference", holes),
            ("symmetric_difference", either),
        )
        for ring in found
    ]
    area: Polygon = ShapelyPolygon()
    for _, _, change, ring in sorted(order, key=lambda item: (-item[0], -item[1])):
        area = polygonal(getattr(area, change)(ring))
    return area


def _close(
    lines: list[Points], box: Box, holes: list[Polygon], perhaps: list[Polygon]
) -> tuple[Polygon | None, bool]:
    """Return the part of the box that the open `lines` divide off, and whether that is clear.

    `None` if they are a muddle.

    Args:
        lines: The lines.
        box: The extract's box.
        holes: What lies in the part.
        perhaps: What is likely to do so, which counts if the sizes say nothing.
    """
    from shapely.geometry import Polygon as ShapelyPolygon

    inside: Polygon = ShapelyPolygon()
    for line in lines:
        corners = box.corners_between(box.position(line[-1]), box.position(line[0]))
        polygon = enclosed(np.vstack([line, corners, line[:1]]))
        inside = polygonal(inside.symmetric_difference(polygon))
    rest = polygonal(box.polygon().difference(inside))
    around = _around(holes, inside, rest)
    if around is not None:
        return around, True
    if inside.is_empty or rest.is_empty:
        return None, False
    smaller = inside if inside.area <= rest.area else rest
    if smaller.area <= _CLEAR * box.width * box.height:
        return smaller, True
    around = _around(perhaps, inside, rest)
    return (smaller, False) if around is None else (around, True)


def _around(holes: list[Polygon], inside: Polygon, rest: Polygon) -> Polygon | None:
    """Return which of two areas most of the holes lie in; `None` if neither."""
    within = sum(inside.contains(hole.representative_point()) for hole in holes)
    if 2 * within == len(holes):
        return None
    return inside if 2 * within > len(holes) else rest
