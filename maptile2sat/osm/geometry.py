"""Geometry of an extract: its box, joined ways, rings, areas and the sea, all in pixels."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maptile2sat.errors import SourceError

Points = npt.NDArray[np.float64]
"""Float64 array (n, 2) of pixel positions: x to the right, y down."""


class Box(NamedTuple):
    """A rectangle in pixels; y grows southwards."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Distance from left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Distance from top to bottom."""
        return self.bottom - self.top

    @property
    def reach(self) -> float:
        """How far an open end may lie from the box and still belong to it."""
        return min(self.width, self.height) / 3

    @property
    def around(self) -> float:
        """Length of the border."""
        return 2 * (self.width + self.height)

    def nearest(self, point: Points) -> tuple[Points, float]:
        """Return the point of the border nearest to `point` (inside), and its distance."""
        x, y = float(point[0]), float(point[1])
        sides = [
            (x - self.left, (self.left, y)),
            (self.right - x, (self.right, y)),
            (y - self.top, (x, self.top)),
            (self.bottom - y, (x, self.bottom)),
        ]
        distance, place = min(sides)
        return np.array(place), distance

    def position(self, point: Points) -> float:
        """Return how far along the border `point` lies.

        It starts at the south-west corner and goes east, north, west and south:
        counter-clockwise on the map.
        """
        x, y = float(point[0]), float(point[1])
        if y >= self.bottom:
            return x - self.left
        if x >= self.right:
            return self.width + (self.bottom - y)
        if y <= self.top:
            return self.width + self.height + (self.right - x)
        return 2 * self.width + self.height + (y - self.top)

    def corners_between(self, start: float, end: float) -> Points:
        """Return the corners passed when going counter-clockwise from `start` to `end`."""
        along = [0.0, self.width, self.width + self.height, 2 * self.width + self.height]
        points = [
            (self.left, self.bottom),
            (self.right, self.bottom),
            (self.right, self.top),
            (self.left, self.top),
        ]
        if end <= start:
            end += self.around
        passed = [
            (at + turn, point)
            for turn in (0.0, self.around)
            for at, point in zip(along, points, strict=True)
            if start < at + turn < end
        ]
        return np.array([point for _, point in sorted(passed)]).reshape(-1, 2)

    def ring(self) -> Points:
        """Return the closed border, counter-clockwise on the map from the south-west."""
        corners = self.corners_between(-1e-9, self.around - 1e-9)
        return np.vstack([corners, corners[:1]])

    def polygon(self) -> Any:
        """Return the box as a shapely Polygon."""
        from shapely import box

        return box(self.left, self.top, self.right, self.bottom)

    def clip(self, line: Points) -> list[Points]:
        """Return the pieces of `line` inside the box, each in the line's own direction."""
        if self._holds(line).all():
            return [line]
        pieces: list[list[Points]] = []
        for start, end in itertools.pairwise(list(line)):
            part = self._clip_segment(start, end)
            if part is None:
                continue
            first, last = part
            if pieces and first is start and pieces[-1][-1] is start:
                pieces[-1].append(last)
            else:
                pieces.append([first, last])
        return [np.array(piece) for piece in pieces]

    def extended(self, line: Points) -> Points | None:
        """Return `line` with both ends led to the nearest side; `None` if that is too far."""
        ends = []
        for point in (line[0], line[-1]):
            target, distance = self.nearest(point)
            if distance > self.reach:
                return None
            ends.append(target[np.newaxis] if distance > 0 else np.empty((0, 2)))
        return np.vstack([ends[0], line, ends[1]])

    def beyond(self, before: Points, end: Points, limit: float) -> Points | None:
        """Follow a line from `before` through `end` out of the box.

        Returns:
            A point a little outside, or `None` if the border is not within `limit`.
        """
        step = end - before
        length = float(np.hypot(*step))
        if length == 0:
            return None
        target = end + step / length * limit
        inside = self.clip(np.array([end, target]))
        if len(inside) != 1 or not self._on_border(inside[0][-1]):
            return None
        return np.asarray(inside[0][-1] + step / length * limit)

    def _holds(self, points: Points) -> npt.NDArray[np.bool_]:
        x, y = points[:, 0], points[:, 1]
        inside = (x >= self.left) & (x <= self.right) & (y >= self.top) & (y <= self.bottom)
        return np.asarray(inside)

    def _on_border(self, point: Points) -> bool:
        return point[0] in (self.left, self.right) or point[1] in (self.top, self.bottom)

    def _clip_segment(self, start: Points, end: Points) -> tuple[Points, Points] | None:
        """Cut one segment (Liang and Barsky); cut ends lie exactly on the border."""
        step = end - start
        low, high = 0.0, 1.0
        for axis, (near, far) in enumerate(((self.left, self.right), (self.top, self.bottom))):
            if step[axis] == 0:
                if not near <= start[axis] <= far:
                    return None
                continue
            first, last = sorted((edge - start[axis]) / step[axis] for edge in (near, far))
            low, high = max(low, first), min(high, last)
        if low >= high:
            return None
        return self._at(start, end, low), self._at(start, end, high)

    def _at(self, start: Points, end: Points, part: float) -> Points:
        if part <= 0.0:
            return start
        if part >= 1.0:
            return end
        point = start + (end - start) * part
        for axis, sides in enumerate(((self.left, self.right), (self.top, self.bottom))):
            for side in sides:
                if abs(point[axis] - side) < 1e-6:
                    point[axis] = side
        return np.asarray(point)


