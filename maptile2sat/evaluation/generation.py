"""Generating pictures of maps in memory, through the same cells and halos as `render`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from affine import Affine

from maptile2sat import mosaic
from maptile2sat.bundle import Bundle
from maptile2sat.device import Device
from maptile2sat.evaluation.samples import Pair
from maptile2sat.grid import Grid, Window
from maptile2sat.projection import WEB_MERCATOR
from maptile2sat.source import Image, Mask, Read, SourceInfo, blank
from maptile2sat.translator import Translator, load_translator, smallest_cell, usual_cell

Pixels = npt.NDArray[np.uint8]

APART = 1 << 16
"""Columns between two maps, about, so that each has its own noise."""


class MapInMemory:
    """One map as a source: its pixels, and nothing around them."""

    def __init__(self, image: Image, col: int, row: int) -> None:
        """Place a map uint8 (height, width, 3) at a column and row of a metre grid."""
        self._image = image
        extent = Window(col, row, image.shape[1], image.shape[0])
        grid = Grid(WEB_MERCATOR, Affine.scale(1.0, -1.0))
        self._info = SourceInfo("map in memory", grid, extent)

    @property
    def info(self) -> SourceInfo:
        """What the source covers."""
        return self._info

    def read(self, window: Window, needed: Window | None = None) -> Read:
        """Return the pixels of `window`, masked where the map does not reach."""
        found = blank(window)
        part = window.intersection(self._info.extent)
        if not part.empty:
            there = part.slices(window)
            found.image[there] = self._image[part.slices(self._info.extent)]
            mask: Mask = found.mask
            mask[there] = 255
        return found

    def prefetch(self, window: Window) -> None:
        """Do nothing: the pixels are in memory."""

    def close(self) -> None:
        """Do nothing."""


class Generator:
    """Makes pictures of maps with one model.

    Attributes:
        bundle: The model.
        device: Where it computes.
        exact: Whether a pixel depends on the map around it alone.
    """

    def __init__(self, bundle: Bundle, device: Device, side: int) -> None:
        """Load a model for maps of about `side` pixels, so that each takes one cell."""
        self.bundle, self.device = bundle, device
        about = bundle.description
        window = int(about.architecture.get("size", 0)) if about.kind == "unet" else 0
        self._unit = smallest_cell(window)
        cell = min(usual_cell(window), -(-side // self._unit) * self._unit)
        self._translator = load_translator(bundle, device, cell=cell)
        self.exact = self._translator.exact
        # made on first use; for small maps it is the same
        self._small = self._translator if cell == self._unit else None

    def pictures(
        self,
        pairs: Sequence[Pair],
        seed: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Pixels]:
        """Return a picture for each map, of the same size."""
        made = []
        cell = self._translator.cell
        for index, pair in enumerate(pairs):
            col = index * APART // cell * cell
            made.append(self._make(self._translator, pair.map, col, 0, seed))
            progress(index + 1, len(pairs))
        return made

    def with_borders(
        self, pairs: Sequence[Pair], seed: int
    ) -> Iterator[tuple[Pair, Pixels, list[int]]]:
        """Yield each pair, its picture made of small cells, and where their borders lie in it.

        Maps are moved by half a cell, so that borders run through those of one cell too.
        """
        if self._small is None:
            self._small = load_translator(self.bundle, self.device, cell=self._unit)
        shift = self._unit // 2
        for index, pair in enumerate(pairs):
            col = index * APART // self._unit * self._unit + shift
            picture = self._make(self._small, pair.map, col, shift, seed)
            yield pair, picture, list(range(self._unit - shift, pair.map.shape[0], self._unit))

    def _make(self, translator: Translator, drawn: Pixels, col: int, row: int, seed: int) -> Pixels:
        source = MapInMemory(drawn, col, row)
        extent = source.info.extent
        picture = np.empty_like(drawn)

        def take(cell: mosaic.Cell) -> None:
            picture[cell.window.slices(extent)] = cell.image

        fill = self.bundle.description.fill
        mosaic.make_mosaic(source, translator, extent, seed=seed, fill=fill, take=take)
        return picture
