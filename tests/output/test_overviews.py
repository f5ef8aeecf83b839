"""Overviews: what the smaller copies of an output hold, read back from real files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from rio_cogeo import cog_validate

from maptile2sat.geo.grid import Window, mercator_grid
from maptile2sat.output.geotiff import GeoTiffWriter, creation_options, halved, level_sizes

Pixels = npt.NDArray[np.uint8]


def picture(height: int, width: int, *, holes: bool) -> tuple[Pixels, Pixels]:
    made = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    mask = np.full((height, width), 255, np.uint8)
    if holes:
        mask[height // 3 : height // 2 + 1, width // 5 : width // 2 + 3] = 0
    return made, mask


def expected(image: Pixels, mask: Pixels) -> tuple[Pixels, Pixels]:
    """Two by two, pixel by pixel: the mean of what is valid, halves rounded up."""
    height, width = (-(-side // 2) for side in mask.shape)
    small, valid = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    for row in range(height):
        for col in range(width):
            part = np.s_[2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
            inside = image[part][mask[part] > 0].astype(int)
            if len(inside):
                small[row, col] = (inside.sum(0) + len(inside) // 2) // len(inside)
                valid[row, col] = 255
    return small, valid


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4), (31, 45), (32, 30)])
def test_halved_is_the_mean_of_the_valid_pixels(size: tuple[int, int], holes: bool) -> None:
    image, mask = picture(*size, holes=holes)
    image = image * (mask > 0)[..., None].astype(np.uint8)
    small, valid = halved(image, mask)
    right, right_mask = expected(image, mask)
    np.testing.assert_array_equal(small, right)
    np.testing.assert_array_equal(valid, right_mask)


def test_level_sizes_end_with_one_block() -> None:
    assert level_sizes(512, 512, 512) == []
    assert level_sizes(513, 100, 512) == [(257, 50)]
    assert level_sizes(100, 2049, 512) == [(50, 1025), (25, 513), (13, 257)]


def write(path: Path, image: Pixels, mask: Pixels, extra: dict[str, str], part: int = 700) -> None:
    grid, window = mercator_grid(16), Window(1003, 2007, image.shape[1], image.shape[0])
    options = creation_options("deflate", extra, cog=True)
    with GeoTiffWriter(path, grid, window, {}, options) as writer:
        for top in range(0, window.height, part):
            piece = Window(window.col, window.row + top, window.width, part).intersection(window)
            there = slice(top, top + piece.height)
            writer.write(piece, image[there], mask[there])
        writer.finish()


@pytest.mark.parametrize("holes", [False, True])
def test_levels_of_a_file_are_halved_again_and_again(tmp_path: Path, holes: bool) -> None:
    image, mask = picture(1301, 2255, holes=holes)
    image = image * (mask > 0)[..., None].astype(np.uint8)
    write(tmp_path / "a.tif", image, mask, {})
    valid, errors, _ = cog_validate(tmp_path / "a.tif")
    assert valid, errors
    with rasterio.open(tmp_path / "a.tif") as dataset:
        levels = len(dataset.overviews(1))
    assert levels == 3
    for level in range(levels):
        image, mask = halved(image, mask)
        with rasterio.open(tmp_path / "a.tif", overview_level=level) as smaller:
            np.testing.assert_array_equal(smaller.read(), image.transpose(2, 0, 1))
            np.testing.assert_array_equal(smaller.dataset_mask(), mask)


def test_asking_for_other_overviews_gets_those(tmp_path: Path) -> None:
    image, mask = picture(1100, 1200, holes=False)
    write(tmp_path / "near.tif", image, mask, {"OVERVIEW_RESAMPLING": "NEAREST"})
    write(tmp_path / "none.tif", image, mask, {"OVERVIEWS": "NONE"})
    with rasterio.open(tmp_path / "near.tif", overview_level=0) as smaller:
        made = smaller.read().transpose(1, 2, 0)
    assert (made != halved(image, mask)[0]).any()
    assert np.isin(made[0, 0], image[:2, :2]).all()
    with rasterio.open(tmp_path / "none.tif") as dataset:
        assert dataset.overviews(1) == []
