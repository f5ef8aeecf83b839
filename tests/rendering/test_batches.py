"""Several cells at once, as a GPU takes them; here the processor does."""

from __future__ import annotations

import functools
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maptile2sat.errors import DeviceError
from maptile2sat.geo.grid import Window
from maptile2sat.models.device import Device, load_tensorflow
from maptile2sat.models.generator import LocalTranslator
from maptile2sat.rendering.mosaic import Cell, MosaicStats, make_mosaic
from maptile2sat.sources import open_source
from tests.conftest import TileMap, write_mbtiles
from tests.support_render import CELL, FILL, random_map, tiny_model

CPU = Device("/CPU:0", "cpu", "float32")
LEFT, TOP = 37_304, 18_964
"""Column and row of the first tile of the map; tiles are as large as cells here."""

WINDOW = Window(LEFT * 256 + 30, TOP * 256 + 10, 6 * 256, 400)


@pytest.fixture(scope="module")
def holey_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a map of seven by two tiles, of which the middle ones are missing."""
    tiles = TileMap.block(16, LEFT, TOP, 7, 2).tiles
    kept = [tile for tile in tiles if tile[0] not in (LEFT + 2, LEFT + 3)]
    path = tmp_path_factory.mktemp("batches") / "map.mbtiles"
    return write_mbtiles(path, TileMap(16, kept, random_map))


def mosaic(path: Path, translator: LocalTranslator) -> tuple[list[Cell], MosaicStats]:
    made: list[Cell] = []
    with closing(open_source(path)) as source:
        stats = make_mosaic(source, translator, WINDOW, seed=5, fill=FILL, take=made.append)
    return made, stats


@functools.cache
def model() -> Any:
    return tiny_model()


@functools.cache
def one_by_one(path: Path) -> tuple[list[Cell], MosaicStats]:
    """Return what comes of one cell at a time; do not change it."""
    alone = LocalTranslator(model(), CPU, CELL, 1)
    assert alone.batch == 1
    return mosaic(path, alone)


@pytest.mark.parametrize(
    ("cells", "overlap"),
    [
        (2, 0),
        (3, 1),
        (16, 1),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in ((2, 1), (3, 0), (16, 0))),
    ],
)
def test_batches_change_nothing(holey_map: Path, cells: int, overlap: int) -> None:
    """Cells come in the same order, with the same pixels, whether or not there is map in them."""
    several = LocalTranslator(model(), CPU, CELL, cells)
    several.overlap = overlap
    assert several.batch == cells
    expected, counted = one_by_one(holey_map)
    made, stats = mosaic(holey_map, several)
    assert (stats.cells, stats.skipped) == (counted.cells, counted.skipped)
    assert stats.cells
    assert stats.skipped
    assert [cell.window for cell in made] == [cell.window for cell in expected]
    for cell, right in zip(made, expected, strict=True):
        np.testing.assert_array_equal(cell.map, right.map)
        np.testing.assert_array_equal(cell.mask, right.mask)
        # other shapes may have other kernels, and so other roundings
        np.testing.assert_allclose(cell.image.astype(int), right.image.astype(int), atol=1)


def test_cells_of_another_side(holey_map: Path) -> None:
    """What is timed before a render is the network that will make it."""
    usual = LocalTranslator(model(), CPU, CELL)
    larger = usual.resized(2 * CELL)
    assert (usual.cell, larger.cell, larger.halo) == (CELL, 2 * CELL, usual.halo)
    whole = np.zeros((2, 400, 6 * CELL, 3), int)
    for image, translator in zip(whole, (usual, larger), strict=True):
        for cell in mosaic(holey_map, translator)[0]:
            place = cell.window.slices(WINDOW)
            image[place] = np.where(cell.mask[..., None] > 0, cell.image, 0)
    assert whole[0].std() > 5
    np.testing.assert_allclose(whole[1], whole[0], atol=1)


def test_batch_is_what_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as asked for, halved until it fits."""
    tf = load_tensorflow()
    traced = LocalTranslator._traced
    tried = []

    def small_memory(translator: LocalTranslator) -> object:
        tried.append(translator.batch)
        if translator.batch <= 2:
            return traced(translator)

        def fail(*arguments: object) -> object:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

        return fail

    monkeypatch.setattr(LocalTranslator, "_traced", small_memory)
    assert LocalTranslator(model(), CPU, CELL, 9).batch == 2
    assert tried == [9, 4, 2]


def test_one_cell_that_memory_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    tf = load_tensorflow()

    def fail(*arguments: object) -> object:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(LocalTranslator, "_traced", lambda translator: fail)
    translator = LocalTranslator(model(), CPU, CELL, 4)
    assert translator.batch == 1
    # `serve` and `evaluate` have no --cell
    with pytest.raises(
        DeviceError, match=r"pass --device cpu .* with render pass a smaller --cell"
    ):
        translator.start([translator._blank()])
