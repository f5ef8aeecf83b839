"""The held-out pairs that are measured, and the squares cut from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from affine import Affine

from maptile2sat.datasets.pairs import Pixels, list_pairs, read_pair
from maptile2sat.errors import UsageError
from maptile2sat.geo.crs import WEB_MERCATOR
from maptile2sat.geo.grid import Grid, Window
from maptile2sat.models.bundle import Bundle
from maptile2sat.models.device import Device
from maptile2sat.models.generator import Translator, load_translator, smallest_cell, usual_cell
from maptile2sat.rendering import mosaic
from maptile2sat.sources.base import Image, Mask, Read, SourceInfo, blank

CROP = 256
"""Side in pixels of what is measured."""

MIN_PAIRS = 4
"""Halves of a set need two pairs each."""

PROTOCOLS = ("crops", "resize")
"""`crops`: squares of the pairs' own pixels; `resize`: each half resized whole to one square."""


class Pair(NamedTuple):
    """A pair to measure.

    Attributes:
        name: Name of its file.
        map: uint8 (side, side, 3).
        real: uint8 (side, side, 3), the aerial photo.
    """

    name: str
    map: Pixels
    real: Pixels


def choose_files(data: Path, limit: int) -> list[Path]:
    """Return at most `limit` pairs of `data/val`, evenly chosen by name.

    Raises:
        TrainingError: If there are none.
        UsageError: If `limit`, or the number of pairs that there are, is below `MIN_PAIRS`.
    """
    if limit < MIN_PAIRS:
        raise UsageError(f"limit {limit}: at least {MIN_PAIRS} pairs are needed to compare sets")
    files = list_pairs(data / "val")
    if len(files) < MIN_PAIRS:
        raise UsageError(
            f"pairs in {data / 'val'}: {len(files)}, and at least {MIN_PAIRS} are needed"
        )
    chosen = np.linspace(0, len(files) - 1, min(limit, len(files))).round().astype(int)
    return [files[index] for index in chosen]


def read_pairs(files: Sequence[Path], map_side: str, protocol: str) -> list[Pair]:
    """Decode pairs, resized to `CROP` for the protocol `resize`.

    Raises:
        TrainingError: If one is damaged.
        UsageError: If there is no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"protocol '{protocol}' is not one of {', '.join(PROTOCOLS)}")
    resize = CROP if protocol == "resize" else 0
    return [Pair(path.name, *read_pair(path, map_side, resize)) for path in files]


def cut_squares(pictures: Sequence[Pixels]) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Cut pictures into the squares of `CROP` pixels that fit, from the middle.

    Args:
        pictures: Each uint8 (side, side, 3), side at least `CROP`.

    Returns:
        uint8 (N, 256, 256, 3), and for each the index of its picture.
    """
    squares, places = [], []
    for index, picture in enumerate(pictures):
        count = picture.shape[0] // CROP
        start = (picture.shape[0] - count * CROP) // 2
        lines = range(start, start + count * CROP, CROP)
        for row in lines:
            for col in lines:
                squares.append(picture[row : row + CROP, col : col + CROP])
                places.append(index)
    return np.stack(squares), places


# Generating pictures of maps in memory, through the same cells and halos as `render`


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
