"""Raster PMTiles 3: map tiles in one file, local or on a web server."""

from __future__ import annotations

import io
import json
import threading
import time
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from maptile2sat.errors import MissingExtraError, SourceError
from maptile2sat.geo.grid import MAX_ZOOM, Window
from maptile2sat.sources.base import drawn_in, style_in
from maptile2sat.sources.hilbert import Hull, numbers_of, squares
from maptile2sat.sources.http import HttpClient
from maptile2sat.sources.mbtiles import VECTOR_ADVICE
from maptile2sat.sources.options import SourceOptions
from maptile2sat.sources.redact import plain_text, safe_url
from maptile2sat.sources.tiles import MAX_TILE_BYTES, TiledSource, is_picture, open_tileset

MAX_DIRECTORY = 4 << 20
"""Unpacked size from which on a directory or the metadata are not believed."""

MAX_LEAVES = 10_000
"""Most directories that are read to find out where a file has tiles."""

MAX_REMOTE_LEAVES = 200
"""The same of a file on a server, where each is a request."""

MAX_SECONDS = 60.0
"""Time after which no more of them are read."""

_HEADER = 127
_MAX_DEPTH = 4
_KEPT_ENTRIES = 500_000
_ENTRY_BYTES = 4  # at least one for each of its numbers


