"""The main job: a map in, one georeferenced satellite-style GeoTIFF out."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from maptile2sat import mosaic
from maptile2sat.device import Device, choose_device
from maptile2sat.errors import OutputError, UsageError
from maptile2sat.geotiff import (
    BYTES_PER_PIXEL,
    TEMPORARY_BYTES_PER_PIXEL,
    GeoTiffWriter,
    check_destination,
    creation_options,
)
from maptile2sat.partial import Partial
from maptile2sat.preview import Preview
from maptile2sat.rendering.job import (
    Job,
    check_fit,
    checked_tiles,
    made_of,
    prepared,
    translator_of,
)
from maptile2sat.rendering.options import RenderOptions, RenderPlan, RenderResult
from maptile2sat.rendering.tags import attribution_of, tags_of
from maptile2sat.translator import Translator


def render(
    source: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    options: RenderOptions | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    warn: Callable[[str], None] = lambda text: None,
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
        **changes: Fields of `RenderOptions` to set, for example `bbox=..., model=...`.

    Raises:
        Maptile2satError: If the map, the model or the request cannot be used, or the output
            cannot be written; then there is no output.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    path, preview_path = _destinations(output, options)
    creation = creation_options(options.profile, options.creation_options, cog=options.cog)
    with prepared(source, options, warn) as job:
        _check_different(job.origin, path, preview_path)
        device = choose_device(options.device, options.precision)
        translator = translator_of(job, device)
        tiles = checked_tiles(job, translator)
        check_fit(job)
        tags = tags_of(job, device, translator)
        start = time.perf_counter()
        stats = _write(job, translator, path, preview_path, tags, creation, progress)
        seconds = time.perf_counter() - start
    # only now: a map that is closed says what it did not have
    return _result(job, device, translator, stats, seconds, path, preview_path, tiles)


def _destinations(
    output: str | os.PathLike[str], options: RenderOptions
) -> tuple[Path, Path | None]:
    """Return where output and preview go, after checking that they can."""
    path = Path(output)
    check_destination(path, overwrite=options.overwrite)
    if options.preview is None:
        return path, None
    preview = Path(options.preview)
    if preview.suffix.lower() != ".png":
        raise UsageError(f"the preview {preview} is a PNG: give a name that ends in .png")
    check_destination(preview, overwrite=options.overwrite)
    return path, preview


def _check_different(origin: str | os.PathLike[str], path: Path, preview: Path | None) -> None:
    """Make sure that neither the map nor the output would be overwritten by something else.

    Raises:
        OutputError: If map, output and preview are not different files.
    """
    if preview is not None and preview.resolve() == path.resolve():
        raise OutputError(f"{path} cannot be both the output and the preview")
    for written in (path, preview):
        if written is not None and _same_file(written, origin):
            raise OutputError(f"{written} is the map itself: give another name")


def _same_file(one: Path, other: str | os.PathLike[str]) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist, or is an address
        return False


def _write(
    job: Job,
    translator: Translator,
    path: Path,
    preview_path: Path | None,
    tags: dict[str, str],
    creation: dict[str, str],
    progress: Callable[[int, int], None],
) -> mosaic.MosaicStats:
    """Generate every cell and write the output, and the preview if one was asked for."""
    grid, window, options = job.source.info.grid, job.window, job.options
    preview = Preview(window) if preview_path is not None else None
    made_from = made_of(job, tags["NUMERICS"])
    with (
        Partial(path, made_from, resume=options.resume, overwrite=options.overwrite) as partial,
        GeoTiffWriter(
            path, grid, window, tags, creation, cog=options.cog, folder=partial.folder
        ) as writer,
    ):
        writer.blocks.masked = partial.masked
        if preview is not None:
            for cell in mosaic.cells_of(window, translator.cell):
                part = cell.intersection(window)
                if partial.done(part):
                    drawn = job.source.read(part).image
                    preview.add(mosaic.Cell(part, drawn, *writer.blocks.read(part)))

        def take(cell: mosaic.Cell) -> None:
            writer.write(cell.window, cell.image, cell.mask)
            partial.add(cell.window, masked=bool((cell.mask == 0).any()))
            if preview is not None:
                preview.add(cell)

        stats = mosaic.make_mosaic(
            job.source,
            translator,
            job.window,
            seed=options.seed,
            fill=job.bundle.description.fill,
            take=take,
            done=partial.done,
            ahead=min(options.batch_size, mosaic.READERS),
            progress=progress,
        )
        saving: AbstractContextManager[None] = nullcontext()
        if preview is not None and preview_path is not None:
            saving = preview.saving(preview_path, tags)
        with saving:  # the preview gets its name once the output has, or neither does
            writer.finish()
        partial.remove()
    return stats


def _result(
    job: Job,
    device: Device,
    translator: Translator,
    stats: mosaic.MosaicStats,
    seconds: float,
    path: Path,
    preview_path: Path | None,
    tiles: int,
) -> RenderResult:
    """Put together what the user is told."""
    window, grid = job.window, job.source.info.grid
    return RenderResult(
        output=path,
        width=window.width,
        height=window.height,
        crs=grid.crs.to_string(),
        bounds=grid.bounds(window),
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
        device=device.kind,
        exact=translator.exact,
        preview=preview_path,
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
    """Return what `render` would do, writing nothing; times one cell for the estimate.

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
    paths = (None, None) if output is None else _destinations(output, options)
    creation_options(options.profile, options.creation_options, cog=options.cog)
    with prepared(source, options, warn) as job:
        if paths[0] is not None:
            _check_different(job.origin, *paths)
        translator = translator_of(job, choose_device(options.device, options.precision))
        tiles = checked_tiles(job, translator)
        check_fit(job, colours=not job.source.info.remote)
        cells = mosaic.cell_count(job.window, translator.cell)
        grid, window = job.source.info.grid, job.window
        pixels = window.width * window.height
        size = int(pixels * BYTES_PER_PIXEL[options.profile])
        return RenderPlan(
            source=job.source.info.name,
            model=job.bundle.id,
            width=window.width,
            height=window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(window),
            cells=cells,
            tiles=tiles,
            seconds=round(cells * mosaic.seconds_per_cell(translator), 1),
            output_bytes=size,
            temporary_bytes=int(pixels * TEMPORARY_BYTES_PER_PIXEL) + size,
            warnings=job.notices.texts,
        )


def _peak_rss_mb() -> float | None:
    """Return the largest memory of this process in megabytes, None where it is not known."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20) if sys.platform == "darwin" else peak / (1 << 10), 1)
