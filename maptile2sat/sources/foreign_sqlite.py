"""SQLite files that somebody else has made: their schema is a program, which SQLite runs.

A table may be a view that never ends, a column may be computed whenever it is read, and a virtual
table is read by code of its own.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from maptile2sat.errors import SourceError, UsageError
from maptile2sat.geo.crs import MAX_CRS_TEXT, check_crs_text, names_files
from maptile2sat.sources.redact import plain_text

START = b"SQLite format 3\0"

MAX_HEAP = 1 << 30
"""Most bytes that SQLite takes in this process, whatever a query sorts or joins."""

MAX_LOOK_SECONDS = 20.0
"""Time that a look at a schema may take; it is a millisecond."""

MAX_TEXT = 1 << 20
"""Most bytes of a value that a schema or a table of contents needs."""

_STEPS = 100_000
"""Steps of SQLite's machine between two looks at the clock."""

_LIMITS = {
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 64,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}

_FUNCTIONS = frozenset(
    (
        *("abs", "coalesce", "count", "ifnull", "iif", "instr", "length", "like", "lower", "ltrim"),
        *("max", "min", "nullif", "printf", "round", "rtrim", "substr", "sum", "total", "trim"),
        *("typeof", "upper", "unicode", "sign"),
    )
)
"""Functions that views of maps use; the same answer each time, and no longer than what they get."""

_PLAIN = re.compile(
    r'create (table|(unique )?index|trigger) |create virtual table "?rtree_[^"]*"? using rtree\b',
    re.I,
)
"""What makes a table, an index, or a trigger, which no statement of reading runs."""

_TABLE = re.compile(r"create table ", re.I)

_ACTIONS = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ)


def open_database(path: Path, max_bytes: int) -> sqlite3.Connection:
    """Open a file for reading alone; queries that recurse or call unusual functions fail.

    Args:
        path: The file.
        max_bytes: Most bytes of a value.

    Raises:
        SourceError: If what lies beside it is no file.
    """
    where = path.resolve()
    for ending in ("-wal", "-shm", "-journal"):
        beside = Path(f"{where}{ending}")
        if beside.exists() and not beside.is_file():  # SQLite would wait for a pipe
            raise SourceError(f"{beside} is not a file, so that {path} cannot be read")
    uri = where.as_uri() + "?mode=ro"
    if not os.access(where.parent, os.W_OK):
        uri += "&immutable=1"  # SQLite could not create its lock files
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
    for limit, value in {**_LIMITS, sqlite3.SQLITE_LIMIT_LENGTH: max_bytes}.items():
        connection.setlimit(limit, value)
    for setting in ("trusted_schema = OFF", "query_only = ON", "cell_size_check = ON"):
        connection.execute(f"PRAGMA {setting}")
    connection.execute(f"PRAGMA hard_heap_limit = {MAX_HEAP}")
    connection.set_authorizer(_allowed)
    return connection


def stop_after(connection: sqlite3.Connection, seconds: float) -> None:
    """Interrupt what is asked of a connection from now on, after some time."""
    end = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS)


def check_geopackage(path: Path) -> None:
    """Make sure that a GeoPackage holds plain tables only, before GDAL asks it anything.

    GDAL has no limit of time and none of memory, and does not hear signals meanwhile.

    Raises:
        SourceError: If it does not, or is none.
    """
    try:
        with closing(open_database(path, MAX_TEXT)) as database:
            stop_after(database, MAX_LOOK_SECONDS)
            _check_schema(database, path)
            _check_systems(database)
    except UsageError as error:
        raise SourceError(f"{path}: {error}, or if you trust it, pass --allow-vrt") from error
    except (sqlite3.Error, UnicodeDecodeError, MemoryError) as error:
        raise SourceError(f"{path} is not a GeoPackage, or damaged: {error}") from error


def _check_schema(database: sqlite3.Connection, path: Path) -> None:
    # what SQLite makes of a schema is the text, whatever kind it says to be
    schema = database.execute("SELECT lower(name), sql FROM sqlite_master").fetchall()
    names = {name for name, _ in schema}
    if "gpkg_contents" not in names:
        hint = ": name it .mbtiles" if "tiles" in names else ""
        raise SourceError(f"{path} is a database, but no GeoPackage{hint}")
    advice = "copy its pictures to a GeoTIFF, or if you trust it, pass --allow-vrt"
    for name, text in schema:
        if text is not None and not _PLAIN.match(str(text)):
            raise SourceError(
                f"{path} holds more than tables ({plain_text(str(name))}), which may never end: "
                f"{advice}"
            )
    database.set_authorizer(None)  # for this one look, which computes nothing
    for name, text in schema:
        if text is not None and _TABLE.match(str(text)):
            look = "SELECT count(*) FROM pragma_table_xinfo(?) WHERE hidden > 1"
            if database.execute(look, (name,)).fetchone()[0]:
                raise SourceError(
                    f"{path} has a table whose columns are computed ({plain_text(str(name))}): "
                    f"{advice}"
                )


def _check_systems(database: sqlite3.Connection) -> None:
    """Make sure that no CRS names files."""
    for row in database.execute("SELECT * FROM gpkg_spatial_ref_sys LIMIT 20000"):
        for text in row:
            if isinstance(text, str) and (names_files(text) or len(text) > MAX_CRS_TEXT):
                check_crs_text(text)


def _allowed(
    action: int, first: str | None, second: str | None, database: str | None, inside: str | None
) -> int:
    """Say whether a statement may do something; `inside` is the view that does it."""
    if action in _ACTIONS:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FUNCTIONS:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY
