"""Giving blocks to workers until all are done: never many at once, and not only once if need be.

Dask sees a few tasks for each worker at any time, however many blocks there are, so that neither
its scheduler nor this process grows with the area.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import queue
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from maptile2sat.errors import (
    BlockedError,
    BundleError,
    ClusterError,
    ErrorPictureError,
    MissingTileError,
    UsageError,
)
from maptile2sat.output.stac import check_pystac
from maptile2sat.output.store import FILE_ENDINGS
from maptile2sat.rendering.blocks import Failure, Made, Order, Report
from maptile2sat.rendering.cluster import LOST, check_where, workers_of
from maptile2sat.rendering.job import Job
from maptile2sat.rendering.options import RenderOptions, ShardOptions
from maptile2sat.rendering.worker import check_worker, disagreements, facts_without_computing
from maptile2sat.sources.redact import safe_place

AHEAD = 2
"""Blocks for each worker: the one it makes, and the next."""

LOOK_SECONDS = 1.0
STRAGGLER_FACTOR = 3.0
COPIES = 3
"""Most tasks of one block at the same time."""

TRIES = 3
"""How often a block may fail by an error that may pass."""

LOSSES = 5
"""How often Dask may give a block up because workers died; it does after four of them."""

_LASTING = (UsageError, BundleError, MissingTileError, BlockedError, ErrorPictureError)


@dataclass
class _Task:
    """A block that some worker has."""

    index: int
    future: Any
    since: float


@dataclass
class Dispatcher:
    """Gives blocks to the workers of a cluster.

    Attributes:
        client: The Dask client.
        make: Called on a worker with a block's number; returns `Made` or `Failure`.
        take: Called here with each block that is done, once.
        name: What the tasks are called, another for each run.
        warn: Told what the user should know.
        straggler_seconds: What a block may take before it is given to another worker too.
        repeated: Blocks that were.
    """

    client: Any
    make: Callable[[int], Made | Failure]
    take: Callable[[Made], None]
    name: str
    warn: Callable[[str], None]
    straggler_seconds: float
    repeated: int = 0
    _tasks: dict[Any, _Task] = field(default_factory=dict)
    _copies: dict[int, int] = field(default_factory=dict)
    _failed: dict[int, int] = field(default_factory=dict)
    _lost: dict[int, int] = field(default_factory=dict)
    _unfit: set[str] = field(default_factory=set)
    _workers: list[str] = field(default_factory=list)
    _took: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    _ready: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    _number: int = 0

    def run(self, blocks: Iterator[int]) -> None:
        """Have all blocks made.

        Args:
            blocks: Their numbers.

        Raises:
            Maptile2satError: If one cannot be made; then the others are given up.
        """
        self._look()
        looked = time.monotonic()
        try:
            while True:
                self._fill(blocks)
                if not self._tasks:
                    return
                self._settle_all(self._over())
                if time.monotonic() - looked >= LOOK_SECONDS:
                    self._look()
                    looked = time.monotonic()
        finally:
            if self._tasks and self.client.status == "running":
                with suppress(OSError, TimeoutError):  # the scheduler may be gone this moment
                    self.client.cancel([task.future for task in self._tasks.values()], force=True)

    @property
    def under_way(self) -> set[int]:
        """The blocks that some worker has, or had when the run was given up."""
        return {task.index for task in self._tasks.values()}

    def _fill(self, blocks: Iterator[int]) -> None:
        while len(self._copies) < AHEAD * max(1, len(self._workers)):
            index = next(blocks, None)
            if index is None:
                return
            self._submit(index)

    def _submit(self, index: int, only: list[str] | None = None) -> None:
        """Give a block to Dask, or to one of some workers."""
        if only is None and self._unfit:
            only = self._workers
        self._number += 1
        key = (self.name, index, self._number)
        future = self.client.submit(self.make, index, key=key, pure=False, workers=only)
        self._tasks[key] = _Task(index, future, time.monotonic())
        self._copies[index] = self._copies.get(index, 0) + 1
        future.add_done_callback(self._ready.put)

    def _over(self) -> list[Any]:
        """Wait for a task that is over, and return it with all others that are."""
        found = []
        with suppress(queue.Empty):
            found.append(self._ready.get(timeout=LOOK_SECONDS))
            while True:
                found.append(self._ready.get_nowait())
        # copies of blocks that another worker has done are ours no more
        return [future for future in found if future.key in self._tasks]

    def _settle_all(self, futures: list[Any]) -> None:
        """See to tasks that are over; what workers returned is fetched in one go."""
        from distributed import KilledWorker

        finished = [future for future in futures if future.status == "finished"]
        returned: dict[Any, Made | Failure] = {}
        try:
            results = self.client.gather(finished) if finished else []
            returned = {future.key: found for future, found in zip(finished, results, strict=True)}
        except KilledWorker:  # a worker died with its result, and those that tried again
            pass
        except (OSError, TimeoutError, CancelledError) as error:
            raise ClusterError(LOST) from error
        for future in futures:
            task = self._tasks.pop(future.key, None)
            if task is not None:
                self._copies[task.index] -= 1
                self._settle(task, returned.get(future.key))

    def _settle(self, task: _Task, found: Made | Failure | None) -> None:
        """See to a task that is over, with what it returned if it did."""
        if isinstance(found, Made):
            self._done(found, task)
        elif isinstance(found, Failure):
            self._after(found, task.index)
        elif task.future.status == "error":
            self._after_death(task.future.exception(), task.index)
        elif task.future.status == "cancelled":  # and not by us
            raise ClusterError(LOST)
        else:  # the worker died with the result
            self._again(task.index)

    def _done(self, made: Made, task: _Task) -> None:
        self._took.append(time.monotonic() - task.since)
        others = [key for key, other in self._tasks.items() if other.index == made.index]
        if others:
            self.client.cancel([self._tasks.pop(key).future for key in others], force=True)
        for counts in (self._copies, self._failed, self._lost):
            counts.pop(made.index, None)
        self.take(made)

    def _after(self, failure: Failure, index: int) -> None:
        """Try a block again, here or elsewhere, or give up."""
        if failure.unfit:
            self._leave_out(failure)
        else:
            error = failure.error
            self._failed[index] = self._failed.get(index, 0) + 1
            if isinstance(error, _LASTING) or self._failed[index] >= TRIES:
                raise error
        self._again(index)

    def _leave_out(self, failure: Failure) -> None:
        """Let a worker that does not fit make no block, as long as there are others."""
        known = failure.worker in self._unfit
        self._unfit.add(failure.worker)
        self._look()
        if not self._workers:
            raise failure.error
        if not known:
            self.warn(f"{failure.message}; that worker is left out")

    def _after_death(self, error: BaseException, index: int) -> None:
        """Try a block again whose workers died, or failed in a way that nobody foresaw."""
        from distributed import KilledWorker

        if isinstance(error, ModuleNotFoundError):
            raise ClusterError(
                f"the workers cannot run maptile2sat ({error}): install it there"
            ) from error
        if not isinstance(error, KilledWorker):
            self._failed[index] = self._failed.get(index, 0) + 1
            if self._failed[index] >= TRIES:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                raise ClusterError(f"block {index} failed {TRIES} times: {reason}") from error
            self._again(index)
            return
        self._lost[index] = self._lost.get(index, 0) + 1
        if self._lost[index] >= LOSSES:
            raise ClusterError(
                f"block {index} ended every worker that tried it: probably their memory does not "
                "suffice; pass a smaller --cell, or start fewer workers"
            ) from error
        self._again(index)

    def _again(self, index: int) -> None:
        if not self._copies[index]:
            self._submit(index)

    def _look(self) -> None:
        """See which workers there are, and give what takes too long to those without work."""
        try:
            processing = self.client.processing()
        except (OSError, TimeoutError) as error:
            raise ClusterError(LOST) from error
        before, self._workers = self._workers, [w for w in processing if w not in self._unfit]
        if before and not self._workers and not self._unfit:
            self.warn("there are no workers any more: waiting for some")
        idle = [worker for worker in self._workers if not processing[worker]]
        if not idle or not self._took:
            return
        limit = max(self.straggler_seconds, STRAGGLER_FACTOR * statistics.median(self._took))
        now = time.monotonic()
        # the younger copy counts: another one after as long again
        youngest: dict[int, float] = {}
        for task in self._tasks.values():
            youngest[task.index] = max(youngest.get(task.index, 0.0), task.since)
        late = [i for i, since in youngest.items() if now - since > limit]
        for index, _ in zip(late, idle, strict=False):
            if self._copies[index] < COPIES:
                self.repeated += self._copies[index] == 1
                self._submit(index, idle)


# What may be asked of a sharded render, as far as that shows without looking at the map

ONE_FILE_ONLY = {
    *("preview", "dst_crs", "resolution", "like", "cutline"),
    *("tile_format", "min_zoom", "max_zoom"),
}
"""Options of renders into one file."""


def check_request(
    output: str | os.PathLike[str], sharding: ShardOptions, options: RenderOptions
) -> None:
    """Refuse a request that makes no sense, before anything is opened.

    Raises:
        UsageError: If the cluster, the output or an option cannot be.
        MissingExtraError: If a package is missing.
    """
    check_where(sharding.dask)
    check_pystac()
    _check_output(os.fspath(output), options)
    if options.cell is not None:
        sharding.side(options.cell)


def _check_output(output: str, options: RenderOptions) -> None:
    """Refuse what a folder of blocks cannot be.

    Raises:
        UsageError: If the output is named like a file, or an option makes no sense with it.
    """
    if output.lower().endswith(FILE_ENDINGS):
        raise UsageError(
            f"--dask writes a folder, and {safe_place(output)} is named like a file: pass "
            "-o FOLDER; 'maptile2sat merge FOLDER -o ONE.tif' makes one file of it"
        )
    given = {field.name for field in dataclasses.fields(options)}
    for name in sorted(given & ONE_FILE_ONLY):
        if getattr(options, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} does not go with --dask, which writes blocks on the "
                "map's own grid"
            )
    if not options.cog:
        raise UsageError("--no-cog does not go with --dask: blocks are COGs")


# Asking every worker what it would compute, before any block is made


def agreed(client: Any, order: Order, job: Job) -> tuple[Order, Report]:
    """Return the order with what all workers and this process agree on, and a report.

    Args:
        client: The Dask client.
        order: Without facts.
        job: The render as this process sees it.

    Raises:
        ClusterError: If workers would make different pixels, or have another map or model than
            this process; the message says who and in what.
        Maptile2satError: If one cannot open the map or the model.
    """
    reports = sorted(_asked(client, order), key=lambda report: report.worker)
    one = reports[0]
    for other in reports[1:]:
        texts = disagreements(one.facts, other.facts)
        if texts:
            raise ClusterError(
                f"workers {one.worker} (here, threads: {one.threads}) and {other.worker} (there, "
                f"threads: {other.threads}) would make different pixels ({'; '.join(texts)}), and "
                "they must not be mixed: give all the same map and model, in whole numbers, or "
                "use workers of one kind"
            )
    here = facts_without_computing(job)
    texts = disagreements(here, {name: one.facts.get(name) for name in here})
    if texts:
        raise ClusterError(
            f"worker {one.worker} (there) has another map or model than this process (here): "
            f"{'; '.join(texts)}: put the same files under the same paths on all machines"
        )
    # which worker comes first, and when its copy was made, is chance: --resume compares facts
    facts = {**one.facts, "source_file": here["source_file"]}
    return dataclasses.replace(order, facts=facts, tags=one.tags), one


def _asked(client: Any, order: Order) -> list[Report]:
    """Return what each worker reports; those that go away meanwhile do not count."""
    call = functools.partial(check_worker, order)
    over: queue.SimpleQueue[Any] = queue.SimpleQueue()
    waiting: dict[Any, Any] = {}
    for worker in workers_of(client):
        key = ("maptile2sat-check", order.id, worker)
        waiting[key] = client.submit(call, key=key, workers=[worker], pure=False)
        waiting[key].add_done_callback(over.put)
    reports: list[Report] = []
    while waiting:
        try:
            key = over.get(timeout=LOOK_SECONDS).key
        except queue.Empty:
            there = workers_of(client)
            waiting = {key: future for key, future in waiting.items() if key[-1] in there}
            continue
        if key in waiting:
            reports += _report(waiting.pop(key), worker=key[-1])
    if not reports:
        raise ClusterError("all workers died while they loaded the model: is there memory for it?")
    return reports


def _report(future: Any, worker: str) -> list[Report]:
    """Return what a worker reports; nothing if it died.

    Raises:
        ClusterError: If the scheduler is gone, or the worker failed in a way that nobody foresaw.
        Maptile2satError: If it cannot do what is asked for.
    """
    from distributed import KilledWorker

    error = future.exception()
    if isinstance(error, KilledWorker):
        return []
    if isinstance(error, CancelledError):  # and not by us
        raise ClusterError(LOST) from error
    if isinstance(error, (ModuleNotFoundError, AttributeError)):
        raise ClusterError(
            f"worker {worker} cannot run this maptile2sat ({error}): install the same version there"
        ) from error
    if error is not None:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ClusterError(f"worker {worker} cannot be used: {reason}") from error
    try:
        found = future.result()
    except (OSError, TimeoutError, CancelledError) as lost:
        raise ClusterError(LOST) from lost
    if isinstance(found, Failure):
        raise found.error
    return [found]
