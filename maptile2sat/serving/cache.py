"""The tiles made, in memory and on disk.

Several processes may use one folder: files appear whole, by renaming, and only one process at a
time throws the oldest away. The folder may hold anything else too: that is not looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import tempfile
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from maptile2sat.errors import OutputError

MEMORY_BYTES = 128 << 20
ENTRY_BYTES = 300
"""What a kept tile takes of memory beside its content: one without any map has none."""

DIGEST = 16
"""Bytes before each file's content that tell whether it is whole."""

BLOCK = 4096
"""What a file takes on disk is a multiple of this."""

STALE_SECONDS = 3600.0
"""Age at which the temporary file of a process that was killed is thrown away."""

LOCK = ".maptile2sat-tiles.lock"
"""Held while tiles are thrown away; a plainer name might be another program's."""

_FOLDERS = tuple(re.compile(form) for form in (r"[0-9a-f]{24}", r"[0-9]+", r"[0-9]+"))
"""Names of our folders: a layer's digest, zoom, column."""

_FILE = re.compile(r"[0-9]+\.(webp|png|jpg)|tmp[a-z0-9_]+\.tmp")
"""Names of our files in them: rows, and what `tempfile` gives to those that are being written."""

_log = logging.getLogger("maptile2sat")


class Key(NamedTuple):
    """Which tile: of what (a digest of all that decides its pixels), where, in which format."""

    of: str
    zoom: int
    col: int
    row: int
    form: str


class Kept(NamedTuple):
    """A kept tile: its bytes, and text that differs whenever they do."""

    content: bytes
    tag: str


