"""Noticing that a server sends one error picture in the place of many tiles."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from maptile2sat.errors import SourceError
from maptile2sat.source import Read
from maptile2sat.sources.pixels import may_repeat

_REMEMBERED = 4096
"""Pictures of which the places are remembered; an error picture keeps coming back."""


class RepeatGuard:
    """Refuses one picture at many places, unless it is one that may honestly repeat.

    Pictures that may are kept without places.

    Args:
        name: The source, for the message.
        limit: Number of places from which on a picture is refused; 0 refuses nothing.
    """

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._lock = threading.Lock()
        self._places: OrderedDict[bytes, set[str] | None] = OrderedDict()

    def check(self, data: bytes, read: Read, place: str) -> None:
        """Take note of the picture `data`, decoded as `read`, at `place`.

        Raises:
            SourceError: If it has now been seen at too many places.
        """
        if not self._limit:
            return
        digest = hashlib.blake2b(data, digest_size=16).digest()
        with self._lock:
            places = self._places.setdefault(digest, set())
            self._places.move_to_end(digest)
            if len(self._places) > _REMEMBERED:
                self._places.popitem(last=False)
            if places is None:
                return
            places.add(place)
            if len(places) < self._limit:
                return
            seen = ", ".join(sorted(places)[:4])
        if may_repeat(read):
            with self._lock:
                self._places[digest] = None  # places would grow with the sea
            return
        raise SourceError(
            f"{self._name} has one and the same picture at {len(places)} places (such as {seen}): "
            "that is an error picture, not a map (look at it; the zoom may be beyond the source's)"
        )
