"""The work of a render, kept beside its output until that is finished.

`OUT.tif.partial/` holds the pixels made so far and a journal: a first line that says what they
were made from, then a line for each cell whose pixels are safely on disk. Another run goes on
from there, if it would make the same pixels.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from maptile2sat.errors import UnfinishedError
from maptile2sat.geotiff import output_errors
from maptile2sat.grid import Window
from maptile2sat.sources.masked import Tile, tiles_as_json, tiles_from_json

JOURNAL = "journal.jsonl"
LOCK = "lock"
FORMAT = 1

PIXELS = ("rgb.raw", "mask.raw")
"""Files without which the journal says nothing; see `raw_blocks`."""

_BEGUN = {LOCK, "journal.tmp", *PIXELS}
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
            self._lock = FileLock(self.folder / LOCK, timeout=0)
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
                f"{self.folder} holds {len(lines) - 1} cells of an interrupted render: say "
                "--resume to go on with it, or --overwrite to begin anew"
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
            "asked for then, or say --overwrite instead of --resume"
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
