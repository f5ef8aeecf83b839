"""What runs on a Dask worker: it opens map and model once, and renders blocks.

A process keeps what it has opened from block to block. Nothing here raises an error of this
package across Dask: it comes back as a `Failure`.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import rasterio

from maptile2sat._version import __version__
from maptile2sat.errors import (
    ClusterError,
    ErrorPictureError,
    Maptile2satError,
    OutputError,
    SourceError,
    UsageError,
)
from maptile2sat.geo.grid import Window
from maptile2sat.models.generator import MASK_BLOCK, Translator, computing_threads
from maptile2sat.output.manifest import BlockRecord, block_file, sha256_of
from maptile2sat.output.store import WORK, Store, open_store, record_file, record_text
from maptile2sat.rendering import mosaic
from maptile2sat.rendering.blocks import Block, Failure, Limits, Made, Order, Report, render_block
from maptile2sat.rendering.job import (
    CACHE_BYTES,
    Job,
    checked_tiles,
    device_of,
    made_of,
    open_job,
    tags_of,
    translator_of,
)
from maptile2sat.rendering.work import differences
from maptile2sat.sources import columns_and_rows
from maptile2sat.sources.options import Tile
from maptile2sat.sources.tiles import TiledSource

# Whether two processes make the same pixels: the facts that decide them


def facts_of(job: Job, numerics: str) -> dict[str, Any]:
    """Return all that decides the pixels of a render here.

    Args:
        job: The render.
        numerics: What computes: the specification of whole numbers, or a fingerprint.
    """
    return _plain(made_of(job, numerics))


def facts_without_computing(job: Job) -> dict[str, Any]:
    """Return those that are known where nothing is generated: of map, model and request."""
    facts = made_of(job, "")
    del facts["numerics"]
    return _plain(facts)


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(facts))  # as a file gives it back
    return plain


def disagreements(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return in what two processes differ, a text for each.

    Maps may be copies of each other: their time of change does not count.
    """
    return differences(_comparable(expected), _comparable(found), ("here", "there"))


def _comparable(facts: Mapping[str, Any]) -> dict[str, Any]:
    state = facts.get("source_file")
    names = ("window", "grid", "model", "architecture", "fill", "numerics", "seed", "labels")
    return {
        **{name: facts[name] for name in names if name in facts},
        "source_bytes": None if state is None else state[0],
    }


# One server, many workers: together they ask no faster, and no more at once, than one would

POLL_SECONDS = 1.0


