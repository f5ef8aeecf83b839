"""Where the nodes of ways are, in whatever order and under whatever ids a file has them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from maptile2sat.cartography.box import Points
from maptile2sat.cartography.osm_file import OsmFile

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
