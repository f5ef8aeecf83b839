"""The main job: a map in, one georeferenced satellite-style GeoTIFF out."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maptile2sat._version import __version__
from maptile2sat.errors import ErrorPictureError
from maptile2sat.geo.grid import Window
from maptile2sat.models.device import Device
from maptile2sat.models.generator import NetworkTranslator, Translator
from maptile2sat.output import stac
from maptile2sat.output.folder import describe
from maptile2sat.output.geotiff import creation_options, output_errors
from maptile2sat.output.manifest import MANIFEST, Manifest
from maptile2sat.output.raw_blocks import BYTES_PER_PIXEL, RawBlocks
from maptile2sat.output.stac import check_place, now
from maptile2sat.output.store import WORK, FolderStore, Store, identity_of, open_store
from maptile2sat.paths import models_folder
from maptile2sat.rendering import mosaic
from maptile2sat.rendering.area import Area
from maptile2sat.rendering.blocks import BlockPlan, Made, Order, Report
from maptile2sat.rendering.checks import check_fit
from maptile2sat.rendering.cluster import connected, workers_of
from maptile2sat.rendering.dask import Dispatcher, agreed, check_request
from maptile2sat.rendering.error_pictures import check_sightings, take_back, without_error_pictures
from maptile2sat.rendering.formats import Output, choose_output
from maptile2sat.rendering.item import accompanied
from maptile2sat.rendering.job import (
    LARGE,
    Destinations,
    Job,
    attribution_of,
    check_different,
    checked_tiles,
    destinations,
    device_of,
    excess,
    made_of,
    prepared,
    seconds_per_cell,
    tags_of,
    translator_of,
    wanted_cells,
)
from maptile2sat.rendering.options import (
    RenderOptions,
    RenderPlan,
    RenderResult,
    ShardOptions,
    ShardResult,
)
from maptile2sat.rendering.preview import Preview
from maptile2sat.rendering.regrid import regrid
from maptile2sat.rendering.work import FORMAT, Claim, Ledger, Partial
from maptile2sat.rendering.worker import limits_of, make_block
from maptile2sat.sources import Hosts, SourceOptions
from maptile2sat.sources.base import columns_and_rows
from maptile2sat.sources.headers import environment_headers, merged

STATUS = Path("/proc/self/status")


def render(
    source: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    options: RenderOptions | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    warn: Callable[[str], None] = lambda text: None,
    hosts: Hosts | None = None,
    **changes: Any,
) -> RenderResult:
    """Render a map as satellite-style imagery.

    Args:
        source: What `open_source` takes; None for the sample map.
        output: The GeoTIFF to write.
        options: Everything else; see `RenderOptions`.
        progress: Called with (cells done, all cells).
        warn: Called with what the user should know as soon as it is known, from any thread;
            all of it is in the result too.
        hosts: Keeps the limits of map servers, if others ask them at the same time; then its rate
            counts.
        **changes: Fields of `RenderOptions` to set, for example `bbox=..., model=...`.

    Raises:
        Maptile2satError: If the map, the model or the request cannot be used, or the output
            cannot be written; then there is no output.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    places = destinations(output, options)
    form = choose_output(places.output, options)
    with prepared(source, options, warn, pyramid=form.pyramid, hosts=hosts) as job:
        check_different(job.origin, places)
        _check_form(form, job, places)
        device = device_of(job)
        translator = translator_of(job, device)
        tiles = checked_tiles(job, translator)
        check_fit(job)
        if text := form.warning():
            job.notices.add(text)
        tags = tags_of(job, device, translator)
        for text in translator.prepare(mosaic.cells_of(job.window, translator).first):
            job.notices.add(text)
        if not options.resume:  # whose pixels are on the disk in part
            _warn_of_excess(job, form, translator, places.output.parent)
        start = time.perf_counter()
        stats = _write(job, translator, form, places, tags, progress)
        seconds = time.perf_counter() - start
    # only now: a map that is closed says what it did not have
    return _result(job, form, device, translator, stats, seconds, places, tiles)


def _check_form(form: Output, job: Job, places: Destinations | None) -> None:
    """Make sure that the output, and its Item if one is wanted, can be of that place."""
    form.check(job.area.target)
    if places is not None and places.item is not None:
        stac.check_place(*form.shown(job.area.target))


