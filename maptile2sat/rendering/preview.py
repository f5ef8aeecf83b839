"""A small picture of a render: the map and the result side by side, made while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from maptile2sat.geo.grid import Window
from maptile2sat.output.geotiff import output_errors
from maptile2sat.rendering.mosaic import Cell

LONGEST = 1600
GAP = 8
PAPER = 255


class Preview:
    """Averages cells down to a picture of at most `LONGEST` px a side, in flat memory."""

    def __init__(self, window: Window) -> None:
        """Prepare for a render of `window`."""
        self.window = window
        self.factor = max(1, -(-max(window.width, window.height) // LONGEST))
        shape = (-(-window.height // self.factor), -(-window.width // self.factor))
        self._sums = np.zeros((2, *shape, 3), np.float32)
        self._weight = np.zeros((*shape, 1), np.float32)

    def add(self, cell: Cell) -> None:
        """Take a cell of the render; pixels without map are left out."""
        rows = np.arange(cell.window.row, cell.window.bottom) - self.window.row
        cols = np.arange(cell.window.col, cell.window.right) - self.window.col
        valid = (cell.mask > 0)[..., None].astype(np.float32)
        place = np.ix_(np.unique(rows // self.factor), np.unique(cols // self.factor))
        for sums, pixels in zip(self._sums, (cell.map, cell.image), strict=True):
            sums[place] += self._binned(pixels * valid, rows, cols)
        self._weight[place] += self._binned(valid, rows, cols)

    def _binned(
        self,
        values: npt.NDArray[np.float32],
        rows: npt.NDArray[np.int64],
        cols: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.float32]:
        """Add up values that fall into the same picture pixel."""
        row_starts = np.unique(rows // self.factor, return_index=True)[1]
        col_starts = np.unique(cols // self.factor, return_index=True)[1]
        summed = np.add.reduceat(values, row_starts, axis=0)
        return np.asarray(np.add.reduceat(summed, col_starts, axis=1), np.float32)

    @contextmanager
    def saving(self, path: Path, notes: Mapping[str, str]) -> Iterator[None]:
        """Write the PNG, map left, result right; it gets its name when the block ends well.

        Args:
            path: The PNG.
            notes: Its text entries.

        Raises:
            OutputError: If it cannot be written.
        """
        seen = self._weight > 0
        pictures = np.where(seen, self._sums / np.maximum(self._weight, 1), PAPER)
        left, right = np.rint(pictures).astype(np.uint8)
        gap = np.full((left.shape[0], GAP, 3), PAPER, np.uint8)
        information = PngImagePlugin.PngInfo()
        for key, value in notes.items():
            information.add_itxt(key, value)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with output_errors(path):
                picture = Image.fromarray(np.concatenate([left, gap, right], axis=1))
                picture.save(temporary, "PNG", pnginfo=information)
            yield
            with output_errors(path):
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
