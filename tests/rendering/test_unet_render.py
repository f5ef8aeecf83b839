"""Renders with a `unet`: windows at fixed places of the world, blended without a trace."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maptile2sat.errors import BundleError, UsageError
from maptile2sat.geo.grid import TILE, Window, mercator_grid
from maptile2sat.models.bundle import save_bundle
from maptile2sat.models.device import Device, load_tensorflow
from maptile2sat.models.generator import UnetTranslator
from maptile2sat.models.generator import generate as translated
from maptile2sat.models.noise import noise
from maptile2sat.rendering import render
from tests.conftest import TileMap, write_mbtiles, write_raster
from tests.support_once import once, scratch
from tests.support_render import (
    DESCRIPTION,
    Pixels,
    Rendered,
    bbox_of,
    random_map,
    tiny_render,
)

CPU = Device("/CPU:0", "cpu", "float32")
SIZE = 64


def stub(kind: str, size: int = SIZE) -> Any:
    """Return a network as small as can be that behaves at its border as a U-Net does.

    `copy` returns the map, `place` what depends on the place in the window, `constant` 0.2.
    """
    tf = load_tensorflow()
    import keras

    class Stub(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            if kind == "copy":
                return x
            if kind == "constant":
                return 0 * x + 0.2
            ramp = tf.range(size, dtype=tf.float32) / size
            return x * 0.5 + 0.4 * (ramp[None, :, None, None] * ramp[None, None, :, None])

    given = keras.Input((size, size, 3), name="map")
    return keras.Model(given, Stub()(given))


def translator(kind: str, cell: int = 128, batch_size: int = 4, size: int = SIZE) -> UnetTranslator:
    return UnetTranslator(stub(kind, size), CPU, cell, batch_size)


def generate(made_by: UnetTranslator, cell: Window) -> Pixels:
    window = cell.grown(made_by.halo)
    return translated(made_by, made_by.pack(random_map(window), noise(0, window)))


def test_weights_add_up_to_one() -> None:
    """A copy of the map comes out exactly as it went in."""
    made_by = translator("copy")
    cell = Window(256, 512, 128, 128)
    np.testing.assert_array_equal(generate(made_by, cell), random_map(cell))
    assert made_by.halo == SIZE // 2
    assert not made_by.exact


def test_constant_stays_constant_up_to_the_border() -> None:
    made = generate(translator("constant"), Window(0, 0, 128, 128))
    assert np.unique(made).tolist() == [round((0.2 + 1) * 127.5)]


def test_batch_size_does_not_matter() -> None:
    cell = Window(256, 512, 128, 128)
    pictures = [generate(translator("place", batch_size=size), cell) for size in (1, 3, 16, 100)]
    assert pictures[0].std() > 20
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])


def test_cells_meet_without_a_seam() -> None:
    """One cell of 256 px equals four of 128 px: windows lie at places of the world."""
    large = generate(translator("place", cell=256), Window(512, 768, 256, 256))
    small = translator("place")
    for row in (0, 128):
        for col in (0, 128):
            part = generate(small, Window(512 + col, 768 + row, 128, 128))
            np.testing.assert_array_equal(part, large[row : row + 128, col : col + 128])


def test_cells_of_another_side_hold_whole_windows() -> None:
    large = translator("place", cell=256)
    part = large.resized(100)
    assert (large.cell, part.cell) == (256, 128)
    cell = Window(512, 768, 128, 128)
    np.testing.assert_array_equal(generate(part, cell), generate(translator("place"), cell))


def test_blending_hides_where_windows_end() -> None:
    """The stub's own steps at a window's end are far larger than any step of the blend."""
    made_by = translator("place", cell=256)
    flat = np.full((256 + SIZE, 256 + SIZE, 3), 128, np.uint8)
    made = translated(made_by, made_by.pack(flat, noise(0, Window(0, 0, 4, 4)))).astype(int)
    step_of_stub = 0.4 * 127.5
    for axis in (0, 1):
        assert np.abs(np.diff(made, axis=axis)).max() < step_of_stub / 8


def test_cell_must_suit_the_window() -> None:
    with pytest.raises(UsageError, match="cell 100 is not a multiple of 32"):
        translator("copy", cell=100)


@functools.cache
def unet_weights() -> dict[str, Any]:
    load_tensorflow()
    from maptile2sat.models.generator import get_weights
    from maptile2sat.models.networks.unet import UnetConfig, build_unet

    return get_weights(build_unet(UnetConfig()))


def write_unet(folder: Path, weights: dict[str, Any]) -> Path:
    description = {**DESCRIPTION, "name": folder.name, "kind": "unet"}
    save_bundle(folder, {**description, "architecture": {"size": 256}}, weights)
    return folder


@once
def unet_bundle() -> Path:
    """Return a real U-Net, its weights random but large enough to be seen."""
    random = np.random.default_rng(0)
    weights = dict(unet_weights())
    # the last layer alone decides how strong the picture is
    kernel = weights["rgb/kernel"]
    weights["rgb/kernel"] = random.normal(0, 0.05, kernel.shape).astype(np.float32)
    return write_unet(scratch("unet") / "unet", weights)


@once
def constant_bundle() -> Path:
    """Return a U-Net whose output is one colour."""
    weights = dict(unet_weights())
    weights["rgb/kernel"] = np.zeros_like(weights["rgb/kernel"])
    weights["rgb/bias"] = np.array([0.5, -0.25, 0.0], np.float32)
    return write_unet(scratch("constant") / "constant", weights)


GRID = mercator_grid(16)
MAP = TileMap(16, TileMap.block(16, 37_307, 18_966, 2, 1).tiles, random_map)


@once
def small_map() -> Path:
    return write_mbtiles(scratch("map") / "map.mbtiles", MAP)


def unet_render(folder: Path, bundle: Path, **changes: Any) -> Rendered:
    # nine windows make a cell of 256 px
    return tiny_render(small_map(), folder, model=str(bundle), batch_size=9, **changes)


INNER = Window(MAP.extent.col + 301, MAP.extent.row + 140, 90, 33)


@pytest.mark.slow
def test_real_unet(tmp_path: Path) -> None:
    """Boxes are parts of the whole, and the file says that it was blended."""
    whole = unet_render(tmp_path, unet_bundle())
    assert whole.image.std() > 5
    assert not whole.result.exact
    assert whole.raster.tags["EXACT"] == "NO"
    assert whole.raster.tags["MODEL"] == "unet"
    assert [text for text in whole.result.warnings if "'unet' is a unet" in text]
    part = unet_render(tmp_path, unet_bundle(), bbox=bbox_of(GRID, INNER), seed=9)
    wanted = whole.image[INNER.slices(MAP.extent)]
    np.testing.assert_array_equal(part.image, wanted)
    assert part.raster.transform == GRID.transform(INNER)
    low = unet_render(tmp_path, unet_bundle(), bbox=bbox_of(GRID, INNER), precision="bfloat16")
    assert low.result.precision == "bfloat16"
    assert np.abs(low.image.astype(int) - wanted).mean() < 8


@pytest.mark.parametrize("size", [(1, 1), (257, 33)], ids=str)
def test_constant_unet(size: tuple[int, int], tmp_path: Path) -> None:
    width, height = size
    extent = Window(37_307 * TILE + 77, 18_966 * TILE + 191, width, height)
    bands = np.moveaxis(random_map(extent), -1, 0)
    source = write_raster(tmp_path / "map.tif", bands, GRID.transform(extent))
    made = tiny_render(source, tmp_path, model=str(constant_bundle()), batch_size=9)
    colour = np.rint((np.tanh([0.5, -0.25, 0.0]) + 1) * 127.5)
    assert made.image.shape == (height, width, 3)
    np.testing.assert_array_equal(made.image, np.broadcast_to(colour, made.image.shape))


def test_unet_with_missing_weights(tmp_path: Path) -> None:
    few = {name: array for name, array in unet_weights().items() if name.startswith("rgb")}
    bundle = write_unet(tmp_path / "few", few)
    with pytest.raises(BundleError, match="of another network: missing"):
        render(small_map(), tmp_path / "out.tif", model=str(bundle))
    assert not (tmp_path / "out.tif").exists()
