"""Where the nodes of ways are, in whatever order and under whatever ids a file has them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from maptile2sat.cartography.box import Points

_NOWHERE = (math.nan, math.nan)


class Places:
    """The places of all nodes of a file, read before any of its ways.

    Files need not have nodes before ways (Overpass writes them as a query names them), nor
    in the order of their ids.

    Args:
        osmium: The module, which is optional.
        path: The file.
    """

    def __init__(self, osmium: Any, path: Path) -> None:
        self._osmium, self._path = osmium, path
        self._index = osmium.NodeLocationsForWays(osmium.index.create_map("flex_mem"))
        self._index.ignore_errors()
        self._apply(osmium.osm.NODE, self._index)

    def visit_ways(self, visit: Callable[[Any], None]) -> None:
        """Call `visit` with each way of the file; it is gone after the call."""
        # the index sorts itself at its first way, so it has to be the same one
        self._apply(self._osmium.osm.WAY, self._index, _Visitor(visit))

    def degrees(self, way: Any) -> Points:
        """Return longitude and latitude of the nodes of `way`, NaN for those that are missing."""
        places = []
        for node in way.nodes:
            if node.location.valid():
                places.append((node.location.lon, node.location.lat))
            else:
                places.append(self._new.get(node.ref, _NOWHERE) if node.ref < 0 else _NOWHERE)
        return np.array(places, np.float64).reshape(-1, 2)

    @cached_property
    def _new(self) -> dict[int, tuple[float, float]]:
        """Nodes with negative ids, which editors give to what is new: the index drops them."""
        return {
            node.id: (node.location.lon, node.location.lat)
            for node in self._osmium.FileProcessor(str(self._path), self._osmium.osm.NODE)
            if node.id < 0 and node.location.valid()
        }

    def _apply(self, kind: Any, *handlers: Any) -> None:
        with self._osmium.io.Reader(str(self._path), kind) as reader:
            self._osmium.apply(reader, *handlers)


class _Visitor:
    """What osmium calls with each way."""

    def __init__(self, visit: Callable[[Any], None]) -> None:
        self.way = visit
