"""Reading windows of a map that comes in square tiles."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, Protocol

from maptile2sat.errors import ErrorPictureError, MissingTileError
from maptile2sat.grid import Window
from maptile2sat.source import Read, SourceInfo, blank

_AT_ONCE = 64
"""Tiles of one read that may be in memory besides the cache."""


class TileLoader(Protocol):
    """Makes the pixels of one tile; called from several threads."""

    def load(self, x: int, y: int) -> Read | None:
        """Return the tile in column `x` and row `y`, or None where there is no data."""

    def discard(self, x: int, y: int) -> None:
        """Forget any copy of a tile that turned out to be none."""

    def close(self) -> None:
        """Free what it holds."""


class _Part(NamedTuple):
    """A tile, and where its pixels go."""

    x: int
    y: int
    wanted: Window
    inside: Window


class TiledSource:
    """A source that assembles its windows from tiles, loaded in parallel and kept for a while.

    A tile is loaded as a whole and by itself, so that a pixel is the same in every window.

    Args:
        info: What the source is; its `tile_side` is the side of the loader's tiles.
        loader: Makes the tiles.
        workers: Tiles loaded at the same time.
        cache_bytes: Memory for tiles kept.
    """

    def __init__(
        self, info: SourceInfo, loader: TileLoader, *, workers: int, cache_bytes: int
    ) -> None:
        self._info = info
        self._loader = loader
        self._side = info.tile_side
        self._capacity = max(2 * workers, cache_bytes // (4 * self._side**2))
        self._lock = threading.Lock()
        self._tiles: OrderedDict[tuple[int, int], Future[Read | None]] = OrderedDict()
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="maptile2sat-tiles")

    @property
    def info(self) -> SourceInfo:
        """What the source is and covers."""
        return self._info

    @property
    def loader(self) -> TileLoader:
        """What makes the tiles."""
        return self._loader

    def read(self, window: Window, needed: Window | None = None) -> Read:
        """Return the pixels of `window`; see `Source.read`."""
        result = blank(window)
        parts = self._parts(window)
        while chunk := list(islice(parts, _AT_ONCE)):
            futures = [self._tile(part.x, part.y) for part in chunk]
            for part, future in zip(chunk, futures, strict=True):
                try:
                    tile = future.result()
                except MissingTileError:
                    if needed is None or not part.wanted.intersection(needed).empty:
                        raise
                    continue
                except ErrorPictureError as error:
                    self.discard(error.tiles)
                    raise
                if tile is None:
                    continue
                there, here = part.wanted.slices(window), self._inner(part.inside)
                result.image[there] = tile.image[here]
                result.mask[there] = tile.mask[here]
        return result

    def prefetch(self, window: Window) -> None:
        """Start to load the tiles of `window`, as far as there is room for them."""
        for part in islice(self._parts(window), self._capacity // 2):
            self._tile(part.x, part.y)

    def discard(self, tiles: Iterable[tuple[int, int]]) -> None:
        """Forget tiles that turned out to be none: they are loaded again when they are read."""
        for tile in tiles:
            with self._lock:
                self._tiles.pop(tile, None)
            self._loader.discard(*tile)

    def close(self) -> None:
        """Drop all tiles and free what the loader holds."""
        # a download under way may take as long as its server likes
        self._workers.shutdown(wait=not self._info.remote, cancel_futures=True)
        self._tiles.clear()
        self._loader.close()

    def _parts(self, window: Window) -> Iterator[_Part]:
        """Cut `window` along the tile borders, wherever the source may have data."""
        grid, side = self._info.grid, self._side
        turn = None if grid.wrap is None else grid.wrap // side
        for piece, wanted in grid.pieces(window, self._info.extent):
            shift = wanted.col - piece.col
            for y in range(piece.row // side, (piece.bottom - 1) // side + 1):
                for x in range(piece.col // side, (piece.right - 1) // side + 1):
                    tile = Window(x * side, y * side, side, side).intersection(piece)
                    column = x if turn is None else x % turn
                    yield _Part(
                        column, y, tile.shifted(shift, 0), tile.shifted(-x * side, -y * side)
                    )

    def _inner(self, inside: Window) -> tuple[slice, slice]:
        return inside.slices(Window(0, 0, self._side, self._side))

    def _tile(self, x: int, y: int) -> Future[Read | None]:
        """Return the tile, under way or loaded."""
        key = (x, y)
        with self._lock:
            future = self._tiles.get(key)
            if future is not None and not _failed(future):
                self._tiles.move_to_end(key)
                return future
            future = self._workers.submit(self._loader.load, x, y)
            self._tiles[key] = future
            while len(self._tiles) > self._capacity:
                self._tiles.popitem(last=False)
        return future


def _failed(future: Future[Read | None]) -> bool:
    """Whether a tile could not be loaded, so that the next read is to try again."""
    return future.done() and (future.cancelled() or future.exception() is not None)
