"""Blocks of a larger render: how an area is cut into them, and how one of them is made."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rasterio

import maptile2sat.errors
from maptile2sat.errors import ErrorPictureError, Maptile2satError
from maptile2sat.geo.grid import Window
from maptile2sat.models.generator import Translator
from maptile2sat.output.geotiff import GeoTiffWriter
from maptile2sat.output.manifest import BlockRecord, block_name
from maptile2sat.rendering import mosaic
from maptile2sat.rendering.job import CACHE_BYTES, Job
from maptile2sat.rendering.options import RenderOptions
from maptile2sat.sources.options import Tile
from maptile2sat.sources.tiles import Sightings


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


# Cutting an area into blocks of whole cells, which lie at the same places whatever the area

_NAME = re.compile(r"r(m?)(\d+)_c(m?)(\d+)")


@dataclass(frozen=True)
class BlockPlan:
    """The blocks of an area, numbered row by row; takes no memory for each of them.

    Attributes:
        window: The area in pixels of the grid.
        side: Side of a block in pixels, a multiple of the cell's.
    """

    window: Window
    side: int

    @property
    def row(self) -> int:
        """Row of the first block on the grid of blocks."""
        return self.window.row // self.side

    @property
    def col(self) -> int:
        """Column of the first block on the grid of blocks."""
        return self.window.col // self.side

    @property
    def rows(self) -> int:
        """Rows of blocks."""
        return -(-self.window.bottom // self.side) - self.row

    @property
    def cols(self) -> int:
        """Columns of blocks."""
        return -(-self.window.right // self.side) - self.col

    def __len__(self) -> int:
        return self.rows * self.cols

    def name(self, index: int) -> str:
        """Return the name of a block by its number."""
        row, col = divmod(index, self.cols)
        return block_name(self.row + row, self.col + col)

    def part(self, index: int) -> Window:
        """Return a block's pixels, cut to the area."""
        row, col = divmod(index, self.cols)
        whole = Window(
            (self.col + col) * self.side, (self.row + row) * self.side, self.side, self.side
        )
        return whole.intersection(self.window)

    def index(self, name: str) -> int | None:
        """Return a block's number by its name; None if it is no block of this area."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        row = int(found[2]) * (-1 if found[1] else 1) - self.row
        col = int(found[4]) * (-1 if found[3] else 1) - self.col
        inside = 0 <= row < self.rows and 0 <= col < self.cols
        return row * self.cols + col if inside else None

    def rows_of_names(self) -> Iterator[tuple[str, list[str]]]:
        """Yield, for each row of blocks, what their names begin with, and the names."""
        for row in range(self.rows):
            prefix = block_name(self.row + row, 0).partition("_")[0] + "_"
            yield prefix, [self.name(row * self.cols + col) for col in range(self.cols)]


# What travels between the scheduling side and the workers


@dataclass(frozen=True)
class Limits:
    """What a server of tiles allows to all workers together.

    Attributes:
        name: Of the semaphore that the workers share.
        leases: Requests under way at once, everywhere.
        hold: Seconds for which a lease is kept at least, so that `leases / hold` is the rate.
        connections: Connections that one worker keeps open.
    """

    name: str
    leases: int
    hold: float
    connections: int


@dataclass(frozen=True)
class Order:
    """A whole render, as each worker is told of it.

    Attributes:
        id: Of this run.
        version: Of the package that gives the order.
        source: The map, as the worker is to open it; may hold a key.
        options: The render.
        plan: Its blocks.
        store: Folder or address of the output; may hold a key.
        creation: GDAL's creation options of a block.
        limits: For a server of tiles; None for other maps.
        user_agent: What workers say to servers; None for their own.
        facts: What decides the pixels, as all found it; None as long as they were not asked.
        tags: Metadata of the files.
        job: What the records of blocks call the job that they are of; see `identity_of`.
    """

    id: str
    version: str
    source: str = field(repr=False)
    options: RenderOptions = field(repr=False)
    plan: BlockPlan
    store: str = field(repr=False)
    creation: Mapping[str, str]
    limits: Limits | None = None
    user_agent: str | None = None
    facts: Mapping[str, Any] | None = field(default=None, repr=False)
    tags: Mapping[str, str] = field(default_factory=dict, repr=False)
    job: str = ""


@dataclass(frozen=True)
class Report:
    """What a worker finds before it begins.

    Attributes:
        worker: Its address.
        facts: What decides the pixels there.
        threads: On how many threads it computes.
        tags: What it would write into the files.
        tiles: Tiles that the whole area takes.
        exact: Whether a pixel is a function of the map around it alone.
        margin: Pixels around a block on which it may depend.
        warnings: What the user should know.
    """

    worker: str
    facts: Mapping[str, Any]
    threads: int
    tags: Mapping[str, str]
    tiles: int
    exact: bool
    margin: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """A finished block.

    Attributes:
        index: Its number in the plan.
        record: What there is of it.
        cells: Cells generated.
        skipped: Cells without any map.
        generator_seconds: Time in the generator.
        warnings: What the user should know.
        masked: Tiles that the map does not have and that the block needed, by column and row.
        sightings: Tiles that the block needed, by picture, as far as it may be an error picture.
    """

    index: int
    record: BlockRecord
    cells: int
    skipped: int
    generator_seconds: float
    warnings: tuple[str, ...] = ()
    masked: Mapping[tuple[int, int], str] = field(default_factory=dict)
    sightings: Sightings = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """An error of a worker: a value, so that Dask does not print a traceback there.

    Attributes:
        worker: Its address.
        kind: Class of the error.
        message: Its text.
        unfit: Whether the worker must not take part, as against a block that failed.
        picture: The error picture, if that is the error.
        tiles: Those that are known to have it.
    """

    worker: str
    kind: str
    message: str
    unfit: bool = False
    picture: bytes = b""
    tiles: frozenset[Tile] = frozenset()

    @classmethod
    def of(cls, error: Maptile2satError, worker: str, *, unfit: bool = False) -> Failure:
        """Return an error of a worker."""
        failure = cls(worker, type(error).__name__, str(error), unfit)
        if isinstance(error, ErrorPictureError):
            return dataclasses.replace(failure, picture=error.picture, tiles=error.tiles)
        return failure

    @property
    def error(self) -> Maptile2satError:
        """The error again."""
        kind: type[Maptile2satError] = getattr(maptile2sat.errors, self.kind)
        error = kind.__new__(kind)  # some make their text of other arguments
        Exception.__init__(error, self.message)
        if isinstance(error, ErrorPictureError):
            error.picture, error.tiles = self.picture, self.tiles
        return error
