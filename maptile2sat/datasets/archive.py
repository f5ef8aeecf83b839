"""Unpacking an archive of pairs that someone else has made: nothing in it is trusted."""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from maptile2sat.datasets.layout import SPLITS, SUFFIXES
from maptile2sat.errors import OutputError, TrainingError
from maptile2sat.sources.decode import describe

MAX_MEMBERS = 20_000
"""Most entries that an archive may have."""

MAX_TOTAL = 4 << 30
"""Most bytes that they may have together."""

MAX_MEMBER = 64 << 20
"""Most bytes that one may have."""

MAX_HEADER = 1 << 20
"""Most bytes before an entry: its headers may say names and more in any length."""

MAX_NAME = 255
"""Most bytes of a file's name that file systems take."""

_BLOCK = 1 << 20


class ArchiveError(TrainingError):
    """An archive is damaged or holds what a set of pairs cannot hold."""


def unpack(archive: Path, target: Path, progress: Callable[[int], None]) -> Counter[str]:
    """Write the pairs of a .tar.gz to `target`/train and `target`/val.

    The whole archive is refused if an entry is a link or a device, leads out of its folder, or
    is too large; the names of folders in it are not used.

    Args:
        archive: The file.
        target: A new folder; the caller deletes it if this fails.
        progress: Called with the number of pairs after each.

    Returns:
        The number of pairs by split.

    Raises:
        ArchiveError: If the archive is damaged or not safe.
        OutputError: If the pairs cannot be written.
    """
    for split in SPLITS:
        (target / split).mkdir(parents=True)
    found: Counter[str] = Counter()
    with archive.open("rb") as raw:
        try:
            _read(gzip.GzipFile(fileobj=raw), target, found, progress)
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
            # tarfile raises ValueErrors over headers that are no numbers
            raise ArchiveError(_damage(archive, error)) from error
        except OSError as error:
            raise OutputError(
                f"cannot write to {target.parent} ({error.strerror or error}): check the disk"
            ) from error
    return found


class _Budget:
    """A stream that ends with an error after as many bytes as are allowed for.

    Args:
        packed: The stream.
    """

    def __init__(self, packed: gzip.GzipFile) -> None:
        self._packed = packed
        self._left = 0

    def allow(self, size: int) -> None:
        """Let so many bytes be read from here on, and headers."""
        self._left = size + MAX_HEADER

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        block = self._packed.read(size)
        self._left -= len(block)
        if self._left < 0:
            raise ArchiveError("the archive holds headers that are too long: not unpacked")
        return block


def _read(
    packed: gzip.GzipFile, target: Path, found: Counter[str], progress: Callable[[int], None]
) -> None:
    """Go through the entries in one pass, then to the end, where the checksum is."""
    total = 0
    budget = _Budget(packed)
    budget.allow(0)
    with tarfile.open(fileobj=budget, mode="r|") as entries:  # type: ignore[call-overload]
        for number, entry in enumerate(entries, 1):
            total += entry.size
            _check(entry, target, number, total)
            budget.allow(entry.size)
            place = _place(entry)
            content = entries.extractfile(entry) if place is not None else None
            if place is None or content is None:
                continue
            path = target / place
            if path.exists():
                raise ArchiveError(f"the archive holds {place} twice: it is not the set itself")
            with content, path.open("xb") as stream:
                _copy(content, stream, entry.size)
            found[path.parent.name] += 1
            progress(found.total())
    while block := packed.read(_BLOCK):
        total += len(block)
        if total > MAX_TOTAL:
            raise ArchiveError(f"the archive unpacks to more than {MAX_TOTAL:,} bytes")


def _check(entry: tarfile.TarInfo, target: Path, number: int, total: int) -> None:
    """Refuse what cannot be part of a set of pairs."""
    name = entry.name.encode("ascii", "backslashreplace").decode()[:100]
    parts = PurePosixPath(entry.name).parts
    if not (entry.isfile() or entry.isdir()):
        raise ArchiveError(f"the archive holds '{name}', which is a link or a device: not unpacked")
    if entry.name.startswith("/") or ".." in parts or "\\" in entry.name or ":" in entry.name:
        raise ArchiveError(
            f"the archive holds '{name}', which leads out of its folder: not unpacked"
        )
    if "\0" in entry.name or any(len(os.fsencode(part)) > MAX_NAME for part in parts):
        raise ArchiveError(f"the archive holds '{name}', which no file can be called: not unpacked")
    if hasattr(tarfile, "data_filter"):  # Python 3.11.4
        tarfile.data_filter(entry, str(target))
    if number > MAX_MEMBERS:
        raise ArchiveError(f"the archive holds more than {MAX_MEMBERS:,} entries: not unpacked")
    if entry.size > MAX_MEMBER or total > MAX_TOTAL:
        raise ArchiveError(f"the archive unpacks to too many bytes (at '{name}'): not unpacked")


def _place(entry: tarfile.TarInfo) -> Path | None:
    """Return SPLIT/NAME of a pair, None for anything else."""
    path = PurePosixPath(entry.name)
    wanted = entry.isfile() and path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    if wanted and path.parent.name in SPLITS:
        return Path(path.parent.name, path.name)
    return None


def _copy(content: IO[bytes], stream: IO[bytes], size: int) -> None:
    left = size
    while left > 0:
        block = content.read(min(left, _BLOCK))
        if not block:
            raise EOFError("an entry ends early")
        stream.write(block)
        left -= len(block)


def _damage(archive: Path, error: Exception) -> str:
    with archive.open("rb") as stream:
        start = stream.read(512)
    if start[:2] != b"\x1f\x8b":
        return f"the download is {describe(start)}, not a .tar.gz archive: give another --url"
    return f"the archive is damaged ({error}): say the same again to download it anew"
