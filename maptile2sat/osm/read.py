"""Reading an OpenStreetMap extract (PBF or XML) into areas and lines in pixels."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.parsers import expat  # nosec B407 # nothing with entities is parsed

import numpy as np

from maptile2sat.errors import MissingExtraError, SourceError
from maptile2sat.geo.crs import MAX_LATITUDE
from maptile2sat.geo.grid import TILE, BBox, Grid, Window
from maptile2sat.osm.geometry import (
    AmbiguousCoastError,
    Box,
    Points,
    Polygon,
    assemble,
    enclosed,
    is_ring,
    polygonal,
    present_parts,
    sea,
    shape_errors,
)
from maptile2sat.osm.osm_file import OsmFile, open_osm
from maptile2sat.osm.xml_notes import opened

# From OpenStreetMap tags to the classes of the style tables

Tags = Mapping[str, str]

_AREAS: dict[str, dict[str, str]] = {
    "natural": {
        "water": "water", "wood": "wood", "scrub": "scrub", "heath": "heath",
        "grassland": "grass", "fell": "grass", "wetland": "scrub", "beach": "sand",
        "sand": "sand", "shoal": "sand",
    },
    "waterway": {"riverbank": "water", "dock": "water"},
    "landuse": {
        "reservoir": "water", "basin": "water", "forest": "wood", "grass": "grass",
        "meadow": "grass", "village_green": "grass", "recreation_ground": "park",
        "greenery": "grass", "flowerbed": "grass", "residential": "residential",
        "industrial": "industrial", "port": "industrial", "commercial": "commercial",
        "retail": "retail", "farmland": "farmland", "orchard": "scrub", "vineyard": "scrub",
        "plant_nursery": "scrub", "farmyard": "farmyard", "construction": "construction",
        "brownfield": "construction", "railway": "railway", "cemetery": "cemetery",
        "allotments": "allotments", "education": "education",
    },
    "leisure": {
        "park": "park", "garden": "garden", "golf_course": "golf", "dog_park": "park",
        "common": "park", "pitch": "pitch", "track": "pitch", "playground": "playground",
        "sports_centre": "sports", "stadium": "sports", "swimming_pool": "pool",
        "nature_reserve": "", "marina": "",
    },
    "amenity": {
        "grave_yard": "cemetery", "parking": "parking", "school": "education",
        "university": "education", "college": "education", "kindergarten": "education",
        "hospital": "hospital", "fountain": "pool",
    },
    "aeroway": {
        "aerodrome": "aerodrome", "apron": "apron", "runway": "apron", "taxiway": "apron",
        "helipad": "apron",
    },
    "man_made": {"pier": "pier", "breakwater": "pier", "groyne": "pier", "quay": "pier",
                 "bridge": "bridge"},
}  # fmt: skip

_ROADS = {
    "motorway": "motorway", "motorway_link": "link", "trunk": "trunk", "trunk_link": "link",
    "primary": "primary", "primary_link": "primary", "secondary": "secondary",
    "secondary_link": "secondary", "tertiary": "tertiary", "tertiary_link": "tertiary",
    "unclassified": "street", "residential": "street", "living_street": "street",
    "road": "street", "busway": "street", "service": "service", "pedestrian": "pedestrian",
    "track": "track", "footway": "path", "path": "path", "cycleway": "path",
    "bridleway": "path", "steps": "path",
}  # fmt: skip

_WATERWAYS = {"river": "river", "canal": "canal", "stream": "stream", "ditch": "stream",
              "drain": "stream", "tidal_channel": "stream"}  # fmt: skip
_RAILWAYS = ("rail", "light_rail", "narrow_gauge", "subway", "funicular")
_AISLES = ("parking_aisle", "driveway", "drive-through")
_REMARKS = ("type", "source", "created_by", "converted_by", "note", "fixme", "FIXME", "comment",
            "attribution", "test")  # fmt: skip
_MINOR_WAYS = ("path", "service", "aisle", "track", "pedestrian", "rail")


@dataclass(frozen=True)
class LineClass:
    """What a way is when it is drawn as a line.

    Attributes:
        name: Class of the style's `lines`.
        tunnel: Whether it runs underground.
        bridge: Whether it is a bridge.
        sheltered: Whether a building stands over it.
        layer: OpenStreetMap's `layer`.
    """

    name: str
    tunnel: bool = False
    bridge: bool = False
    sheltered: bool = False
    layer: int = 0


def meaningful(tags: Tags) -> dict[str, str]:
    """Return the tags without those that say nothing of the object, but of how it came about."""
    return {key: value for key, value in tags.items() if key.partition(":")[0] not in _REMARKS}


def area_class(tags: Tags, *, relation: bool = False) -> str | None:
    """Return the class of a closed way or multipolygon with `tags`; `None` if not an area."""
    if tags.get("area") == "no" or _hidden(tags):
        return None
    if tags.get("building", "no") != "no":
        return "building" if _layer(tags) >= 0 else None
    if "highway" in tags:
        paved = relation or tags.get("area") == "yes"
        drawn = tags["highway"] in ("pedestrian", "footway", "service", "residential", "platform")
        return "pedestrian" if paved and drawn and not _is_tunnel(tags) else None
    for key, values in _AREAS.items():
        name = values.get(tags.get(key, ""))
        if name == "water" and (_is_tunnel(tags) or tags.get("covered") == "yes"):
            continue
        if name == "parking" and tags.get("parking", "surface") not in ("surface", "lane"):
            continue
        if name:
            return name
    return "pedestrian" if tags.get("place") == "square" else None


def line_class(tags: Tags, *, closed: bool = False) -> LineClass | None:
    """Return the class of a way with `tags` that is drawn as a line; `None` if it is not."""
    name = _line_name(tags, closed=closed)
    if name is None or _hidden(tags) or (closed and tags.get("area") == "yes"):
        return None
    tunnel = _is_tunnel(tags)
    if tunnel and (name in _MINOR_WAYS or name in _WATERWAYS.values()):
        return None
    bridge = tags.get("bridge", "no") not in ("no", "abandoned", "proposed")
    sheltered = tags.get("tunnel") == "building_passage" or tags.get("covered", "no") != "no"
    layer = _layer(tags) or (1 if bridge else -1 if tunnel else 0)
    return LineClass(name, tunnel, bridge, sheltered and not bridge, layer)


def _line_name(tags: Tags, *, closed: bool) -> str | None:
    road = _ROADS.get(tags.get("highway", ""))
    if road:
        return _road_name(road, tags)
    if tags.get("railway") in _RAILWAYS:
        return "rail"
    if tags.get("waterway", "") in _WATERWAYS:
        return _WATERWAYS[tags["waterway"]]
    if closed:
        return None
    if tags.get("aeroway") in ("runway", "taxiway"):
        return tags["aeroway"]
    return "pier" if tags.get("man_made") in ("pier", "breakwater", "groyne") else None


def _road_name(road: str, tags: Tags) -> str | None:
    """Tell small service ways from others; leave pavements and crossings out."""
    if road == "service" and tags.get("service") in _AISLES:
        return "aisle"
    if road == "path" and (
        tags.get("footway") in ("sidewalk", "crossing", "traffic_island")
        or tags.get("cycleway") == "crossing"
    ):
        return None
    return road


def _hidden(tags: Tags) -> bool:
    return (
        tags.get("location") == "underground"
        or tags.get("indoor", "no") not in ("no", "")
        or tags.get("level", "0").startswith("-")
    )


def _is_tunnel(tags: Tags) -> bool:
    return tags.get("tunnel", "no") not in ("no", "building_passage")


def _layer(tags: Tags) -> int:
    try:
        return max(-9, min(9, round(float(tags.get("layer", "0")))))
    except (ValueError, OverflowError):  # no number, or one without end
        return 0


# What an extract covers: the boxes that its head states, or where its nodes are

MAX_HEAD = 1 << 20
"""Bytes in which the boxes of an XML file have to be; they come before all else."""

_CHUNK = 1 << 14


class _HeadError(Exception):
    """The head of a file has what does not belong there."""


@dataclass
class _Span:
    """What some places span, across 180 degrees if that leaves out most of the world.

    A gap of more than half the world that 180 degrees is not in has the meridian of 0 degrees in
    it, so the places next to that on both sides tell its width.
    """

    count: int = 0
    west: float = math.inf
    south: float = math.inf
    east: float = -math.inf
    north: float = -math.inf
    before: float = -math.inf  # the last longitude before 0
    after: float = math.inf  # the first from 0 on

    def add(self, west: float, south: float, east: float, north: float) -> None:
        self.count += 1
        self.west, self.east = min(self.west, west), max(self.east, east)
        self.south, self.north = min(self.south, south), max(self.north, north)
        if west < 0:
            self.before = max(self.before, min(east, 0.0))
        if east >= 0:
            self.after = min(self.after, max(west, 0.0))

    @property
    def crosses(self) -> bool:
        """Whether it goes across 180 degrees."""
        return self.east - self.west > 180.0 and self.after - self.before > 180.0

    @property
    def box(self) -> BBox:
        """The box, west > east across 180 degrees."""
        west, east = (self.after, self.before) if self.crosses else (self.west, self.east)
        return BBox(west, self.south, east, self.north)


def extent_of(file: OsmFile) -> BBox:
    """Return the box of an extract, as far as web mercator goes.

    It is what the head states, else what the nodes span; west > east across 180 degrees.

    Raises:
        SourceError: If it has no area in web mercator.
    """
    path = file.path
    stated = _stated(file.header.box(), path)
    if stated is None:
        nodes, _ = _spanned(file.places())
        return _drawable(_with_area(nodes, path), path)
    if stated.east - stated.west > 180.0:
        nodes, outside = _spanned(file.places(), stated)
        if outside and stated.east - stated.west < 360.0:
            # osmium has put a box across 180 degrees in order
            stated = stated._replace(west=stated.east, east=stated.west)
        elif nodes.crosses:  # a box of the least and the greatest longitude
            stated = stated._replace(west=nodes.box.west, east=nodes.box.east)
    return _drawable(stated, path)


def _stated(first: Any, path: Path) -> BBox | None:
    """Return the box that the head of a file states, or the hull of several.

    Args:
        first: The first of them, which is all that osmium tells.
        path: The file.
    """
    if not first.valid() or first.size() <= 0:
        return None
    try:
        boxes = [] if path.suffix == ".pbf" else _boxes(path)  # PBF cannot have several
    except (_HeadError, ValueError):
        return None
    if len(boxes) < 2:
        low, high = first.bottom_left, first.top_right
        return BBox(low.lon, low.lat, high.lon, high.lat)
    hull = _Span()
    for west, south, east, north in boxes:
        for left, right in [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]:
            hull.add(left, south, right, north)
    return hull.box


def _boxes(path: Path) -> list[BBox]:
    """Return the boxes in the head of an XML file; none if it is of another format.

    Raises:
        _HeadError: If the head is too long, or has boxes that are none.
        ValueError: If they are no numbers.
    """
    found: list[BBox] = []
    ended = False

    def begins(name: str, attributes: dict[str, str]) -> None:
        nonlocal ended
        ended = ended or name in ("node", "way", "relation")
        if name == "bounds" and not ended:
            found.append(_box(attributes))

    parser = expat.ParserCreate()
    parser.StartElementHandler = begins
    parser.EntityDeclHandler = _no_entities
    try:
        with opened(path) as file:
            for _ in range(0, MAX_HEAD, _CHUNK):
                chunk = file.read(_CHUNK)
                parser.Parse(chunk, not chunk)
                if ended or not chunk:
                    return found
    except (expat.ExpatError, LookupError, OSError, EOFError, zlib.error):
        return []
    raise _HeadError("too long")


def _box(attributes: dict[str, str]) -> BBox:
    # to the digits that osmium keeps, so that a file of one box and of two have the same pixels
    names = ("minlon", "minlat", "maxlon", "maxlat")
    box = BBox(*(round(float(attributes.get(name, "")), 7) for name in names))
    west, south, east, north = box
    if not (max(abs(west), abs(east)) <= 180.0 and -90.0 <= south <= north <= 90.0):
        raise _HeadError("not in degrees")
    return box


def _no_entities(*_: Any) -> None:
    raise _HeadError("entities")


def _spanned(places: Iterable[tuple[float, float]], box: BBox | None = None) -> tuple[_Span, bool]:
    """Return what places span, and whether most lie beyond both meridians of a box."""
    span, beyond = _Span(), 0
    for lon, lat in places:
        span.add(lon, lat, lon, lat)
        if box is not None:
            beyond += -1 if box.west < lon < box.east else 1
    return span, beyond > 0


def _with_area(nodes: _Span, path: Path) -> BBox:
    if not nodes.count:
        raise SourceError(f"{path} holds no OpenStreetMap nodes: there is nothing to draw")
    west, south, east, north = box = nodes.box
    if nodes.crosses:
        east += 360.0
    if west < east and south < north:
        return box
    place = []
    if west == east:
        place.append(f"longitude {west:.7g}")
    if south == north:
        place.append(f"latitude {south:.7g}")
    raise SourceError(
        f"{path} covers no area: all of its nodes ({nodes.count:,}) lie at {' and '.join(place)}; "
        "take an extract of what is around them, or one that states its <bounds>"
    )


def _drawable(box: BBox, path: Path) -> BBox:
    """Cut a box to what web mercator has."""
    south, north = max(box.south, -MAX_LATITUDE), min(box.north, MAX_LATITUDE)
    if south >= north:
        raise SourceError(
            f"{path} lies between the latitudes {box.south:.7g} and {box.north:.7g}, beyond the "
            f"end of web mercator at {MAX_LATITUDE:.4f}: take an extract nearer to the equator"
        )
    return box._replace(south=south, north=north)


# Where the nodes of ways are, in whatever order and under whatever ids a file has them

_NOWHERE = (math.nan, math.nan)


class Places:
    """The places of all nodes of a file, read before any of its ways.

    Files need not have nodes before ways (Overpass writes them as a query names them), nor
    in the order of their ids. A node that the file lacks is where its way says, if it does.

    Args:
        osmium: The module, which is optional.
        file: The file.
    """

    def __init__(self, osmium: Any, file: OsmFile) -> None:
        self._osmium, self._file = osmium, file
        self._index = osmium.NodeLocationsForWays(osmium.index.create_map("flex_mem"))
        self._index.ignore_errors()
        self._own = _Own()
        file.apply(osmium.osm.NODE, self._index)

    def visit_ways(self, visit: Callable[[Any], None]) -> None:
        """Call `visit` with each way of the file; it is gone after the call."""
        # the index sorts itself at its first way, so it has to be the same one; it replaces places
        first = (self._own,) if self._file.placed else ()
        self._file.apply(self._osmium.osm.WAY, *first, self._index, _Visitor(visit))

    def degrees(self, way: Any) -> Points:
        """Return longitude and latitude of the nodes of `way`, NaN for those that are missing."""
        places = []
        for at, node in enumerate(way.nodes):
            place = _place(node)
            if place is _NOWHERE and node.ref < 0:
                place = self._new.get(node.ref, _NOWHERE)
            if place is _NOWHERE and self._file.placed:
                place = self._own.places[at]
            places.append(place)
        return np.array(places, np.float64).reshape(-1, 2)

    @cached_property
    def _new(self) -> dict[int, tuple[float, float]]:
        """Nodes with negative ids, which editors give to what is new: the index drops them."""
        return {
            node.id: (node.location.lon, node.location.lat)
            for node in self._file.objects(self._osmium.osm.NODE)
            if node.id < 0 and node.location.valid()
        }


def _place(node: Any) -> tuple[float, float]:
    return (node.location.lon, node.location.lat) if node.location.valid() else _NOWHERE


class _Own:
    """Keeps the places that a way has by itself."""

    def __init__(self) -> None:
        self.places: list[tuple[float, float]] = []

    def way(self, way: Any) -> None:
        self.places = [_place(node) for node in way.nodes]


class _Visitor:
    """What osmium calls with each way."""

    def __init__(self, visit: Callable[[Any], None]) -> None:
        self.way = visit


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
