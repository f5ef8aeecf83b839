"""Where pairs are cut, and which of them are for validation.

The area is cut into squares that touch but do not overlap. Validation squares are taken in
small blocks; every square that touches one, even at a corner, is left out, so that a whole pair
of ground lies between validation and training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from maptile2sat.grid import Window

LARGEST_BLOCK = 4
"""Most squares on a side of a block of validation squares."""

SMALL = 36
"""Squares below which blocks are taken first where few others are lost beside them."""


class Cell(NamedTuple):
    """A square, by its place among the squares."""

    col: int
    row: int


@dataclass(frozen=True)
class Lattice:
    """Squares of an area of a grid.

    Attributes:
        left: First column of the first square, in pixels of the grid.
        top: First row of the first square.
        columns: Squares across.
        rows: Squares down.
        size: Side of a square in pixels.
    """

    left: int
    top: int
    columns: int
    rows: int
    size: int

    @classmethod
    def within(cls, area: Window, size: int) -> Lattice:
        """Return as many squares as fit, in the middle of `area`."""
        columns, rows = max(0, area.width) // size, max(0, area.height) // size
        left = area.col + (area.width - columns * size) // 2
        top = area.row + (area.height - rows * size) // 2
        return cls(left, top, columns, rows, size)

    def __len__(self) -> int:
        return self.columns * self.rows

    def window(self, cell: Cell) -> Window:
        """Return the pixels of a square."""
        col, row = self.left + cell.col * self.size, self.top + cell.row * self.size
        return Window(col, row, self.size, self.size)

    def shuffled(self, seed: int) -> list[Cell]:
        """Return all squares in the order that `seed` says."""
        order = np.random.default_rng([seed, 1]).permutation(len(self))
        return [Cell(int(i) % self.columns, int(i) // self.columns) for i in order]

    def blocks(self, side: int, seed: int) -> list[list[Cell]]:
        """Return all squares in blocks of at most `side` squares a side, as `seed` orders them."""
        blocks = [
            [
                Cell(col, row)
                for row in range(top, min(top + side, self.rows))
                for col in range(left, min(left + side, self.columns))
            ]
            for top in range(0, self.rows, side)
            for left in range(0, self.columns, side)
        ]
        order = np.random.default_rng([seed, 2]).permutation(len(blocks))
        shuffled = [blocks[int(i)] for i in order]
        if len(self) < SMALL:
            shuffled.sort(key=lambda block: len(self.around(block)))
        return shuffled

    def around(self, cells: Iterable[Cell]) -> set[Cell]:
        """Return the squares that touch `cells` and are none of them."""
        inner = set(cells)
        return {
            Cell(col, row)
            for cell in inner
            for col in range(max(0, cell.col - 1), min(self.columns, cell.col + 2))
            for row in range(max(0, cell.row - 1), min(self.rows, cell.row + 2))
        } - inner


class Parts(NamedTuple):
    """The squares of a set.

    Attributes:
        train: Those for training.
        val: Those for validation.
        gap: Usable ones that are left out because they touch validation; empty if a count was
            wanted, because not all are looked at then.
    """

    train: list[Cell]
    val: list[Cell]
    gap: list[Cell]


Assess = Callable[[Cell, Sequence[Cell]], bool]
"""Whether a square is usable; the second argument are those that may be asked for next."""

_AHEAD = 3


def choose(
    lattice: Lattice, assess: Assess, *, count: int | None, val_fraction: float, seed: int
) -> Parts:
    """Choose squares: a function of its arguments and of what `assess` says alone.

    Args:
        lattice: The squares.
        assess: Asked about as few of them as will do.
        count: Pairs wanted, None for all.
        val_fraction: Part of them for validation.
        seed: Decides the order.
    """
    order = lattice.shuffled(seed)
    if count is None:
        wanted = len(_usable(order, assess, None))
        parts = _split(lattice, order, assess, wanted, val_fraction, seed, limit=False)
        gap = [cell for cell in sorted(lattice.around(parts.val)) if assess(cell, ())]
        return parts._replace(gap=gap)
    wanted = min(count, len(lattice))
    parts = _split(lattice, order, assess, wanted, val_fraction, seed)
    if len(parts.train) + len(parts.val) < wanted:
        usable = len(_usable(order, assess, None))
        if usable < wanted:  # a part of what was wanted is too much of what there is
            parts = _split(lattice, order, assess, usable, val_fraction, seed)
    return parts


def _split(
    lattice: Lattice,
    order: Sequence[Cell],
    assess: Assess,
    wanted: int,
    val_fraction: float,
    seed: int,
    *,
    limit: bool = True,
) -> Parts:
    """Choose squares for validation, then others that do not touch them; the gap is left empty.

    Args:
        lattice: The squares.
        order: All of them, in the order in which they are taken for training.
        assess: Whether one is usable.
        wanted: How many are wanted in all.
        val_fraction: Part of them for validation.
        seed: Decides the order of blocks for validation.
        limit: Whether to stop when `wanted` are found.
    """
    for_val = max(1, round(val_fraction * wanted)) if val_fraction > 0 and wanted > 1 else 0
    side = max(1, min(LARGEST_BLOCK, round(math.sqrt(for_val))))
    blocked = [cell for block in lattice.blocks(side, seed) for cell in block] if for_val else []
    val = _usable(blocked, assess, for_val)
    left_out = lattice.around(val) | set(val)
    rest = [cell for cell in order if cell not in left_out]
    return Parts(_usable(rest, assess, wanted - for_val if limit else None), val, [])


def _usable(cells: Sequence[Cell], assess: Assess, limit: int | None) -> list[Cell]:
    """Return the first `limit` usable squares."""
    found: list[Cell] = []
    for place, cell in enumerate(cells):
        if limit is not None and len(found) >= limit:
            break
        if assess(cell, cells[place + 1 : place + 1 + _AHEAD]):
            found.append(cell)
    return found
