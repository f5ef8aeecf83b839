"""Raster MBTiles: map tiles in one SQLite file, rows counted from the south."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from maptile2sat.errors import OutputError, SourceError
from maptile2sat.geo.crs import MAX_LATITUDE
from maptile2sat.geo.grid import MAX_ZOOM, TILE, BBox, Grid, Window, mercator_grid
from maptile2sat.sources.base import drawn_in, style_in
from maptile2sat.sources.foreign_sqlite import open_database, stop_after
from maptile2sat.sources.handles import Pool
from maptile2sat.sources.options import SourceOptions
from maptile2sat.sources.redact import plain_text
from maptile2sat.sources.tiles import (
    MAX_TILE_BYTES,
    TiledSource,
    is_picture,
    open_tileset,
    span_of_tiles,
)

VECTOR_ADVICE = (
    "holds vector tiles, but a raster map is needed: render it to raster tiles, "
    "or draw an OpenStreetMap extract with `maptile2sat draw`"
)

MAX_QUERY_SECONDS = 120.0
"""Time that all questions about an index have: a file may hold a view that never ends."""

MAX_TILE_SECONDS = 30.0
"""Time that the search for one tile has."""

MAX_ANSWER_BYTES = 32 << 20
"""Most bytes of an answer, all rows together."""

MAX_COLUMNS = 1 << 20
"""Most columns of tiles that a file may have at one zoom."""


class MBTiles:
    """The tiles of an MBTiles file; a `TileSet`.

    Args:
        path: The file.

    Raises:
        SourceError: If it is not a raster MBTiles file.
    """

    remote = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)
        self._connections = Pool(self._connect)
        self._spent = 0.0
        try:
            self.metadata = self._read_metadata()
            self._texts = self._read_texts()
            self.zooms: Sequence[int] = self._read_zooms()
        except SourceError:
            self._connections.close()
            raise
        self.attribution = plain_text(self.metadata.get("attribution", ""))
        self.style = style_in(self.metadata)
        self.drawn = drawn_in(self.metadata)
        if self.metadata.get("format", "").lower() in ("pbf", "mvt"):
            sample = self.sample(self.zooms[-1]) if self.zooms else None
            if sample is None or not is_picture(sample):
                self._connections.close()
                raise SourceError(f"{path} {VECTOR_ADVICE}")

    def span(self, zoom: int) -> Window:
        """Return the hull of the tiles of `zoom`, in tiles."""
        columns = [
            column
            for (column,) in self._index(
                "SELECT DISTINCT tile_column FROM tiles WHERE zoom_level = ? LIMIT ?",
                self._key(0, zoom),
                MAX_COLUMNS + 1,
            )
        ]
        if len(columns) > MAX_COLUMNS:
            raise SourceError(f"{self._path} has more columns of tiles than any map: it is damaged")
        row = "CAST(tile_row AS INTEGER)" if self._texts[2] else "tile_row"
        (low, high), *_ = self._index(
            f"SELECT min({row}), max({row}) FROM tiles WHERE zoom_level = ?",  # nosec B608 # of two
            self._key(0, zoom),
        )
        last = (1 << zoom) - 1
        found = [_whole(value) for value in (*columns, low, high)]
        inside = [value for value in found if value is not None and 0 <= value <= last]
        if len(inside) < len(found):
            raise SourceError(f"{self._path} has tiles outside the world: its index is damaged")
        *columns, low, high = inside
        return span_of_tiles(columns, (last - high, last - low), zoom)

    def sample(self, zoom: int) -> bytes | None:
        """Return some tile of `zoom`."""
        rows = self._index(
            "SELECT tile_data FROM tiles WHERE zoom_level = ? LIMIT 1", self._key(0, zoom)
        )
        return self._blob(rows[0][0]) if rows else None

    def fetch(self, zoom: int, x: int, y: int) -> bytes | None:
        """Return a tile's bytes, or None where the map has a hole."""
        rows = self._rows(
            "SELECT tile_data FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?",
            self._key(0, zoom),
            self._key(1, x),
            self._key(2, (1 << zoom) - 1 - y),
        )
        return self._blob(rows[0][0]) if rows else None

    def discard(self, zoom: int, x: int, y: int) -> None:
        """Do nothing: there are no copies."""

    def close(self) -> None:
        """Close the file."""
        self._connections.close()

    def _connect(self) -> sqlite3.Connection:
        return open_database(self._path, MAX_TILE_BYTES + 1024)

    def _index(self, query: str, *values: int | str) -> list[tuple[Any, ...]]:
        """Return rows of the index, of which all questions together have a limit of time."""
        start = time.monotonic()
        try:
            return self._rows(query, *values, seconds=max(0.0, MAX_QUERY_SECONDS - self._spent))
        finally:
            self._spent += time.monotonic() - start

    def _rows(
        self, query: str, *values: int | str, seconds: float = MAX_TILE_SECONDS
    ) -> list[tuple[Any, ...]]:
        try:
            with self._connections.lend() as connection, closing(connection.cursor()) as cursor:
                stop_after(connection, seconds)
                return list(_bounded(cursor.execute(query, values), self._path))
        except UnicodeDecodeError as error:
            raise SourceError(f"{self._path} is damaged: it holds a text that is none") from error
        except MemoryError as error:
            raise SourceError(f"{self._path} has an index that takes too much memory") from error
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                raise SourceError(f"{self._path} has an index that does not answer") from error
            raise SourceError(f"{self._path} cannot be read as MBTiles: {error}") from error
        except sqlite3.DatabaseError as error:
            raise SourceError(f"{self._path} is not an MBTiles file: {error}") from error

    def _blob(self, value: object) -> bytes | None:
        if value is None or isinstance(value, bytes):
            return value
        raise SourceError(f"{self._path} holds a tile that is not binary: it is damaged")

    def _read_metadata(self) -> dict[str, str]:
        """Return the metadata; none if there is no such table, as some programs leave it out."""
        try:
            rows = self._index("SELECT name, value FROM metadata LIMIT 1000")
        except SourceError:
            if self._index("SELECT 1 FROM sqlite_master WHERE name = 'metadata' LIMIT 1"):
                raise
            return {}
        return {str(name): str(value) for name, value in rows}

    def _key(self, place: int, number: int) -> int | str:
        """Return a number as a column of the index holds it, which may be text."""
        return str(number) if self._texts[place] else number

    def _read_texts(self) -> tuple[bool, ...]:
        """Return which of zoom, column and row are text."""
        found = self._index(
            "SELECT typeof(zoom_level), typeof(tile_column), typeof(tile_row) FROM tiles LIMIT 1"
        )
        return tuple(kind == "text" for kind in found[0]) if found else (False,) * 3

    def _read_zooms(self) -> list[int]:
        """Return the zooms, found by hopping through the index, unless they are text."""
        if self._texts[0]:
            rows = self._index(
                "SELECT zoom_level FROM tiles GROUP BY zoom_level LIMIT ?", 8 * MAX_ZOOM
            )
            found = {_whole(row[0]) for row in rows}
            return sorted(zoom for zoom in found if zoom is not None and 0 <= zoom <= MAX_ZOOM)
        zooms: list[int] = []
        zoom = -1
        while True:
            ((found,),) = self._index(
                "SELECT min(zoom_level) FROM tiles WHERE zoom_level > ? AND zoom_level <= ?",
                zoom,
                MAX_ZOOM,
            )
            number = _whole(found)
            if number is None:
                return zooms
            if number <= zoom:  # a view that answers as it likes
                raise SourceError(f"{self._path} has zooms in no order: its index is damaged")
            zooms.append(number)
            zoom = number


