"""The records of finished blocks: on disk, eight bytes of memory for each."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from maptile2sat.errors import OutputError
from maptile2sat.sharding.blocks import BlockPlan
from maptile2sat.sharding.manifest import BlockRecord

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
