"""The work of a render that is not finished: folders, journals and records of what is done.

`OUT.tif.partial/` holds the pixels made so far and a journal: a first line that says what they
were made from, then a line for each cell whose pixels are safely on disk. Another run goes on
from there, if it would make the same pixels.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from maptile2sat.errors import OutputError, UnfinishedError
from maptile2sat.geo.grid import Window
from maptile2sat.output.folder import INDEX, MOSAIC, OVERVIEW, OVERVIEW_MASK
from maptile2sat.output.geotiff import output_errors
from maptile2sat.output.manifest import MANIFEST, BlockRecord
from maptile2sat.output.store import BLOCKS, JOB, LOCK, WORK, Store, identity_of, record_of
from maptile2sat.rendering.blocks import BlockPlan
from maptile2sat.sources.options import Tile, tiles_as_json, tiles_from_json

JOURNAL = "journal.jsonl"
PARTIAL_LOCK = "lock"
FORMAT = 1

PIXELS = ("rgb.raw", "mask.raw")
"""Files without which the journal says nothing; see `raw_blocks`."""

_BEGUN = {PARTIAL_LOCK, "journal.tmp", *PIXELS}
"""What a folder may hold before its journal is there."""


def partial_folder(output: Path) -> Path:
    """Return where the unfinished work of a render lies."""
    return output.with_name(f"{output.name}.partial")


class Partial:
    """The folder of an unfinished render; only one process at a time has it.

    A context manager: at the end the folder stays if it holds any cell, unless `remove` was
    called.

    Attributes:
        folder: Where the work lies.
        masked: Whether any cell done has masked pixels.
        missing: Names of the tiles of the map, by column and row, that an earlier run had to do
            without in the cells done.
    """

    def __init__(
        self, output: Path, made_from: dict[str, Any], *, resume: bool, overwrite: bool
    ) -> None:
        """Take the folder, with what an earlier run has done if it may be used.

        Args:
            output: The render's output.
            made_from: All that decides its pixels, as JSON can hold it.
            resume: Whether to go on with an earlier run.
            overwrite: Whether to throw the work of an earlier run away.

        Raises:
            UnfinishedError: If another process has it, if it holds work that was not asked for,
                work made from something else, or no work at all.
        """
        self.folder = partial_folder(output)
        self.masked = False
        self.missing: dict[Tile, str] = {}
        self._output = output
        self._done: set[tuple[int, int]] = set()
        self._removed = False
        # as JSON gives it back
        header = {"format": FORMAT, **json.loads(json.dumps(made_from))}
        with output_errors(output), ExitStack() as on_failure:
            new = not self.folder.exists()
            self.folder.mkdir(exist_ok=True)
            self._lock = FileLock(self.folder / PARTIAL_LOCK, timeout=0)
            self._take()
            on_failure.callback(self._lock.release)
            self._refuse_foreign()
            if new:  # and ours only now
                on_failure.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._open(header, resume=resume, overwrite=overwrite)
            on_failure.pop_all()

    def _take(self) -> None:
        try:
            self._lock.acquire()
        except Timeout as error:
            raise UnfinishedError(
                f"another render is writing {self._output}: wait for it, or give another name"
            ) from error

    def _refuse_foreign(self) -> None:
        """Touch no folder of that name that somebody has made for something else."""
        names = {entry.name for entry in self.folder.iterdir()}
        if JOURNAL not in names and names - _BEGUN:
            raise UnfinishedError(
                f"{self.folder} holds something else than an unfinished render "
                f"({min(names - _BEGUN)}): move it away, or give another name"
            )

    def _open(self, header: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Read the journal of an earlier run, or begin one."""
        path = self.folder / JOURNAL
        lines = _lines(path)
        if len(lines) > 1 and not resume and not overwrite:
            raise UnfinishedError(
                f"{self.folder} holds {len(lines) - 1} cells of an interrupted render: pass "
                "--resume to continue it, or --overwrite to begin anew"
            )
        if len(lines) > 1 and resume:
            refuse_other(self.folder, lines[0], header)
            # whoever was short of room may have deleted the large files
            if not all((self.folder / name).is_file() for name in PIXELS):
                lines = lines[:1]
            self._done = {(line["col"], line["row"]) for line in lines[1:]}
            self.masked = any(line["masked"] for line in lines[1:])
            for line in lines[1:]:
                self.missing |= tiles_from_json(line.get("missing", []))
            _rewrite(path, lines)  # without what a crash tore
        else:
            _rewrite(path, [header])  # first: a journal without its pixels would be believed
            for name in PIXELS:
                (self.folder / name).unlink(missing_ok=True)
        # no buffer: what a full disk did not take would be written again when it is closed
        self._journal = path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the folder go; remove it if it holds nothing of use."""
        with suppress(OSError):  # all that counts in it is on disk
            self._journal.close()
        if self._removed or not self._done:
            shutil.rmtree(self.folder, ignore_errors=True)
        # Windows keeps the lock while it is held; elsewhere what is there later is another's
        left = (self._removed or not self._done) and self.folder.exists()
        self._lock.release()
        if left:
            shutil.rmtree(self.folder, ignore_errors=True)

    def done(self, cell: Window) -> bool:
        """Return whether the pixels of a cell are there already."""
        return (cell.col, cell.row) in self._done

    def add(self, part: Window, *, masked: bool, missing: Mapping[Tile, str] | None = None) -> None:
        """Note that the pixels of a cell, or the part of it that is wanted, are on disk.

        Args:
            part: The pixels.
            masked: Whether any of them is.
            missing: The tiles of the map that they had to do without, as in `missing`.

        Raises:
            OutputError: If the journal cannot be written.
        """
        line: dict[str, Any] = {"col": part.col, "row": part.row, "masked": masked}
        if missing:
            line["missing"] = tiles_as_json(missing)
        rest = json.dumps(line).encode() + b"\n"
        with output_errors(self._output):
            while rest:
                rest = rest[self._journal.write(rest) :]
            os.fsync(self._journal.fileno())
        self._done.add((part.col, part.row))

    def forget(self, unwanted: Callable[[int, int], bool]) -> None:
        """Count cells as not done: what they were made from has turned out to be wrong.

        Args:
            unwanted: Told the first column and row of the pixels of each cell that is done.
        """
        self._done = {place for place in self._done if not unwanted(*place)}
        path = self.folder / JOURNAL
        header, *lines = _lines(path)
        lines = [line for line in lines if (line["col"], line["row"]) in self._done]
        try:
            self._journal.close()  # Windows renames no open file
            _rewrite(path, [header, *lines])
            self._journal = path.open("ab", buffering=0)
        except OSError:  # what cannot be told apart must not be gone on with
            self._removed = True

    def remove(self) -> None:
        """Have the folder removed at the end: the output is finished."""
        self._removed = True


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], words: tuple[str, str] = ("was", "is")
) -> list[str]:
    """Return in what two descriptions of a render differ, a text for each field.

    Args:
        found: One of them.
        wanted: The other.
        words: What stands before the value of the first, and of the second.
    """
    one, other = words
    return [
        f"{name} {one} {found.get(name)}, {other} {wanted.get(name)}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]


def refuse_other(place: object, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Make sure that work done earlier is of the same render.

    Args:
        place: Where it lies.
        found: What it was made from.
        wanted: What is asked for now.

    Raises:
        UnfinishedError: If they differ; the message says in what.
    """
    texts = differences(found, wanted)
    if texts:
        raise UnfinishedError(
            f"{place} is of another render ({'; '.join(texts)}): repeat what was "
            "asked for then, or pass --overwrite instead of --resume"
        )


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a journal; a crash may have torn the last one."""
    if not path.exists():
        return []
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        found.append(line)
    return found


def _rewrite(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write a journal anew, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


# Taking the output of a sharded render: nothing of anybody else's is touched

BEGUN = {"format": FORMAT, "begun": True}
"""What `job.json` says until it is known what the render is made from."""

OURS = (
    *(MANIFEST, MOSAIC, INDEX, OVERVIEW, OVERVIEW_MASK, "item.json", "collection.json"),
    *(BLOCKS, WORK, JOB),
)
"""All that a sharded render writes. The job goes last: names like these may be anybody's, and
only where it lies they are ours."""


class Claim:
    """The output of a sharded render while it is written; only one process at a time has it.

    An earlier render that is to be replaced stays whole until `describe_job`, which is called once
    everything is checked. A context manager: at the end what is there stays, if it is of any use.

    Attributes:
        store: The output.
        earlier: What an earlier run that is gone on with was made from; None without one.
        kept: Set it once there is a block to keep.
    """

    def __init__(self, store: Store, *, resume: bool, overwrite: bool) -> None:
        """Look at the output, and take it.

        Args:
            store: The output.
            resume: Whether to go on with an earlier run.
            overwrite: Whether to replace an earlier render.

        Raises:
            OutputError: If something else is there, or it cannot be locked.
            UnfinishedError: If an earlier render is there that was not asked for, or another
                process writes it.
        """
        self.store = store
        self.earlier: dict[str, Any] | None = None
        self.kept = False
        self._lock = None if store.lock_path is None else FileLock(store.lock_path, timeout=0)
        asked_for = resume or overwrite
        before = store.entries()
        if self._found(asked_for=asked_for) is None:
            store.begin(_as_text(BEGUN))
        self._take(before)
        with ExitStack() as on_failure:
            on_failure.callback(self._release)
            found = self._found(asked_for=asked_for)  # another run may have ended meanwhile
            self.kept = found is not None
            self.earlier = found if resume else None
            if found is None:
                store.begin(_as_text(BEGUN))
            if self.earlier is None:
                store.remove((WORK,))  # workers of a killed run write nothing once it is gone
            store.make()
            on_failure.pop_all()

    def _found(self, *, asked_for: bool) -> dict[str, Any] | None:
        """Return what an earlier render was made from; None if there is none, nor anything else."""
        place, entries = self.store.place, self.store.entries()
        text = self.store.read(JOB) if JOB in entries else None
        if text is None:
            # a run that was killed as it cleaned up leaves an empty lock
            if entries and (entries != {LOCK} or self.store.read(LOCK)):
                raise OutputError(f"{place} holds something else than a render: give another name")
            return None
        found = _job(text, place)
        if found.get("begun"):
            return None
        if not asked_for:
            raise UnfinishedError(
                f"{place} exists: pass --resume to continue it, --overwrite to replace it, "
                "or give another name"
            )
        return found

    def _take(self, before: set[str]) -> None:
        """Lock the output; leave only what was there `before` if that cannot be."""
        if self._lock is None:
            return
        try:
            self._lock.acquire()
        except Timeout as error:
            raise UnfinishedError(
                f"another render is writing {self.store.place}: wait for it, or give another name"
            ) from error
        except OSError as error:
            self.store.remove(tuple({JOB, LOCK} - before))
            raise OutputError(
                f"{self.store.place} cannot be locked: {error.strerror or error}: give a name on "
                "another file system"
            ) from error

    def _release(self) -> None:
        if self._lock is None:
            return
        # while it is held, so that none can be removed that is another's; where that cannot be, on
        # Windows, `release` removes it
        with suppress(OutputError):
            self.store.remove((LOCK,))
        self._lock.release()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what is of no use, and let the output go."""
        try:
            self.store.remove((WORK,) if self.kept else OURS)
        finally:
            self._release()

    def describe_job(self, header: Mapping[str, Any]) -> None:
        """Write down what the render is made from, or compare it with what an earlier run was.

        Removes the earlier render that is to be replaced.

        Raises:
            UnfinishedError: If that was another render; the message says in what.
        """
        if self.earlier is not None:
            refuse_other(self.store.place, self.earlier, header)
            return
        self.kept = False
        self.store.remove(tuple(name for name in OURS if name not in (WORK, JOB)))
        self.store.make()
        self.store.write(JOB, _as_text(header))

    def records(self, plan: BlockPlan) -> Iterator[tuple[int, BlockRecord, dict[Tile, str]]]:
        """Yield (number, record, tiles missing) of the blocks that an earlier run has finished."""
        if self.earlier is None:
            return
        job = identity_of(self.earlier)
        for prefix, names in plan.rows_of_names():
            for text, size in self.store.records(prefix, names):
                found = record_of(text, job)
                if found is None:  # that block is made again
                    continue
                record, missing = found
                index = plan.index(record.name)
                if index is not None and plan.part(index) == record.window and size == record.size:
                    yield index, record, missing


