"""Cutting an area into cells, generating each, and handing the pixels on.

A pixel does not depend on the area that was asked for: whole-number generators make the same of
it in any cell, others in cells at fixed places of the grid. Reading runs ahead in threads and
writing follows in another, with a bounded number of cells in flight.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maptile2sat.geo.cells import Cells
from maptile2sat.geo.grid import Window
from maptile2sat.models.generator import MASK_BLOCK, Translator
from maptile2sat.models.noise import noise
from maptile2sat.sources import Source

Pixels = npt.NDArray[np.uint8]
READERS = 2
WRITES_PENDING = 2


class Cell(NamedTuple):
    """A generated cell, cut to the area asked for.

    Attributes:
        window: The pixels of the grid.
        map: uint8 (height, width, 3), the map with the fill colour where it has no data.
        image: uint8 (height, width, 3), the generated image.
        mask: uint8 (height, width), 255 where there was a map.
    """

    window: Window
    map: Pixels
    image: Pixels
    mask: Pixels


class _Input(NamedTuple):
    """A cell's map and mask, where there is map near, and what it is generated from.

    `near` is None where all of it is; `packed` is None if there is no map.
    """

    image: Pixels
    mask: Pixels
    near: npt.NDArray[np.bool_] | None
    packed: Any

    @property
    def drawn(self) -> bool:
        """Whether there is any map."""
        return self.packed is not None


@dataclass
class MosaicStats:
    """What a mosaic took.

    Attributes:
        cells: Cells generated.
        skipped: Cells without any map, not generated.
        resumed: Cells that an earlier run had done.
        generator_seconds: Time in the generator.
    """

    cells: int = 0
    skipped: int = 0
    resumed: int = 0
    generator_seconds: float = 0.0


def cells_of(window: Window, translator: Translator) -> Cells:
    """Return the cells in which a translator generates `window`."""
    return Cells.of(window, translator.cell, translator.step)


def make_mosaic(
    source: Source,
    translator: Translator,
    window: Window,
    *,
    seed: int,
    fill: tuple[int, int, int],
    take: Callable[[Cell], None],
    done: Callable[[Window], bool] = lambda part: False,
    wanted: Callable[[Window], bool] | None = None,
    needed: Window | None = None,
    ahead: int = READERS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MosaicStats:
    """Generate every cell that `window` touches and hand it over, cut to the window.

    Args:
        source: The map.
        translator: The generator.
        window: The pixels wanted.
        seed: Of the noise.
        fill: Colour that the generator sees where there is no map.
        take: Called with each cell, in order, from one other thread.
        done: Whether the pixels of a cell, cut to the window, are there from an earlier run.
        wanted: Whether a cell is to be generated; None: all are. Of others nothing is handed over.
        needed: The pixels of map that must be there; `window`, unless it is part of more.
        ahead: Cells to read ahead; changes no pixel.
        progress: Called with (cells done, all cells).

    Raises:
        SourceError: If the map cannot be read.
    """
    stats = MosaicStats()
    cells = cells_of(window, translator)
    total = len(cells) if wanted is None else sum(map(wanted, cells))
    reads: deque[tuple[Window, Future[_Input] | None]] = deque()
    writes: deque[Future[None]] = deque()
    readers = ThreadPoolExecutor(READERS, "read")

    def give(cell: Cell) -> None:
        while len(writes) >= WRITES_PENDING:
            writes.popleft().result()
        writes.append(writer.submit(take, _cut(cell, window)))
        progress(stats.cells + stats.skipped + stats.resumed, total)

    line = _Line(translator, fill, stats, give)
    ahead = max(ahead, translator.batch * (1 + translator.overlap))

    def pass_on() -> None:
        cell, given = reads.popleft()
        line.add(cell, None if given is None else given.result())

    # what has been generated is written even if there will be no more
    with ThreadPoolExecutor(1, "write") as writer:
        try:
            for cell in filter(wanted or (lambda cell: True), cells):
                part = cell.intersection(window)
                if done(part):
                    stats.resumed += 1
                    continue
                given = None
                if _may_have_map(source, _blocks_of(part)):
                    source.prefetch(context_of(window, translator, cell))
                    given = readers.submit(
                        _read, source, cell, translator, window, needed or window, seed, fill
                    )
                reads.append((cell, given))
                if len(reads) > ahead:
                    pass_on()
            while reads:
                pass_on()
            line.end()
            for write in writes:
                write.result()
        except Exception:
            readers.shutdown(cancel_futures=True)
            raise
        finally:
            # an interrupt must not wait for a server that does not answer
            readers.shutdown(wait=False, cancel_futures=True)
    return stats


class _Line:
    """Feeds a translator with batches of cells, and hands on what comes out in their order.

    Where a GPU computes, a batch begins before the one before it is fetched: copies to and from
    the GPU then take place while it computes.
    """

    def __init__(
        self,
        translator: Translator,
        fill: tuple[int, int, int],
        stats: MosaicStats,
        give: Callable[[Cell], None],
    ) -> None:
        self.translator, self.fill, self.stats, self.give = translator, fill, stats, give
        self.waiting: list[tuple[Window, _Input | None]] = []
        self.under_way: deque[tuple[list[tuple[Window, _Input | None]], Any]] = deque()

    def add(self, cell: Window, given: _Input | None) -> None:
        """Take a cell; None if there is no map."""
        self.waiting.append((cell, given))
        if len(self.waiting) == self.translator.batch:
            self._start()

    def end(self) -> None:
        """Hand on what is left."""
        if self.waiting:
            self._start()
        while self.under_way:
            self._finish()

    def _start(self) -> None:
        group, self.waiting = self.waiting, []
        packed = [given.packed for _, given in group if given is not None and given.drawn]
        begin = time.perf_counter()
        self.under_way.append((group, self.translator.start(packed) if packed else None))
        self.stats.generator_seconds += time.perf_counter() - begin
        while len(self.under_way) > self.translator.overlap:
            self._finish()

    def _finish(self) -> None:
        group, started = self.under_way.popleft()
        begin = time.perf_counter()
        images = iter(self.translator.finish(started) if started is not None else [])
        self.stats.generator_seconds += time.perf_counter() - begin
        for cell, given in group:
            if given is None or not given.drawn:
                self.stats.skipped += 1
                self.give(_nothing(cell, self.fill))
            else:
                self.stats.cells += 1
                self.give(_generated(cell, given, next(images), self.fill))


def _may_have_map(source: Source, window: Window) -> bool:
    """Whether any of `window` lies where the source may have data."""
    info = source.info
    return any(True for _ in info.grid.pieces(window, info.extent))


def _nothing(window: Window, fill: tuple[int, int, int]) -> Cell:
    """Return pixels without a map: not black, which lossy compression would let bleed."""
    image = _filled(window, fill)
    return Cell(window, image, image, np.zeros((window.height, window.width), np.uint8))


def _filled(window: Window, fill: tuple[int, int, int]) -> Pixels:
    """Return a picture of one colour, written row by row: ten times as fast as by pixels."""
    image = np.empty((window.height, window.width, 3), np.uint8)
    image[:] = np.full((window.width, 3), fill, np.uint8)
    return image


def context_of(window: Window, translator: Translator, cell: Window | None = None) -> Window:
    """Return the pixels of map that the pixels of `window`, or of one cell in it, depend on."""
    cells = cells_of(window, translator).covered.grown(translator.halo)
    context = window.grown(max(translator.reach, MASK_BLOCK)).intersection(cells)
    return context if cell is None else cell.grown(translator.halo).intersection(context)


def _read(
    source: Source,
    cell: Window,
    translator: Translator,
    window: Window,
    needed: Window,
    seed: int,
    fill: tuple[int, int, int],
) -> _Input:
    """Read a cell with its halo, the fill colour where there is no map or none is needed."""
    whole = cell.grown(translator.halo)
    part = context_of(window, translator, cell)
    image, mask = source.read(part, needed)
    if part != whole or not mask.all():
        read, valid = image, mask
        image = _filled(whole, fill)
        mask = np.zeros((whole.height, whole.width), np.uint8)
        there = part.slices(whole)
        if valid.all():  # ten times as fast as picking pixels
            image[there] = read
        else:
            np.copyto(image[there], read, where=valid[..., None] > 0)
        mask[there] = valid
    core, around = cell.slices(whole), _blocks_of(cell)
    drawn, valid, near = image[core], mask[core], None
    if not valid.all():
        near = near_map(mask[around.slices(whole)])[cell.slices(around)]
        if not near.any():
            return _Input(drawn, valid, near, None)
    grains = noise(seed, whole, source.info.grid.wrap)
    return _Input(drawn, valid, near, translator.pack(image, grains))


def _generated(cell: Window, given: _Input, image: Pixels, fill: tuple[int, int, int]) -> Cell:
    """Return a generated cell, the fill colour where there is no map near."""
    if given.near is not None:
        image = np.where(given.near[..., None], image, np.array(fill, np.uint8))
    return Cell(cell, given.image, image, given.mask)


def _blocks_of(window: Window) -> Window:
    """Return the world's blocks of `MASK_BLOCK` that a window touches, as one window."""
    return Cells.of(window, MASK_BLOCK, MASK_BLOCK).covered


def near_map(mask: Pixels) -> npt.NDArray[np.bool_]:
    """Return whether there is any map in each pixel's block of `MASK_BLOCK`.

    Masked pixels beside the map keep what was generated, which lossy compression mixes into
    their neighbours; others get the fill colour, whether or not their cell holds any map.

    Args:
        mask: Of whole blocks, uint8 (height, width).
    """
    down, across = (side // MASK_BLOCK for side in mask.shape)
    parts = mask.reshape(down, MASK_BLOCK, across, MASK_BLOCK).any(axis=(1, 3))
    return parts.repeat(MASK_BLOCK, axis=0).repeat(MASK_BLOCK, axis=1)


def _cut(cell: Cell, window: Window) -> Cell:
    """Return the part of a cell that lies in `window`."""
    part = cell.window.intersection(window)
    rows, cols = part.slices(cell.window)
    return Cell(part, cell.map[rows, cols], cell.image[rows, cols], cell.mask[rows, cols])
