"""Keeping no work that a server's error pictures are in."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from maptile2sat.errors import ErrorPictureError, SourceError
from maptile2sat.geo.grid import TILE, Window
from maptile2sat.models.generator import Translator
from maptile2sat.output.manifest import block_file
from maptile2sat.output.store import WORK, record_file
from maptile2sat.rendering import mosaic
from maptile2sat.rendering.blocks import Order
from maptile2sat.rendering.job import Job
from maptile2sat.rendering.work import Claim, Ledger, Partial
from maptile2sat.rendering.worker import forget_tiles
from maptile2sat.sources import takes_any
from maptile2sat.sources.tiles import Repeated, Sightings, TiledSource


@contextmanager
def without_error_pictures(job: Job, translator: Translator, partial: Partial) -> Iterator[None]:
    """Have the cells made that error pictures turn out to be in count as not done.

    An error picture is known as one at some place only; cells with the places before are on disk
    by then.

    Raises:
        ErrorPictureError: If any was noticed, whether or not anybody was told.
    """
    cells = mosaic.cells_of(job.window, translator)

    def holds_any(col: int, row: int) -> bool:
        cell = cells.at(*cells.place(Window(col, row, 1, 1)))
        return takes_any(job.source, mosaic.context_of(job.window, translator, cell), tiles)

    try:
        yield
        job.repeats.refuse()
    finally:
        if tiles := job.repeats.found:
            partial.forget(holds_any)


# Error pictures, also those that workers have seen at few places each, and their blocks


def check_sightings(job: Job, sightings: Sightings) -> None:
    """Take note of the pictures of a block's tiles; a worker knows only of those that it has read.

    Raises:
        ErrorPictureError: If one of them is an error picture.
    """
    source, info = job.source, job.source.info
    for picture, tiles in job.repeats.add(sightings):
        assert isinstance(source, TiledSource)  # others have no tiles to see
        # this process looks at one, and at nothing else by now if the server is well again
        with suppress(SourceError):
            source.loader.load(*tiles[0])
        if not job.repeats.may_repeat(picture):
            zoom = (info.grid.zoom or 0) - (info.tile_side > TILE)
            raise job.repeats.error(info.name, zoom, Repeated(picture, tiles))


def take_back(
    error: ErrorPictureError,
    job: Job,
    order: Order,
    claim: Claim,
    ledger: Ledger,
    *,
    margin: int,
    under_way: Collection[int],
    client: Any,
) -> None:
    """Remove the blocks that an error picture is in, so that they are made again.

    Args:
        error: What is known of it.
        job: The render.
        order: What the workers were told.
        claim: The output.
        ledger: The blocks that are done.
        margin: Pixels around a block on which it may depend.
        under_way: Blocks that workers have, of which it is not known what they have read.
        client: The Dask client.
    """
    tiles = error.tiles | job.repeats.found | job.repeats.places(error.picture)
    plan, store = order.plan, claim.store
    store.remove((f"{WORK}/{order.id}",))  # first: from now on workers write no record
    kept = False
    for index in range(len(plan)):
        if index in under_way or takes_any(job.source, plan.part(index).grown(margin), tiles):
            name = plan.name(index)
            store.remove((record_file(name), block_file(name)))
        else:
            kept = kept or ledger.has(index)
    claim.kept = kept
    if isinstance(job.source, TiledSource):
        job.source.discard(tiles)
    with suppress(OSError, TimeoutError):  # of a cluster that is going away
        client.run(functools.partial(forget_tiles, order, tiles), on_error="ignore")