class TileCache:
    """Keeps tiles, up to a number of bytes of disk; the least recently used go first.

    A tile without any map is kept too, as no bytes. All methods may be called from any thread.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """Open a cache.

        Args:
            folder: Where the tiles are kept; made if it is not there.
            limit: Most bytes of disk.

        Raises:
            OutputError: If the folder cannot be made.
        """
        self.folder, self.limit = folder, limit
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"the cache folder {folder} cannot be made: {error.strerror}: give another --cache"
            ) from error
        self._memory: OrderedDict[Key, Kept] = OrderedDict()
        self._memory_bytes = 0
        self._drops: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._changing = threading.Lock()
        self._written = 0
        self._broken = False
        self._shrink()

    def read(self, key: Key) -> Kept | None:
        """Return a tile, or None if it is not kept, or damaged."""
        with self._lock:
            kept = self._memory.get(key)
            if kept is not None:
                self._memory.move_to_end(key)
                return kept
            since = self._drops[key.of]
        path = self._path(key)
        try:
            file = path.read_bytes()
        except OSError:
            return None
        digest, content = file[:DIGEST], file[DIGEST:]
        if _digest(content) != digest:
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # another process has thrown it away
            os.utime(path)  # used just now
        kept = Kept(content, digest.hex())
        self._remember(key, kept, since)
        return kept

    def drops(self, of: str) -> int:
        """Return how often tiles were thrown away on purpose, for `write`."""
        with self._lock:
            return self._drops[of]

    def write(self, key: Key, content: bytes, since: int | None = None) -> Kept:
        """Keep a tile, unless what it is made of may have been thrown away.

        Args:
            key: Which tile.
            content: Its bytes.
            since: What `drops` returned before any of what it is made of was read; None if
                nothing that is kept was.

        Returns:
            The tile; without a tag if it is not kept.
        """
        digest = _digest(content)
        kept = Kept(content, digest.hex())
        with self._changing:  # nothing is thrown away meanwhile
            now = self.drops(key.of)
            if since not in (None, now):
                return Kept(content, "")
            full = self._store(self._path(key), digest + content)
            self._remember(key, kept, now)
        if full:
            self._shrink()
        return kept

    def tiles(self, of: str, zoom: int, cols: range, rows: range) -> list[tuple[int, int]]:
        """Return which tiles are kept on disk in some columns and rows."""
        found = []
        for col in cols:
            folder = self.folder / of / str(zoom) / str(col)
            if folder.is_dir():
                names = {path.name for path in folder.iterdir()}
                found += [(col, row) for row in rows if f"{row}.webp" in names]
        return found

    def drop(self, of: str, places: Mapping[int, tuple[range, range]]) -> None:
        """Throw away tiles that turned out wrong, in all formats.

        Where a file cannot be removed, it stays.

        Args:
            of: The digest of what they are.
            places: Columns and rows by zoom.
        """
        with self._changing:
            for zoom, (cols, rows) in places.items():
                for col in cols:
                    with contextlib.suppress(OSError):  # most have no folder
                        for path in (self.folder / of / str(zoom) / str(col)).iterdir():
                            if path.stem.isdigit() and int(path.stem) in rows:
                                path.unlink(missing_ok=True)
            with self._lock:  # last: a file that was read before must not be remembered after
                self._drops[of] += 1
                for key in [key for key in self._memory if key.of == of and key.zoom in places]:
                    cols, rows = places[key.zoom]
                    if key.col in cols and key.row in rows:
                        self._memory_bytes -= _in_memory(self._memory.pop(key))

    def _path(self, key: Key) -> Path:
        return self.folder / key.of / str(key.zoom) / str(key.col) / f"{key.row}.{key.form}"

    def _remember(self, key: Key, kept: Kept, since: int) -> None:
        """Keep a tile in memory, unless any was thrown away since."""
        with self._lock:
            if self._drops[key.of] != since:
                return
            old = self._memory.pop(key, None)
            self._memory_bytes += _in_memory(kept) - (_in_memory(old) if old else 0)
            self._memory[key] = kept
            while self._memory_bytes > MEMORY_BYTES:
                _, gone = self._memory.popitem(last=False)
                self._memory_bytes -= _in_memory(gone)

    def _store(self, path: Path, file: bytes) -> bool:
        """Write a file whole; a full disk costs nothing but the cache.

        Returns:
            Whether it is time to see whether the cache is too large.
        """
        if not self.limit:
            return False
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            number, temporary = tempfile.mkstemp(suffix=".tmp", dir=path.parent)
            with os.fdopen(number, "wb") as stream:
                stream.write(file)
            Path(temporary).replace(path)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            if not self._broken:
                _log.warning("tiles are not kept in %s: %s", self.folder, error.strerror)
            self._broken = True
            return False
        with self._lock:
            self._written += _on_disk(len(file))
            return self._written > self.limit // 20

    def _shrink(self) -> None:
        """Throw the least recently used tiles away if they take more than the limit."""
        with self._lock:
            self._written = 0
        try:
            with FileLock(self.folder / LOCK, timeout=0):
                self._throw_away()
        except (Timeout, OSError):  # another process does it, or the folder is gone
            return

    def _throw_away(self) -> None:
        files: list[tuple[float, int, str]] = []
        for entry in _own_files(os.fspath(self.folder)):
            try:
                state = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            stale = entry.name.endswith(".tmp") and time.time() - state.st_mtime > STALE_SECONDS
            files.append((0.0 if stale else state.st_mtime, _on_disk(state.st_size), entry.path))
        total = sum(size for _, size, _ in files)
        # somewhat below the limit, so that this is not done again at once
        goal = self.limit if total <= self.limit else self.limit * 9 // 10
        for used, size, path in sorted(files):
            if total <= goal and used:
                break
            Path(path).unlink(missing_ok=True)
            total -= size


def _own_files(folder: str, depth: int = 0) -> Iterator[os.DirEntry[str]]:
    """Yield the files of the cache in a folder, whatever else lies there; links are none of it."""
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError:  # not for this user
        return
    for entry in found:
        if depth == len(_FOLDERS):
            if _FILE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                yield entry
        elif _FOLDERS[depth].fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            yield from _own_files(entry.path, depth + 1)


def _in_memory(kept: Kept) -> int:
    return len(kept.content) + ENTRY_BYTES


def _on_disk(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()
