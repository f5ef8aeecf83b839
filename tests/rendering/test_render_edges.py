"""Maps of odd sizes, grids, formats and places: a right result or a clear refusal."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine
from rasterio.warp import transform as transform_points
from rio_cogeo.cogeo import cog_validate

from maptile2sat.errors import OutputError, SourceError
from maptile2sat.geo.crs import HALF_WORLD
from maptile2sat.geo.grid import TILE, BBox, Window, mercator_grid, raster_grid
from maptile2sat.models.networks.receptive_field import receptive_field
from maptile2sat.paths import sample_map
from maptile2sat.sources.raster import RasterSource
from tests.conftest import TileMap, write_folder, write_mbtiles, write_raster
from tests.support_render import (
    FILL,
    Pixels,
    bbox_of,
    files_in,
    input_of,
    large_render,
    random_map,
    tiny_model,
    tiny_render,
)

GRID = mercator_grid(16)
HOME = Window(37_307 * TILE, 18_966 * TILE, 4 * TILE, 6 * TILE)


@functools.cache
def model_and_halo() -> tuple[Any, int]:
    """Return the generator of the tiny bundle, and its halo; do not change it."""
    model = tiny_model()
    return model, receptive_field(model).halo


def expected(image: Pixels, extent: Window, window: Window | None = None, seed: int = 0) -> Pixels:
    """Return what the tiny model makes of a map, computed in one piece and without the package.

    Args:
        image: The map, which fills `extent`.
        extent: Where on its grid it lies.
        window: The pixels wanted; all if None.
        seed: Of the noise.
    """
    window = window or extent
    model, halo = model_and_halo()
    left, top = (window.col - halo) // 4 * 4, (window.row - halo) // 4 * 4
    right, bottom = -(-(window.right + halo) // 4) * 4, -(-(window.bottom + halo) // 4) * 4
    around = Window(left, top, right - left, bottom - top)
    seen = np.empty((around.height, around.width, 3), np.uint8)
    seen[:] = FILL
    common = extent.intersection(around)
    seen[common.slices(around)] = image[common.slices(extent)]
    made = np.asarray(model(input_of(seen, around, seed), training=False))[0]
    levels = np.clip(np.rint((made + 1) * 127.5), 0, 255).astype(np.uint8)
    return levels[window.slices(around)]


def assert_near(made: Pixels, wanted: Pixels) -> None:
    """Compare with the float model, from which whole numbers differ by a level or so."""
    assert made.shape == wanted.shape
    away = np.abs(made.astype(int) - wanted)
    assert away.mean() <= 2
    assert away.max() <= 40


def picture(width: int, height: int) -> Pixels:
    return random_map(Window(50_000, 70_000, width, height))


def bands(image: Pixels) -> npt.NDArray[np.uint8]:
    return np.moveaxis(image, -1, 0)


SIZES = [(1, 1), (255, 255), (257, 257), (255, 257), (1000, 3), (3, 1000), (511, 513)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_sizes_not_divisible_by_anything(size: tuple[int, int], tmp_path: Path) -> None:
    width, height = size
    image = picture(width, height)
    affine = Affine(1.2, 0, 2_776_000.3, 0, -1.2, 8_438_000.9)
    source = write_raster(tmp_path / "map.tif", bands(image), affine)
    made = tiny_render(source, tmp_path)
    assert made.raster.transform == affine
    assert (made.result.width, made.result.height) == size
    _, extent = raster_grid(made.raster.crs, affine, width, height)
    assert_near(made.image, expected(image, extent))
    assert made.mask.all()
    assert cog_validate(made.result.output, strict=True, quiet=True) == (True, [], [])


@pytest.mark.parametrize("size", SIZES[:4], ids=lambda size: f"{size[0]}x{size[1]}")
def test_odd_sizes_on_a_zoom(size: tuple[int, int], tmp_path: Path) -> None:
    extent = Window(HOME.col + 91, HOME.row + 77, *size)
    image = random_map(extent)
    source = write_raster(tmp_path / "map.tif", bands(image), GRID.transform(extent))
    made = tiny_render(source, tmp_path)
    assert made.raster.tags["ZOOM"] == "16"
    assert_near(made.image, expected(image, extent))


def test_one_tile(tmp_path: Path) -> None:
    tile = mercantile.Tile(37_308, 18_969, 16)
    box = mercantile.bounds(tile)
    made = tiny_render(sample_map(), tmp_path, bbox=tuple(box))
    metres = mercantile.xy_bounds(tile)
    assert (made.result.width, made.result.height) == (256, 256)
    assert tuple(made.result.bounds) == pytest.approx(tuple(metres), abs=1e-6)
    window = Window(tile.x * TILE, tile.y * TILE, TILE, TILE)
    np.testing.assert_array_equal(made.image, large_render().image[window.slices(HOME)])


def test_boxes_as_text_and_numbers_and_in_metres(tmp_path: Path) -> None:
    window = Window(HOME.col + 300, HOME.row + 200, 120, 90)
    west, south, east, north = GRID.lonlat_bounds(window)
    metres = ",".join(map(repr, GRID.bounds(window)))
    renders = [
        tiny_render(sample_map(), tmp_path, **settings)
        for settings in (
            {"bbox": (west, south, east, north)},
            {"bbox": f"[{west}, {south}, {east}, {north}]"},
            {"bbox": f"{west} {south} {east} {north}"},
            {"bbox": metres, "bbox_crs": "EPSG:3857"},
        )
    ]
    for made in renders:
        assert made.raster.transform == GRID.transform(window)
        np.testing.assert_array_equal(made.image, large_render().image[window.slices(HOME)])


def test_box_in_another_crs_covers_it(tmp_path: Path) -> None:
    """A box in UTM is the hull of its corners on the map's grid."""
    xs, ys = transform_points("EPSG:4326", "EPSG:32635", [24.940, 24.944], [60.166, 60.168])
    made = tiny_render(
        sample_map(), tmp_path, bbox=(xs[0], ys[0], xs[1], ys[1]), bbox_crs="EPSG:32635"
    )
    west, south, east, north = made.result.bounds
    for x, y in ((xs[0], ys[0]), (xs[1], ys[1]), (xs[0], ys[1]), (xs[1], ys[0])):
        (x_there,), (y_there,) = transform_points("EPSG:32635", "EPSG:3857", [x], [y])
        assert west - 1e-3 <= x_there <= east + 1e-3
        assert south - 1e-3 <= y_there <= north + 1e-3


