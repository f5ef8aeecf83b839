"""Rasters warped to a zoom: pure, in place, antialiased, masked."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from rasterio.enums import Resampling
from rasterio.warp import reproject
from rasterio.warp import transform as transform_points

from maptile2sat.errors import SourceError
from maptile2sat.geo.crs import HALF_WORLD
from maptile2sat.geo.grid import TILE, Window, mercator_grid
from maptile2sat.sources import SourceOptions, open_source
from tests.conftest import TileMap, pattern, write_map_raster, write_raster

PLACES = {
    "mercator": ("EPSG:3857", Affine(3.1, 0, 2_776_000, 0, -3.1, 8_440_000)),
    "lambert": ("EPSG:2154", Affine(3.1, 0, 652_000, 0, -3.1, 6_862_000)),
    "degrees": ("EPSG:4326", Affine(0.00004, 0, 24.9, 0, -0.00002, 60.2)),
    "rotated": (
        "EPSG:3857",
        Affine.translation(2_776_000, 8_440_000) @ Affine.rotation(25) @ Affine.scale(3.1, -3.1),
    ),
}


def _raster(folder: Path, place: str, size: int = 500) -> Path:
    crs, at = PLACES[place]
    bands = np.moveaxis(pattern(Window(7, 11, size, size - 90)), -1, 0).copy()
    bands[2] = 255
    alpha = np.full((1, size - 90, size), 255, np.uint8)
    alpha[:, 100:180, 200:260] = 0
    return write_raster(
        folder / f"{place}.tif", np.concatenate([bands, alpha]), at, crs, alpha="yes"
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("zoom", [13, 16])
def test_windows_are_pure(place: str, zoom: int, tmp_path: Path) -> None:
    path = _raster(tmp_path, place, 500 if zoom == 13 else 230)
    whole = open_source(path, SourceOptions(zoom=zoom))
    extent = whole.info.extent
    everything = whole.read(extent)
    assert 0 < (everything.mask == 0).sum() < everything.mask.size / 1.5
    assert (everything.image[everything.mask == 0] == 0).all()
    dice = random.Random(place)
    for _ in range(6):
        width, height = (dice.randrange(1, min(side, 180)) for side in extent[2:])
        window = Window(
            extent.col + dice.randrange(extent.width - width),
            extent.row + dice.randrange(extent.height - height),
            width,
            height,
        )
        alone = open_source(path, SourceOptions(zoom=zoom))
        read = alone.read(window)
        alone.close()
        there = window.slices(extent)
        np.testing.assert_array_equal(read.image, everything.image[there])
        np.testing.assert_array_equal(read.mask, everything.mask[there])
    whole.close()


@pytest.mark.parametrize("place", PLACES)
def test_pixels_lie_where_they_belong(place: str, tmp_path: Path) -> None:
    """A picture whose colours are its own coordinates says where each pixel came from."""
    crs, at = PLACES[place]
    cols, rows = np.meshgrid(np.arange(250), np.arange(250))
    bands = np.stack([cols, rows, np.full_like(cols, 255)]).astype(np.uint8)
    path = write_raster(tmp_path / "a.tif", bands, at, crs)
    source = open_source(path, SourceOptions(zoom=17))  # pixels grow: bilinear is linear
    extent = source.info.extent
    read = source.read(extent)
    step = max(1, extent.width // 40)
    inside = np.zeros_like(read.mask)
    inside[::step, ::step] = 1
    inside[:, (np.arange(extent.width) + extent.col) % TILE <= 1] = 1  # seams between tiles
    inside[(np.arange(extent.height) + extent.row) % TILE >= TILE - 1] = 1
    ys, xs = np.nonzero(inside & (read.mask == 255))
    grid = source.info.grid.transform(extent)
    points = [grid @ (x + 0.5, y + 0.5) for x, y in zip(xs, ys, strict=True)]
    back = transform_points("EPSG:3857", crs, *zip(*points, strict=True))
    expected = np.array([~at @ point for point in zip(*back, strict=True)]) - 0.5
    close = (expected > 1).all(axis=1) & (expected < 248).all(axis=1)
    assert close.sum() > 200
    errors = (read.image[ys, xs, :2].astype(float) - expected)[close]
    assert np.abs(errors).max() < 0.75
    assert np.abs(errors.mean(axis=0)).max() < 0.08


def test_the_own_zoom_is_not_warped(full_map: TileMap, tmp_path: Path) -> None:
    path = write_map_raster(tmp_path / "map.tif", full_map)
    source = open_source(path, SourceOptions(zoom=full_map.zoom))
    assert not source.info.tiled
    np.testing.assert_array_equal(
        source.read(full_map.extent).image, full_map.read(full_map.extent)[0]
    )


def test_half_the_zoom_is_the_average_of_four_pixels(full_map: TileMap, tmp_path: Path) -> None:
    path = write_map_raster(tmp_path / "map.tif", full_map)
    source = open_source(path, SourceOptions(zoom=full_map.zoom - 1))
    extent = full_map.extent
    window = Window(extent.col // 2, extent.row // 2, extent.width // 2, extent.height // 2)
    assert source.info.extent.contains(window)
    read = source.read(window)
    blocks = full_map.read(extent)[0].astype(float)
    blocks = blocks.reshape(window.height, 2, window.width, 2, 3).mean(axis=(1, 3))
    assert np.abs(read.image[2:-2, 2:-2] - blocks[2:-2, 2:-2]).max() <= 1


@pytest.mark.parametrize("resampling", [None, "bilinear", "cubic", "lanczos", "average"])
def test_shrinking_antialiases(resampling: str | None, tmp_path: Path) -> None:
    stripes = np.zeros((3, 512, 512), np.uint8)
    stripes[:, :, ::3] = 255  # finer than the target's pixels
    size = mercator_grid(13).affine.a / 5.3
    at = Affine(size, 0, 2_776_000, 0, -size, 8_440_000)
    source = open_source(
        write_raster(tmp_path / "a.tif", stripes, at), SourceOptions(zoom=13, resampling=resampling)
    )
    read = source.read(source.info.extent.grown(-8))
    assert read.image.std() < 24  # nearest neighbour has 120
    assert abs(read.image.mean() - 85) < 4


@pytest.mark.parametrize("resampling", ["bilinear", "cubic", "lanczos", "average"])
@pytest.mark.parametrize("ratio", [0.4, 2.6])
def test_tiles_have_no_seams(resampling: str, ratio: float, tmp_path: Path) -> None:
    """Tiles warped one by one are what a single warp of everything gives."""
    zoom = 13
    grid = mercator_grid(zoom)
    corner = Window(4661 * TILE, 2371 * TILE, 1, 1)  # four tiles meet here
    size = grid.affine.a / ratio
    left, top = grid.transform(corner) @ (0, 0)
    at = Affine(size, 0, left - 150.3 * size, 0, -size, top + 140.7 * size)
    bands = np.random.default_rng(1).integers(0, 255, (3, 300, 300), np.uint8)
    path = write_raster(tmp_path / "a.tif", bands, at)
    source = open_source(path, SourceOptions(zoom=zoom, resampling=resampling))
    window = corner.grown(40)
    expected = np.zeros((3, window.height, window.width), np.uint8)
    scale = repr(min(1.0, 1 / ratio))
    reproject(
        bands,
        expected,
        src_transform=at,
        src_crs="EPSG:3857",
        dst_transform=grid.transform(window),
        dst_crs="EPSG:3857",
        resampling=Resampling[resampling],
        tolerance=0,
        XSCALE=scale,
        YSCALE=scale,
    )
    read = source.read(window)
    difference = np.abs(np.moveaxis(read.image, -1, 0).astype(int) - expected)
    assert difference.max() <= 1
    assert expected.std() > 9


def test_crops_of_a_raster_agree(tmp_path: Path) -> None:
    """Rows of degrees shrink in the south of it, and grow in the north."""
    at = Affine(0.0014, 0, 25, 0, -0.000666, 61.6)
    bands = np.moveaxis(pattern(Window(0, 0, 200, 1500)), -1, 0)
    whole = open_source(
        write_raster(tmp_path / "whole.tif", bands, at, "EPSG:4326"), SourceOptions(zoom=10)
    )
    for first, last in ((0, 500), (1000, 1500)):
        part = write_raster(
            tmp_path / f"{first}.tif",
            bands[:, first:last],
            at @ Affine.translation(0, first),
            "EPSG:4326",
        )
        source = open_source(part, SourceOptions(zoom=10))
        read, all_of_it = (each.read(source.info.extent.grown(-3)) for each in (source, whole))
        np.testing.assert_array_equal(read.image, all_of_it.image)
        assert (read.mask == 255).all()


def test_mask_edges_do_not_darken(tmp_path: Path) -> None:
    flat = np.full((4, 300, 300), 200, np.uint8)
    flat[3] = 255
    flat[3, :, :150] = 0
    flat[:3, :, :150] = 0
    path = write_raster(tmp_path / "a.tif", flat, PLACES["mercator"][1], alpha="yes")
    for zoom in (14, 17):
        source = open_source(path, SourceOptions(zoom=zoom))
        read = source.read(source.info.extent)
        assert set(np.unique(read.image[read.mask == 255])) == {200}
        share = (read.mask == 255).mean()
        assert abs(share - 0.5) < 0.02


def test_across_180_degrees(tmp_path: Path) -> None:
    bands = np.moveaxis(pattern(Window(0, 0, 400, 300)), -1, 0)
    for crs, at in (
        ("EPSG:4326", Affine(0.05, 0, 170, 0, -0.05, 10)),
        ("EPSG:4326", Affine(0.053, 0, 170, 0, -0.053, 10)),  # pixels that do not divide 360
        ("EPSG:4326", Affine(0.053, 0, -191, 0, -0.053, 10)),
        ("EPSG:3832", Affine(5000, 0, 3_000_000 - 10 * 5000, 0, -5000, 700_000)),
    ):
        path = write_raster(tmp_path / f"{crs[5:]}.tif", bands, at, crs)
        source = open_source(path, SourceOptions(zoom=5))
        world = source.info.grid.wrap or 0
        extent = source.info.extent
        assert extent.col < world < extent.right
        read = source.read(extent)
        assert (read.mask[20:-20, 20:-20] == 255).all()
        turned = source.read(extent.shifted(-world, 0))
        np.testing.assert_array_equal(read.image, turned.image)


def test_too_coarse_a_zoom_is_refused_with_one_that_works(tmp_path: Path) -> None:
    path = _raster(tmp_path, "mercator")
    with pytest.raises(SourceError, match=r"zoom 9 is 99 times coarser .* use zoom 12 or more"):
        open_source(path, SourceOptions(zoom=9))
    open_source(path, SourceOptions(zoom=12)).close()


def test_a_raster_of_one_metre_at_the_origin(tmp_path: Path) -> None:
    """GDAL takes the transform (1, 0, 0, 0, -1, 0) for none."""
    bands = np.full((3, 600, 600), 77, np.uint8)
    path = write_raster(tmp_path / "a.tif", bands, Affine(1, 0, -300, 0, -1, 300))
    for zoom in range(15, 19):
        source = open_source(path, SourceOptions(zoom=zoom))
        read = source.read(source.info.extent.grown(-3))
        assert (read.mask == 255).all()
        assert (read.image == 77).all()


def test_the_whole_world(tmp_path: Path) -> None:
    bands = np.moveaxis(pattern(Window(0, 0, 360, 180)), -1, 0)
    path = write_raster(tmp_path / "a.tif", bands, Affine(1, 0, -180, 0, -1, 90), "EPSG:4326")
    source = open_source(path, SourceOptions(zoom=2))
    assert source.info.extent == Window(0, 0, 1024, 1024)
    assert (source.read(Window(-100, 0, 1300, 1024)).mask == 255).all()
    assert source.info.grid.bounds(source.info.extent).east == pytest.approx(HALF_WORLD)