def _write(
    job: Job,
    translator: Translator,
    form: Output,
    places: Destinations,
    tags: dict[str, str],
    progress: Callable[[int, int], None],
) -> mosaic.MosaicStats:
    """Generate every cell and write the output, and what else was asked for."""
    window, options, path = job.window, job.options, places.output
    fill = job.bundle.description.fill
    preview = Preview(window) if places.preview is not None else None
    first = mosaic.cells_of(window, translator).first
    made_from = {**made_of(job, tags["NUMERICS"]), "cells": [first.width, first.height]}
    with (
        Partial(path, made_from, resume=options.resume, overwrite=options.overwrite) as partial,
        _opened(path, partial.folder, window) as blocks,
    ):
        blocks.masked = partial.masked
        job.masked.add(partial.missing)
        if preview is not None:
            for cell in mosaic.cells_of(window, translator):
                part = cell.intersection(window)
                if partial.done(part):
                    drawn = job.source.read(part).image
                    preview.add(job.area.shown(mosaic.Cell(part, drawn, *blocks.read(part))))

        def take(cell: mosaic.Cell) -> None:
            with output_errors(path):
                blocks.write(cell.window, cell.image, cell.mask)
                blocks.sync()
            context = mosaic.context_of(cell.window, translator)
            partial.add(
                cell.window,
                masked=bool((cell.mask == 0).any()),
                missing=job.masked.among(*columns_and_rows(job.source, context)),
            )
            if preview is not None:
                preview.add(job.area.shown(cell))

        with without_error_pictures(job, translator, partial):
            stats = mosaic.make_mosaic(
                job.source,
                translator,
                window,
                seed=options.seed,
                fill=fill,
                take=take,
                done=partial.done,
                wanted=job.area.wanted(mosaic.cells_of(window, translator)),
                ahead=min(options.batch_size, mosaic.READERS),
                progress=progress,
            )
        saving: AbstractContextManager[None] = nullcontext()
        if preview is not None and places.preview is not None:
            saving = preview.saving(places.preview, tags)
        # the preview gets its name once the output has, or neither does
        with (
            saving,
            _finished(job, path, blocks) as pixels,
            accompanied(
                path,
                places.item,
                partial.folder,
                lambda: _described(job, form, path.stem, tags, masked=pixels.masked),
                cog=options.cog,
            ) as place,
        ):
            form.write(pixels, job.area.target, place, tags, fill)
        partial.remove()
    return stats


def _described(
    job: Job, form: Output, name: str, tags: dict[str, str], *, masked: bool
) -> stac.Render:
    """Return what STAC says of the output."""
    grid, window = form.shown(job.area.target)
    return stac.Render(
        name=name,
        grid=grid,
        window=window,
        tags=tags,
        masked=masked and form.transparent,
        created=stac.now(),
        architecture=job.bundle.description.architecture,
    )


@contextmanager
def _opened(path: Path, folder: Path, window: Window) -> Iterator[RawBlocks]:
    with output_errors(path):
        folder.mkdir(exist_ok=True)
        blocks = RawBlocks(folder, window)
    try:
        yield blocks
    finally:
        blocks.close()


@contextmanager
def _finished(job: Job, path: Path, blocks: RawBlocks) -> Iterator[RawBlocks]:
    """Give the output's pixels: those generated, or what is made of them on its own grid."""
    if not job.area.changed:
        yield blocks
        return
    area = job.area
    with _opened(path, blocks.folder / "output", area.target.window) as made:
        with output_errors(path):
            regrid(
                blocks,
                area.grid,
                made,
                area.target,
                resampling=job.options.resampling,
                cut=area.cut,
                fill=job.bundle.description.fill,
            )
        yield made