def test_box_partly_outside_is_masked_there(tmp_path: Path) -> None:
    window = Window(HOME.col - 100, HOME.row + 400, 300, 150)
    made = tiny_render(sample_map(), tmp_path, bbox=bbox_of(GRID, window))
    assert made.image.shape == (150, 300, 3)
    assert not made.mask[:, :100].any()
    inside = HOME.intersection(window)
    np.testing.assert_array_equal(
        made.mask[inside.slices(window)], large_render().mask[inside.slices(HOME)]
    )
    np.testing.assert_array_equal(
        made.image[inside.slices(window)], large_render().image[inside.slices(HOME)]
    )


def test_far_cells_are_skipped(tmp_path: Path) -> None:
    window = Window(HOME.col - 1000, HOME.row + 400, 1100, 50)
    made = tiny_render(sample_map(), tmp_path, bbox=bbox_of(GRID, window))
    assert made.result.skipped_cells >= 3
    assert (made.image[:, :700] == FILL).all()


def test_source_with_holes_is_seen_as_fill(tmp_path: Path) -> None:
    """Pixels beside a hole are made as if ground were there, masked ones do not matter."""
    whole = TileMap.block(16, 37_307, 18_966, 3, 3)
    tiles = tuple(tile for tile in whole.tiles if tile != (37_308, 18_967))
    source = write_mbtiles(tmp_path / "map.mbtiles", TileMap(16, tiles, random_map))
    made = tiny_render(source, tmp_path)
    extent = whole.extent
    image = random_map(extent)
    hole = Window(37_308 * TILE, 18_967 * TILE, TILE, TILE)
    image[hole.slices(extent)] = FILL
    valid = made.mask > 0
    assert not made.mask[hole.slices(extent)].any()
    assert valid.sum() == 8 * TILE * TILE
    wanted = expected(image, extent)
    assert_near(made.image[valid], wanted[valid])


# around the world

WORLD = 3


def world_map(path: Path, *, folder: bool = False) -> Path:
    tile_map = TileMap(WORLD, TileMap.block(WORLD, 0, 0, 8, 8).tiles, random_map)
    return write_folder(path, tile_map) if folder else write_mbtiles(path, tile_map)


