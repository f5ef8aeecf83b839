"""How long a render will take, from a clock that counts what is generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from maptile2sat.geo.grid import Window
from maptile2sat.rendering import job
from maptile2sat.rendering.job import PROBE, seconds_per_cell

NANOSECONDS = 1e-9


class Slow:
    """Takes a nanosecond for each pixel of map, and a hundred times as long at first."""

    halo, reach, exact = 76, 76, True

    def __init__(self, cell: int, batch: int, overlap: int) -> None:
        self.cell, self.batch, self.overlap = cell, batch, overlap
        self.now, self.sides = 0.0, list[int]()

    def resized(self, cell: int) -> Slow:
        self.cell = cell
        return self

    def pack(self, image: Any, grains: Any) -> Any:
        return image

    def start(self, packed: Sequence[Any]) -> Sequence[Any]:
        assert len(packed) == self.batch
        times = 1 if self.sides else 100
        self.sides.append(self.cell)
        self.now += times * sum(image[..., 0].size for image in packed) * NANOSECONDS
        return packed

    def finish(self, started: Sequence[Any]) -> list[Any]:
        return [np.zeros((self.cell, self.cell, 3), np.uint8) for _ in started]


@pytest.mark.parametrize(
    ("cell", "batch", "overlap", "timed"),
    [(2048, 1, 0, PROBE), (256, 1, 0, 256), (1024, 3, 1, 1024)],
)
def test_whole_cells_are_told_from_what_is_timed(
    cell: int, batch: int, overlap: int, timed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor's cells from a small one, a GPU's from a batch; the first call does not count."""
    translator = Slow(cell, batch, overlap)
    monkeypatch.setattr(job.time, "perf_counter", lambda: translator.now)
    expected = (cell + 2 * translator.halo) ** 2 * NANOSECONDS
    assert seconds_per_cell(translator, Window(0, 0, cell, cell)) == pytest.approx(expected)
    assert set(translator.sides) == {timed}
