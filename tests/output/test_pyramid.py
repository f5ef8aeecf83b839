"""MBTiles and PMTiles as outputs, read back by GDAL, the pmtiles package and our own sources."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from pmtiles.reader import MmapSource, Reader
from rasterio.warp import transform as transform_points

import maptile2sat
from maptile2sat.geo.grid import TILE, BBox, Window, mercator_grid
from maptile2sat.info import inspect
from maptile2sat.output.geotiff import halved
from maptile2sat.output.pyramid import Zooms, lowest_zoom, write_mbtiles
from maptile2sat.output.raw_blocks import RawBlocks
from maptile2sat.paths import sample_map
from maptile2sat.sources import SourceOptions, open_source
from tests.conftest import pattern, write_raster
from tests.support_once import scratch
from tests.support_render import (
    FILL,
    files_in,
    large_render,
    read_back,
    run_cli,
    tiny_bundle,
)


def tiny() -> dict[str, Any]:
    """Return what all of these render with."""
    return {"model": str(tiny_bundle()), "precision": "integer"}


def tiles_of(path: Path) -> dict[tuple[int, int, int], bytes]:
    """Return every tile by zoom, column and row from the north."""
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles")
        return {(z, x, (1 << z) - 1 - row): data for z, x, row, data in rows}


def metadata_of(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as database:
        return dict(database.execute("SELECT name, value FROM metadata"))


def pixels_of(data: bytes) -> Any:
    """Return a tile as red, green, blue, alpha."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGBA"))


def read_whole(path: Path, zoom: int, window: Window) -> Any:
    """Return image and mask of a window by our own source."""
    with closing(open_source(path, SourceOptions(zoom=zoom))) as source:
        return source.read(window)


@pytest.fixture(scope="module")
def whole() -> Path:
    """Return the whole sample map, rendered to MBTiles with PNG tiles."""
    path = scratch("pyramid") / "town.mbtiles"
    result = maptile2sat.render(sample_map(), path, **tiny())
    assert result.zooms == (13, 16)
    assert files_in(path.parent) == ["town.mbtiles"]
    return path


def window_of_render() -> Window:
    at = large_render().raster.transform
    col, row = ~mercator_grid(16).affine @ (at.c, at.f)
    return Window(round(col), round(row), *large_render().mask.shape[::-1])


def test_deepest_zoom_has_the_pixels_of_the_geotiff(whole: Path) -> None:
    native, window = large_render(), window_of_render()
    image, mask = read_whole(whole, 16, window)
    assert (mask == native.mask).all()
    assert (image == native.image)[mask > 0].all()
    for (zoom, x, y), data in tiles_of(whole).items():
        with Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.size) == ("PNG", (256, 256))
            assert picture.mode in ("RGB", "RGBA")
        if zoom == 16:
            here = Window(x * TILE, y * TILE, TILE, TILE)
            there = pixels_of(data)
            assert (there[..., 3].any(), not here.intersection(window).empty) == (True, True)


def test_lower_zooms_are_halved(whole: Path) -> None:
    native, window = large_render(), window_of_render()
    assert not window.col % 4
    assert not window.row % 4
    image, mask = native.image, native.mask
    for lower in (1, 2):
        image, mask = halved(image, mask)
        part = Window(window.col >> lower, window.row >> lower, *mask.shape[::-1])
        there = read_whole(whole, 16 - lower, part)
        assert (there.mask == mask).all()
        assert (there.image == image)[mask > 0].all()


def test_what_it_says_about_itself(whole: Path) -> None:
    about = metadata_of(whole)
    west, south, east, north = (float(value) for value in about["bounds"].split(","))
    exact = mercator_grid(16).lonlat_bounds(window_of_render())
    assert (west, south, east, north) == pytest.approx(tuple(exact), abs=1e-8)
    lon, lat, zoom = (float(value) for value in about["center"].split(","))
    assert west < lon < east
    assert south < lat < north
    assert zoom == 13
    expected = {
        "name": "town",
        "format": "png",
        "minzoom": "13",
        "maxzoom": "16",
        "type": "baselayer",
        "SYNTHETIC": "YES",
        "MODEL": "tiny",
        "SEED": "0",
        "SOURCE": "helsinki.mbtiles",
    }
    assert expected.items() <= about.items()
    assert about["attribution"] == "© OpenStreetMap contributors; model by nobody"
    assert "SYNTHETIC" in about["description"]
    told = inspect(str(whole))
    assert (told["what"], told["model"], told["synthetic"]) == ("render", "tiny", "YES")
    assert told["bounds"][0] > 2_000_000  # of the CRS, as for any map


