"""Fetching a public set of pairs: download, unpack, count, and only then give it its name."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

import requests
from urllib3.exceptions import HTTPError

from maptile2sat.datasets.pairs import DESCRIPTION, SPLITS, SUFFIXES, write_json
from maptile2sat.errors import MissingTileError, OutputError, SourceError, TrainingError, UsageError
from maptile2sat.sources.http import HttpClient
from maptile2sat.sources.options import SourceOptions
from maptile2sat.sources.redact import keep_logs_safe, safe_url
from maptile2sat.sources.tiles import describe

# Unpacking an archive of pairs that someone else has made: nothing in it is trusted

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
    return f"the archive is damaged ({error}): run the same command again to download it anew"


# Downloading one large file: what is there already is not fetched again

DownloadProgress = Callable[[int, int], None]
"""Called with the bytes there so far and those of the whole file (0 if not known)."""

MAX_BYTES = 16 << 30
"""Largest file that is accepted."""

TRIES = 4
"""Attempts in a row that may bring nothing new."""

_DOWNLOAD_BLOCK = 256 << 10
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


@dataclass(frozen=True)
class _Known:
    """What the server said of a file that is being downloaded.

    Attributes:
        address: Hash of the address, which may hold a key.
        validator: Strong ETag or date by which to ask whether the file is still the same.
        total: Its bytes, None if the server does not say.
    """

    address: str
    validator: str
    total: int | None


class Download:
    """A file on its way: `NAME.part` beside `NAME.whole`, and what is known of it.

    Args:
        url: Where it comes from.
        target: Where it goes, such as `NAME.whole`; there only once it is complete.
        what: What to call it in messages.
        options: User-Agent, time-out and retries.
        progress: Called as it grows.
    """

    def __init__(
        self,
        url: str,
        target: Path,
        what: str,
        options: SourceOptions,
        progress: DownloadProgress,
    ) -> None:
        self._url, self._target, self._what = url, target, what
        self._options, self._progress = options, progress
        self._part = target.with_suffix(".part")
        self._notes = target.with_suffix(".part.json")
        self._address = hashlib.sha256(url.encode()).hexdigest()
        self.received = 0

    def run(self) -> None:
        """Download until the file is whole; what breaks off is asked for again.

        Raises:
            SourceError: If the server refuses, or keeps breaking off; the part stays.
            OutputError: If the disk is full or cannot be written.
        """
        keep_logs_safe()
        client = HttpClient(self._options, self._url, cache=False)
        most, idle = self._have(), 0
        try:
            while not self._attempt(client):
                idle = 0 if self._have() > most else idle + 1
                most = max(most, self._have())
                if idle >= TRIES:
                    raise SourceError(
                        f"{self._what}: the download keeps breaking off; "
                        f"run the same command again later to go on after {most:,} bytes"
                    )
                time.sleep(0.2 * idle)
        except OSError as error:
            raise OutputError(
                f"cannot write {self._part} ({error.strerror or error}): check the disk"
            ) from error
        finally:
            client.close()
        self._notes.unlink(missing_ok=True)

    def _have(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _attempt(self, client: HttpClient) -> bool:
        """Ask once for what is missing; return whether the file is whole now."""
        known = self._load()
        have = self._have() if known is not None else 0
        headers = {"Accept-Encoding": "identity"}
        if known is not None and have:
            headers |= {"Range": f"bytes={have}-", "If-Range": known.validator}
        try:
            with client.stream(self._url, self._what, headers) as response:
                if "Range" in headers and response.status_code in (206, 416):
                    return self._go_on(response, have, known)
                return self._start(response)
        except (requests.exceptions.RequestException, HTTPError, MissingTileError):
            return False

    def _start(self, response: requests.Response) -> bool:
        """Take the file from its first byte."""
        if response.status_code != 200:
            raise SourceError(
                f"{self._what}: the server answered HTTP {response.status_code}: "
                "check the address, or give another with --url"
            )
        declared = response.headers.get("content-length", "")
        total = int(declared[:20]) if declared.isascii() and declared.isdigit() else None
        self._check_room(total or 0)
        self._notes.unlink(missing_ok=True)  # it is of another part than the one to come
        self._part.unlink(missing_ok=True)
        etag = response.headers.get("etag", "")
        validator = response.headers.get("last-modified", "") if etag[:1] != '"' else etag
        if validator:
            write_json(self._notes, asdict(_Known(self._address, validator, total)))
        return self._receive(response, 0, total)

    def _go_on(self, response: requests.Response, have: int, known: _Known | None) -> bool:
        """Take the rest of the file, if it is the rest."""
        shown = _RANGE.fullmatch(response.headers.get("content-range", "").strip())
        total = int(shown[2]) if shown and shown[2] != "*" else None
        if response.status_code == 416 and total == have:
            return self._finish()
        fits = shown is not None and shown[1] == str(have) and known is not None
        if response.status_code == 416 or not fits or (known and known.total not in (None, total)):
            self._notes.unlink(missing_ok=True)  # the next attempt starts anew
            return False
        return self._receive(response, have, total)

    def _receive(self, response: requests.Response, have: int, total: int | None) -> bool:
        """Write a body behind the `have` bytes that are there."""
        with self._part.open("ab") as stream:
            stream.truncate(have)
            # not decoded: a .tar.gz that a server calls gzip-encoded is to stay what it is
            for block in response.raw.stream(_DOWNLOAD_BLOCK, decode_content=False):
                stream.write(block)
                have += len(block)
                self.received += len(block)
                self._progress(have, total or 0)
                if have > MAX_BYTES:
                    raise SourceError(f"{self._what}: more than {MAX_BYTES:,} bytes are too many")
        if total is not None and have > total:
            raise SourceError(
                f"{self._what}: the server sent more than the {total:,} bytes it said"
            )
        return self._finish() if total in (None, have) else False

    def _finish(self) -> bool:
        self._part.replace(self._target)
        return True

    def _check_room(self, total: int) -> None:
        if total > MAX_BYTES:
            raise SourceError(f"{self._what}: {total:,} bytes are too many")
        free = shutil.disk_usage(self._target.parent).free + self._have()
        if total > free:
            raise OutputError(
                f"{self._what} has {total:,} bytes, and {self._target.parent} has room for "
                f"{free:,}: free some, or give another --dir"
            )

    def _load(self) -> _Known | None:
        """Return what is known of the part, None if it cannot be gone on with."""
        try:
            said: dict[str, Any] = json.loads(self._notes.read_text(encoding="utf-8"))
            known = _Known(**said)
        except (OSError, ValueError, TypeError):
            return None
        return known if known.address == self._address else None


Progress = Callable[[str, int, int], None]
"""Called with `bytes` or `pairs`, what is done so far and all there is (0: not known)."""


@dataclass(frozen=True)
class KnownSet:
    """A public set of pairs.

    Attributes:
        name: What users call it; also the name of its folder.
        url: Its archive.
        archive_bytes: Size of the archive.
        counts: Pairs by split.
        about: What `dataset.json` says about it.
    """

    name: str
    url: str
    archive_bytes: int
    counts: dict[str, int]
    about: dict[str, object] = field(default_factory=dict)


KNOWN_SETS = {
    "maps": KnownSet(
        name="maps",
        url="http://efrosgans.eecs.berkeley.edu/pix2pix/datasets/maps.tar.gz",
        archive_bytes=250_242_400,
        counts={"train": 1096, "val": 1098},
        about={
            "title": "pix2pix maps (Isola et al. 2017, arXiv 1611.07004)",
            "map_side": "right",
            "style": "maps",
            "size": 600,
            "zoom": 16,
            "metres_per_pixel": 1.8,
            "scale_note": "by eye: New York on web mercator at zoom 16",
            "attribution": "imagery and maps: Google and its providers, 2016",
            "licence": "not stated; the imagery belongs to its providers, for research only",
        },
    )
}


@dataclass(frozen=True)
class FetchResult:
    """What `fetch` did.

    Attributes:
        folder: The set, ready for training.
        train: Its training pairs.
        val: Its validation pairs.
        downloaded: Bytes downloaded now; 0 if all was there.
        warnings: What is unusual.
    """

    folder: Path
    train: int
    val: int
    downloaded: int
    warnings: list[str]


def fetch(
    name: str,
    parent: Path = Path("data"),
    *,
    url: str | None = None,
    options: SourceOptions | None = None,
    progress: Progress = lambda what, done, total: None,
) -> FetchResult:
    """Download and unpack a public set, as far as it is not there yet.

    Args:
        name: Name of the set: `maps`.
        parent: Folder in which the set's own folder is made.
        url: Another place of the same archive.
        options: User-Agent, time-out and retries.
        progress: Called as it goes on.

    Raises:
        UsageError: If there is no such set.
        SourceError: If it cannot be downloaded; what has arrived is kept for the next time.
        TrainingError: If what arrives is not the set.
        OutputError: If it cannot be written.
    """
    known = KNOWN_SETS.get(name)
    if known is None:
        raise UsageError(f"there is no data set '{name}': say {' or '.join(KNOWN_SETS)}")
    folder = parent / known.name
    if folder.exists():
        _check_counts(_count(folder), known, f"{folder} exists but", "move it away or give --dir")
        return _result(folder, known, 0, [])
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {parent} ({error.strerror}): give another --dir"
        ) from error
    archive, received = parent / f"{known.name}.tar.gz", 0
    given = archive.exists()
    if not given:
        received = _download(known, url or known.url, parent, options, progress)
        archive = _downloaded(known, parent)
    warnings = _size_warnings(archive.stat().st_size, known)
    try:
        _unpack(archive, folder, known, url or known.url, progress)
    except (ArchiveError, _WrongCountsError) as error:
        if given:
            raise TrainingError(f"{archive}: {error}; delete this file first") from error
        archive.unlink()
        raise
    if not given:
        archive.unlink()
    return _result(folder, known, received, warnings)


def _downloaded(known: KnownSet, parent: Path) -> Path:
    """Return where a complete download lies: not under the name of one that the user has put."""
    return parent / f"{known.name}.tar.gz.whole"


def _download(
    known: KnownSet, url: str, parent: Path, options: SourceOptions | None, progress: Progress
) -> int:
    """Download the archive, unless that was done before unpacking it was interrupted.

    Returns:
        How many bytes came.
    """
    target = _downloaded(known, parent)
    if target.exists():
        return 0
    download = Download(
        url,
        target,
        f"{known.name}.tar.gz",
        options or SourceOptions(),
        lambda done, total: progress("bytes", done, total),
    )
    download.run()
    return download.received


def _unpack(archive: Path, folder: Path, known: KnownSet, url: str, progress: Progress) -> None:
    """Unpack beside `folder`, check, and rename."""
    total = sum(known.counts.values())
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{known.name}.", dir=folder.parent))
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder.parent} ({error.strerror}): give another --dir"
        ) from error
    try:
        inside = temporary / known.name
        found = unpack(archive, inside, lambda done: progress("pairs", done, total))
        _check_counts(found, known, "the archive", "give another --url")
        about = {"kind": "fetched", "name": known.name, "source": safe_url(url), **known.about}
        write_json(inside / DESCRIPTION, {**about, "pairs": dict(found)})
        inside.rename(folder)
    except OSError as error:
        raise OutputError(f"cannot make {folder} ({error.strerror}): check the disk") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _WrongCountsError(TrainingError):
    """A folder or archive does not hold the pairs of a known set."""


def _count(folder: Path) -> Counter[str]:
    return Counter(
        split
        for split in SPLITS
        for path in (folder / split).glob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def _check_counts(found: Counter[str], known: KnownSet, what: str, advice: str) -> None:
    if dict(found) != known.counts:
        raise _WrongCountsError(
            f"{what} has {found['train']:,} train and {found['val']:,} val pairs, and the set "
            f"{known.name} has {known.counts['train']:,} and {known.counts['val']:,}: {advice}"
        )


def _size_warnings(size: int, known: KnownSet) -> list[str]:
    if size == known.archive_bytes:
        return []
    return [
        f"the archive had {size:,} bytes, not the {known.archive_bytes:,} of the original; "
        "its pairs are all there"
    ]


def _result(folder: Path, known: KnownSet, received: int, warnings: list[str]) -> FetchResult:
    return FetchResult(folder, known.counts["train"], known.counts["val"], received, warnings)
