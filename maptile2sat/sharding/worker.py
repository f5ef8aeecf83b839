"""What runs on a Dask worker: it opens map and model once, and renders blocks.

A process keeps what it has opened from block to block. Nothing here raises an error of this
package across Dask: it comes back as a `Failure`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import rasterio

from maptile2sat import mosaic
from maptile2sat._version import __version__
from maptile2sat.errors import (
    ClusterError,
    ErrorPictureError,
    Maptile2satError,
    OutputError,
    UsageError,
)
from maptile2sat.grid import Window
from maptile2sat.rendering.block import Block, render_block
from maptile2sat.rendering.job import (
    CACHE_BYTES,
    Job,
    checked_tiles,
    device_of,
    open_job,
    translator_of,
)
from maptile2sat.rendering.tags import tags_of
from maptile2sat.sharding.agreement import disagreements, facts_of
from maptile2sat.sharding.manifest import BlockRecord, block_file, sha256_of
from maptile2sat.sharding.order import Failure, Made, Order, Report
from maptile2sat.sharding.politeness import SharedGate
from maptile2sat.sharding.store import WORK, Store, open_store, record_file, record_text
from maptile2sat.sources import columns_and_rows
from maptile2sat.sources.masked import Tile
from maptile2sat.sources.tiled import TiledSource
from maptile2sat.translator import MASK_BLOCK, Translator, computing_threads

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
