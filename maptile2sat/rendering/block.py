"""One block of a larger render: whole cells of it, cut to the area asked for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import rasterio

from maptile2sat import mosaic
from maptile2sat.geotiff import GeoTiffWriter
from maptile2sat.grid import Window
from maptile2sat.rendering.job import CACHE_BYTES, Job
from maptile2sat.translator import Translator


@dataclass(frozen=True)
class Block:
    """What came of a block.

    Attributes:
        stats: What it took.
        empty: Whether there is no map at all, and so no file.
        masked: Whether any pixel is masked.
    """

    stats: mosaic.MosaicStats
    empty: bool
    masked: bool


def render_block(
    job: Job,
    translator: Translator,
    window: Window,
    path: Path,
    tags: Mapping[str, str],
    creation: Mapping[str, str],
    *,
    generating: AbstractContextManager[object] | None = None,
) -> Block:
    """Render a part of a job's window as a COG, with the pixels that a render of all of it has.

    Args:
        job: The whole render.
        translator: Its generator.
        window: The part, inside the job's window.
        path: The file to write, in an existing folder.
        tags: Metadata of the file.
        creation: What `creation_options` returned.
        generating: Held while cells are made, but not while the file is compressed.

    Raises:
        Maptile2satError: If the map cannot be read or the file cannot be written.
    """
    seen = {"map": False, "hole": False}
    with (
        rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES),
        GeoTiffWriter(path, job.source.info.grid, window, tags, creation) as writer,
    ):

        def take(cell: mosaic.Cell) -> None:
            seen["map"] = seen["map"] or bool(cell.mask.any())
            seen["hole"] = seen["hole"] or not bool(cell.mask.all())
            writer.write(cell.window, cell.image, cell.mask)

        with generating or nullcontext():
            stats = mosaic.make_mosaic(
                job.source,
                translator,
                window,
                seed=job.options.seed,
                fill=job.bundle.description.fill,
                take=take,
                needed=job.window,
                ahead=min(job.options.batch_size, mosaic.READERS),
            )
        if seen["map"]:
            writer.finish()
    return Block(stats, empty=not seen["map"], masked=seen["hole"])
