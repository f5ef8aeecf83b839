"""What is served: the imagery that a model makes of a map, and the map itself.

A layer makes one cell at a time and cuts it into tiles. Its digest says all that decides its
pixels, so tiles kept by an earlier run are only used if they would come out the same.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from maptile2sat._version import __version__
from maptile2sat.errors import UsageError
from maptile2sat.geo.cells import Cells
from maptile2sat.geo.grid import TILE, Window
from maptile2sat.models.bundle import find_bundle
from maptile2sat.models.generator import Translator
from maptile2sat.rendering import RenderOptions
from maptile2sat.rendering.checks import check_fit
from maptile2sat.rendering.job import (
    Job,
    device_of,
    guard_of,
    made_of,
    prepared,
    tags_of,
    translator_of,
)
from maptile2sat.rendering.mosaic import Cell, make_mosaic
from maptile2sat.serving.images import Colour, Tile, pack
from maptile2sat.serving.options import RESERVED, ServeOptions
from maptile2sat.sources import Hosts, RepeatGuard
from maptile2sat.sources.tiles import TiledSource

METATILE = 512
"""Side of what is generated at once: the tile that is looked at and three of its neighbours."""

MAP_CELL = 1024
"""Side of what is read of the map at once."""

Clock = Callable[[str, float], None]
"""Told a stage's name and the seconds spent in it, from any thread."""

Tiles = dict[tuple[int, int], bytes]
"""Packed tiles by column and row."""


