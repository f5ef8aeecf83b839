"""Taking the output of a sharded render: nothing of anybody else's is touched."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from maptile2sat.errors import OutputError, UnfinishedError
from maptile2sat.partial import refuse_other
from maptile2sat.sharding.blocks import BlockPlan
from maptile2sat.sharding.manifest import MANIFEST, BlockRecord
from maptile2sat.sharding.overview import OVERVIEW, OVERVIEW_MASK
from maptile2sat.sharding.store import (
    BLOCKS,
    JOB,
    LOCK,
    WORK,
    Store,
    identity_of,
    record_of,
)
from maptile2sat.sharding.tile_index import INDEX
from maptile2sat.sharding.vrt import MOSAIC
from maptile2sat.sources.masked import Tile

FORMAT = 1
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
                f"{place} exists: say --resume to go on with it, --overwrite to replace it, "
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
