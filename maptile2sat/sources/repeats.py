"""Noticing that a server sends one error picture in the place of many tiles."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from maptile2sat.errors import ErrorPictureError
from maptile2sat.source import Read
from maptile2sat.sources.masked import Tile
from maptile2sat.sources.pixels import may_repeat

_REMEMBERED = 32_768
"""Pictures of which the places are remembered: more than the tiles that a server is asked for
unless the user says so, since those of the first may be of use at the last; about 16 MB."""

_SHOWN = 4

Sightings = Mapping[bytes, Collection[Tile]]
"""Tiles by what tells their picture from others."""


class Repeated(NamedTuple):
    """A picture and the tiles that are known to have it."""

    picture: bytes
    tiles: list[Tile]


class RepeatGuard:
    """Notices one picture at many places, unless it is one that may honestly repeat.

    Pictures that may are kept without places. All methods may be called from any thread.

    Attributes:
        limit: Number of places from which on a picture is an error picture; 0: none ever is.
        tell: Called once for each error picture, by whatever thread notices it and before that
            goes on, with the tiles that had it before it was known: no later one passes.

    Args:
        limit: See above.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.tell: Callable[[ErrorPictureError], None] = lambda error: None
        self._lock = threading.Lock()
        self._places: OrderedDict[bytes, set[Tile] | None] = OrderedDict()
        self._known: set[bytes] = set()
        self._found: set[Tile] = set()
        self._error: ErrorPictureError | None = None

    @property
    def found(self) -> frozenset[Tile]:
        """The tiles of all error pictures noticed so far."""
        with self._lock:
            return frozenset(self._found)

    def check(self, data: bytes, read: Read, tile: Tile) -> Repeated | None:
        """Take note of the picture `data`, decoded as `read`, of a tile.

        Returns:
            The picture and all tiles that have had it, if it is an error picture.
        """
        if not self.limit:
            return None
        picture = hashlib.blake2b(data, digest_size=16).digest()
        with self._lock:
            repeated = self._add(picture, [tile])
        if repeated is not None and may_repeat(read):
            with self._lock:
                self._places[picture] = None  # places would grow with the sea
            return None
        return repeated

    def add(self, sightings: Sightings) -> list[Repeated]:
        """Take note of pictures that another process has seen.

        Returns:
            Those at so many places that it is time to see whether they may repeat.
        """
        if not self.limit:
            return []
        with self._lock:
            added = [self._add(picture, tiles) for picture, tiles in sightings.items()]
        return [repeated for repeated in added if repeated is not None]

    def _add(self, picture: bytes, tiles: Iterable[Tile]) -> Repeated | None:
        places = self._places.setdefault(picture, set())
        self._places.move_to_end(picture)
        if len(self._places) > _REMEMBERED:
            gone, _ = self._places.popitem(last=False)
            self._known.discard(gone)  # it would pass again
        if places is None:
            return None
        places.update(tiles)
        return None if len(places) < self.limit else Repeated(picture, sorted(places))

    def among(self, columns: Collection[int], rows: Collection[int]) -> dict[bytes, list[Tile]]:
        """Return the pictures of the tiles in some columns and rows, but for those that may repeat.

        Of some of them that is not known yet.
        """
        found = {}
        with self._lock:
            for picture, places in self._places.items():
                inside = [tile for tile in places or () if tile[0] in columns and tile[1] in rows]
                if inside:
                    found[picture] = inside
        return found

    def places(self, picture: bytes) -> frozenset[Tile]:
        """Return the tiles that are known to have a picture which may not repeat."""
        with self._lock:
            return frozenset(self._places.get(picture) or ())

    def may_repeat(self, picture: bytes) -> bool:
        """Whether a picture is known as one that may honestly be at many places."""
        with self._lock:
            return picture in self._places and self._places[picture] is None

    def error(self, name: str, zoom: int, repeated: Repeated) -> ErrorPictureError:
        """Return the error that says so of a picture of the map `name`, and take note of it."""
        shown = ", ".join(f"{zoom}/{column}/{row}" for column, row in repeated.tiles[:_SHOWN])
        error = ErrorPictureError(
            f"{name} has one and the same picture at {len(repeated.tiles)} places (such as "
            f"{shown}): that is an error picture, not a map (look at it; the zoom may be beyond "
            "the source's; if it is map, say --allow-repeats)",
            *repeated,
        )
        with self._lock:
            self._found |= error.tiles
            self._error = error
            news = error.picture not in self._known
            self._known.add(error.picture)
        if news:
            self.tell(error)
        return error

    def refuse(self) -> None:
        """Make sure that no error picture was noticed, also where nobody was told.

        The error of a tile that was read ahead is gone when the tile is read again and the server
        is well by then; but others with the same picture may be in use.

        Raises:
            ErrorPictureError: If one was.
        """
        if self._error is not None:
            raise self._error
