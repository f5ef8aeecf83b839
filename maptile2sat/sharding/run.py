"""A render on many machines: blocks of whole cells, given to Dask workers, in one folder."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maptile2sat._version import __version__
from maptile2sat.creation import creation_options
from maptile2sat.errors import ErrorPictureError
from maptile2sat.rendering.fitting import check_fit
from maptile2sat.rendering.job import Job, prepared
from maptile2sat.rendering.options import RenderOptions
from maptile2sat.rendering.tags import attribution_of
from maptile2sat.resources import models_folder
from maptile2sat.sharding.blocks import BlockPlan
from maptile2sat.sharding.claim import FORMAT, Claim
from maptile2sat.sharding.cluster import connected, workers_of
from maptile2sat.sharding.describing import describe
from maptile2sat.sharding.dispatch import Dispatcher
from maptile2sat.sharding.error_pictures import check_sightings, take_back
from maptile2sat.sharding.ledger import Ledger
from maptile2sat.sharding.manifest import MANIFEST, Manifest
from maptile2sat.sharding.options import ShardOptions, ShardResult
from maptile2sat.sharding.order import Made, Order, Report
from maptile2sat.sharding.politeness import limits_of
from maptile2sat.sharding.request import check_request
from maptile2sat.sharding.store import (
    WORK,
    FolderStore,
    Store,
    identity_of,
    open_store,
)
from maptile2sat.sharding.survey import agreed
from maptile2sat.sharding.worker import make_block
from maptile2sat.sources import SourceOptions
from maptile2sat.sources.headers import environment_headers, merged
from maptile2sat.stac import check_place, now


@dataclass
class _Tally:
    """What this run has done so far."""

    resumed: int = 0
    pixels: int = 0
    cells: int = 0
    skipped: int = 0
    generator_seconds: float = 0.0


def render_sharded(
    source: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    sharding: ShardOptions,
    options: RenderOptions | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    warn: Callable[[str], None] = lambda text: None,
    **changes: Any,
) -> ShardResult:
    """Render a map as a folder of blocks, with the workers of a Dask cluster.

    The pixels are those of `render`. With `sharding.dask` local, call it under
    `if __name__ == "__main__":`, since processes are started.

    Args:
        source: What `open_source` takes; None for the sample map. Workers of other machines must
            see it under the same name.
        output: A folder that workers see too, or an address that fsspec knows (`s3://...`).
        sharding: How the work is shared out.
        options: Everything else; `preview` and `cog` do not apply.
        progress: Called with (blocks done, all blocks).
        warn: Called with what the user should know.
        **changes: Fields of `RenderOptions` to set.

    Raises:
        Maptile2satError: If the map, the model, the cluster or the request cannot be used, or the
            output cannot be written; blocks that are done stay, for `resume`.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    check_request(output, sharding, options)
    creation = creation_options(options.profile or "deflate", options.creation_options, cog=True)
    if "NUM_THREADS" not in {name.upper() for name in options.creation_options}:
        del creation["NUM_THREADS"]  # each worker knows its own best
    store = open_store(os.fspath(output))
    with prepared(source, options, warn) as job, ExitStack() as stack:
        plan = BlockPlan(job.window, sharding.side(options.cell or job.bundle.description.cell))
        check_place(job.source.info.grid, job.window)
        claim = stack.enter_context(
            Claim(store, resume=options.resume, overwrite=options.overwrite)
        )
        check_fit(job)
        client = stack.enter_context(connected(sharding.dask, options.device))
        workers = len(workers_of(client))
        order = _order(job, plan, store, creation, workers)
        store.write(f"{WORK}/{order.id}", order.id.encode())
        order, report = agreed(client, order, job)
        header = _header(order, options)
        claim.describe_job(header)
        order = dataclasses.replace(order, job=identity_of(header))
        ledger = stack.enter_context(Ledger(plan))
        run = _Run(job, order, report, claim, ledger, _Tally(), progress)
        start = time.perf_counter()
        repeated = run.make_all(client, sharding.straggler_seconds)
        run.describe(header)
        seconds = time.perf_counter() - start
    # only now: a map that is closed says what it did not have
    return run.result(workers, repeated, seconds)