# Joining the pieces of ways, which extracts cut, into longer lines and rings

Key = tuple[float, float]


def present_parts(points: Points) -> list[Points]:
    """Split a way where nodes are missing (NaN); parts of one node are left out."""
    there = ~np.isnan(points[:, 0])
    if there.all():
        return [points] if len(points) > 1 else []
    borders = np.flatnonzero(np.diff(there.astype(np.int8))) + 1
    parts = np.split(points, borders)
    return [part for part in parts if len(part) > 1 and not np.isnan(part[0, 0])]


def is_ring(line: Points) -> bool:
    """Return whether `line` ends where it begins."""
    return len(line) > 3 and np.array_equal(line[0], line[-1])


def join(lines: list[Points], *, directed: bool) -> list[Points]:
    """Join lines that meet at their ends, as far as it goes.

    Args:
        lines: The lines; rings among them stay as they are.
        directed: Whether an end may only meet a beginning (coastlines), or any other end.

    Returns:
        Rings and open lines.
    """
    done = [line for line in lines if is_ring(line)]
    waiting = {at: line for at, line in enumerate(lines) if not is_ring(line)}
    ends: dict[Key, list[int]] = defaultdict(list)
    for at, line in waiting.items():
        ends[_key(line[0])].append(at)
        ends[_key(line[-1])].append(at)
    while waiting:
        first = next(iter(waiting))
        parts = [waiting.pop(first)]
        _grow(parts, waiting, ends, directed=directed, forward=True)
        if not np.array_equal(parts[0][0], parts[-1][-1]):
            _grow(parts, waiting, ends, directed=directed, forward=False)
        done.append(np.vstack([parts[0], *(part[1:] for part in parts[1:])]))
    return done


def _grow(
    parts: list[Points],
    waiting: dict[int, Points],
    ends: dict[Key, list[int]],
    *,
    directed: bool,
    forward: bool,
) -> None:
    """Add lines at the end (or the beginning) of `parts` until none fits or it is closed."""
    while True:
        tip = parts[-1][-1] if forward else parts[0][0]
        for at in ends[_key(tip)]:
            line = waiting.get(at)
            if line is None:
                continue
            meets = np.array_equal(line[0] if forward else line[-1], tip)
            if not meets and directed:
                continue
            del waiting[at]
            line = line if meets else line[::-1]
            parts.insert(len(parts) if forward else 0, line)
            break
        else:
            return
        if np.array_equal(parts[0][0], parts[-1][-1]):
            return


def _key(point: Points) -> Key:
    return float(point[0]), float(point[1])


# Polygons of rings that someone has drawn, who may have drawn anything

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


# The sea from `natural=coastline`: land lies left of the way, water right of it


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


# Areas from closed ways and multipolygon relations, also where an extract has cut them

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
