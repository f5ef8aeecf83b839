"""Tiles that a server does not have: noted as they are masked, told at the end."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any

SHOWN = 10
"""Most tiles that a message names."""

Tile = tuple[int, int]
"""Column and row."""


def tiles_as_json(tiles: Mapping[Tile, str]) -> list[list[Any]]:
    """Return the names of tiles as JSON can hold them, in order."""
    return [[*tile, name] for tile, name in sorted(tiles.items())]


def tiles_from_json(found: Any) -> dict[Tile, str]:
    """Return what `tiles_as_json` was given.

    Raises:
        ValueError: If it did not give this.
    """
    try:
        return {(int(column), int(row)): str(name) for column, row, name in found}
    except TypeError as error:
        raise ValueError(f"{found!r} is no list of tiles") from error


class MaskedTiles:
    """Takes note of masked tiles, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[Tile, str] = {}

    @property
    def places(self) -> list[str]:
        """Their names (z/x/y), sorted."""
        with self._lock:
            return sorted(self._places.values())

    def add(self, tiles: Mapping[Tile, str]) -> None:
        """Take note of tiles, by their names."""
        with self._lock:
            self._places.update(tiles)

    def among(self, columns: Collection[int], rows: Iterable[int]) -> dict[Tile, str]:
        """Return the names of those in some columns and rows."""
        with self._lock:
            if not self._places:
                return {}
            tiles = ((x, y) for y in rows for x in columns)
            return {tile: self._places[tile] for tile in tiles if tile in self._places}

    def notice(self, name: str) -> str | None:
        """Return which tiles of a map were not to be had, in one line; None if all were."""
        places = self.places
        if not places:
            return None
        shown = ", ".join(places[:SHOWN])
        more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
        what = "1 tile is" if len(places) == 1 else f"{len(places)} tiles are"
        return f"{what} missing in {name} and masked: {shown}{more}"