def _result(
    job: Job,
    form: Output,
    device: Device,
    translator: Translator,
    stats: mosaic.MosaicStats,
    seconds: float,
    places: Destinations,
    tiles: int,
) -> RenderResult:
    """Put together what the user is told."""
    grid, window = form.shown(job.area.target)
    return RenderResult(
        output=places.output,
        width=window.width,
        height=window.height,
        crs=grid.crs.to_string(),
        bounds=grid.bounds(window),
        zooms=form.zooms(job.area.target),
        source=job.source.info.name,
        attribution=attribution_of(job),
        cells=stats.cells,
        skipped_cells=stats.skipped,
        resumed_cells=stats.resumed,
        tiles=tiles,
        seconds=round(seconds, 3),
        generator_seconds=round(stats.generator_seconds, 3),
        useful_megapixels_per_second=round(window.width * window.height / 1e6 / seconds, 3),
        peak_rss_mb=_peak_rss_mb(),
        model=job.bundle.id,
        seed=job.options.seed,
        precision=device.precision,
        engine=translator.engine_name,
        device=device.kind,
        exact=translator.exact,
        preview=places.preview,
        item=places.item,
        warnings=job.notices.texts,
    )


def plan(
    source: str | os.PathLike[str] | None,
    output: str | os.PathLike[str] | None = None,
    options: RenderOptions | None = None,
    *,
    warn: Callable[[str], None] = lambda text: None,
    **changes: Any,
) -> RenderPlan:
    """Return what `render` would do, writing nothing; times a small cell for the estimate.

    No tile is fetched from a server for it; what describes a map (TileJSON, a PMTiles
    directory) is, and goes into the cache of downloads.

    Args:
        source: As for `render`.
        output: As for `render`, to check that it can be written; None leaves this out.
        options: As for `render`.
        warn: As for `render`.
        **changes: As for `render`.

    Raises:
        Maptile2satError: As `render` does.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    places = None if output is None else destinations(output, options)
    form = choose_output(None if places is None else places.output, options)
    with prepared(source, options, warn, pyramid=form.pyramid) as job:
        if places is not None:
            check_different(job.origin, places)
        _check_form(form, job, places)
        translator = translator_of(job, device_of(job))
        tiles = checked_tiles(job, translator)
        check_fit(job, colours=not job.source.info.remote)
        if text := form.warning():
            job.notices.add(text)
        cells = wanted_cells(job, translator)
        first = mosaic.cells_of(job.window, translator).first
        grid, window = form.shown(job.area.target)
        size, temporary = form.size(job.area.target)
        seconds = round(cells * seconds_per_cell(translator, first), 1)
        disk = _raw_bytes(job.area) + temporary + size
        if text := excess(seconds, disk, None if places is None else places.output.parent):
            job.notices.add(text)
        return RenderPlan(
            source=job.source.info.name,
            model=job.bundle.id,
            width=window.width,
            height=window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(window),
            zooms=form.zooms(job.area.target),
            cells=cells,
            tiles=tiles,
            seconds=seconds,
            output_bytes=size,
            temporary_bytes=disk,
            warnings=job.notices.texts,
        )


def _warn_of_excess(job: Job, form: Output, translator: NetworkTranslator, folder: Path) -> None:
    """Say before the work that it takes more disk or time than there is."""
    cells = mosaic.cells_of(job.window, translator)
    large = job.window.width * job.window.height > LARGE
    seconds = 0.0  # not timed unless it may matter
    if large:
        seconds = wanted_cells(job, translator) * seconds_per_cell(translator, cells.first)
    needed = _raw_bytes(job.area) + sum(form.size(job.area.target))
    if text := excess(seconds, needed, folder):
        job.notices.add(text)


def _raw_bytes(area: Area) -> int:
    """Return what the pixels take on disk before they are compressed."""
    windows = [area.window, *([area.target.window] if area.changed else [])]
    return sum(window.width * window.height for window in windows) * BYTES_PER_PIXEL


def _peak_rss_mb() -> float | None:
    """Return the largest memory of this process in megabytes, None where it is not known."""
    with suppress(OSError):  # Linux: what `resource` says may be that of whoever started this
        lines = STATUS.read_text().splitlines()
        kilobytes = next((line.split()[1] for line in lines if line.startswith("VmHWM")), "")
        if kilobytes.isdigit():
            return round(int(kilobytes) / (1 << 10), 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20) if sys.platform == "darwin" else peak / (1 << 10), 1)


# A render on many machines: blocks of whole cells, given to Dask workers, in one folder


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
