"""Tiles as they are served: the pixels, the zooms, what a cache may keep."""

from __future__ import annotations

import io
import os
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock
from urllib.parse import quote

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import requests
from PIL import Image
from rasterio.vrt import WarpedVRT

from maptile2sat.geo.grid import TILE, Window, mercator_grid
from maptile2sat.paths import sample_map
from maptile2sat.rendering import RenderOptions
from maptile2sat.serving.service import command
from maptile2sat.sources import open_source
from tests.conftest import TileMap, write_folder, write_mbtiles, write_raster
from tests.support_render import (
    DESCRIPTION,
    bbox_of,
    read_back,
    run_cli,
    tiny_render,
    write_tiny_bundle,
)
from tests.support_serve import SIDE, Running, model, running

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

ZOOM = 16


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of the sample map."""
    with running(sample_map(), tmp_path_factory.mktemp("tiles")) as server:
        yield server


def extent() -> Window:
    source = open_source(sample_map())
    try:
        return source.info.extent
    finally:
        source.close()


def tiles() -> list[tuple[int, int]]:
    """Return all tiles of the sample map at its zoom."""
    area = extent()
    return [
        (col, row)
        for row in range(area.row // TILE, -(-area.bottom // TILE))
        for col in range(area.col // TILE, -(-area.right // TILE))
    ]


def test_every_tile_is_the_same_as_in_a_render(sample: Running, tmp_path: Path) -> None:
    made = tiny_render(sample_map(), tmp_path, model=str(model()))
    area = extent()
    for col, row in tiles():
        window = Window(col * TILE, row * TILE, TILE, TILE)
        served = sample.tile("tiny", ZOOM, col, row)
        rows, cols = window.slices(area)
        np.testing.assert_array_equal(served[..., :3], made.image[rows, cols])
        np.testing.assert_array_equal(served[..., 3], made.mask[rows, cols])
    assert np.ptp(made.image) > 50  # there was something to compare


def test_a_tile_is_the_same_as_in_a_render_of_that_tile_alone(
    sample: Running, tmp_path: Path
) -> None:
    col, row = tiles()[5]
    box = bbox_of(mercator_grid(ZOOM), Window(col * TILE, row * TILE, TILE, TILE))
    made = tiny_render(sample_map(), tmp_path, model=str(model()), bbox=box)
    np.testing.assert_array_equal(sample.tile("tiny", ZOOM, col, row)[..., :3], made.image)


def test_the_map_itself_is_served(sample: Running) -> None:
    source = open_source(sample_map())
    for col, row in tiles()[::3]:
        read = source.read(Window(col * TILE, row * TILE, TILE, TILE))
        served = sample.tile("source", ZOOM, col, row)
        np.testing.assert_array_equal(served[..., :3], read.image)
        np.testing.assert_array_equal(served[..., 3], read.mask)
    source.close()


def test_formats_show_the_same_picture(sample: Running) -> None:
    col, row = tiles()[0]
    png = sample.tile("tiny", ZOOM, col, row, "png")
    np.testing.assert_array_equal(png, sample.tile("tiny", ZOOM, col, row, "webp"))
    jpeg = sample.tile("tiny", ZOOM, col, row, "jpg")
    seen = png[..., 3] > 0
    assert abs(png[..., :3].astype(int) - jpeg[..., :3])[seen].mean() < 12
    for form, media in (("png", "image/png"), ("webp", "image/webp"), ("jpg", "image/jpeg")):
        answer = sample.get(f"/tiny/{ZOOM}/{col}/{row}.{form}")
        assert answer.headers["Content-Type"] == media


def average(picture: np.ndarray) -> np.ndarray:
    """Average each two by two, valid pixels only; valid if at least two are."""
    valid = picture[..., 3] > 0
    out = np.zeros((picture.shape[0] // 2, picture.shape[1] // 2, 4), np.uint8)
    for row in range(out.shape[0]):
        for col in range(out.shape[1]):
            four = picture[2 * row : 2 * row + 2, 2 * col : 2 * col + 2].reshape(4, 4)
            seen = valid[2 * row : 2 * row + 2, 2 * col : 2 * col + 2].reshape(4)
            colours = four[seen] if seen.any() else four
            mean = colours[:, :3].astype(float).mean(axis=0)
            out[row, col, :3] = np.floor(mean + 0.5)
            out[row, col, 3] = 255 if seen.sum() >= 2 else 0
    return out


@pytest.mark.parametrize("below", [1, 3])
def test_lower_zooms_are_averages_of_their_children(sample: Running, below: int) -> None:
    zoom = ZOOM - below
    col, row = (value >> below for value in tiles()[0])
    served = sample.tile("tiny", zoom, col, row)
    children = [
        [sample.tile("tiny", zoom + 1, 2 * col + right, 2 * row + down) for right in (0, 1)]
        for down in (0, 1)
    ]
    expected = average(np.concatenate([np.concatenate(two, 1) for two in children], 0))
    np.testing.assert_array_equal(served[..., 3], expected[..., 3])
    seen = expected[..., 3] > 0
    assert seen.any()
    np.testing.assert_array_equal(served[seen], expected[seen])


def test_zooms_far_below_show_what_is_kept_and_generate_nothing(tmp_path: Path) -> None:
    col, row = tiles()[0]
    with running(sample_map(), tmp_path) as server:
        far = f"/tiny/{ZOOM - 5}/{col >> 5}/{row >> 5}.png"
        before = server.get(far)
        assert server.health()["cells"]["made"] == 0
        server.tile("tiny", ZOOM - 3, col >> 3, row >> 3)
        made = server.health()["cells"]["made"]
        after = server.get(far)
        assert server.health()["cells"]["made"] == made > 0
        assert before.headers["Cache-Control"] == after.headers["Cache-Control"] == "no-store"
    pixels = [np.asarray(Image.open(io.BytesIO(page.content))) for page in (before, after)]
    assert not pixels[0][..., 3].any()
    assert pixels[1][..., 3].any()


def test_higher_zooms_fit_together(sample: Running) -> None:
    col, row = next(place for place in tiles() if (place[0] + 1, place[1] + 1) in tiles())
    native = np.concatenate(
        [
            np.concatenate([sample.tile("tiny", ZOOM, col + x, row + y) for x in (0, 1)], 1)
            for y in (0, 1)
        ],
        0,
    )
    whole = np.asarray(
        Image.fromarray(native).resize((4 * TILE, 4 * TILE), Image.Resampling.BILINEAR)
    )
    for x, y in ((1, 1), (2, 1), (1, 2), (2, 2)):  # those that look at no other tile
        served = sample.tile("tiny", ZOOM + 1, 2 * col + x, 2 * row + y)
        part = whole[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE]
        assert abs(served.astype(int) - part).max() <= 1


def test_outside_the_map_tiles_are_transparent(sample: Running) -> None:
    col, row = tiles()[-1]
    for path in (
        f"/tiny/{ZOOM}/{col + 9}/{row}",
        f"/tiny/{ZOOM}/0/0",
        "/tiny/2/1/1",
        "/tiny/25/0/0",
    ):
        for form in ("png", "webp"):
            answer = sample.get(f"{path}.{form}")
            assert answer.status_code == 200
            assert not np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA")).any()
        assert sample.get(f"{path}.jpg").status_code == 204


def test_one_request_makes_all_tiles_of_its_cell(tmp_path: Path) -> None:
    cells = {(col * TILE // SIDE, row * TILE // SIDE) for col, row in tiles()}
    with running(sample_map(), tmp_path) as server, ThreadPoolExecutor(16) as pool:
        jobs = [
            pool.submit(server.tile, "tiny", ZOOM, col, row)
            for col, row in tiles()
            for _ in range(3)
        ]
        for job in jobs:
            job.result()
        health = server.health()
    assert health["cells"]["made"] == len(cells)
    assert health["requests"]["tiles"] == len(jobs)
    assert health["seconds"]["generate"] > 0


def test_what_is_kept_is_used_by_the_next_server_and_only_if_it_would_be_the_same(
    tmp_path: Path,
) -> None:
    col, row = tiles()[3]
    with running(sample_map(), tmp_path) as server:
        first = server.tile("tiny", ZOOM, col, row)
    with running(sample_map(), tmp_path) as server:
        np.testing.assert_array_equal(server.tile("tiny", ZOOM, col, row), first)
        assert server.health()["cells"]["made"] == 0
    other = RenderOptions(precision="integer", seed=5)
    with running(sample_map(), tmp_path, render=other) as server:
        assert (server.tile("tiny", ZOOM, col, row) != first).any()


def test_a_damaged_file_of_the_cache_is_made_anew(tmp_path: Path) -> None:
    col, row = tiles()[3]
    with running(sample_map(), tmp_path) as server:
        first = server.tile("tiny", ZOOM, col, row)
    for path in tmp_path.rglob(f"{row}.*"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    with running(sample_map(), tmp_path) as server:
        np.testing.assert_array_equal(server.tile("tiny", ZOOM, col, row), first)
        assert server.health()["cells"]["made"] == 1


def test_tags_let_clients_ask_whether_a_tile_has_changed(sample: Running) -> None:
    col, row = tiles()[0]
    path = f"/tiny/{ZOOM}/{col}/{row}.png"
    first = sample.get(path)
    again = sample.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = sample.get(path, headers={"If-None-Match": '"another"'})
    assert other.content == first.content
    assert "max-age=3600" in first.headers["Cache-Control"]
    fixed = sample.get("/tiny/tilejson.json").json()["tiles"][0].partition("?")[2]
    assert "immutable" in sample.get(f"{path}?{fixed}").headers["Cache-Control"]
    assert "immutable" not in sample.get(f"{path}?v=old").headers["Cache-Control"]


def test_the_tilejson_describes_the_layer(sample: Running) -> None:
    about = sample.get("/tiny/tilejson.json").json()
    assert about["tilejson"] == "3.0.0"
    assert (about["minzoom"], about["maxzoom"]) == (13, 16)
    west, south, east, north = about["bounds"]
    np.testing.assert_allclose(
        (west, south, east, north), mercator_grid(ZOOM).lonlat_bounds(extent()), atol=1e-9
    )
    assert "OpenStreetMap" in about["attribution"]
    assert "synthetic" in about["attribution"]
    col, row = tiles()[0]
    address = about["tiles"][0].format(z=ZOOM, x=col, y=row)
    assert (
        requests.get(address, timeout=60).content
        == sample.get(f"/tiny/{ZOOM}/{col}/{row}.png").content
    )


def test_a_raster_of_another_grid_is_warped_as_by_render(tmp_path: Path) -> None:
    pixels = (
        np.random.default_rng(1).integers(0, 255, (3, 60, 60), np.uint8).repeat(4, 1).repeat(4, 2)
    )
    path = write_raster(
        tmp_path / "map.tif",
        pixels,
        crs="EPSG:3067",
        transform=rasterio.Affine(2.0, 0, 385_000, 0, -2.0, 6_672_000),
    )
    made = tiny_render(path, tmp_path, model=str(model()), zoom=ZOOM)
    with running(path, tmp_path / "tiles") as server:
        area = server.service.makers["tiny"].layer.window
        col, row = (area.col + area.width // 2) // TILE, (area.row + area.height // 2) // TILE
        served = server.tile("tiny", ZOOM, col, row)
    part = Window(col * TILE, row * TILE, TILE, TILE).intersection(area)
    rows, cols = part.slices(area)
    there = part.slices(Window(col * TILE, row * TILE, TILE, TILE))
    np.testing.assert_array_equal(served[there][..., :3], made.image[rows, cols])


def test_an_area_across_180_degrees_is_served_on_both_sides(tmp_path: Path) -> None:
    world = 1 << 10
    both = TileMap(10, tuple((col, 500) for col in (world - 2, world - 1, 0, 1)))
    source = write_mbtiles(tmp_path / "date.mbtiles", both)
    box = bbox_of(mercator_grid(10), Window((world - 2) * TILE, 500 * TILE, 4 * TILE, TILE))
    options = RenderOptions(precision="integer", bbox=box, zoom=10)
    made = tiny_render(source, tmp_path, model=str(model()), bbox=box, zoom=10)
    with running(source, tmp_path / "tiles", render=options) as server:
        served = [server.tile("tiny", 10, col, 500) for col in (world - 2, world - 1, 0, 1)]
        about = server.get("/tiny/tilejson.json").json()
        shown = server.get("/viewer.json").json()["models"][0]
    assert about["bounds"][0::2] == shown["bounds"][0::2] == [-180, 180]
    south = mercator_grid(10).lonlat_bounds(Window(0, 500 * TILE, 1, TILE)).south
    for middle in (about["center"][:2], shown["middle"]):  # where the map is
        assert abs(abs(middle[0]) - 180) < 1e-6
        assert 0 < middle[1] - south < 0.35
    np.testing.assert_array_equal(np.concatenate(served, 1)[..., :3], made.image)


def test_two_models_of_one_name_have_two_addresses(tmp_path: Path) -> None:
    with running(sample_map(), tmp_path, models=(str(model()), str(model()))) as server:
        names = [entry["name"] for entry in server.get("/viewer.json").json()["models"]]
        assert names == ["tiny", "tiny-2"]
        col, row = tiles()[0]
        one, two = (server.tile(name, ZOOM, col, row) for name in names)
    np.testing.assert_array_equal(one, two)


def test_the_geotiff_of_an_area_is_what_render_makes(sample: Running, tmp_path: Path) -> None:
    col, row = tiles()[0]
    box = bbox_of(mercator_grid(ZOOM), Window(col * TILE + 30, row * TILE + 40, 300, 200))
    answer = sample.get(f"/tiny/area.tif?bbox={box}")
    assert answer.status_code == 200
    (tmp_path / "area.tif").write_bytes(answer.content)
    served = read_back(tmp_path / "area.tif")
    made = tiny_render(sample_map(), tmp_path, model=str(model()), bbox=box, missing="mask")
    assert served.transform == made.raster.transform
    assert served.tags["SYNTHETIC"] == "YES"
    np.testing.assert_array_equal(served.image, made.image)


def test_a_raster_of_oblong_pixels_is_warped_too(tmp_path: Path) -> None:
    """As those of degrees are: `render` has to be told a zoom, a server has one."""
    path = write_raster(
        tmp_path / "map.tif",
        np.full((3, 60, 60), 200, np.uint8),
        crs="EPSG:4326",
        transform=rasterio.Affine(2e-5, 0, 24.94, 0, -2e-5, 60.18),
    )
    with running(path, tmp_path / "tiles") as server:
        about = server.get("/tiny/tilejson.json").json()
        (command, _) = server.get("/viewer.json").json()["models"][0]["command"]
    assert about["maxzoom"] == ZOOM
    np.testing.assert_allclose(about["bounds"], (24.94, 60.1788, 24.9412, 60.18), atol=1e-4)
    assert f"-z {ZOOM}" in command


def test_the_command_has_all_that_decides_the_pixels(tmp_path: Path) -> None:
    path = write_raster(
        tmp_path / "map.tif",
        np.full((3, 60, 60), 200, np.uint8),
        crs=None,
        transform=rasterio.Affine(2.0, 0, 385_000, 0, -2.0, 6_672_000),
    )
    options = RenderOptions(precision="integer", src_crs="EPSG:3067", seed=3)
    with running(path, tmp_path / "tiles", render=options) as server:
        (command, _) = server.get("/viewer.json").json()["models"][0]["command"]
    for words in ("--src-crs EPSG:3067", f"-z {ZOOM}", "--seed 3", "--precision integer"):
        assert words in command
    template = "http://127.0.0.1:9/{z}/{x}/{y}.png"
    options = RenderOptions(precision="integer", bbox="24.94,60.17,24.95,60.18", tile_size=512)
    with running(template, tmp_path / "tiles", render=options) as server:
        (command, _) = server.get("/viewer.json").json()["models"][0]["command"]
    assert "--tile-size 512" in command


def written_command(server: Running, box: str, output: Path) -> list[str]:
    """Return the words that the viewer shows for a box."""
    before, after = server.get("/viewer.json").json()["models"][0]["command"]
    return [*shlex.split(f"{before} {box} {after}")[1:-1], str(output)]


def test_the_command_opens_what_the_server_opened(tmp_path: Path) -> None:
    """Their names lack the folder of an extract, and the template of a folder."""
    pytest.importorskip("osmium")
    pytest.importorskip("shapely")
    from tests.test_draw import Osm, lonlat

    osm = Osm()
    osm.way([(0.0, 20.0), (300.0, 20.0)], highway="residential")
    extract = osm.write(tmp_path / "town.osm")
    (west, north), (east, south) = lonlat(40.0, 10.0), lonlat(60.0, 30.0)
    tile = TileMap(ZOOM, ((37308, 18968),))
    folder = write_folder(tmp_path / "tiles of mine", tile, tms=True)
    inside = Window(37308 * TILE + 20, 18968 * TILE + 20, 30, 30)
    for origin, box, shown in (
        (str(extract), f"{west},{south},{east},{north}", "town.osm"),
        (
            f"{folder}/{{z}}/{{x}}/{{-y}}.png",
            bbox_of(mercator_grid(ZOOM), inside),
            "tiles of mine/{z}/{x}/{-y}.png",
        ),
    ):
        with running(origin, tmp_path / "cache") as server:
            words = written_command(server, box, tmp_path / "area.tif")
            (layer,) = server.service.layers.images.values()
            (private, _) = command(layer, private=True)
        assert words[1] == origin
        assert shlex.split(private)[2] == shown
        done = run_cli(*words, "--dry-run")
        assert done.code == 0, done.err


def test_another_map_file_makes_other_tiles(tmp_path: Path) -> None:
    """Also if it is given as an address of this machine."""
    path = write_mbtiles(tmp_path / "a map.mbtiles", TileMap(ZOOM, ((37308, 18968),)))
    versions = []
    for given in (path, path.as_uri(), path.as_uri()):
        with running(given, tmp_path / "cache") as server:
            about = server.get("/viewer.json").json()
            (layer,) = server.service.layers.images.values()
        versions.append((about["map"]["version"], about["models"][0]["version"]))
        assert shlex.split(command(layer, private=True)[0])[2] == path.name
        if len(versions) == 2:
            os.utime(path, (1, 1))
    assert versions[0] == versions[1]
    assert not set(versions[1]) & set(versions[2])


def test_any_name_of_a_model_makes_an_address(tmp_path: Path) -> None:
    odd = write_tiny_bundle(tmp_path / "odd", cell=SIDE, name="Mein #1? 100% {z}")
    with running(sample_map(), tmp_path / "tiles", models=(str(odd),)) as server:
        path = quote("/Mein #1? 100% {z}")
        (template,) = server.get(f"{path}/tilejson.json").json()["tiles"]
        col, row = tiles()[0]
        address = template.format(z=ZOOM, x=col, y=row)
        tile = requests.get(address, timeout=60)
        assert tile.content == server.get(f"{path}/{ZOOM}/{col}/{row}.png").content
    assert tile.status_code == 200
    assert address.isascii()
    assert " " not in address


def test_the_tilejson_of_a_map_of_zoom_0(tmp_path: Path) -> None:
    """TileJSON wants a middle between its zooms, and a version of three numbers."""
    source = write_mbtiles(tmp_path / "world.mbtiles", TileMap(0, ((0, 0),)))
    bundle = write_tiny_bundle(tmp_path / "tiny", cell=SIDE, version="2.x.y")
    with running(source, tmp_path / "tiles", models=(str(bundle),)) as server:
        about = server.get("/tiny/tilejson.json").json()
    assert (about["minzoom"], about["maxzoom"]) == (0, 0)
    assert about["center"] == [0, 0, 0]
    assert about["version"] == "1.0.0"


def test_what_messages_say_of_a_map_can_be_said_to_a_server_too(tmp_path: Path) -> None:
    """A VRT beyond its folder wants `--allow-vrt`, of `serve` as well as of `render`."""
    (tmp_path / "vrt").mkdir()
    pixels = np.full((3, 256, 256), 200, np.uint8)
    at = mercator_grid(ZOOM).transform(Window(37308 * TILE, 18968 * TILE, TILE, TILE))
    picture = write_raster(tmp_path / "map.tif", pixels, crs="EPSG:3857", transform=at)
    with rasterio.open(picture) as dataset, WarpedVRT(dataset) as warped:
        rasterio.shutil.copy(warped, tmp_path / "vrt" / "map.vrt", driver="VRT")
    words = ["serve", tmp_path / "vrt" / "map.vrt", "-m", model(), "--precision", "integer"]
    words += ["--port", "0", "--cache", tmp_path / "tiles", "--rate", "9"]
    with mock.patch("uvicorn.Server.run"):  # all but answering
        refused = run_cli(*words)
        taken = run_cli(*words, "--allow-vrt", "--allow-repeats")
    assert refused.code == 1
    assert refused.err.strip().endswith("pass --allow-vrt")
    assert taken.code == 0, taken.err
    options = RenderOptions(precision="integer", allow_vrt=True, allow_repeats=True)
    with running(tmp_path / "vrt" / "map.vrt", tmp_path / "tiles", render=options) as server:
        (command, _) = server.get("/viewer.json").json()["models"][0]["command"]
    assert "--allow-vrt --allow-repeats" in command


def test_jpeg_has_the_ground_colour_beside_the_map(tmp_path: Path) -> None:
    """It cannot be transparent; black would frame the map."""
    box = bbox_of(mercator_grid(ZOOM), Window(37308 * TILE, 18968 * TILE, 128, 512))
    options = RenderOptions(precision="integer", bbox=box)
    with running(sample_map(), tmp_path, render=options) as server:
        for zoom in (ZOOM - 1, ZOOM):
            col, row = 37308 >> (ZOOM - zoom), 18968 >> (ZOOM - zoom)
            for layer in ("tiny", "source"):
                assert not server.tile(layer, zoom, col, row)[:, -100:, 3].any()
                shown = server.tile(layer, zoom, col, row, "jpg")[..., :3].astype(int)
                assert abs(shown[:, -100:] - DESCRIPTION["fill"]).max() <= 8


def test_geotiffs_of_both_sides_of_180_degrees(tmp_path: Path) -> None:
    """An area that is served across them begins in the east and ends in the west."""
    world = 1 << 10
    both = TileMap(10, tuple((col, 500) for col in (world - 1, 0)))
    source = write_mbtiles(tmp_path / "date.mbtiles", both)
    grid = mercator_grid(10)
    box = bbox_of(grid, Window((world - 1) * TILE, 500 * TILE, 2 * TILE, TILE))
    options = RenderOptions(precision="integer", bbox=box, zoom=10)
    with running(source, tmp_path / "tiles", render=options) as server:
        for col in (world - 1, 0):
            part = Window(col * TILE + 10, 500 * TILE + 10, 50, 40)
            answer = server.get(f"/tiny/area.tif?bbox={bbox_of(grid, part)}")
            assert answer.status_code == 200, answer.text
            (tmp_path / "area.tif").write_bytes(answer.content)
            shown = read_back(tmp_path / "area.tif").image
            tile = server.tile("tiny", 10, col, 500)
            np.testing.assert_array_equal(shown, tile[10:50, 10:60, :3])
        beside = bbox_of(grid, Window(5 * TILE, 500 * TILE, 50, 40))
        assert server.get(f"/tiny/area.tif?bbox={beside}").status_code == 400
