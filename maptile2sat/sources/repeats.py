"""Noticing that a server sends one error picture in the place of many tiles."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from maptile2sat.source import Read
from maptile2sat.sources.masked import Tile
from maptile2sat.sources.pixels import may_repeat

_REMEMBERED = 4096
"""Pictures of which the places are remembered; an error picture keeps coming back."""


class RepeatGuard:
    """Notices one picture at many places, unless it is one that may honestly repeat.

    Pictures that may are kept without places.

    Args:
        limit: Number of places from which on a picture is an error picture; 0: none ever is.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._places: OrderedDict[bytes, set[Tile] | None] = OrderedDict()

    def check(self, data: bytes, read: Read, tile: Tile) -> list[Tile]:
        """Take note of the picture `data`, decoded as `read`, of a tile.

        Returns:
            All tiles that have had it, sorted, if it is an error picture; else none.
        """
        if not self._limit:
            return []
        digest = hashlib.blake2b(data, digest_size=16).digest()
        with self._lock:
            places = self._places.setdefault(digest, set())
            self._places.move_to_end(digest)
            if len(self._places) > _REMEMBERED:
                self._places.popitem(last=False)
            if places is None:
                return []
            places.add(tile)
            if len(places) < self._limit:
                return []
            seen = sorted(places)
        if may_repeat(read):
            with self._lock:
                self._places[digest] = None  # places would grow with the sea
            return []
        return seen