def test_gdal_reads_it(whole: Path) -> None:
    with rasterio.open(whole) as raster:
        assert raster.driver == "MBTiles"
        assert raster.crs.to_epsg() == 3857
        image, alpha = np.moveaxis(raster.read((1, 2, 3)), 0, -1), raster.read(4)
        at = large_render().raster.transform
        left, top = ~raster.transform @ (at.c, at.f)
    native = large_render()
    there = Window(round(left), round(top), *native.mask.shape[::-1]).slices(Window(0, 0, 1, 1))
    assert (left, top) == pytest.approx((round(left), round(top)), abs=1e-3)
    assert (image[there] == native.image)[native.mask > 0].all()
    assert (alpha[there] == native.mask).all()


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_pmtiles(form: str, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "town.pmtiles"
    done = run_cli(
        *("render", sample_map(), "-m", tiny_bundle(), "-o", path, "--precision", "integer"),
        *("--tile-format", form, "--min-zoom", 15, "--json"),
    )
    result = json.loads(done.out)
    assert result["zooms"] == [15, 16]
    assert files_in(tmp_path) == ["town.pmtiles"]
    with path.open("rb") as file:
        reader = Reader(MmapSource(file))
        header, about = reader.header(), reader.metadata()
        assert header["tile_type"].name == form.upper()
        assert (header["min_zoom"], header["max_zoom"]) == (15, 16)
        assert (about["SYNTHETIC"], about["name"]) == ("YES", "town")
        assert about["attribution"].startswith("© OpenStreetMap")
        tiles = {place: data for place, data in tiles_of(whole).items() if place[0] >= 15}
        for place, data in tiles.items():
            there = reader.get(*place)
            if form == "png":
                assert there == data
            else:
                right, ours = pixels_of(data).astype(int), pixels_of(there)
                valid = right[..., 3] > 0
                assert np.abs(right - ours)[valid][:, :3].mean() < 25
                if form == "webp":
                    assert (ours[..., 3] == right[..., 3]).all()
    assert inspect(str(path))["what"] == "render"
    assert inspect(str(path))["model"] == "tiny"
    if form == "png":
        window = window_of_render()
        image, mask = read_whole(path, 16, window)
        assert (image == large_render().image)[mask > 0].all()
        assert mask.mean() == large_render().mask.mean()
    assert ("JPEG tiles cannot be transparent" in done.err) == (form == "jpeg")


def test_holes(tmp_path: Path) -> None:
    """Tiles without map are left out, those with some are transparent; JPEG has the ground."""
    drawn = tmp_path / "map.tif"
    size = 2 * 20037508.342789244 / (TILE << 15)
    grid = mercator_grid(15)
    window = Window(18650 * TILE, 9480 * TILE, 3 * TILE, 2 * TILE)
    mask = np.full((2 * TILE, 3 * TILE), 255, np.uint8)
    mask[:TILE, TILE : 2 * TILE] = 0
    mask[300:340, 20:60] = 0
    bands = np.concatenate([np.moveaxis(pattern(window), -1, 0), mask[None]])
    at = grid.transform(window)
    assert at.a == pytest.approx(size)
    write_raster(drawn, bands, at, "EPSG:3857", alpha="yes", photometric="RGB")
    for form in ("png", "jpeg", "webp"):
        path = tmp_path / f"{form}.mbtiles"
        result = maptile2sat.render(drawn, path, tile_format=form, max_zoom=15, **tiny())
        tiles = tiles_of(path)
        x, y = window.col // TILE, window.row // TILE
        deepest = {place[1:] for place in tiles if place[0] == 15}
        assert deepest == {(x + dx, y + dy) for dx in range(3) for dy in range(2)} - {(x + 1, y)}
        part = pixels_of(tiles[15, x, y + 1])
        hole = mask[TILE:, :TILE] == 0
        if form == "jpeg":
            assert np.abs(part[60, 40, :3].astype(int) - FILL).max() < 6
            assert any("JPEG" in text for text in result.warnings)
        else:
            assert (part[..., 3] == np.where(hole, 0, 255)).all()
        assert metadata_of(path)["format"] == {"jpeg": "jpg"}.get(form, form)
    native = read_back(_geotiff(drawn, tmp_path))
    there = read_whole(tmp_path / "png.mbtiles", 15, window)
    assert (there.mask == native.mask).all()
    assert (there.image == native.image)[native.mask > 0].all()


def _geotiff(drawn: Path, folder: Path) -> Path:
    maptile2sat.render(drawn, folder / "native.tif", **tiny())
    return folder / "native.tif"


def test_raster_of_another_crs(tmp_path: Path) -> None:
    """It is brought to the zoom nearest to its resolution, 1.3 m at 60 degrees: 16."""
    window = Window(0, 0, 300, 280)
    bands = np.moveaxis(pattern(window), -1, 0)
    at = rasterio.Affine(1.3, 0, 385_700, 0, -1.3, 6_672_300)
    drawn = write_raster(tmp_path / "m.tif", bands, at, "EPSG:25835", photometric="RGB")
    planned = maptile2sat.plan(drawn, tmp_path / "m.mbtiles", **tiny())
    result = maptile2sat.render(
        drawn, tmp_path / "m.mbtiles", resampling="nearest", preview=tmp_path / "p.png", **tiny()
    )
    assert (planned.zooms, planned.crs, planned.bounds) == (
        result.zooms,
        "EPSG:3857",
        result.bounds,
    )
    assert (planned.width, planned.height) == (result.width, result.height)
    assert result.zooms is not None
    assert result.zooms.high == 16
    native = read_back(_geotiff(drawn, tmp_path))
    col, row = 190, 111
    xs, ys = transform_points("EPSG:25835", "EPSG:3857", *zip(at @ (col + 0.5, row + 0.5)))
    x, y = ~mercator_grid(16).affine @ (xs[0], ys[0])
    there = read_whole(tmp_path / "m.mbtiles", 16, Window(int(x), int(y), 1, 1))
    near = native.image[row - 1 : row + 2, col - 1 : col + 2].reshape(-1, 3)
    assert (near == there.image[0, 0]).all(-1).any()
    deeper = maptile2sat.plan(drawn, tmp_path / "n.mbtiles", max_zoom=17, **tiny())
    assert deeper.zooms is not None
    assert deeper.zooms.high == 17


def test_all_parts_of_a_raster_have_one_zoom(tmp_path: Path) -> None:
    """Its pixels are nearest to zoom 9 in the south and to 8 in the north."""
    at = rasterio.Affine(256.0, 0, 540_000, 0, -256.0, 6_030_000)
    drawn = write_raster(tmp_path / "m.tif", np.zeros((3, 430, 117), np.uint8), at, "EPSG:25832")
    for box in ("9.8,53.5,9.95,53.7", "9.8,53.6,9.95,54.3", "9.8,54.2,9.95,54.35", None):
        planned = maptile2sat.plan(drawn, tmp_path / "m.mbtiles", bbox=box, **tiny())
        assert planned.zooms is not None
        assert planned.zooms.high == 9


def test_a_raster_of_a_zoom_has_that_zoom(tmp_path: Path) -> None:
    """However far it reaches, and though its pixels are not those of the tiles."""
    grid = mercator_grid(8)
    at = grid.transform(grid.window(BBox(5.0, 35.0, 5.3, 70.0)))
    at = at @ rasterio.Affine.translation(0.5, 0.5)
    drawn = write_raster(tmp_path / "m.tif", np.zeros((3, 11_000, 8), np.uint8), at, "EPSG:3857")
    planned = maptile2sat.plan(drawn, tmp_path / "m.mbtiles", **tiny())
    assert planned.zooms is not None
    assert planned.zooms.high == 8


def test_a_raster_of_the_world_whose_corners_lie_beside_it(tmp_path: Path) -> None:
    at = rasterio.Affine(40_000.0, 0, -18_040_000, 0, -40_000.0, 9_020_000)
    drawn = write_raster(tmp_path / "m.tif", np.zeros((3, 451, 902), np.uint8), at, "ESRI:54009")
    planned = maptile2sat.plan(drawn, tmp_path / "m.mbtiles", bbox="0,45,20,55", **tiny())
    assert planned.zooms is not None
    assert planned.zooms.high == 2


def test_cut_and_zoomed_out(tmp_path: Path) -> None:
    ring = [[24.938, 60.166], [24.945, 60.166], [24.941, 60.172], [24.938, 60.166]]
    cutline = tmp_path / "a.geojson"
    cutline.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    path, high = tmp_path / "out.mbtiles", tmp_path / "high.mbtiles"
    settings = {**tiny(), "cutline": cutline}
    planned = maptile2sat.plan(sample_map(), path, min_zoom=13, max_zoom=15, **settings)
    result = maptile2sat.render(sample_map(), path, min_zoom=13, max_zoom=15, **settings)
    assert planned.zooms == result.zooms == (13, 15)
    assert (planned.width, planned.bounds) == (result.width, result.bounds)
    maptile2sat.render(sample_map(), high, min_zoom=15, **settings)
    assert {place[0] for place in tiles_of(path)} == {13, 14, 15}
    deep = {place: data for place, data in tiles_of(high).items() if place[0] == 15}
    assert deep == {place: data for place, data in tiles_of(path).items() if place[0] == 15}
    alpha = np.concatenate([pixels_of(data)[..., 3].ravel() for data in deep.values()])
    assert set(np.unique(alpha)) == {0, 255}


def test_across_the_date_line(tmp_path: Path) -> None:
    """Columns go on past 180 degrees, tiles do not."""
    grid = mercator_grid(6)
    window = Window((1 << 14) - 300, 8000, 700, 200)
    blocks = RawBlocks(tmp_path, window)
    blocks.write(window, pattern(window), np.full((200, 700), 255, np.uint8))
    path = tmp_path / "turn.mbtiles"
    low = lowest_zoom(6, window)
    count = write_mbtiles(blocks, grid, path, "turn", Zooms(0, 6), "png", {}, (0, 0, 0))
    blocks.close()
    tiles = tiles_of(path)
    assert (low, count) == (4, len(tiles))
    assert {x for zoom, x, _ in tiles if zoom == 6} == {62, 63, 0, 1}
    assert len([place for place in tiles if place[0] == 0]) == 1
    assert (pixels_of(tiles[6, 0, 32])[..., :3][:8] == pattern(Window(1 << 14, 8192, 256, 8))).all()
    world = pixels_of(tiles[0, 0, 0])
    assert world[127, 0, 3] == world[127, 255, 3] == 255
    assert not world[127, 20:230, 3].any()
    about = metadata_of(path)
    assert about["bounds"].startswith("-180.0")
    assert abs(float(about["center"].split(",")[0])) > 178


def test_resumed_and_replaced(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "town.mbtiles"

    def stop(*given: Any, **how: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maptile2sat.output.pyramid.to_pmtiles", stop)
        patch.setattr("maptile2sat.output.pyramid.MBTilesWriter.finish", stop)
        with pytest.raises(KeyboardInterrupt):
            maptile2sat.render(sample_map(), path, tile_format="jpeg", **tiny())
    assert not path.exists()
    result = maptile2sat.render(sample_map(), path, resume=True, **tiny())
    assert (result.cells, files_in(tmp_path)) == (0, ["town.mbtiles"])
    assert path.read_bytes() == whole.read_bytes()
    done = run_cli("render", sample_map(), "-o", path, "-m", tiny_bundle())
    assert (done.code, "--overwrite" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("words", "name", "given"),
    [
        ("--profile is for GeoTIFF", "o.mbtiles", ["--profile", "deflate"]),
        ("--co and --no-cog are for GeoTIFF", "o.pmtiles", ["--co", "LEVEL=9", "--no-cog"]),
        ("--tile-format and --min-zoom are for tiles", "o.tif", "--tile-format png --min-zoom 3"),
        ("--max-zoom 17 is deeper than the imagery", "o.mbtiles", ["--max-zoom", "17"]),
        ("the zooms cannot go from 15 to 14", "o.mbtiles", "--min-zoom 15 --max-zoom 14"),
        ("the zooms cannot go from -1 to 16", "o.mbtiles", ["--min-zoom", "-1"]),
    ],
)
def test_what_does_not_fit(words: str, name: str, given: list[str] | str, tmp_path: Path) -> None:
    more = given.split() if isinstance(given, str) else given
    done = run_cli("render", sample_map(), "-m", tiny_bundle(), "-o", tmp_path / name, *more)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert not list(tmp_path.iterdir())
