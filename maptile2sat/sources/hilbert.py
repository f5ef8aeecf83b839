"""Where the tiles of PMTiles lie: they are numbered along a Hilbert curve, zoom after zoom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from maptile2sat.geo.grid import Window

_PENDING = 100_000
"""Stretches of columns that are put together at once."""


class Square(NamedTuple):
    """Tiles of a zoom whose numbers follow each other and that lie in a square.

    Attributes:
        x: First column.
        y: First row.
        side: Columns and rows.
    """

    x: int
    y: int
    side: int


def first_number(zoom: int) -> int:
    """Return the number of the first tile of a zoom."""
    return ((1 << 2 * zoom) - 1) // 3


def numbers_of(zoom: int) -> range:
    """Return the numbers of all tiles of a zoom."""
    return range(first_number(zoom), first_number(zoom + 1))


def squares(numbers: range, zoom: int) -> Iterator[Square]:
    """Return the squares that a run of numbers of one zoom consists of; a few for each zoom."""
    start, stop = numbers.start - first_number(zoom), numbers.stop - first_number(zoom)
    while start < stop:
        level = 0
        while level < zoom and start % (4 << 2 * level) == 0 and start + (4 << 2 * level) <= stop:
            level += 1
        x, y = _place(start >> 2 * level, zoom - level)
        yield Square(x << level, y << level, 1 << level)
        start += 1 << 2 * level


def _place(distance: int, zoom: int) -> tuple[int, int]:
    """Return column and row of a tile by its distance along the curve."""
    x = y = 0
    for level in range(zoom):
        right = distance >> 1 & 1
        down = (distance ^ right) & 1
        side = 1 << level
        if not down:
            if right:
                x, y = side - 1 - x, side - 1 - y
            x, y = y, x
        x, y = x + side * right, y + side * down
        distance >>= 2
    return x, y


class Hull:
    """The columns and the rows that tiles of a zoom have been found in."""

    def __init__(self, zoom: int) -> None:
        self._zoom = zoom
        self._columns: list[tuple[int, int]] = []
        self._new: list[tuple[int, int]] = []
        self._low, self._high = 1 << zoom, -1

    def add(self, found: Iterable[Square]) -> None:
        """Take note of tiles."""
        for square in found:
            self._new.append((square.x, square.x + square.side))
            self._low = min(self._low, square.y)
            self._high = max(self._high, square.y + square.side - 1)
            if len(self._new) > _PENDING:
                self._merged()

    def holds(self, square: Square) -> bool:
        """Whether tiles would change nothing."""
        if square.y < self._low or square.y + square.side - 1 > self._high:
            return False
        return any(
            start <= square.x and square.x + square.side <= stop for start, stop in self._merged()
        )

    def span(self) -> Window | None:
        """Return the window of all, across 180 degrees if that is the shorter way round.

        None if there are none.
        """
        merged = self._merged()
        if not merged:
            return None
        (west, _), (_, east) = merged[0], merged[-1]
        gaps = [(after - before, after) for (_, before), (after, _) in pairwise(merged)]
        widest, after = max(gaps, default=(0, 0))
        side = 1 << self._zoom
        if 2 * (widest + 1) > side:
            return Window(after, self._low, side - widest, self._high + 1 - self._low)
        return Window(west, self._low, east - west, self._high + 1 - self._low)

    def _merged(self) -> list[tuple[int, int]]:
        """Return the stretches of columns, in order, with gaps between them."""
        if self._new:
            merged: list[tuple[int, int]] = []
            for start, stop in sorted({*self._columns, *self._new}):
                if merged and start <= merged[-1][1]:
                    merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
                else:
                    merged.append((start, stop))
            self._columns, self._new = merged, []
        return self._columns