def _bounded(rows: Iterable[tuple[Any, ...]], path: Path) -> Iterator[tuple[Any, ...]]:
    """Yield rows as long as they take little memory.

    Raises:
        SourceError: If they do not.
    """
    taken = 0
    for row in rows:
        taken += sum(len(value) for value in row if isinstance(value, str | bytes))
        if taken > MAX_ANSWER_BYTES:
            raise SourceError(f"{path} has {taken:,} bytes of notes or more: it is no map")
        yield row


def open_mbtiles(text: str, options: SourceOptions) -> TiledSource:
    """Open a raster MBTiles file.

    Raises:
        SourceError: If it is no such file or does not have the zoom.
    """
    path = Path(text)
    return open_tileset(MBTiles(path), options, retina="@2x" in path.name)


def _whole(value: object) -> int | None:
    """Return a number of an index, which may be text or a float there; None if it is none."""
    if isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]{0,9}", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else None


# Writing MBTiles 1.3: map tiles in one SQLite file

APPLICATION_ID = 0x4D504258
"""The number that marks an SQLite file as MBTiles ("MPBX")."""

_SCHEMA = """
CREATE TABLE metadata (name text, value text);
CREATE UNIQUE INDEX name ON metadata (name);
CREATE TABLE tiles (zoom_level integer, tile_column integer, tile_row integer, tile_data blob);
CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row);
"""

_COMMIT_EVERY = 500


