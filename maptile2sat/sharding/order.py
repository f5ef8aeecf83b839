"""What travels between the scheduling side and the workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import maptile2sat.errors
from maptile2sat.errors import ErrorPictureError, Maptile2satError
from maptile2sat.rendering.options import RenderOptions
from maptile2sat.sharding.blocks import BlockPlan
from maptile2sat.sharding.manifest import BlockRecord
from maptile2sat.sources.masked import Tile
from maptile2sat.sources.repeats import Sightings


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