class ByteRange(Protocol):
    """Something of which any range of bytes can be read, from several threads."""

    def get(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on, fewer at the end."""

    def close(self) -> None:
        """Free what it holds."""


class FileBytes:
    """The bytes of a local file; a `ByteRange`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._file = path.open("rb")
            self._size = self._file.seek(0, io.SEEK_END)
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error

    def get(self, offset: int, length: int) -> bytes:
        """Return a range of bytes."""
        if not 0 <= offset <= self._size:
            raise SourceError(f"{self._path} is damaged: it refers to what lies beyond its end")
        try:
            with self._lock:
                self._file.seek(offset)
                return self._file.read(length)
        except OSError as error:
            raise SourceError(f"{self._path} cannot be read: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()


class UrlBytes:
    """The bytes of a file on a web server that serves ranges; a `ByteRange`."""

    def __init__(self, url: str, options: SourceOptions) -> None:
        self._url = url
        self._name = safe_url(url)
        self._client = HttpClient(options, url)

    def get(self, offset: int, length: int) -> bytes:
        """Return a range of bytes."""
        wanted = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
        reply = self._client.get(self._url, self._name, headers=wanted, limit=length)
        if reply is None:
            raise SourceError(f"{self._name}: the server has no such file (HTTP 404)")
        return reply.body

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class PMTiles:
    """The tiles of a PMTiles file; a `TileSet`.

    Args:
        content: The file's bytes.
        name: How to show it.
        remote: Whether the bytes come over a network.

    Raises:
        SourceError: If it is not a raster PMTiles file of version 3.
        MissingExtraError: If the optional package is not installed.
    """

    def __init__(self, content: ByteRange, name: str, *, remote: bool) -> None:
        from pmtiles.tile import TileType

        self._content = content
        self._lock = threading.Lock()
        self._directories: OrderedDict[int, list[Any]] = OrderedDict()
        self.name = name
        self.remote = remote
        self._header = _header(content.get(0, _HEADER), name)
        metadata = self.metadata = self._metadata()
        self.attribution = plain_text(str(metadata.get("attribution") or ""))
        self.style = style_in(metadata)
        self.drawn = drawn_in(metadata)
        self.zooms: Sequence[int] = [zoom for zoom in range(MAX_ZOOM + 1) if self._has(zoom)]
        if self._header["tile_type"] in (TileType.MVT, TileType.MLT):
            sample = self.sample(0)
            if sample is None or not is_picture(sample):
                raise SourceError(f"{name} {VECTOR_ADVICE}")

    def span(self, zoom: int) -> Window:
        """Return the hull of the tiles of `zoom` that are there, whatever bounds are stated.

        Of a file of very many directories not all are read: then it may be a little larger.
        """
        hull = Hull(zoom)
        self._left = MAX_REMOTE_LEAVES if self.remote else MAX_LEAVES
        self._end = time.monotonic() + MAX_SECONDS
        self._gather(hull, self._root, numbers_of(zoom), zoom, _MAX_DEPTH)
        span = hull.span()
        if span is None:
            raise SourceError(f"{self.name} has no tiles at zoom {zoom}")
        return span

    def _gather(
        self, hull: Hull, place: tuple[int, int], within: range, zoom: int, depth: int
    ) -> None:
        """Add the tiles of a directory, and those of the ones that it names, to a hull."""
        entries = self._directory(*place)
        leaves: list[tuple[range, Any]] = []
        for at in range(_index(entries, within.start), len(entries)):
            entry = entries[at]
            if entry.tile_id >= within.stop:
                break
            following = entries[at + 1].tile_id if at + 1 < len(entries) else within.stop
            stop = entry.tile_id + entry.run_length if entry.run_length else following
            run = range(max(entry.tile_id, within.start), min(stop, within.stop))
            if entry.run_length:
                hull.add(squares(run, zoom))
            elif run:
                leaves.append((run, entry))
        # far apart first: when the hull is as large as it gets, those inside need not be read
        for at in sorted(range(len(leaves)), key=_backwards):
            run, entry = leaves[at]
            if all(map(hull.holds, squares(run, zoom))):
                continue
            if depth <= 1 or self._left <= 0 or time.monotonic() > self._end:
                hull.add(squares(run, zoom))
                continue
            self._left -= 1
            self._gather(hull, self._leaf(entry), run, zoom, depth - 1)

    def _has(self, zoom: int) -> bool:
        """Whether there are tiles of a zoom."""
        within = numbers_of(zoom)
        place = self._root
        for _ in range(_MAX_DEPTH):
            entries = self._directory(*place)
            at = _index(entries, within.start)
            if at >= len(entries):
                return False
            entry = entries[at]
            if entry.tile_id >= within.stop:
                return False
            if entry.run_length:
                if entry.tile_id + entry.run_length > within.start:
                    return True
                return at + 1 < len(entries) and entries[at + 1].tile_id < within.stop
            following = entries[at + 1].tile_id if at + 1 < len(entries) else None
            if entry.tile_id >= within.start or (following or within.stop) < within.stop:
                return True
            place = self._leaf(entry)
        return False

    def sample(self, zoom: int) -> bytes | None:
        """Return the first tile of the file; all have one size."""
        place = self._root
        for _ in range(_MAX_DEPTH):
            entries = self._directory(*place)
            if not entries:
                return None
            if entries[0].run_length:
                return self._tile(entries[0])
            place = self._leaf(entries[0])
        return None

    def fetch(self, zoom: int, x: int, y: int) -> bytes | None:
        """Return a tile's bytes, or None where the map has a hole."""
        from pmtiles.tile import find_tile, zxy_to_tileid

        number = zxy_to_tileid(zoom, x, y)
        place = self._root
        for _ in range(_MAX_DEPTH):
            entry = find_tile(self._directory(*place), number)
            if entry is None:
                return None
            if entry.run_length:
                return self._tile(entry)
            place = self._leaf(entry)
        raise SourceError(f"{self.name} is damaged: its directories go in circles")

    def discard(self, zoom: int, x: int, y: int) -> None:
        """Do nothing: there are no copies."""

    def close(self) -> None:
        """Close the file."""
        self._content.close()

    @property
    def _root(self) -> tuple[int, int]:
        """Where the first directory lies: offset and length."""
        return self._header["root_offset"], self._header["root_length"]

    def _leaf(self, entry: Any) -> tuple[int, int]:
        """Where the directory lies that an entry names."""
        return self._header["leaf_directory_offset"] + entry.offset, entry.length

    def _tile(self, entry: Any) -> bytes:
        if not 0 < entry.length <= MAX_TILE_BYTES:
            raise SourceError(f"{self.name} is damaged: it states a tile of {entry.length} bytes")
        return self._content.get(self._header["tile_data_offset"] + entry.offset, entry.length)

    def _directory(self, offset: int, length: int) -> list[Any]:
        """Return the entries of a directory; those used last stay in memory."""
        with self._lock:
            if offset in self._directories:
                self._directories.move_to_end(offset)
                return self._directories[offset]
        entries = _entries(self._unpacked(offset, length), self.name)
        with self._lock:
            self._directories[offset] = entries
            while sum(map(len, self._directories.values())) > _KEPT_ENTRIES:
                self._directories.popitem(last=False)
        return entries

    def _metadata(self) -> dict[str, Any]:
        data = self._unpacked(self._header["metadata_offset"], self._header["metadata_length"])
        try:
            content = json.loads(data or b"{}")
        except (ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def _unpacked(self, offset: int, length: int) -> bytes:
        """Return a directory or the metadata, without its compression."""
        from pmtiles.tile import Compression

        if length > MAX_DIRECTORY:
            raise SourceError(f"{self.name} is damaged: it states a directory of {length} bytes")
        data = self._content.get(offset, length) if length else b""
        kind = self._header["internal_compression"]
        if not data or kind == Compression.NONE:
            return data
        if kind != Compression.GZIP:
            raise SourceError(f"{self.name} uses {kind.name} compression, which is not supported")
        try:
            unpacked = zlib.decompressobj(31).decompress(data, MAX_DIRECTORY + 1)
        except zlib.error as error:
            raise SourceError(f"{self.name} is damaged: a directory cannot be read") from error
        if len(unpacked) > MAX_DIRECTORY:
            raise SourceError(f"{self.name} is damaged: a directory unpacks to too many bytes")
        return unpacked


def open_pmtiles(text: str, options: SourceOptions) -> TiledSource:
    """Open a raster PMTiles file or URL.

    Raises:
        SourceError: If it is no such file or does not have the zoom.
    """
    try:
        import pmtiles.tile  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("reading PMTiles", "pmtiles") from error
    remote = "://" in text
    content: ByteRange = UrlBytes(text, options) if remote else FileBytes(Path(text))
    try:
        tiles = PMTiles(content, safe_url(text), remote=remote)
    except SourceError:
        content.close()
        raise
    return open_tileset(tiles, options, retina="@2x" in text)


def _header(data: bytes, name: str) -> dict[str, Any]:
    """Read the header and check that it is one of raster tiles."""
    from pmtiles.tile import deserialize_header

    if len(data) < _HEADER or data[:7] != b"PMTiles" or data[7] != 3:
        raise SourceError(f"{name} is not a PMTiles file of version 3")
    try:
        header: dict[str, Any] = deserialize_header(data)
    except (ValueError, io.UnsupportedOperation) as error:
        raise SourceError(f"{name} is damaged: its header cannot be read") from error
    return header


def _index(entries: list[Any], number: int) -> int:
    """Return which entry is the last that begins at a number or before; 0 if none does."""
    return max(0, bisect_right(entries, number, key=lambda entry: entry.tile_id) - 1)


def _backwards(number: int) -> str:
    """Return a key that puts numbers in an order in which neighbours are far apart."""
    return f"{number:032b}"[::-1]


def _entries(data: bytes, name: str) -> list[Any]:
    """Read a directory, once it is sure that it can hold as many entries as it says."""
    from pmtiles.tile import deserialize_directory, read_varint

    damage = f"{name} is damaged: a directory cannot be read"
    try:
        if read_varint(io.BytesIO(data[:10])) > len(data) // _ENTRY_BYTES:
            raise SourceError(damage)
        entries: list[Any] = deserialize_directory(zlib.compress(data, 0, 31))
    except (EOFError, ValueError, MemoryError) as error:
        raise SourceError(damage) from error
    return entries
