"""Cutting an area into blocks of whole cells, which lie at the same places whatever the area."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from maptile2sat.grid import Window
from maptile2sat.sharding.manifest import block_name

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