@dataclass
class _Run:
    """A sharded render under way."""

    job: Job
    order: Order
    report: Report
    claim: Claim
    ledger: Ledger
    tally: _Tally
    progress: Callable[[int, int], None]

    def make_all(self, client: Any, straggler_seconds: float) -> int:
        """Have the blocks made that are not there yet; return how many were made twice."""
        for index, record, missing in self.claim.records(self.order.plan):
            self.ledger.add(index, record)
            self.job.masked.add(missing)
        self.tally.resumed = len(self.ledger)
        self.progress(len(self.ledger), len(self.order.plan))
        dispatcher = Dispatcher(
            client,
            functools.partial(make_block, self.order),
            self.take,
            f"maptile2sat-{self.order.id}",
            self.job.notices.add,
            straggler_seconds,
        )
        try:
            dispatcher.run(self.ledger.missing())
        except ErrorPictureError as error:
            take_back(
                error,
                self.job,
                self.order,
                self.claim,
                self.ledger,
                margin=self.report.margin,
                under_way=dispatcher.under_way,
                client=client,
            )
            raise
        return dispatcher.repeated

    def take(self, made: Made) -> None:
        """Take a block that is done."""
        if not self.ledger.add(made.index, made.record):
            return
        self.claim.kept = True
        self.tally.pixels += made.record.window.width * made.record.window.height
        self.tally.cells += made.cells
        self.tally.skipped += made.skipped
        self.tally.generator_seconds += made.generator_seconds
        self.job.masked.add(made.masked)
        for text in made.warnings:
            if text not in self.job.notices.texts:
                self.job.notices.add(text)
        self.progress(len(self.ledger), len(self.order.plan))
        check_sightings(self.job, made.sightings)

    def describe(self, header: Mapping[str, Any]) -> None:
        """Write what makes one thing of the blocks."""
        manifest = Manifest(
            job=header,
            grid=self.job.source.info.grid,
            window=self.job.window,
            tags=self.order.tags,
            blocks=self.ledger,
            created=now(),
        )
        store = self.claim.store
        if isinstance(store, FolderStore):
            describe(store.root, manifest)
            return
        with tempfile.TemporaryDirectory() as folder:
            name = store.place.rpartition("/")[2]
            describe(Path(folder), manifest, name=name, overview=False)
            paths = [path for path in Path(folder).rglob("*") if path.is_file()]
            for path in sorted(paths, key=lambda path: path.name == MANIFEST):  # that one last
                store.write(path.relative_to(folder).as_posix(), path.read_bytes())

    def result(self, workers: int, repeated: int, seconds: float) -> ShardResult:
        """Put together what the user is told."""
        job, tally, ledger = self.job, self.tally, self.ledger
        grid, window = job.source.info.grid, job.window
        return ShardResult(
            output=self.claim.store.place,
            width=window.width,
            height=window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(window),
            source=job.source.info.name,
            attribution=attribution_of(job),
            blocks=len(ledger),
            empty_blocks=ledger.empty,
            resumed_blocks=tally.resumed,
            repeated_blocks=repeated,
            cells=tally.cells,
            skipped_cells=tally.skipped,
            tiles=self.report.tiles,
            bytes=ledger.bytes,
            seconds=round(seconds, 3),
            generator_seconds=round(tally.generator_seconds, 3),
            useful_megapixels_per_second=round(tally.pixels / 1e6 / seconds, 3),
            workers=workers,
            model=job.bundle.id,
            seed=job.options.seed,
            numerics=self.order.tags["NUMERICS"],
            exact=self.report.exact,
            warnings=job.notices.texts,
        )


def _order(
    job: Job, plan: BlockPlan, store: Store, creation: Mapping[str, str], workers: int
) -> Order:
    """Return what workers are told: nothing in it depends on where this process stands."""
    number = uuid.uuid4().hex[:12]
    options, folder = job.options, job.bundle.folder.resolve()
    shipped = folder.parent == models_folder().resolve()  # workers have their own
    origin = job.origin
    limits = None
    if job.source.info.remote:
        connections = SourceOptions().max_connections
        limits = limits_of(f"maptile2sat-{number}", options.rate, connections, workers)
    return Order(
        id=number,
        version=__version__,
        source=origin if "://" in origin else str(Path(origin).absolute()),
        options=dataclasses.replace(
            options,
            model=folder.name if shipped else str(folder),
            headers=merged(environment_headers(), options.headers),
            ca_bundle=options.ca_bundle and options.ca_bundle.absolute(),
            resume=False,
            overwrite=False,
        ),
        plan=plan,
        store=store.address,
        creation=creation,
        limits=limits,
        user_agent=os.environ.get("MAPTILE2SAT_USER_AGENT"),
    )


def _header(order: Order, options: RenderOptions) -> dict[str, Any]:
    """Return what decides the render's files, as JSON gives it back: what `job.json` says."""
    header: dict[str, Any] = json.loads(
        json.dumps(
            {
                "format": FORMAT,
                **(order.facts or {}),
                "block": order.plan.side,
                "profile": options.profile or "deflate",
                "creation": dict(order.creation),
            }
        )
    )
    return header
