"""Sets of encoded tiles, in containers or on servers, and the sources made of them."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import threading
import time
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image as Pictures
from PIL import features

from maptile2sat.errors import ErrorPictureError, MissingTileError, SourceError, UsageError
from maptile2sat.geo.crs import MAX_LATITUDE
from maptile2sat.geo.grid import MAX_ZOOM, TILE, BBox, Window, mercator_grid
from maptile2sat.sources.base import Read, SourceInfo, blank
from maptile2sat.sources.options import Colour, MaskedTiles, SourceOptions, Tile

# From pictures with transparency to colours and a mask

OPAQUE_FROM = 128
"""Alpha from which on a pixel counts as map."""

GROUND = 0.5
"""Share of a picture's pixels that its ground takes at least, if signs are strewn over it."""

PARTS = 4
"""Parts along a side of a picture that are compared."""

EVEN = (0.6, 1.5)
"""Share of signs in a part of a pattern, over that in the whole: 0.75 to 1.13 in the woods of
OpenStreetMap's standard style, 0 somewhere in pictures of text that were tried."""


def flatten(rgba: npt.NDArray[np.uint8], fill: Colour) -> Read:
    """Lay a picture over `fill`; what is more transparent than not has no data.

    Args:
        rgba: uint8 (height, width, 4), alpha not premultiplied.
        fill: The colour behind partly transparent pixels.
    """
    alpha = rgba[..., 3]
    valid = alpha >= OPAQUE_FROM
    mask = np.where(valid, np.uint8(255), np.uint8(0))
    image = np.ascontiguousarray(rgba[..., :3])
    if not valid.all():
        image[~valid] = 0
    partly = valid & (alpha < 255)
    if partly.any():
        weight = alpha[partly][:, None].astype(np.uint32)
        over = image[partly].astype(np.uint32) * weight
        over += np.array(fill, np.uint32) * (255 - weight)
        image[partly] = (over + 127) // 255
    return Read(image, mask)


def halve(rgba: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Average 2x2 pixels, colours weighted by their alpha."""
    height, width = rgba.shape[:2]
    blocks = rgba.astype(np.uint32).reshape(height // 2, 2, width // 2, 2, 4)
    alpha = blocks[..., 3:]
    total = alpha.sum(axis=(1, 3))
    colour = (blocks[..., :3] * alpha).sum(axis=(1, 3))
    safe = np.maximum(total, 1)
    halved = np.concatenate([(colour + safe // 2) // safe, (total + 2) // 4], axis=-1)
    return halved.astype(np.uint8)


def may_repeat(read: Read) -> bool:
    """Whether a picture may honestly be that of many places: one colour, or a pattern.

    Sea, fields and hatched woods repeat from tile to tile; a picture of text neither repeats inside
    itself nor is spread evenly over its ground.
    """
    if not read.mask.any():
        return True
    pixels = np.dstack([read.image, read.mask])
    if (pixels == pixels[0, 0]).all():
        return True
    half = pixels.shape[0] // 2
    return bool(
        np.array_equal(pixels[:half], pixels[half:])
        or np.array_equal(pixels[:, :half], pixels[:, half:])
        or _strewn(pixels)
    )


def _strewn(pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether signs are strewn over the ground of a picture, about as many in all parts of it.

    Patterns are often as large as a tile: the trees, scrub and rocks of OpenStreetMap's standard
    style repeat after 256 or 512 px, and not before.
    """
    codes = np.ascontiguousarray(pixels).view(np.uint32)[..., 0]
    colours, counts = np.unique(codes, return_counts=True)
    if counts.max() < GROUND * codes.size:
        return False
    part = codes.shape[0] // PARTS
    signs = (codes != colours[counts.argmax()]).reshape(PARTS, part, PARTS, part).mean(axis=(1, 3))
    low, high = (share * signs.mean() for share in EVEN)
    return bool(low <= signs.min() and signs.max() <= high)


# From the bytes of a tile to its pixels, with every doubt about them raised first

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", *(["AVIF"] if features.check("avif") else []))
"""Kinds of pictures that tiles may be; AVIF where Pillow reads it, as from 11.3 on."""

MAX_TILE_BYTES = 16 << 20
"""Size from which on the bytes of a tile are not believed."""

_GZIP = b"\x1f\x8b"
_AVIF = (b"ftypavif", b"ftypavis")
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")

DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    TypeError,
    struct.error,
    zlib.error,
    MemoryError,
)
"""What Pillow's decoders raise over damaged files."""

# Pillow prints this for large pictures; here they are refused, with a message
warnings.filterwarnings("ignore", category=Pictures.DecompressionBombWarning, module="PIL.Image")