class Layer(Protocol):
    """Makes tiles of its own zoom, a cell of them at a time.

    Attributes:
        name: As it is called in addresses.
        digest: Differs whenever a pixel may.
        zoom: The zoom that its pixels have.
        window: The pixels of that zoom that it has.
        side: Side of a cell in pixels.
        ground: Colour of masked pixels where nothing can be transparent.
    """

    name: str
    digest: str
    zoom: int
    window: Window
    side: int

    @property
    def ground(self) -> Colour:
        """Return it."""

    def make(self, col: int, row: int) -> Tiles:
        """Make all tiles of a cell; `col` and `row` count cells. May be called from any thread.

        Raises:
            Maptile2satError: If the map cannot be read.
        """

    def forget(self, tiles: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        """Forget tiles of the map that turned out to be none.

        Returns:
            The cells that they are in, by column and row.
        """


def tiles_of(cell: Tile, window: Window) -> Tiles:
    """Cut the pixels of `window` into packed tiles."""
    made = {}
    for top in range(0, window.height, TILE):
        for left in range(0, window.width, TILE):
            part = np.s_[top : top + TILE, left : left + TILE]
            place = ((window.col + left) // TILE, (window.row + top) // TILE)
            made[place] = pack(Tile(cell.image[part], cell.mask[part]))
    return made


@dataclass
class ImageLayer:
    """The imagery that one model makes of a map."""

    name: str
    job: Job
    translator: Translator
    digest: str
    clock: Clock
    side: int = field(init=False)
    zoom: int = field(init=False)
    window: Window = field(init=False)

    def __post_init__(self) -> None:
        """Take a metatile, or where cells are fixed the cell of the model."""
        fixed = self.translator.step == self.translator.cell
        self.side = self.translator.cell if fixed else METATILE
        self.zoom = _zoom(self.job)
        self.window = self.job.window

    @property
    def ground(self) -> Colour:
        """The model's ground colour, as in JPEG tiles of `render`."""
        return self.job.bundle.description.fill

    @property
    def attribution(self) -> str:
        """Who is to be named, and that no camera saw it."""
        about = self.job.bundle.description
        owners = (self.job.source.info.attribution, about.attribution)
        return "; ".join(["synthetic imagery, made by maptile2sat", *filter(None, owners)])

    def make(self, col: int, row: int) -> Tiles:
        """Generate a cell."""
        window = Window(col * self.side, row * self.side, self.side, self.side)
        cell = _blank(window)
        start = time.perf_counter()
        generator = 0.0
        for part in _parts(self.job, window):
            stats = make_mosaic(
                self.job.source,
                self.translator,
                part.own,
                seed=self.job.options.seed,
                fill=self.job.bundle.description.fill,
                take=lambda made, part=part: _paste(cell, window, made, part),  # type: ignore[misc]
                ahead=0,
            )
            generator += stats.generator_seconds
        made = time.perf_counter()
        tiles = tiles_of(cell, window)
        self.clock("generate", generator)
        self.clock("read", made - start - generator)
        self.clock("pack", time.perf_counter() - made)
        return tiles

    def forget(self, tiles: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        """Forget tiles of the map; return the cells that depend on them."""
        return _forget(self.job, tiles, self.side, self.translator.halo)


@dataclass
class MapLayer:
    """The map itself."""

    job: Job
    digest: str
    clock: Clock
    name: str = "source"
    side: int = MAP_CELL
    zoom: int = field(init=False)
    window: Window = field(init=False)

    def __post_init__(self) -> None:
        """Take the map's zoom."""
        self.zoom = _zoom(self.job)
        self.window = self.job.window

    @property
    def ground(self) -> Colour:
        """The first model's ground colour."""
        return self.job.bundle.description.fill

    def make(self, col: int, row: int) -> Tiles:
        """Read a cell."""
        window = Window(col * self.side, row * self.side, self.side, self.side)
        cell = _blank(window)
        start = time.perf_counter()
        for part in _parts(self.job, window):
            read = self.job.source.read(part.own)
            _paste(cell, window, Cell(part.own, read.image, read.image, read.mask), part)
        tiles = tiles_of(cell, window)
        self.clock("map", time.perf_counter() - start)
        return tiles

    def forget(self, tiles: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        """Forget tiles of the map; return the cells that show them."""
        return _forget(self.job, tiles, self.side, 0)


def _forget(
    job: Job, tiles: Iterable[tuple[int, int]], side: int, margin: int
) -> set[tuple[int, int]]:
    tiles, length = list(tiles), job.source.info.tile_side
    if isinstance(job.source, TiledSource):
        job.source.discard(tiles)
    around = -(-(TILE << _zoom(job)) // side)
    return {
        (cell.col // side % around, cell.row // side)
        for x, y in tiles
        for cell in Cells.of(
            Window(x * length, y * length, length, length).grown(margin), side, side
        )
    }


class _Part(NamedTuple):
    """A part of the area served: in its own columns, and a whole turn around the world away."""

    own: Window
    there: Window


def _parts(job: Job, window: Window) -> Iterator[_Part]:
    for own, there in job.source.info.grid.pieces(window, job.window):
        yield _Part(own, there)


def _blank(window: Window) -> Tile:
    shape = (window.height, window.width)
    return Tile(np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8))


def _paste(cell: Tile, window: Window, made: Cell, part: _Part) -> None:
    place = made.window.shifted(part.there.col - part.own.col, 0).slices(window)
    cell.image[place], cell.mask[place] = made.image, made.mask


class _OneAtATime:
    """A translator that two cells may be given to at once: reading one, generating the other."""

    overlap = 0

    def __init__(self, translator: Translator) -> None:
        self.cell, self.batch, self.halo = translator.cell, translator.batch, translator.halo
        self.step, self.engine_name = translator.step, translator.engine_name
        self.reach, self.exact = translator.reach, translator.exact
        self.pack = translator.pack
        self.prepare = translator.prepare
        self._translator = translator

    def start(self, packed: Sequence[Any]) -> Any:
        """Generate when no other cell is being generated."""
        with _generating:
            return self._translator.finish(self._translator.start(packed))

    def finish(self, started: Any) -> Any:
        """Return what `start` made."""
        return started


_generating = threading.Lock()


@dataclass(frozen=True)
class Layers:
    """All that is served: the map, and the imagery of every model by name.

    `hosts` keeps the limits of map servers, for whatever asks them here.
    """

    map: MapLayer
    images: dict[str, ImageLayer]
    hosts: Hosts


@contextmanager
def open_layers(
    source: Any, options: ServeOptions, clock: Clock, warn: Callable[[str], None]
) -> Iterator[Layers]:
    """Open the map once for every model, with what suits it; close it at the end.

    Args:
        source: What `open_source` takes; None for the sample map.
        options: What to serve.
        clock: Told how long each stage takes.
        warn: Told what the user should know.

    Raises:
        Maptile2satError: If the map or a model cannot be used.
    """
    images: dict[str, ImageLayer] = {}
    hosts = Hosts(options.render.rate)
    guards: dict[int, RepeatGuard] = {}
    with ExitStack() as stack:
        for model in options.models:
            render = replace(options.render, model=model)
            # who asks for the same zoom gets the same tiles: their error pictures count together
            repeats = guards.setdefault(_wanted_zoom(render), guard_of(render))
            job = _job(stack, source, render, warn, hosts=hosts, repeats=repeats)
            translator = translator_of(job, device := device_of(job))
            check_fit(job, colours=not job.source.info.remote)
            name = _free_name(job.bundle.description.name, images)
            digest = _digest(made_of(job, tags_of(job, device, translator)["NUMERICS"]))
            images[name] = layer = ImageLayer(name, job, _OneAtATime(translator), digest, clock)
            translator.prepare(Window(0, 0, layer.side, layer.side))
        first = next(iter(images.values())).job
        about_map = {**made_of(first, ""), "model": None, "architecture": None, "seed": None}
        yield Layers(MapLayer(first, _digest(about_map), clock), images, hosts)


def _wanted_zoom(options: RenderOptions) -> int:
    """Return the zoom that a map of tiles is asked for."""
    return find_bundle(options.model).description.zoom if options.zoom is None else options.zoom


def _job(
    stack: ExitStack,
    source: Any,
    options: RenderOptions,
    warn: Callable[[str], None],
    **changes: Any,
) -> Job:
    """Open a map on the web mercator grid, warped to the model's zoom if it has another."""
    opened, told = ExitStack(), list[str]()
    # whatever its pixels are like: unless they are web mercator, they are not taken as they are
    anyhow = replace(options, native=True)
    job = opened.enter_context(prepared(source, anyhow, told.append, **changes))
    if job.source.info.grid.zoom is None:
        opened.close()
        zoomed = replace(options, zoom=job.bundle.description.zoom)
        return stack.enter_context(prepared(source, zoomed, warn, **changes))
    stack.push(opened)
    job.notices.tell = warn
    for text in told:
        warn(text)
    return job


def _zoom(job: Job) -> int:
    zoom = job.source.info.grid.zoom
    if zoom is None:
        raise UsageError(f"{job.source.info.name} has no web mercator grid: pass --zoom")
    return zoom


def _free_name(name: str, taken: dict[str, ImageLayer]) -> str:
    """Return a name for addresses: a second model of one name gets a number."""
    number = 1
    free = name
    while free in taken or free in RESERVED:
        number += 1
        free = f"{name}-{number}"
    return free


def _digest(values: dict[str, Any]) -> str:
    text = json.dumps({**values, "maptile2sat": __version__}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