@pytest.mark.parametrize("folder", [False, True], ids=["mbtiles", "folder"])
def test_box_across_180_degrees(folder: bool, tmp_path: Path) -> None:
    source = world_map(tmp_path / ("world" if folder else "world.mbtiles"), folder=folder)
    across = tiny_render(source, tmp_path, bbox="160,-20,-150,30")
    west = tiny_render(source, tmp_path, bbox="160,-20,180,30")
    east = tiny_render(source, tmp_path, bbox="-180,-20,-150,30")
    assert across.result.width == west.result.width + east.result.width
    np.testing.assert_array_equal(across.image, np.concatenate([west.image, east.image], axis=1))
    assert across.mask.all()
    assert across.raster.transform == west.raster.transform
    assert across.result.bounds.west < HALF_WORLD < across.result.bounds.east
    metres = 2 * HALF_WORLD
    assert across.result.bounds.east - metres == pytest.approx(east.result.bounds.east, abs=1e-6)
    # and there is something to compare
    assert np.abs(np.diff(across.image.astype(int), axis=1)).mean() > 3


def test_the_world_wraps_in_the_halo(tmp_path: Path) -> None:
    """Pixels at 180 degrees see the map on the other side of it."""
    source = world_map(tmp_path / "world.mbtiles")
    whole = tiny_render(source, tmp_path)
    world = TILE << WORLD
    assert whole.image.shape == (world, world, 3)
    image = random_map(Window(0, 0, world, world))
    edge = Window(world - 40, 700, 80, 90)
    turned = np.roll(image, world // 2, axis=1)
    wanted = expected_wrapped(turned, edge, world)
    columns = np.arange(edge.col, edge.right) % world
    assert_near(whole.image[edge.row : edge.bottom][:, columns], wanted)


def expected_wrapped(turned: Pixels, edge: Window, world: int) -> Pixels:
    """Return what the model makes across the seam, with the world's noise."""
    from maptile2sat.models.noise import noise

    model, halo = model_and_halo()
    left, top = (edge.col - halo) // 4 * 4, (edge.row - halo) // 4 * 4
    right, bottom = -(-(edge.right + halo) // 4) * 4, -(-(edge.bottom + halo) // 4) * 4
    around = Window(left, top, right - left, bottom - top)
    seen = turned[around.shifted(-world // 2, 0).slices(Window(0, 0, world, world))]
    grains = noise(0, around, world)
    parts: list[Any] = [seen.astype(np.float32), grains.fine, grains.coarse]
    made = np.asarray(model([part[None] for part in parts], training=False))[0]
    levels = np.clip(np.rint((made + 1) * 127.5), 0, 255).astype(np.uint8)
    return levels[edge.slices(around)]


# other grids and formats


def test_rotated_raster(tmp_path: Path) -> None:
    image = picture(300, 200)
    affine = (
        Affine.translation(2_776_000, 8_438_000) @ Affine.rotation(30) @ Affine.scale(1.2, -1.2)
    )
    source = write_raster(tmp_path / "map.tif", bands(image), affine)
    made = tiny_render(source, tmp_path)
    assert made.raster.transform == pytest.approx(affine)
    assert "METRES_PER_PIXEL" in made.raster.tags
    assert_near(made.image, expected(image, Window(0, 0, 300, 200)))


def test_part_of_a_rotated_raster(tmp_path: Path) -> None:
    image = picture(700, 600)
    affine = (
        Affine.translation(2_776_000, 8_438_000) @ Affine.rotation(-20) @ Affine.scale(1.2, -1.2)
    )
    source = write_raster(tmp_path / "map.tif", bands(image), affine)
    whole = tiny_render(source, tmp_path)
    centre = affine @ (350, 300)
    box = BBox(centre[0] - 60, centre[1] - 50, centre[0] + 60, centre[1] + 50)
    part = tiny_render(source, tmp_path, bbox=tuple(box), bbox_crs="EPSG:3857")
    col, row = (round(value) for value in ~affine @ (part.raster.transform @ (0, 0)))
    height, width = part.image.shape[:2]
    np.testing.assert_array_equal(part.image, whole.image[row : row + height, col : col + width])
    for x in (box.west, box.east):
        for y in (box.south, box.north):
            at = ~part.raster.transform @ (x, y)
            assert -1e-2 <= at[0] <= width + 1e-2
            assert -1e-2 <= at[1] <= height + 1e-2


LAMBERT = Affine(1.2, 0, 652_000.4, 0, -1.2, 6_862_000.8)


def test_lambert_raster(tmp_path: Path) -> None:
    image = picture(400, 300)
    source = write_raster(tmp_path / "map.tif", bands(image), LAMBERT, "EPSG:2154")
    made = tiny_render(source, tmp_path)
    assert made.raster.crs.to_epsg() == 2154
    assert made.raster.transform == LAMBERT
    assert made.result.crs == "EPSG:2154"
    _, extent = raster_grid(made.raster.crs, LAMBERT, 400, 300)
    assert_near(made.image, expected(image, extent))
    part = tiny_render(source, tmp_path, bbox="652060,6861760,652180,6861880", bbox_crs="EPSG:2154")
    top, left = part.raster.transform.f, part.raster.transform.c
    row, col = round((LAMBERT.f - top) / 1.2), round((left - LAMBERT.c) / 1.2)
    height, width = part.image.shape[:2]
    np.testing.assert_array_equal(part.image, made.image[row : row + height, col : col + width])
    degrees = tiny_render(source, tmp_path, bbox=lambert_box(652_060, 6_861_760, 120))
    assert degrees.image.shape[0] >= 100


def lambert_box(x: float, y: float, side: float) -> tuple[float, float, float, float]:
    lons, lats = transform_points("EPSG:2154", "EPSG:4326", [x, x + side], [y, y + side])
    return lons[0], lats[0], lons[1], lats[1]


def test_crops_of_one_raster_agree(tmp_path: Path) -> None:
    """The lattice of the CRS decides cells and noise, not the corner of the file."""
    image = picture(500, 420)
    whole = tiny_render(
        write_raster(tmp_path / "whole.tif", bands(image), LAMBERT, "EPSG:2154"), tmp_path
    )
    crop = write_raster(
        tmp_path / "crop.tif",
        bands(image[31:, 53:]),
        LAMBERT @ Affine.translation(53, 31),
        "EPSG:2154",
    )
    made = tiny_render(crop, tmp_path)
    _, halo = model_and_halo()
    np.testing.assert_array_equal(made.image[halo:, halo:], whole.image[31 + halo :, 53 + halo :])


def test_geographic_raster(tmp_path: Path) -> None:
    """Square pixels in degrees are square on the ground near the equator only."""
    image = picture(300, 200)
    step = 1e-5
    near = Affine(step, 0, 36.8, 0, -step, -1.28)
    made = tiny_render(
        write_raster(tmp_path / "near.tif", bands(image), near, "EPSG:4326"), tmp_path
    )
    assert made.raster.crs.to_epsg() == 4326
    assert made.raster.transform == near
    _, extent = raster_grid(made.raster.crs, near, 300, 200)
    assert_near(made.image, expected(image, extent))


def test_oblong_pixels_need_a_word(tmp_path: Path) -> None:
    image = picture(300, 200)
    affine = Affine(1e-5, 0, 24.94, 0, -1e-5, 60.17)
    source = write_raster(tmp_path / "north.tif", bands(image), affine, "EPSG:4326")
    with pytest.raises(SourceError, match=r"-z ZOOM to warp .* or --native"):
        tiny_render(source, tmp_path)
    assert tiny_render(source, tmp_path, native=True).raster.transform == affine
    warped = tiny_render(source, tmp_path, zoom=16)
    assert warped.raster.crs.to_epsg() == 3857
    assert warped.raster.tags["ZOOM"] == "16"


def test_zoom_of_a_raster(tmp_path: Path) -> None:
    """Warped tile by tile: boxes are parts of the whole, here too."""
    image = picture(900, 700)
    source = write_raster(tmp_path / "map.tif", bands(image), LAMBERT, "EPSG:2154")
    whole = tiny_render(source, tmp_path, zoom=16)
    assert whole.raster.crs.to_epsg() == 3857
    assert whole.raster.transform.a == pytest.approx(GRID.affine.a, rel=1e-12)
    col, row = (round(value) for value in ~GRID.affine @ (whole.raster.transform @ (0, 0)))
    outer = Window(col, row, whole.result.width, whole.result.height)
    assert whole.raster.transform == GRID.transform(outer)
    assert 0.3 < (whole.mask > 0).mean() < 1
    for inner in (Window(col + 101, row + 57, 88, 123), Window(col + 3, row + 200, 270, 31)):
        part = tiny_render(source, tmp_path, zoom=16, bbox=bbox_of(GRID, inner))
        np.testing.assert_array_equal(part.image, whole.image[inner.slices(outer)])
        np.testing.assert_array_equal(part.mask, whole.mask[inner.slices(outer)])


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_deep_rasters_are_refused(dtype: str, tmp_path: Path) -> None:
    values = np.full((3, 20, 20), 900, dtype)
    source = write_raster(tmp_path / "map.tif", values)
    with pytest.raises(SourceError, match=f"map.tif .*{dtype}") as caught:
        tiny_render(source, tmp_path)
    assert "\n" not in str(caught.value)


def paletted(path: Path, image: Pixels, affine: Affine) -> Path:
    colours, indices = np.unique(image.reshape(-1, 3), axis=0, return_inverse=True)
    values = indices.reshape(1, *image.shape[:2]).astype(np.uint8)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        width=image.shape[1],
        height=image.shape[0],
        dtype="uint8",
        crs="EPSG:3857",
        transform=affine,
        photometric="palette",
    ) as dataset:
        dataset.write(values)
        dataset.write_colormap(
            1, {index: (*map(int, colour), 255) for index, colour in enumerate(colours)}
        )
    return path


def test_formats_of_one_picture_give_one_result(tmp_path: Path) -> None:
    """Paletted, with alpha, and as plain RGB."""
    extent = Window(HOME.col + 5, HOME.row + 5, 270, 180)
    image = random_map(extent)
    image[(image.astype(int) % 3).sum(-1) > 2] = (254, 254, 254)
    few = image // 64 * 64 + 31  # at most 64 colours
    affine = GRID.transform(extent)
    alpha = np.full((1, 180, 270), 255, np.uint8)
    sources = [
        write_raster(tmp_path / "rgb.tif", bands(few), affine),
        paletted(tmp_path / "palette.tif", few, affine),
        write_raster(
            tmp_path / "rgba.tif", np.concatenate([bands(few), alpha]), affine, photometric="RGB"
        ),
    ]
    renders = [tiny_render(source, tmp_path).image for source in sources]
    assert renders[0].std() > 20
    np.testing.assert_array_equal(renders[1], renders[0])
    np.testing.assert_array_equal(renders[2], renders[0])


def test_grey_map(tmp_path: Path) -> None:
    extent = Window(HOME.col, HOME.row, 90, 80)
    grey = random_map(extent)[..., :1]
    source = write_raster(tmp_path / "grey.tif", bands(grey), GRID.transform(extent))
    made = tiny_render(source, tmp_path)
    assert_near(made.image, expected(np.repeat(grey, 3, -1), extent))


def test_nodata_is_masked(tmp_path: Path) -> None:
    extent = Window(HOME.col, HOME.row, 300, 200)
    image = np.maximum(random_map(extent), 1)
    image[50:90, 20:70] = 0
    source = write_raster(tmp_path / "map.tif", bands(image), GRID.transform(extent), nodata=0)
    made = tiny_render(source, tmp_path)
    valid = np.full((200, 300), 255)
    valid[50:90, 20:70] = 0
    np.testing.assert_array_equal(made.mask, valid)
    image[50:90, 20:70] = FILL
    wanted = expected(image, extent)
    seen = made.mask > 0
    assert_near(made.image[seen], wanted[seen])


def test_crs_can_be_given(tmp_path: Path) -> None:
    image = picture(60, 50)
    source = write_raster(tmp_path / "map.tif", bands(image), LAMBERT, None)
    with pytest.raises(SourceError, match="does not name its CRS: pass --src-crs"):
        tiny_render(source, tmp_path)
    made = tiny_render(source, tmp_path, src_crs="EPSG:2154")
    assert made.raster.crs.to_epsg() == 2154


def test_far_scale_is_warned_of(tmp_path: Path) -> None:
    image = picture(60, 50)
    affine = Affine(30, 0, 2_776_000, 0, -30, 8_438_000)
    made = tiny_render(write_raster(tmp_path / "map.tif", bands(image), affine), tmp_path)
    assert [text for text in made.result.warnings if "say -z 16" in text]


@pytest.mark.parametrize(("row", "advice"), [(10_000, "say -z 15 "), (6_000, "say -z 14 ")])
def test_advised_scale_is_another_one(row: int, advice: str, tmp_path: Path) -> None:
    """In the far north the pixels of the model's own zoom are small: that is no advice there."""
    place = Window(37_300 * 256, row * 256, 60, 50)
    source = write_raster(tmp_path / "map.tif", bands(picture(60, 50)), GRID.transform(place))
    warnings = tiny_render(source, tmp_path).result.warnings
    assert [text for text in warnings if "m per pixel" in text and advice in text]


def test_foreign_colours_are_warned_of(tmp_path: Path) -> None:
    image = np.full((3, 60, 50), 17, np.uint8)
    image[1] = 200
    extent = Window(HOME.col, HOME.row, 50, 60)
    made = tiny_render(write_raster(tmp_path / "map.tif", image, GRID.transform(extent)), tmp_path)
    assert [text for text in made.result.warnings if "only 0% of the map's pixels" in text]
    home = write_raster(
        tmp_path / "home.tif", bands(np.full((60, 50, 3), FILL, np.uint8)), GRID.transform(extent)
    )
    assert tiny_render(home, tmp_path).result.warnings == []


def test_metres_per_pixel_is_on_the_ground(tmp_path: Path) -> None:
    image = picture(60, 50)
    source = write_raster(tmp_path / "map.tif", bands(image), LAMBERT, "EPSG:2154")
    tags = tiny_render(source, tmp_path).raster.tags
    assert float(tags["METRES_PER_PIXEL"]) == pytest.approx(1.2, rel=5e-3)
    assert "ZOOM" not in tags


def test_area_too_large_for_a_file(tmp_path: Path) -> None:
    tile_map = TileMap.block(16, 37_307, 18_966, 1, 1)
    source = write_mbtiles(tmp_path / "map.mbtiles", tile_map)
    with pytest.raises(OutputError, match="too large"):
        tiny_render(source, tmp_path, bbox="-179,-80,179,80")
    assert files_in(tmp_path) == ["map.mbtiles"]


def test_box_far_beyond_a_raster_reads_nothing_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells without any map cost neither a read nor the generator."""
    path = write_raster(
        tmp_path / "map.tif",
        np.full((3, 256, 256), 230, np.uint8),
        crs="EPSG:2154",
        transform=Affine(2, 0, 512 * 1200, 0, -2, 512 * 13_000),
    )
    reads = []
    real = RasterSource.read

    def read(source: RasterSource, *given: Any) -> Any:
        reads.append(given[0])
        return real(source, *given)

    monkeypatch.setattr(RasterSource, "read", read)
    box = f"{512 * 1195},{512 * 12_995},{512 * 1205},{512 * 13_005}"
    made = tiny_render(path, tmp_path, bbox=box, bbox_crs="EPSG:2154")
    assert (made.result.cells, made.result.skipped_cells) == (1, 99)
    assert len([window for window in reads if window.width >= 256]) <= 2  # the cell, the colours
    assert made.raster.mask.astype(bool).sum() == 256 * 256


def test_box_across_180_degrees_of_a_map_that_ends_there(tmp_path: Path) -> None:
    path = write_raster(
        tmp_path / "map.tif",
        np.full((3, 64, 64), 230, np.uint8),
        crs="EPSG:4326",
        transform=Affine(0.0007, 0, 180 - 0.0448, 0, -0.0007, 0.0224),
    )
    made = tiny_render(path, tmp_path, bbox="179.95,-0.01,-179.95,0.01", native=True)
    assert [text for text in made.result.warnings if "crosses 180 degrees" in text]


@pytest.mark.parametrize(
    ("west", "bbox", "bounds"),
    [
        (179.9, "-179.98,-0.01,-179.95,0.01", (180.02, 180.05)),
        (179.9, "179.98,-0.01,-179.98,0.01", (179.98, 180.02)),
        (-180.1, "179.95,-0.01,179.98,0.01", (-180.05, -180.02)),
        (-180.1, "179.98,-0.01,-179.98,0.01", (-180.02, -179.98)),
    ],
)
def test_boxes_beyond_180_degrees_of_a_map_that_goes_on(
    west: float, bbox: str, bounds: tuple[float, float], tmp_path: Path
) -> None:
    """Its pixels do not divide the circle, so that no column is the same place as another."""
    at = Affine(0.0007, 0, west, 0, -0.0007, 0.0224)
    path = write_raster(tmp_path / "map.tif", np.full((3, 64, 280), 230, np.uint8), at, "EPSG:4326")
    made = tiny_render(path, tmp_path, bbox=bbox)
    assert (made.raster.mask == 255).all()
    assert made.result.bounds[::2] == pytest.approx(bounds, abs=0.001)
    assert not [text for text in made.result.warnings if "crosses 180 degrees" in text]
