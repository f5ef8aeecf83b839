"""Writing MBTiles 1.3: map tiles in one SQLite file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from maptile2sat.errors import OutputError
from maptile2sat.grid import MAX_ZOOM, TILE, BBox, Grid, Window, mercator_grid
from maptile2sat.projection import MAX_LATITUDE

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
