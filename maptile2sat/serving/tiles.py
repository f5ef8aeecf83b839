"""Tiles of every zoom, from those of a layer's own zoom.

Up to `BELOW` zooms below it they are averaged from their four children, and kept; below that
only from what is kept anyway. Above it they are enlarged.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from maptile2sat.errors import ErrorPictureError, SourceError
from maptile2sat.geo.grid import TILE, Window
from maptile2sat.serving.cache import Kept, Key, TileCache
from maptile2sat.serving.images import EMPTY, KEPT, MARGIN, Tile, enlarged, halved, repacked, unpack
from maptile2sat.serving.layers import Layer
from maptile2sat.serving.queue import CellQueue

BELOW = 3
"""Zooms below a layer's own that are made whole."""

SHALLOW = 6
"""Zooms below a layer's own that are put together from what is kept."""

ABOVE = 4
"""Zooms above a layer's own that are served."""


class MadeCell(NamedTuple):
    """The tiles of a cell by column and row, and how many error pictures were known by then."""

    tiles: dict[tuple[int, int], Kept]
    errors: int


@dataclass
class TileMaker:
    """Makes the tiles of one layer, or takes them from the cache.

    Attributes:
        layer: What makes the tiles of its own zoom.
        cache: Where tiles are kept.
        queue: Makes cells; its keys are (layer's name, column, row).
    """

    layer: Layer
    cache: TileCache
    queue: CellQueue
    _bad: dict[tuple[int, int], tuple[int, str]] = field(default_factory=dict)
    """Cells that an error picture was in, with the number of the last one and its error."""
    _errors: int = 0
    """Number of the last error picture of which all is thrown away."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def covers(self, zoom: int, col: int, row: int) -> bool:
        """Whether the layer may have pixels of a tile that can be served."""
        own = self.layer.zoom
        if not own - SHALLOW <= zoom <= own + ABOVE:
            return False
        return self._touches(_scaled(zoom, col, row, own), own)

    def kept(self, zoom: int, col: int, row: int, form: str) -> Kept | None:
        """Return a tile if it is kept.

        Not in a thread: a small local file is read faster than two threads take turns.
        """
        return self.cache.read(self._key(zoom, col, row, form))

    async def get(self, zoom: int, col: int, row: int, form: str = KEPT) -> tuple[Kept, bool]:
        """Return a tile, and whether it was kept.

        Raises:
            BusyError: If too much is asked for at once.
            Maptile2satError: If the map cannot be read.
        """
        key, since = self._key(zoom, col, row, form), self.cache.drops(self.layer.digest)
        kept = self.cache.read(key)
        if kept is not None:
            return kept, True
        if form != KEPT:
            base, was_kept = await self.get(zoom, col, row)
            return await asyncio.to_thread(self._repack, key, base, since), was_kept
        if not self.covers(zoom, col, row):
            return Kept(EMPTY, "0"), False
        if zoom == self.layer.zoom:
            return await self._own(col, row), False
        if zoom > self.layer.zoom:
            content = await self._above(zoom, col, row)
        elif zoom >= self.layer.zoom - BELOW:
            content = await self._below(zoom, col, row)
        else:
            return Kept(await self._shallow(zoom, col, row), ""), False
        return await asyncio.to_thread(self.cache.write, key, content, since), False

    def _key(self, zoom: int, col: int, row: int, form: str) -> Key:
        return Key(self.layer.digest, zoom, col, row, form)

    def _repack(self, key: Key, base: Kept, since: int) -> Kept:
        content = repacked(base.content, key.form, self.layer.ground)
        if key.zoom < self.layer.zoom - BELOW:  # changes with what is kept
            return Kept(content, "")
        return self.cache.write(key, content, since)

    def _touches(self, window: Window, zoom: int) -> bool:
        """Whether the layer has any of `window`, also a whole turn around the world away."""
        turn = TILE << zoom
        return any(
            not window.shifted(shift, 0).intersection(self.layer.window).empty
            for shift in (-turn, 0, turn)
        )

    async def _own(self, col: int, row: int) -> Kept:
        """Make the cell that a tile of the layer's own zoom lies in; all of it is kept."""
        cells = self.layer.side // TILE
        cell = (col // cells, row // cells)
        made: MadeCell = await self.queue.get((self.layer.name, *cell))
        self._refuse_bad(*cell, made.errors)  # on its way here it may have been thrown away
        return made.tiles[col, row]

    def make_cell(self, col: int, row: int) -> MadeCell:
        """Make a cell and keep its tiles; for the queue's threads.

        Raises:
            Maptile2satError: If the map cannot be read, or what was read of it turns out to be an
                error picture.
        """
        zoom, before = self.layer.zoom, self._errors
        try:
            made = self.layer.make(col, row)
        except SourceError:
            self._refuse_bad(col, row, before)  # that says more than what else has failed
            raise
        # in this order: what is thrown away later is not written, what was before is refused
        errors, since = self._errors, self.cache.drops(self.layer.digest)
        self._refuse_bad(col, row, before)
        tiles = {
            place: self.cache.write(self._key(zoom, *place, KEPT), content, since)
            for place, content in made.items()
        }
        return MadeCell(tiles, errors)

    def _refuse_bad(self, col: int, row: int, before: int) -> None:
        """Refuse a cell if it was found out since `before` what it was made of.

        Raises:
            SourceError: If it was.
        """
        number, text = self._bad.get((col, row), (0, ""))
        if number > before:
            raise SourceError(text)

    def forget(self, error: ErrorPictureError) -> None:
        """Throw away all that was made of an error picture before it was known as one.

        May be called from any thread.
        """
        side = self.layer.side
        with self._lock:
            number = self._errors + 1
            for col, row in self.layer.forget(error.tiles):
                self._bad[col, row] = (number, str(error))
                self.cache.drop(
                    self.layer.digest, self._places(Window(col * side, row * side, side, side))
                )
            self._errors = number  # last: what is begun from now on reads nothing of all that

    def _places(self, window: Window) -> dict[int, tuple[range, range]]:
        """Return columns and rows, by zoom, of the tiles that are kept and show any of `window`."""
        places, own = {}, self.layer.zoom
        for zoom in range(max(0, own - BELOW), own + ABOVE + 1):
            seen = window.grown(MARGIN) if zoom > own else window
            side = _scaled(zoom, 0, 0, own).width
            places[zoom] = (
                range(seen.col // side, -(-seen.right // side)),
                range(seen.row // side, -(-seen.bottom // side)),
            )
        return places

    async def _below(self, zoom: int, col: int, row: int) -> bytes:
        """Average the four tiles of the next zoom, one after the other: they share cells."""
        children = []
        for down in (0, 1):
            for right in (0, 1):
                child, _ = await self.get(zoom + 1, 2 * col + right, 2 * row + down)
                children.append(child.content)
        return await asyncio.to_thread(halved, children)

    async def _shallow(self, zoom: int, col: int, row: int) -> bytes:
        """Average what is kept at the lowest zoom that is made whole."""
        lowest = self.layer.zoom - BELOW
        scale = 1 << (lowest - zoom)
        cols = range(col * scale, (col + 1) * scale)
        rows = range(row * scale, (row + 1) * scale)
        return await asyncio.to_thread(self._gather, zoom, lowest, cols, rows)

    def _gather(self, zoom: int, lowest: int, cols: range, rows: range) -> bytes:
        level: dict[tuple[int, int], bytes] = {}
        for place in self.cache.tiles(self.layer.digest, lowest, cols, rows):
            kept = self.cache.read(self._key(lowest, *place, KEPT))
            if kept is not None:
                level[place] = kept.content
        for _ in range(lowest - zoom):
            parents = {(col // 2, row // 2) for col, row in level}
            level = {
                (col, row): halved(
                    [
                        level.get((2 * col + right, 2 * row + down), EMPTY)
                        for down in (0, 1)
                        for right in (0, 1)
                    ]
                )
                for col, row in parents
            }
        return next(iter(level.values()), EMPTY)

    async def _above(self, zoom: int, col: int, row: int) -> bytes:
        """Enlarge a part of the layer's own zoom."""
        window = _scaled(zoom, col, row, self.layer.zoom).grown(MARGIN)
        image = np.zeros((window.height, window.width, 3), np.uint8)
        mask = np.zeros(image.shape[:2], np.uint8)
        world = 1 << self.layer.zoom
        for tile_row in range(window.row // TILE, -(-window.bottom // TILE)):
            for tile_col in range(window.col // TILE, -(-window.right // TILE)):
                if not 0 <= tile_row < world:
                    continue
                kept, _ = await self.get(self.layer.zoom, tile_col % world, tile_row)
                tile = await asyncio.to_thread(unpack, kept.content)
                whole = Window(tile_col * TILE, tile_row * TILE, TILE, TILE)
                part = whole.intersection(window)
                there, here = part.slices(window), part.slices(whole)
                image[there], mask[there] = tile.image[here], tile.mask[here]
        return await asyncio.to_thread(enlarged, Tile(image, mask))


def _scaled(zoom: int, col: int, row: int, own: int) -> Window:
    """Return a tile as pixels of another zoom: whole ones, since tiles have 2^8 a side."""
    if zoom <= own:
        side = TILE << (own - zoom)
        return Window(col * side, row * side, side, side)
    side = TILE >> (zoom - own)
    return Window(col * side, row * side, side, side)