class MBTilesWriter:
    """Writes raster tiles to an MBTiles file that appears only when it is complete.

    The tiles go to a temporary file beside the destination, which takes its place at the end;
    after an error nothing is left. The same tiles in the same order give the same bytes.

    Args:
        path: Where the file goes; an older one is replaced.
        name: What the tile set is called.
        format: The kind of picture that all tiles are.
        attribution: Whom to name for the map.
        description: A sentence about the content.
        type: `baselayer` or `overlay`.
        extra: More metadata, such as `style`.
        bounds: Extent in degrees; the hull of the tiles written if not given.
        center: Where a viewer is to begin, in degrees; the middle of the bounds if not given.

    Raises:
        OutputError: If the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        format: Literal["png", "jpg", "webp"],  # noqa: A002 - the word of the MBTiles specification
        attribution: str,
        description: str = "",
        type: str = "baselayer",  # noqa: A002 - likewise
        extra: Mapping[str, str] | None = None,
        bounds: BBox | None = None,
        center: tuple[float, float] | None = None,
    ) -> None:
        self._path = Path(path)
        self._temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")
        self._metadata = {
            "name": name,
            "format": format,
            "type": type,
            "version": "1",
            "description": description or name,
            "attribution": attribution,
            **(extra or {}),
        }
        self._bounds, self._center = bounds, center
        self._ranges: dict[int, list[int]] = {}
        self._waiting = 0
        if not self._path.parent.is_dir():
            raise OutputError(f"the folder {self._path.parent} does not exist: create it first")
        self._database: sqlite3.Connection | None = None
        try:
            self._temporary.unlink(missing_ok=True)
            self._database = sqlite3.connect(self._temporary, check_same_thread=False)
            self._database.execute("PRAGMA page_size = 4096")
            self._database.execute("PRAGMA journal_mode = OFF")
            self._database.execute("PRAGMA synchronous = OFF")
            self._database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._database.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            self.abort()
            raise OutputError(f"cannot write {self._path}: {error}") from error

    def add(self, zoom: int, x: int, y: int, data: bytes) -> None:
        """Store the encoded picture of tile `zoom`/`x`/`y` (row 0 is the northernmost).

        Raises:
            OutputError: If there is no such tile, it is there already, or the disk is full.
        """
        side = 1 << zoom if 0 <= zoom <= MAX_ZOOM else 0
        if not (0 <= x < side and 0 <= y < side):
            raise OutputError(f"there is no tile {zoom}/{x}/{y} in web mercator")
        try:
            self._open().execute(
                "INSERT INTO tiles VALUES (?, ?, ?, ?)", (zoom, x, side - 1 - y, data)
            )
            self._waiting += 1
            if self._waiting >= _COMMIT_EVERY:
                self._commit()
        except sqlite3.IntegrityError as error:
            raise OutputError(f"tile {zoom}/{x}/{y} was written twice") from error
        except sqlite3.Error as error:
            raise OutputError(f"cannot write {self._path}: {error}") from error
        seen = self._ranges.setdefault(zoom, [x, y, x, y])
        seen[:] = [min(seen[0], x), min(seen[1], y), max(seen[2], x), max(seen[3], y)]

    def finish(self) -> None:
        """Write the metadata and put the file in its place.

        Raises:
            OutputError: If no tile was added or the file cannot be written.
        """
        if self._database is None:
            return
        if not self._ranges:
            self.abort()
            raise OutputError(f"{self._path} would hold no tile: nothing was written")
        try:
            self._database.executemany(
                "INSERT INTO metadata VALUES (?, ?)", sorted(self._all_metadata().items())
            )
            self._commit()
            self._database.close()
            self._database = None
            _sync(self._temporary)
            self._temporary.replace(self._path)
        except (sqlite3.Error, OSError) as error:
            self.abort()
            raise OutputError(f"cannot write {self._path}: {error}") from error

    def abort(self) -> None:
        """Give up: close and remove the temporary file; the destination stays as it was."""
        if self._database is not None:
            self._database.close()
        self._database = None
        with suppress(OSError):  # what went wrong before is what is to be said
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.abort()

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            raise OutputError(f"{self._path} is finished: no more tiles can be added")
        return self._database

    def _commit(self) -> None:
        self._open().commit()
        self._waiting = 0

    def _all_metadata(self) -> dict[str, str]:
        """Return the metadata with everything that follows from the tiles."""
        bounds = self._bounds or self._tile_bounds()
        west, south, east, north = bounds
        low, high = min(self._ranges), max(self._ranges)
        middle = self._center or ((west + east) / 2, (south + north) / 2)
        return {
            **self._metadata,
            "bounds": ",".join(f"{value:.9f}" for value in bounds),
            "center": f"{middle[0]:.9f},{middle[1]:.9f},{low}",
            "minzoom": str(low),
            "maxzoom": str(high),
        }

    def _tile_bounds(self) -> BBox:
        """Return the hull of all tiles in degrees."""
        boxes = [
            mercator_grid(zoom).lonlat_bounds(
                Window(x0 * TILE, y0 * TILE, (x1 + 1 - x0) * TILE, (y1 + 1 - y0) * TILE)
            )
            for zoom, (x0, y0, x1, y1) in self._ranges.items()
        ]
        west, south, east, north = zip(*boxes, strict=True)
        return BBox(
            min(west), max(min(south), -MAX_LATITUDE), max(east), min(max(north), MAX_LATITUDE)
        )


def viewer_bounds(grid: Grid, window: Window) -> tuple[BBox, tuple[float, float]]:
    """Return bounds and middle in degrees; bounds across 180 degrees are all the way round.

    Viewers cut tiles off at 180 degrees that lie beyond bounds which go on there.
    """
    west, south, east, north = grid.lonlat_bounds(window)
    south, north = max(south, -MAX_LATITUDE), min(north, MAX_LATITUDE)
    middle = ((west + east) / 2 + 180.0) % 360.0 - 180.0, (south + north) / 2
    if west < -180.0 - 1e-9 or east > 180.0 + 1e-9:
        west, east = -180.0, 180.0
    return BBox(west, south, east, north), middle


def _sync(path: Path) -> None:
    """Wait until the file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