def limits_of(name: str, rate: float, connections: int, workers: int) -> Limits:
    """Return the limits that all workers share.

    Args:
        name: Of the semaphore, another for each run.
        rate: Most requests a second to the server.
        connections: Most connections to it.
        workers: Workers there are; how many connections each keeps open depends on it.
    """
    # no more at once than a second's worth: else slow rates would come in bursts
    leases = min(connections, max(1, int(rate)))
    return Limits(name, leases, leases / rate, max(1, leases // max(1, workers)))


class SharedGate:
    """Lets a worker's requests through: a `Gate` of `SourceOptions`.

    Args:
        limits: What all workers together may do.
        worker: The Dask worker of this process.
    """

    def __init__(self, limits: Limits, worker: Any) -> None:
        from distributed import Semaphore

        self._hold = limits.hold
        self._loop = worker.loop
        # given here, since the threads that download are none of Dask's
        self._leases = Semaphore(
            max_leases=limits.leases,
            name=limits.name,
            scheduler_rpc=worker.scheduler,
            loop=worker.loop,
        )

    def __call__(self, unwanted: Callable[[], bool]) -> Callable[[], None]:
        """Wait for a lease; return what gives it back."""
        try:
            while not self._leases.acquire(timeout=POLL_SECONDS):
                if unwanted():
                    return _nothing
        except OSError as error:  # what Dask raises when a connection is lost
            raise SourceError("the cluster's scheduler is gone, which shares out requests") from (
                error
            )
        return self._return_after(time.monotonic() + self._hold)

    def _return_after(self, end: float) -> Callable[[], None]:
        def leave() -> None:
            wait = max(0.0, end - time.monotonic())
            self._loop.add_callback(self._loop.call_later, wait, self._leases.release)

        return leave


def _nothing() -> None:
    """Give nothing back."""


KEPT = 2
"""Renders whose map and model a process keeps open."""


@dataclass
class _Opened:
    """A render made ready in this process."""

    job: Job
    translator: Translator
    store: Store
    report: Report
    threads: int
    told: int = 0
    """Warnings that were passed on."""


_kept: dict[str, _Opened] = {}
_opening = threading.Lock()
_generating = threading.Lock()
"""One block at a time is generated, whatever the threads of the worker; others are compressed."""


def check_worker(order: Order) -> Report | Failure:
    """Open everything here and report what was found."""
    try:
        return _open(order).report
    except Maptile2satError as error:
        return Failure.of(_named(error), _address(), unfit=True)


def make_block(order: Order, index: int) -> Made | Failure:
    """Render a block and bring it to its place, unless this worker does not fit."""
    try:
        opened = _open(order)
    except Maptile2satError as error:
        return Failure.of(_named(error), _address(), unfit=True)
    try:
        return _made(order, opened, index)
    except ErrorPictureError as error:
        error.tiles |= opened.job.repeats.found
        return Failure.of(error, _address())
    except Maptile2satError as error:
        return Failure.of(error, _address())


def _named(error: Maptile2satError) -> Maptile2satError:
    """Return an error of opening things that says where: other workers may see them."""
    if not isinstance(error, (ClusterError, UsageError)):
        error.args = (f"worker {_address()}: {error}",)
    return error


def _made(order: Order, opened: _Opened, index: int) -> Made:
    name, window = order.plan.name(index), order.plan.part(index)
    block, record = _rendered(order, opened, name, window)
    _refuse_late(order, opened.store)  # an upload takes its time
    context = mosaic.context_of(window, opened.translator)
    columns, rows = columns_and_rows(opened.job.source, context)
    # those that it needed, whichever block met them first
    masked = opened.job.masked.among(columns, rows)
    # last: a block with a record is done
    opened.store.write(record_file(name), record_text(record, order.job, masked))
    return Made(
        index,
        record,
        block.stats.cells,
        block.stats.skipped,
        block.stats.generator_seconds,
        _news(opened),
        masked,
        opened.job.repeats.among(columns, rows),
    )


def _rendered(
    order: Order, opened: _Opened, name: str, window: Window
) -> tuple[Block, BlockRecord]:
    """Render a block and bring its file, if it has one, to its place."""
    file = block_file(name)
    creation = {**order.creation}
    creation.setdefault("NUM_THREADS", str(opened.threads))
    with opened.store.scratch() as folder:
        path = folder / f"{name}.tif"
        block = render_block(
            opened.job,
            opened.translator,
            window,
            path,
            order.tags,
            creation,
            generating=_generating,
        )
        opened.job.repeats.refuse()
        if block.empty:
            return block, BlockRecord(name, window, None, 0, "", masked=True)
        digest, size = sha256_of(path), path.stat().st_size
        _refuse_late(order, opened.store)
        opened.store.put(path, file, digest)
    return block, BlockRecord(name, window, file, size, digest, masked=block.masked)


def _news(opened: _Opened) -> tuple[str, ...]:
    """Return the warnings that came up since the last block."""
    texts = tuple(opened.job.notices.texts)
    first, opened.told = opened.told, len(texts)
    return texts[first:]


def forget_tiles(order: Order, tiles: Collection[Tile]) -> None:
    """Delete what this process has kept of tiles that turned out to be none."""
    opened = _kept.get(order.id)
    if opened is not None and isinstance(opened.job.source, TiledSource):
        opened.job.source.discard(tiles)


def _open(order: Order) -> _Opened:
    """Return what is open for an order; open it, and refuse if it would give other pixels.

    Raises:
        ClusterError: If this worker does not fit.
        Maptile2satError: If the map or the model cannot be used.
    """
    with _opening:
        opened = _kept.get(order.id)
        if opened is None:
            opened = _opened_anew(order)
            _kept[order.id] = opened
            while len(_kept) > KEPT:
                _kept.pop(next(iter(_kept))).job.source.close()
    if order.facts is not None:
        _refuse_other(order, opened.report)
    return opened


def _opened_anew(order: Order) -> _Opened:
    from distributed import get_worker

    worker = get_worker()
    if order.version != __version__:
        raise ClusterError(
            f"worker {worker.address} has maptile2sat {__version__}, here it is {order.version}: "
            "install the same version"
        )
    store = open_store(order.store)
    _see(store, order)
    changes: dict[str, Any] = {}
    if order.limits is not None:
        changes["gate"] = SharedGate(order.limits, worker)
        changes["max_connections"] = order.limits.connections
    if order.user_agent is not None:
        changes["user_agent"] = order.user_agent
    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
        job = open_job(order.source, order.options, lambda text: None, **changes)
    try:
        device = device_of(job)
        translator = translator_of(job, device)
        tags = tags_of(job, device, translator)
        tiles = checked_tiles(job, translator)
        threads = computing_threads()
        facts = facts_of(job, tags["NUMERICS"])
    except BaseException:
        job.source.close()
        raise
    report = Report(
        worker.address,
        facts,
        threads,
        tags,
        tiles,
        translator.exact,
        max(translator.reach, MASK_BLOCK),
        tuple(job.notices.texts),
    )
    return _Opened(job, translator, store, report, threads, told=len(job.notices.texts))


def _see(store: Store, order: Order) -> None:
    """Make sure that this worker writes to where the others do.

    Raises:
        ClusterError: If it does not.
    """
    try:
        seen = store.read(_token(order)) == order.id.encode()
        if seen:
            store.write(f"{_token(order)}.{os.getpid()}.{_address().rpartition(':')[2]}", b"")
    except Maptile2satError as error:
        raise ClusterError(f"worker {_address()}: {error}") from error
    if not seen:
        raise ClusterError(
            f"worker {_address()} does not see the output {store.place}: workers need a folder "
            "that is shared under the same path, or an object store, -o s3://bucket/prefix"
        )


def _refuse_late(order: Order, store: Store) -> None:
    """Write nothing once the run is over: another one may have begun there.

    Raises:
        OutputError: If it is.
    """
    if not store.has(_token(order)):
        raise OutputError(f"the render into {store.place} is over")


def _token(order: Order) -> str:
    """Return the file that is there as long as a run is."""
    return f"{WORK}/{order.id}"


def _refuse_other(order: Order, report: Report) -> None:
    assert order.facts is not None
    texts = disagreements(order.facts, report.facts)
    if texts:
        raise ClusterError(
            f"worker {report.worker} (threads: {report.threads}) would make other pixels "
            f"({'; '.join(texts)}), and they must not be mixed: give all the same map and model, "
            "in whole numbers, or use workers of one kind"
        )


def _address() -> str:
    from distributed import get_worker

    address: str = get_worker().address
    return address


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C to the process that shares out the work: what Dask calls of a `preload`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
