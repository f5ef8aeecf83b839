"""Fetching a public set of pairs: download, unpack, count, and only then give it its name."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from maptile2sat.datasets.archive import ArchiveError, unpack
from maptile2sat.datasets.download import Download
from maptile2sat.datasets.layout import DESCRIPTION, SPLITS, SUFFIXES, write_json
from maptile2sat.errors import OutputError, TrainingError, UsageError
from maptile2sat.sources.naming import safe_url
from maptile2sat.sources.options import SourceOptions

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
