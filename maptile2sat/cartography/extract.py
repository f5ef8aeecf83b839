"""Reading an OpenStreetMap extract (PBF or XML) into areas and lines in pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maptile2sat.cartography.box import Box, Points
from maptile2sat.cartography.chains import is_ring, present_parts
from maptile2sat.cartography.classify import LineClass, area_class, line_class, meaningful
from maptile2sat.cartography.coastline import AmbiguousCoastError, sea
from maptile2sat.cartography.extent import extent_of
from maptile2sat.cartography.multipolygon import assemble
from maptile2sat.cartography.osm_file import OsmFile, open_osm
from maptile2sat.cartography.places import Places
from maptile2sat.cartography.shapes import Polygon, enclosed, polygonal, shape_errors
from maptile2sat.errors import MissingExtraError, SourceError
from maptile2sat.grid import TILE, Grid, Window
from maptile2sat.projection import MAX_LATITUDE

_LENGTHENED = 24.0
"""Pixels by which a road that the extract cuts may be lengthened to reach the edge."""

_LISTED = 5
"""How many incomplete areas a warning names."""

_AGAIN = "it may be incomplete: ask for it again, or for a smaller area"
"""Advice for files that say what went wrong."""

_BESIDE = 1e-3
"""Pixels up to which a way lies on the border of an area."""


@dataclass(frozen=True)
class AreaFeature:
    """An area to paint: its class and its polygon in pixels."""

    name: str
    polygon: Polygon


@dataclass(frozen=True)
class LineFeature:
    """A line to paint: what it is and its points in pixels."""

    kind: LineClass
    points: Points


@dataclass
class Extract:
    """What an extract holds, in pixels of one zoom.

    Attributes:
        window: The whole pixels that its box touches.
        areas: Its areas.
        lines: Its roads, railways and watercourses.
        sea: The sea, if there is one.
        warnings: What could not be drawn, and why.
    """

    window: Window
    areas: list[AreaFeature] = field(default_factory=list)
    lines: list[LineFeature] = field(default_factory=list)
    sea: Polygon | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass
class _Relation:
    """An area relation: what it is, and the roles of the ways that it consists of.

    Its class is `None` if it has no tags of its own that say what it is.
    """

    number: int
    name: str | None
    tags: dict[str, str]
    roles: dict[int, str]


@dataclass
class _Ways:
    """Ways found in the extract, in pixels; NaN for nodes that it lacks."""

    members: dict[int, Points] = field(default_factory=dict)
    member_tags: dict[int, dict[str, str]] = field(default_factory=dict)
    closed: list[tuple[int, str, Points]] = field(default_factory=list)
    lines: list[LineFeature] = field(default_factory=list)
    coast: list[Points] = field(default_factory=list)
    wanted: int = 0
    placed: int = 0  # of those that are wanted: ways with a node in the file


def read_extract(path: Path, grid: Grid) -> Extract:
    """Read the extract `path` in pixels of `grid`.

    Raises:
        MissingExtraError: If osmium or shapely is not installed.
        SourceError: If the file is missing, not OpenStreetMap data, without an area, or without
            the nodes of its ways.
    """
    try:
        import osmium
        import shapely  # noqa: F401 - only to say early that it is missing
    except ImportError as error:
        raise MissingExtraError("drawing OpenStreetMap extracts", "osm") from error
    try:
        if not path.is_file():
            raise SourceError(f"the extract {path} does not exist: check the path")
        with open_osm(osmium, path) as file, _explained(file):
            window = grid.window(extent_of(file))
            box = Box(window.col, window.row, window.right, window.bottom)
            relations = list(_relations(osmium, file))
            ways = _read_ways(osmium, file, grid.zoom or 0, relations, box)
    except (RuntimeError, ValueError, OSError, MemoryError, osmium.InvalidLocationError) as error:
        reason = " ".join(str(error).split())
        raise SourceError(
            f"{path} cannot be read as OpenStreetMap data ({reason}): give an .osm.pbf or .osm file"
        ) from error
    said = [f"the extract says of itself: {text}; {_AGAIN}" for text in file.remarks]
    extract = Extract(window, lines=ways.lines, warnings=[*said, *file.warnings])
    with shape_errors(path.name):
        _add_areas(extract, relations, ways, box)
        _add_sea(extract, ways.coast, box)
    return extract


@contextmanager
def _explained(file: OsmFile) -> Iterator[None]:
    """Add what a file says of itself to what is wrong with it."""
    try:
        yield
    except SourceError as error:
        if not file.remarks:
            raise
        raise SourceError(
            f"{error}. The extract says of itself: {file.remarks[0]}; {_AGAIN}"
        ) from error


def _relations(osmium: Any, file: OsmFile) -> Iterator[_Relation]:
    """Yield the relations that are areas; those without tags of their own have class `None`."""
    for relation in file.objects(osmium.osm.RELATION):
        tags = dict(relation.tags)
        if tags.get("type") not in ("multipolygon", "boundary"):
            continue
        name, meaning = area_class(tags, relation=True), meaningful(tags)
        if name is None and meaning:
            continue
        roles: dict[int, str] = {}
        for member in relation.members:
            if member.type == "w":  # the same one twice is there once
                roles.setdefault(member.ref, member.role)
        yield _Relation(relation.id, name, meaning, roles)


def _read_ways(
    osmium: Any, file: OsmFile, zoom: int, relations: list[_Relation], box: Box
) -> _Ways:
    members = {ref for relation in relations for ref in relation.roles}
    places = Places(osmium, file)
    found = _Ways()

    def sort(way: Any) -> None:
        if way.tags or way.id in members:
            _sort_way(way, places, zoom, found, box, is_member=way.id in members)

    places.visit_ways(sort)
    if found.wanted and not found.placed:
        raise SourceError(
            f"{file.path} holds {found.wanted:,} ways to draw and a node of none of them: get it "
            "anew with the nodes of its ways (Overpass: '(._;>;); out body;')"
        )
    return found


def _sort_way(
    way: Any, places: Places, zoom: int, found: _Ways, box: Box, *, is_member: bool
) -> None:
    """Put one way where it belongs."""
    tags = dict(way.tags)
    name = area_class(tags) if len(way.nodes) > 3 else None
    closed = len(way.nodes) > 3 and way.is_closed()
    if name and not closed:
        closed = _meets(places.degrees(way))
        name = name if closed else None
    kind = line_class(tags, closed=closed)
    coast = tags.get("natural") == "coastline"
    if not (is_member or name or kind or coast):
        return
    points = _pixels(places.degrees(way), zoom, box)
    found.wanted += 1
    found.placed += bool(np.isfinite(points).any())
    if is_member:
        found.members[way.id] = points
        found.member_tags[way.id] = meaningful(tags)
    if coast:
        found.coast.append(points)
    for whole in _without_jumps(points, zoom, box):
        if name:
            found.closed.append((way.id, name, whole))
        if kind:
            found.lines.extend(LineFeature(kind, part) for part in _cut_parts(whole, box))


def _meets(degrees: Points) -> bool:
    """Return whether a way ends in a place where it begins, though in another node."""
    return bool(np.array_equal(degrees[0], degrees[-1]))


def _cut_parts(points: Points, box: Box) -> Iterator[Points]:
    """Yield the parts of a line between missing nodes; ends at the box go straight over it."""
    if not np.isnan(points).any():
        if len(points) > 1:
            yield points
        return
    for part in present_parts(points):
        whole = part
        if not np.array_equal(part[0], points[0]):
            outside = box.beyond(part[1], part[0], _LENGTHENED)
            whole = whole if outside is None else np.vstack([outside, whole])
        if not np.array_equal(part[-1], points[-1]):
            outside = box.beyond(part[-2], part[-1], _LENGTHENED)
            whole = whole if outside is None else np.vstack([whole, outside])
        yield whole


def _pixels(degrees: Points, zoom: int, box: Box) -> Points:
    """Return longitudes and latitudes as pixels of `zoom`, in the columns of `box`."""
    side = float(TILE << zoom)
    latitude = np.radians(np.clip(degrees[:, 1], -MAX_LATITUDE, MAX_LATITUDE))
    x = (degrees[:, 0] / 360.0 + 0.5) * side
    if box.right > side:  # across 180 degrees
        x += side * np.round(((box.left + box.right) / 2 - x) / side)
    y = (0.5 - np.arcsinh(np.tan(latitude)) / (2 * np.pi)) * side
    return np.column_stack([x, y])


def _without_jumps(points: Points, zoom: int, box: Box) -> list[Points]:
    """Return a way as one that goes on across the end of the world, wherever the box has it.

    Without that a segment from 179.9 to -179.9 degrees would run around the world.
    """
    side = float(TILE << zoom)
    known = np.isfinite(points[:, 0])
    steps = np.diff(points[known, 0])
    # once around is no jump: an edge of the whole world
    jumps = (np.abs(steps) > side / 2) & (np.abs(steps) < side)
    if not jumps.any():
        return [points]
    turns = -np.cumsum(np.sign(steps) * jumps) * side
    if np.array_equal(points[0], points[-1]) and turns[-1]:
        return [points]  # around a pole
    whole = points.copy()
    whole[known, 0] += np.concatenate([[0.0], turns])
    left, right = np.nanmin(whole[:, 0]), np.nanmax(whole[:, 0])
    first, last = np.floor((box.left - right) / side), np.ceil((box.right - left) / side)
    shifts = np.arange(first + 1, last) * side
    return [whole + np.array([shift, 0.0]) for shift in shifts]


def _add_areas(extract: Extract, relations: list[_Relation], ways: _Ways, box: Box) -> None:
    """Build the areas of relations and closed ways; list what is incomplete."""
    incomplete: list[str] = []
    drawn: set[int] = set()
    for relation in relations:
        polygon, sure = _assemble(relation, ways, box)
        areas, parts = _areas_of(relation, polygon, ways)
        name = relation.name or next((name for name, _ in areas), None)
        drawn |= parts
        if name and not sure:
            incomplete.append(f"relation {relation.number} ({name})")
        extract.areas.extend(AreaFeature(name, area) for name, area in areas)
    for number, name, points in ways.closed:
        if number in drawn:
            continue
        polygon, sure = assemble([points], [], box)
        if not sure:
            incomplete.append(f"way {number} ({name})")
        if polygon is not None:
            extract.areas.append(AreaFeature(name, polygon))
    if incomplete:
        more = f" and {len(incomplete) - _LISTED} more" if len(incomplete) > _LISTED else ""
        extract.warnings.append(
            "areas incomplete in the extract, of which parts may be missing or on the wrong side "
            f"of the cut: {', '.join(incomplete[:_LISTED])}{more}: take an extract with whole "
            "relations (osmium extract --strategy smart)"
        )


def _assemble(relation: _Relation, ways: _Ways, box: Box) -> tuple[Polygon | None, bool]:
    """Build the area of a relation."""
    members: dict[str, list[Points]] = {"outer": [], "inner": [], "": []}
    complete = True
    for ref, role in relation.roles.items():
        points = ways.members.get(ref)
        if points is None:
            complete = False
            continue
        members[role if role in members else ""].append(points)
        complete = complete and not np.isnan(points).any()
    return assemble(members["outer"], members["inner"], box, members[""], complete=complete)


def _areas_of(
    relation: _Relation, polygon: Polygon | None, ways: _Ways
) -> tuple[list[tuple[str, Polygon]], set[int]]:
    """Return the areas that a relation stands for, and the member ways that are none besides."""
    tags, name = relation.tags, relation.name
    areas = [(name, polygon)] if name and polygon is not None else []
    parts: set[int] = set()
    if name is None:  # tags on the outer ways, as was usual long ago
        outer = _outer_ways(relation, polygon, ways)
        tags = _common(ways.member_tags[ref] for ref in outer)
        name = area_class(tags)
        if name:
            areas, parts = [(name, polygon)] if polygon is not None else [], outer
        elif polygon is not None:  # outer ways that differ
            for ref in outer:
                kind = area_class(ways.member_tags[ref])
                if kind and is_ring(ways.members[ref]):
                    within = polygonal(polygon.intersection(enclosed(ways.members[ref])))
                    areas.append((kind, within))
                    parts.add(ref)
    # the same within a hole means the hole, which is how lakes in woods were drawn once
    parts |= {
        ref
        for ref, role in relation.roles.items()
        if role == "inner" and tags and ways.member_tags.get(ref) == tags
    }
    return areas, parts


def _outer_ways(relation: _Relation, polygon: Polygon | None, ways: _Ways) -> set[int]:
    """Return the members that are there and run along the outside of the area."""
    from shapely import MultiLineString, Point, get_exterior_ring, get_parts

    there = [ref for ref in relation.roles if ref in ways.members]
    outside = {ref for ref in there if relation.roles[ref] != "inner"}
    if polygon is None or len(there) < len(relation.roles):
        return outside
    edges = MultiLineString(get_exterior_ring(get_parts(polygon)).tolist())
    along = set()
    for ref in there:
        steps = ways.members[ref]
        steps = steps[np.isfinite(steps[:, 0])]
        if len(steps) > 1 and edges.distance(Point(steps[:2].mean(axis=0))) < _BESIDE:
            along.add(ref)
    return along or outside


def _common(ways: Iterable[dict[str, str]]) -> dict[str, str]:
    """Return the tags that all of some ways have."""
    shared = [set(tags.items()) for tags in ways]
    return dict(set.intersection(*shared)) if shared else {}


def _add_sea(extract: Extract, coast: list[Points], box: Box) -> None:
    try:
        extract.sea = sea(coast, box)
    except AmbiguousCoastError as error:
        extract.warnings.append(
            f"no sea is drawn, because {error}: cut the extract along whole coastlines"
        )