def is_unfinished(store: Store) -> bool:
    """Return whether a sharded render was begun there that `--resume` can go on with."""
    try:
        text = store.read(JOB)
        if text is None or store.read(MANIFEST) is not None:
            return False
        return not _job(text, store.place).get("begun")
    except OutputError:
        return False


def _as_text(job: Mapping[str, Any]) -> bytes:
    return json.dumps(job, indent=1).encode() + b"\n"


def _job(text: bytes, place: str) -> dict[str, Any]:
    """Return what `job.json` says.

    Raises:
        OutputError: If it is not that of a render: then nothing beside it may be touched.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    ours = isinstance(found, dict) and found.get("format") == FORMAT
    if not ours or not found.keys() & {"begun", "block"}:
        raise OutputError(
            f"{JOB} of {place} is damaged, or not that of a render of this version: give another "
            "name, or remove what is there yourself"
        )
    job: dict[str, Any] = found
    return job


# The records of finished blocks: on disk, eight bytes of memory for each

_MISSING = -1


class Ledger:
    """Takes the records of blocks in any order and gives them back row by row.

    Args:
        plan: The blocks.
    """

    def __init__(self, plan: BlockPlan) -> None:
        self.plan = plan
        self.empty = 0
        """Blocks without a file."""
        self.bytes = 0
        """Size of all files."""
        self._places = array("q", [_MISSING]) * len(plan)
        self._count = self._end = 0
        # what a resume needs lies beside each block; this is only for the time of the run
        with _errors():
            self._spool = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - closed by `__exit__`

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Forget everything."""
        with suppress(OSError):  # what is left to write is not wanted any more
            self._spool.close()

    def __len__(self) -> int:
        return self._count

    def has(self, index: int) -> bool:
        """Return whether a block has a record."""
        return self._places[index] != _MISSING

    def add(self, index: int, record: BlockRecord) -> bool:
        """Take a record; return whether it is the first one of its block.

        Raises:
            OutputError: If there is no room for it.
        """
        if self.has(index):
            return False
        line = json.dumps(record.as_json()).encode() + b"\n"
        self._places[index] = self._end
        with _errors():
            self._spool.seek(self._end)
            self._spool.write(line)
        self._end += len(line)
        self._count += 1
        self.empty += record.file is None
        self.bytes += record.size
        return True

    def missing(self) -> Iterator[int]:
        """Yield the numbers of the blocks that have no record yet."""
        return (index for index, place in enumerate(self._places) if place == _MISSING)

    def record(self, index: int) -> BlockRecord:
        """Return the record of a block."""
        with _errors():
            self._spool.seek(self._places[index])
            line = self._spool.readline()
        return BlockRecord.from_json(json.loads(line))

    def __iter__(self) -> Iterator[BlockRecord]:
        """Yield the records, row by row."""
        return (self.record(index) for index, place in enumerate(self._places) if place != _MISSING)


@contextmanager
def _errors() -> Iterator[None]:
    """Turn what can go wrong with the file of records into an `OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            "the list of blocks in the folder for temporary files cannot be written: "
            f"{error.strerror or error}: make room there, or set TMPDIR to another folder"
        ) from error