@dataclass(frozen=True)
class Decoder:
    """Decodes the tiles of one source.

    Attributes:
        side: Pixels per side that tiles have in the pixel grid.
        retina: Whether tiles have twice as many pixels, to be averaged.
        fill: The colour behind partly transparent pixels.
    """

    side: int
    retina: bool
    fill: Colour

    def decode(self, data: bytes, place: str) -> Read:
        """Return the pixels of an encoded tile.

        Args:
            data: The bytes of the picture.
            place: The tile's name for messages, such as `16/37308/18960`.

        Raises:
            SourceError: If it is not a sound picture of the expected size.
        """
        picture = open_picture(data, place)
        if self.retina and picture.size == (2 * self.side, 2 * self.side):
            return flatten(halve(_pixels(picture, place)), self.fill)
        if picture.size != (self.side, self.side):
            raise SourceError(self._wrong_size(picture.size, place))
        return flatten(_pixels(picture, place), self.fill)

    def _wrong_size(self, size: tuple[int, int], place: str) -> str:
        text = f"tile {place} is {size[0]}x{size[1]} px, not {self.side}x{self.side}"
        sides = {256: 256, 512: 512} | ({1024: 512} if self.retina else {})
        if size[0] == size[1] and (side := sides.get(size[0])) is not None:
            text += f": pass --tile-size {side}"
        return text


def open_picture(data: bytes, place: str) -> Pictures.Image:
    """Read the header of an encoded tile; pixels are not decoded yet.

    Raises:
        SourceError: If it is not a picture of a supported kind; the message says what it is.
    """
    data = unpacked(data)
    if len(data) > MAX_TILE_BYTES:
        raise SourceError(f"tile {place} has {len(data)} bytes: that is not a map tile")
    try:
        return Pictures.open(io.BytesIO(data), formats=FORMATS)
    except Pictures.DecompressionBombError as error:
        raise SourceError(
            f"tile {place} says that it has more pixels than any map tile: not decoded"
        ) from error
    except DAMAGE as error:
        if data[4:12] in _AVIF:
            raise SourceError(
                f"tile {place} is an AVIF picture, which Pillow reads from version 11.3 on: "
                "pip install 'pillow>=11.3'"
            ) from error
        raise SourceError(
            f"tile {place} is {describe(data)}, not a PNG, JPEG, WebP, AVIF or GIF picture"
        ) from error


def unpacked(data: bytes) -> bytes:
    """Return the bytes of a tile without gzip, whatever its container says of it.

    No picture begins like it.
    """
    if not data.startswith(_GZIP):
        return data
    try:
        content = zlib.decompressobj(31).decompress(data, MAX_TILE_BYTES + 1)
    except zlib.error:
        return data
    return content if len(content) > MAX_TILE_BYTES or is_picture(content) else data


def is_picture(data: bytes) -> bool:
    """Whether the bytes of a tile begin like a picture, be it within gzip."""
    if data.startswith(_GZIP):
        with suppress(zlib.error):
            data = zlib.decompressobj(31).decompress(data, 64)
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    avif = data[4:12] in (*_AVIF, b"ftypmif1")
    return webp or avif or data.startswith(_PICTURES)


def describe(data: bytes) -> str:
    """Say what bytes that are no picture look like."""
    start = data[:512].lstrip().lower()
    if not data:
        return "empty"
    if start.startswith((b"<!doctype html", b"<html")) or b"<html" in start:
        return "an HTML page (an error page or a login?)"
    if start.startswith(b"<"):
        return "an XML text (an error message?)"
    if start.startswith((b"{", b"[")):
        return "a JSON text (an error message?)"
    if data.startswith((b"\x1f\x8b", b"\x1a")):
        return "a vector tile (this needs raster tiles)"
    return "something else"


def _pixels(picture: Pictures.Image, place: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Decode to uint8 (height, width, 4)."""
    if picture.mode.startswith(("I", "F")):
        raise SourceError(f"tile {place} has {picture.mode} pixels: only 8 bits are supported")
    try:
        return np.asarray(picture.convert("RGBA"), np.uint8)
    except DAMAGE as error:
        raise SourceError(f"tile {place} is damaged: {error}") from error


# Noticing that a server sends one error picture in the place of many tiles

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
            "the source's; if it is map, pass --allow-repeats)",
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


# Reading windows of a map that comes in square tiles

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
            raise MissingTileError(f"{error} (pass --missing mask to go on without)") from error
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
            raise SourceError(f"{name} does not say which zooms it has: pass --zoom, such as 16")
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
