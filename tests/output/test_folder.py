"""The folder of a sharded render opens as one layer: the pixels and mask of the whole render."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import MaskFlags
from rasterio.windows import Window as RasterWindow

from maptile2sat.output import folder as overview_module
from maptile2sat.output.folder import describe
from maptile2sat.output.manifest import read_manifest
from tests.support_folder import cut_folder, whole_render
from tests.support_render import files_in, read_back


def folder_of(path: Path, side: int = 256, *, masked: bool = True, **settings: Any) -> Path:
    """Make the folder of a sharded render."""
    manifest = cut_folder(whole_render(masked=masked).result.output, path, side)
    describe(path, manifest, **settings)
    return path


@pytest.mark.parametrize("flat", [10_000, 3], ids=["vrt", "index"])
def test_it_is_the_whole_render(tmp_path: Path, flat: int) -> None:
    folder = folder_of(tmp_path / "OUT", flat=flat)
    assert any(block.file is None for block in read_manifest(folder).blocks)
    whole, mosaic = whole_render().raster, read_back(folder / "mosaic.vrt")
    np.testing.assert_array_equal(mosaic.mask, whole.mask)
    np.testing.assert_array_equal(mosaic.image[whole.mask > 0], whole.image[whole.mask > 0])
    assert mosaic.transform == whole.transform
    assert mosaic.crs == whole.crs
    assert mosaic.profile["nodata"] is None
    assert {**mosaic.tags, "AREA_OR_POINT": "Area"} == whole.tags
    assert (folder / "mosaic.gti.gpkg").exists() == (flat == 3)


@pytest.mark.parametrize("flat", [10_000, 3], ids=["vrt", "index"])
def test_without_masked_pixels_it_has_no_mask(tmp_path: Path, flat: int) -> None:
    folder = folder_of(tmp_path / "OUT", 512, masked=False, flat=flat)
    mosaic = read_back(folder / "mosaic.vrt")
    np.testing.assert_array_equal(mosaic.image, whole_render(masked=False).image)
    with rasterio.open(folder / "mosaic.vrt") as dataset:
        assert dataset.mask_flag_enums[0] == [MaskFlags.all_valid]


@pytest.mark.parametrize("flat", [10_000, 3], ids=["vrt", "index"])
def test_it_can_be_moved(tmp_path: Path, flat: int) -> None:
    folder = folder_of(tmp_path / "OUT", flat=flat)
    before = read_back(folder / "mosaic.vrt")
    moved = tmp_path / "a b & c" / "там"
    moved.parent.mkdir()
    folder.rename(moved)
    after = read_back(moved / "mosaic.vrt")
    np.testing.assert_array_equal(after.image, before.image)
    np.testing.assert_array_equal(after.mask, before.mask)
    for path in moved.glob("*.*"):
        assert str(tmp_path).encode() not in path.read_bytes()


def test_the_index_shows_where_blocks_are(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "OUT", flat=3)
    with rasterio.open(folder / "mosaic.gti.gpkg") as dataset:
        assert dataset.driver == "GTI"
        assert (dataset.width, dataset.height) == (1024, 768)
        first = dataset.read(window=RasterWindow(0, 0, 256, 256))
    np.testing.assert_array_equal(np.moveaxis(first, 0, -1), whole_render().image[:256, :256])


@pytest.mark.parametrize("flat", [10_000, 3], ids=["vrt", "index"])
def test_zoomed_out_no_block_is_read(tmp_path: Path, flat: int) -> None:
    with (
        mock.patch.object(overview_module, "FEW", 2),
        mock.patch.object(overview_module, "FACTOR", 4),
    ):
        folder = folder_of(tmp_path / "OUT", 128, flat=flat)
    shape = (192, 256)
    with rasterio.open(folder / "mosaic.vrt") as dataset:
        assert dataset.overviews(1) == [4]
        image, mask = dataset.read(out_shape=(3, *shape)), dataset.dataset_mask(out_shape=shape)
    shutil.rmtree(folder / "blocks")
    with rasterio.open(folder / "mosaic.vrt") as dataset:
        np.testing.assert_array_equal(dataset.read(out_shape=(3, *shape)), image)
        np.testing.assert_array_equal(dataset.dataset_mask(out_shape=shape), mask)
    expected = whole_render().image.reshape(192, 4, 256, 4, 3).mean(axis=(1, 3))
    valid = whole_render().mask.reshape(192, 4, 256, 4).all(axis=(1, 3))
    assert np.abs(np.moveaxis(image, 0, -1) - expected)[valid].max() <= 1
    np.testing.assert_array_equal(mask > 0, valid)


def test_a_second_description_replaces_the_first(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "OUT", flat=3)
    manifest = read_manifest(folder)
    describe(folder, manifest)
    names = files_in(folder)
    assert "mosaic.gti.gpkg" not in names
    assert not [name for name in names if "tmp" in name]
    first = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    describe(folder, manifest)
    assert first == {name: (folder / name).read_bytes() for name in first}


def test_a_rotated_grid_has_no_index(tmp_path: Path) -> None:
    folder = tmp_path / "OUT"
    manifest = cut_folder(whole_render().result.output, folder, 256)
    turned = dataclasses.replace(manifest.grid, affine=manifest.grid.affine @ Affine.rotation(5))
    manifest = dataclasses.replace(manifest, grid=dataclasses.replace(turned, zoom=None))
    describe(folder, manifest, flat=3)
    assert not (folder / "mosaic.gti.gpkg").exists()
    mosaic = read_back(folder / "mosaic.vrt")
    np.testing.assert_array_equal(mosaic.mask, whole_render().mask)
    assert mosaic.transform.almost_equals(turned.transform(manifest.window))
