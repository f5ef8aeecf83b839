"""Sets of encoded tiles, in containers or on servers, and the sources made of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Protocol

from maptile2sat.errors import MissingTileError, SourceError, UsageError
from maptile2sat.grid import MAX_ZOOM, TILE, BBox, Window, mercator_grid
from maptile2sat.projection import MAX_LATITUDE
from maptile2sat.source import Read, SourceInfo
from maptile2sat.sources.decode import Decoder, open_picture
from maptile2sat.sources.masked import MaskedTiles, Tile
from maptile2sat.sources.options import SourceOptions
from maptile2sat.sources.repeats import RepeatGuard
from maptile2sat.sources.tiled import TiledSource

_ASKS = 3
"""How often a server is asked for a tile whose picture is damaged."""


class TileSet(Protocol):
    """Encoded tiles by zoom, column and row; read from several threads."""

    @property
    def name(self) -> str:
        """How to show the tile set, without secrets."""

    @property
    def attribution(self) -> str:
        """Whom to name for the map."""

    @property
    def style(self) -> str | None:
        """The map style, if the tile set says it."""

    @property
    def drawn(self) -> bool:
        """Whether `draw` made it."""

    @property
    def remote(self) -> bool:
        """Whether tiles come over a network."""

    @property
    def zooms(self) -> Sequence[int]:
        """The zooms that it has, ascending."""

    def span(self, zoom: int) -> Window:
        """Return the hull of the tiles of `zoom`, in tiles; may go on past the last column."""

    def sample(self, zoom: int) -> bytes | None:
        """Return some tile of `zoom`, if that is cheap."""

    def fetch(self, zoom: int, x: int, y: int) -> bytes | None:
        """Return a tile's bytes, or None where the map has a hole.

        Raises:
            MissingTileError: If there should be a tile but it cannot be had.
            SourceError: If nothing more can be read.
        """

    def discard(self, zoom: int, x: int, y: int) -> None:
        """Forget any copy of a tile that turned out to be none."""

    def close(self) -> None:
        """Free files and connections."""


class EncodedTiles:
    """Loads and checks the tiles of one zoom of a tile set.

    Args:
        tiles: Where they come from.
        zoom: The zoom by which the tile set knows them.
        decoder: Makes pixels of them.
        guard: Watches for error pictures.
        options: What a tile that cannot be had is, and whom to tell.
    """

    def __init__(
        self,
        tiles: TileSet,
        zoom: int,
        decoder: Decoder,
        guard: RepeatGuard,
        options: SourceOptions,
    ) -> None:
        self._tiles = tiles
        self._zoom = zoom
        self._decoder = decoder
        self._guard = guard
        self._missing, self._warn = options.missing, options.warn
        self._masked = options.masked or MaskedTiles()

    @property
    def failed(self) -> list[str]:
        """The tiles (z/x/y) that could not be had and were masked."""
        return self._masked.places

    def load(self, x: int, y: int) -> Read | None:
        """Return the pixels of a tile, None for a hole; see `TileLoader.load`."""
        place = f"{self._zoom}/{x}/{y}"
        asks = _ASKS if self._tiles.remote else 1
        for ask in range(asks):
            try:
                data = self._tiles.fetch(self._zoom, x, y)
            except MissingTileError as error:
                self._mask((x, y), place, error)
                return None
            if data is None:
                return None
            try:
                read = self._decoder.decode(data, f"{place} of {self._tiles.name}")
            except SourceError:
                self._tiles.discard(self._zoom, x, y)
                if ask == asks - 1:
                    raise
                time.sleep(0.2 * (ask + 1))  # a busy server may have sent half of it, or excuses
            else:
                return self._guarded(data, read, x, y)
        raise AssertionError("unreachable")

    def _mask(self, tile: Tile, place: str, error: MissingTileError) -> None:
        """Take note of a tile that is to be masked, or raise."""
        if self._missing == "error":
            raise MissingTileError(f"{error} (say --missing mask to go on without)") from error
        self._masked.add({tile: place})

    def _guarded(self, data: bytes, read: Read, x: int, y: int) -> Read:
        """Return what was read, unless it is an error picture: then none of its copies is kept."""
        repeated = self._guard.check(data, read, (x, y))
        if repeated is None:
            return read
        for tile in repeated.tiles:
            self.discard(*tile)
        raise self._guard.error(self._tiles.name, self._zoom, repeated)

    def discard(self, x: int, y: int) -> None:
        """Forget any copy of a tile that turned out to be none."""
        self._tiles.discard(self._zoom, x, y)

    def close(self) -> None:
        """Close the tile set; say which tiles were not to be had, in one line."""
        self._tiles.close()
        if text := self._masked.notice(self._tiles.name):
            self._warn(text)


def open_tileset(
    tiles: TileSet, options: SourceOptions, *, retina: bool = False, tile_size: int | None = None
) -> TiledSource:
    """Make a source of one zoom of a tile set.

    Args:
        tiles: The tile set; closed if this fails.
        options: Zoom and the rest.
        retina: Whether tiles have twice the pixels of their zoom (`@2x`).
        tile_size: Pixels per side of the tiles, if something has said it.

    Raises:
        SourceError: If the zoom asked for is not there.
    """
    try:
        side = _side(tiles, options, retina=retina, tile_size=tile_size)
        deeper = 1 if side == 2 * TILE else 0  # a 512 px tile is four tiles of the next zoom
        zooms = [zoom + deeper for zoom in tiles.zooms if zoom + deeper <= MAX_ZOOM]
        zoom = choose_zoom(zooms, options, tiles.name)
        span = tiles.span(zoom - deeper)
    except SourceError:
        tiles.close()
        raise
    info = SourceInfo(
        name=tiles.name,
        grid=mercator_grid(zoom),
        extent=Window(*(value * side for value in span)),
        attribution=tiles.attribution,
        tiled=True,
        tile_side=side,
        style=tiles.style,
        drawn=tiles.drawn,
        remote=tiles.remote,
    )
    decoder = Decoder(side, retina, options.fill)
    guard = options.repeats or RepeatGuard(options.max_repeats)
    loader = EncodedTiles(tiles, zoom - deeper, decoder, guard, options)
    workers = options.max_connections if tiles.remote else min(4, os.cpu_count() or 1)
    return TiledSource(info, loader, workers=workers, cache_bytes=options.cache_bytes)


def choose_zoom(zooms: Sequence[int], options: SourceOptions, name: str) -> int:
    """Return the zoom to read: the one asked for, or the one nearest to the default.

    Raises:
        SourceError: If it is not there, or there is nothing to choose by.
    """
    if not zooms:
        raise SourceError(f"{name} has no tiles")
    if options.zoom is not None:
        if options.zoom not in zooms:
            raise SourceError(
                f"zoom {options.zoom} is not in the source {name} (it has {show_zooms(zooms)})"
            )
        return options.zoom
    if options.default_zoom is None:
        if len(zooms) > MAX_ZOOM:
            raise SourceError(f"{name} does not say which zooms it has: say --zoom, such as 16")
        return zooms[-1]
    wanted = options.default_zoom
    zoom = min(zooms, key=lambda has: (abs(has - wanted), -has))
    if zoom != wanted:
        options.warn(f"{name} has no zoom {wanted} (it has {show_zooms(zooms)}): using {zoom}")
    return zoom


def show_zooms(zooms: Sequence[int]) -> str:
    """Return zooms in words: `0-16`, `3, 5, 10-14`."""
    starts = [zooms[0]] + [after for before, after in pairwise(zooms) if after != before + 1]
    ends = [before for before, after in pairwise(zooms) if after != before + 1] + [zooms[-1]]
    runs = zip(starts, ends, strict=True)
    return ", ".join(str(start) if start == end else f"{start}-{end}" for start, end in runs)


def span_of_bounds(bounds: BBox, zoom: int) -> Window:
    """Return the tiles that a box in degrees touches by more than a few pixels.

    Boxes are written with rounding, so a box that ends on a tile border to within four pixels
    ends there. A box that makes no sense stands for the whole world.
    """
    side = 1 << zoom
    south, north = max(bounds.south, -MAX_LATITUDE), min(bounds.north, MAX_LATITUDE)
    try:
        window = mercator_grid(zoom).window(BBox(bounds.west, south, bounds.east, north))
    except UsageError:
        return Window(0, 0, side, side)
    slack = min(4, (window.width - 1) // 2, (window.height - 1) // 2)
    inner = window.grown(-slack)
    x0, y0 = inner.col // TILE, max(0, inner.row // TILE)
    x1, y1 = (inner.right - 1) // TILE, min(side - 1, (inner.bottom - 1) // TILE)
    return Window(x0, y0, min(x1 - x0 + 1, side), y1 - y0 + 1)


def span_of_tiles(columns: Iterable[int], rows: tuple[int, int], zoom: int) -> Window:
    """Return the hull of tiles, across 180 degrees if that is the shorter way round.

    Args:
        columns: The columns that hold tiles, at least one.
        rows: First and last row.
        zoom: The zoom.
    """
    side = 1 << zoom
    ordered = sorted(set(columns))
    gaps = [(after - before, after) for before, after in pairwise(ordered)]
    widest, after = max(gaps, default=(0, 0))
    start, width = ordered[0], ordered[-1] + 1 - ordered[0]
    if 2 * widest > side:
        start, width = after, side + 1 - widest
    return Window(start, rows[0], width, rows[1] + 1 - rows[0])


def _side(tiles: TileSet, options: SourceOptions, *, retina: bool, tile_size: int | None) -> int:
    """Return how many pixels of the grid a tile is wide, half of its picture's with `retina`."""
    size = options.tile_size or tile_size or (TILE if retina else None)
    if size is None and (zooms := tiles.zooms):
        data = tiles.sample(zooms[-1])
        if data is not None:
            size = open_picture(data, f"in {tiles.name}").size[0]
    if size not in (None, TILE, 2 * TILE):
        raise SourceError(f"the tiles of {tiles.name} are {size} px wide: only 256 or 512 will do")
    return size or TILE
