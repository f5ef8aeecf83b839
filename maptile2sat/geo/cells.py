"""How a window is cut into the cells that a generator makes at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from maptile2sat.geo.grid import Window


@dataclass(frozen=True)
class Cells:
    """Cells of one size, side by side, that cover a window.

    Attributes:
        first: The upper left one.
        across: How many there are in a row.
        down: How many rows there are.
    """

    first: Window
    across: int
    down: int

    @classmethod
    def of(cls, window: Window, side: int, step: int) -> Cells:
        """Cut a window into as few equal cells as there can be.

        Where `step` is `side`, cells lie at fixed places of the grid.

        Args:
            window: What they are to cover.
            side: The most pixels along a side of a cell; a multiple of `step`.
            step: Cells begin at multiples of it, and their sides are multiples of it.
        """
        col, width, across = _cut(window.col, window.right, side, step)
        row, height, down = _cut(window.row, window.bottom, side, step)
        return cls(Window(col, row, width, height), across, down)

    def __iter__(self) -> Iterator[Window]:
        """Yield the cells, row by row."""
        for row in range(self.down):
            for col in range(self.across):
                yield self.at(col, row)

    def __len__(self) -> int:
        """Return how many there are."""
        return self.across * self.down

    def at(self, col: int, row: int) -> Window:
        """Return the cell in a column and row of cells."""
        return self.first.shifted(col * self.first.width, row * self.first.height)

    def place(self, window: Window) -> tuple[int, int]:
        """Return column and row of the cell in which a window begins."""
        return (
            (window.col - self.first.col) // self.first.width,
            (window.row - self.first.row) // self.first.height,
        )

    @property
    def covered(self) -> Window:
        """The pixels of all cells."""
        return self.first._replace(
            width=self.across * self.first.width, height=self.down * self.first.height
        )


def _cut(start: int, end: int, side: int, step: int) -> tuple[int, int, int]:
    """Return start, length and number of the cells from `start` to `end`."""
    first = start // step * step
    length = max(end - first, 1)
    count = -(-length // side)
    each = -(-length // (count * step)) * step
    return first, each, count
