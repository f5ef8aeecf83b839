"""What an extract covers: the boxes that its head states, or where its nodes are."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat  # nosec B407 # nothing with entities is parsed

from maptile2sat.cartography.osm_file import OsmFile
from maptile2sat.cartography.xml_notes import opened
from maptile2sat.errors import SourceError
from maptile2sat.grid import BBox
from maptile2sat.projection import MAX_LATITUDE

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
