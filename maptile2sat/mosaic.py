"""Cutting an area into cells, generating each, and handing the pixels on.

Cells lie at fixed places of the grid, so the pixels of a cell do not depend on the area that
was asked for. Reading runs ahead in threads and writing follows in another, with a bounded
number of cells in flight.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from maptile2sat.grid import Window
from maptile2sat.noise import Noise, noise
from maptile2sat.sources import Source
from maptile2sat.translator import Translator

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
    """What a cell is generated from, with its halo."""

    image: Pixels
    mask: Pixels
    noise: Noise


@dataclass
class MosaicStats:
    """What a mosaic took.

    Attributes:
        cells: Cells generated.
        skipped: Cells without any map, not generated.
        generator_seconds: Time in the generator.
    """

    cells: int = 0
    skipped: int = 0
    generator_seconds: float = 0.0


def cells_of(window: Window, side: int) -> Iterator[Window]:
    """Yield the cells that `window` touches, row by row."""
    for row in range(window.row // side, -(-window.bottom // side)):
        for col in range(window.col // side, -(-window.right // side)):
            yield Window(col * side, row * side, side, side)


def cell_count(window: Window, side: int) -> int:
    """Return how many cells `window` touches."""
    covered = covered_by_cells(window, side)
    return (covered.width // side) * (covered.height // side)


def covered_by_cells(window: Window, side: int) -> Window:
    """Return the whole cells that `window` touches, as one window."""
    col, row = window.col // side * side, window.row // side * side
    return Window(
        col, row, -(-window.right // side) * side - col, -(-window.bottom // side) * side - row
    )


def make_mosaic(
    source: Source,
    translator: Translator,
    window: Window,
    *,
    seed: int,
    fill: tuple[int, int, int],
    take: Callable[[Cell], None],
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
        ahead: Cells to read ahead; changes no pixel.
        progress: Called with (cells done, all cells).

    Raises:
        SourceError: If the map cannot be read.
    """
    stats = MosaicStats()
    total = cell_count(window, translator.cell)
    with ThreadPoolExecutor(READERS, "read") as readers, ThreadPoolExecutor(1, "write") as writer:
        reads: deque[tuple[Window, Future[_Input]]] = deque()
        writes: deque[Future[None]] = deque()

        def generate_next() -> None:
            cell, given = reads.popleft()
            made = _generate(translator, cell, given.result(), fill, stats)
            while len(writes) >= WRITES_PENDING:
                writes.popleft().result()
            writes.append(writer.submit(take, _cut(made, window)))
            progress(stats.cells + stats.skipped, total)

        try:
            for cell in cells_of(window, translator.cell):
                source.prefetch(cell.grown(translator.halo))
                given = readers.submit(_read, source, cell, translator.halo, seed, fill)
                reads.append((cell, given))
                if len(reads) > ahead:
                    generate_next()
            while reads:
                generate_next()
            for write in writes:
                write.result()
        finally:
            for _, given in reads:
                given.cancel()
            for write in writes:
                write.cancel()
    return stats


def _read(source: Source, cell: Window, halo: int, seed: int, fill: tuple[int, int, int]) -> _Input:
    """Read a cell with its halo, the fill colour where there is no map."""
    window = cell.grown(halo)
    image, mask = source.read(window)
    if not mask.all():
        image = np.where(mask[..., None] == 0, np.array(fill, np.uint8), image)
    return _Input(image, mask, noise(seed, window, source.info.grid.wrap))


def _generate(
    translator: Translator,
    cell: Window,
    given: _Input,
    fill: tuple[int, int, int],
    stats: MosaicStats,
) -> Cell:
    """Generate one cell, or fill it if it has no map at all."""
    core = slice(translator.halo, translator.halo + translator.cell)
    drawn, mask = given.image[core, core], given.mask[core, core]
    if not mask.any():
        stats.skipped += 1
        # not black: lossy compression would bleed it into the neighbours
        return Cell(cell, drawn, np.full_like(drawn, fill), mask)
    start = time.perf_counter()
    image = translator.generate(given.image, given.noise)
    stats.generator_seconds += time.perf_counter() - start
    stats.cells += 1
    return Cell(cell, drawn, image, mask)


def _cut(cell: Cell, window: Window) -> Cell:
    """Return the part of a cell that lies in `window`."""
    part = cell.window.intersection(window)
    rows, cols = part.slices(cell.window)
    return Cell(part, cell.map[rows, cols], cell.image[rows, cols], cell.mask[rows, cols])


def seconds_per_cell(translator: Translator) -> float:
    """Return how long one cell takes on this machine, the first call's tracing left out."""
    window = Window(0, 0, translator.cell, translator.cell).grown(translator.halo)
    image = np.full((window.height, window.width, 3), 230, np.uint8)
    grains = noise(0, window)
    translator.generate(image, grains)
    start = time.perf_counter()
    translator.generate(image, grains)
    return time.perf_counter() - start
