"""MBTiles, PMTiles, folders and TileJSON: what is written, found and refused."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maptile2sat.errors import OutputError, SourceError
from maptile2sat.geo.grid import TILE, BBox, Window
from maptile2sat.sources import MBTilesWriter, SourceOptions, open_source
from tests.conftest import (
    TileMap,
    TileServer,
    write_folder,
    write_mbtiles,
    write_pmtiles,
)


def _metadata(path: Path) -> dict[str, str]:
    with sqlite3.connect(path) as database:
        return dict(database.execute("SELECT name, value FROM metadata").fetchall())


def test_mbtiles_hold_what_the_specification_asks(full_map: TileMap, tmp_path: Path) -> None:
    path = write_mbtiles(tmp_path / "map.mbtiles", full_map, description="d", extra={"k": "v"})
    metadata = _metadata(path)
    assert metadata | {"bounds": "", "center": ""} == {
        "name": "test",
        "format": "png",
        "type": "baselayer",
        "version": "1",
        "description": "d",
        "attribution": "© test",
        "minzoom": "13",
        "maxzoom": "13",
        "bounds": "",
        "center": "",
        "k": "v",
    }
    bounds = [float(value) for value in metadata["bounds"].split(",")]
    expected = 360 / (1 << 13)
    assert bounds[0] == pytest.approx(4661 * expected - 180, abs=1e-8)
    assert bounds[2] == pytest.approx(4664 * expected - 180, abs=1e-8)
    assert 0 < bounds[1] < bounds[3] < 85
    center = [float(value) for value in metadata["center"].split(",")]
    assert bounds[0] < center[0] < bounds[2]
    assert center[2] == 13
    with sqlite3.connect(path) as database:
        (number,) = database.execute("PRAGMA application_id").fetchone()
        rows = database.execute("SELECT tile_column, tile_row FROM tiles ORDER BY 1, 2").fetchall()
    assert number == 0x4D504258
    assert rows == sorted((x, (1 << 13) - 1 - y) for x, y in full_map.tiles)


def test_gdal_agrees_on_where_the_tiles_are(full_map: TileMap, tmp_path: Path) -> None:
    import rasterio

    path = write_mbtiles(tmp_path / "map.mbtiles", full_map)
    with rasterio.open(path) as dataset:
        west, north = dataset.transform @ (0, 0)
        image = dataset.read([1, 2, 3])
    source = open_source(path)
    assert source.info.grid.bounds(source.info.extent)[0] == pytest.approx(west, abs=1e-2)
    assert source.info.grid.bounds(source.info.extent)[3] == pytest.approx(north, abs=1e-2)
    np.testing.assert_array_equal(np.moveaxis(image, 0, -1), source.read(source.info.extent).image)


def test_the_same_tiles_give_the_same_file(full_map: TileMap, tmp_path: Path) -> None:
    first = write_mbtiles(tmp_path / "a.mbtiles", full_map).read_bytes()
    assert write_mbtiles(tmp_path / "b.mbtiles", full_map).read_bytes() == first


def test_nothing_is_left_of_a_failure(full_map: TileMap, tmp_path: Path) -> None:
    path = tmp_path / "map.mbtiles"
    path.write_bytes(b"older")
    stated: dict[str, Any] = {"name": "n", "format": "png", "attribution": "a"}
    with contextlib.suppress(ZeroDivisionError), MBTilesWriter(path, **stated) as writer:
        writer.add(0, 0, 0, b"tile")
        assert path.read_bytes() == b"older"
        raise ZeroDivisionError
    writer = MBTilesWriter(path, **stated)
    writer.add(1, 0, 0, b"tile")
    with pytest.raises(OutputError, match="twice"):
        writer.add(1, 0, 0, b"tile")
    with pytest.raises(OutputError, match="no tile 1/2/0"):
        writer.add(1, 2, 0, b"tile")
    writer.abort()
    with pytest.raises(OutputError, match="hold no tile"), MBTilesWriter(path, **stated):
        pass
    with pytest.raises(OutputError, match=r"folder .* does not exist"):
        MBTilesWriter(tmp_path / "no" / "map.mbtiles", **stated)
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["map.mbtiles"]
    writer = MBTilesWriter(path, **stated, bounds=BBox(1, 2, 3, 4))
    writer.add(0, 0, 0, b"tile")
    writer.finish()
    writer.finish()
    with pytest.raises(OutputError, match="finished"):
        writer.add(0, 0, 0, b"tile")
    assert _metadata(path)["bounds"].startswith("1.000000000,2.0")


def test_several_zooms_in_one_file(tmp_path: Path) -> None:
    maps = [TileMap.block(zoom, 9 << (zoom - 4), 5 << (zoom - 4), 2, 1) for zoom in (4, 5, 7)]
    path = tmp_path / "map.mbtiles"
    with MBTilesWriter(path, name="n", format="png", attribution="a") as writer:
        for tile_map in maps:
            for x, y in tile_map.tiles:
                writer.add(tile_map.zoom, x, y, tile_map.tile(x, y))
    assert (_metadata(path)["minzoom"], _metadata(path)["maxzoom"]) == ("4", "7")
    for tile_map in maps:
        source = open_source(path, SourceOptions(zoom=tile_map.zoom))
        assert source.info.extent == tile_map.extent
        read = source.read(tile_map.extent)
        np.testing.assert_array_equal(read.image, tile_map.read(tile_map.extent)[0])
    with pytest.raises(SourceError, match=r"it has 4-5, 7\)"):
        open_source(path, SourceOptions(zoom=6))
    assert open_source(path, SourceOptions(default_zoom=6)).info.grid.zoom == 7


def test_mbtiles_that_cannot_be_written_to_are_read(full_map: TileMap, tmp_path: Path) -> None:
    folder = tmp_path / "fixed"
    folder.mkdir()
    path = write_mbtiles(folder / "a map?#%.mbtiles", full_map)
    path.chmod(0o444)
    folder.chmod(0o555)
    try:
        before = path.read_bytes()
        assert open_source(path).read(full_map.extent).mask.all()
        assert path.read_bytes() == before
        assert list(folder.iterdir()) == [path]
    finally:
        folder.chmod(0o755)


def _read_all(path: Path) -> None:
    source = open_source(path)
    source.read(source.info.extent)


def _fails(path: Path, match: str) -> None:
    """Check that a file cannot be opened or read, and that one line says why."""
    with pytest.raises(SourceError, match=match) as caught:
        _read_all(path)
    assert "\n" not in str(caught.value)


def _database(path: Path, *statements: str) -> Path:
    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement)
    return path


TABLES = (
    "CREATE TABLE metadata (name text, value text)",
    "CREATE TABLE tiles (zoom_level integer, tile_column integer, tile_row integer, tile_data)",
)


def test_mbtiles_that_will_not_do(tmp_path: Path) -> None:
    text = tmp_path / "text.mbtiles"
    text.write_text("no database" * 500)
    _fails(text, "is not an MBTiles file: file is not a database")
    _fails(_database(tmp_path / "other.mbtiles", "CREATE TABLE x (y)"), "no such table: tiles")
    _fails(_database(tmp_path / "empty.mbtiles", *TABLES), "has no tiles")
    vector = "INSERT INTO metadata VALUES ('format', 'pbf')"
    _fails(_database(tmp_path / "vector.mbtiles", *TABLES, vector), "vector tiles.*draw")
    unsaid = "INSERT INTO tiles VALUES (3, 1, 1, x'1f8b0800')"
    _fails(_database(tmp_path / "unsaid.mbtiles", *TABLES, unsaid), "vector tile")
    wild = "INSERT INTO tiles VALUES (3, 8, 1, x'00')"
    _fails(_database(tmp_path / "wild.mbtiles", *TABLES, wild), "something else|outside the world")
    words = "INSERT INTO tiles VALUES (3, 1, 1, 'text')"
    _fails(_database(tmp_path / "words.mbtiles", *TABLES, words), "not binary")


def test_pmtiles_that_will_not_do(full_map: TileMap, tmp_path: Path) -> None:
    path = write_pmtiles(tmp_path / "map.pmtiles", full_map)
    sound = path.read_bytes()

    def fails(data: bytes, match: str) -> None:
        path.write_bytes(data)
        _fails(path, match)

    fails(b"", "not a PMTiles file")
    fails(b"PMTiles\x02" + sound[8:], "not a PMTiles file of version 3")
    fails(sound[:99] + b"\x63" + sound[100:], "header cannot be read")
    fails(sound[:97] + b"\x04" + sound[98:], "ZSTD compression")
    fails(sound[:127] + b"\x00" * 9 + sound[136:], "damaged: a directory")
    fails(sound[:16] + b"\xff" * 8 + sound[24:], "states a directory of")
    fails(sound[:-9000], "damaged|empty|something else")


def test_folders_with_tms_rows_say_so_by_their_xml(full_map: TileMap, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "tms", full_map, tms=True)
    (root / "tilemapresource.xml").write_text("<TileMap/>")
    source = open_source(root)
    assert source.info.extent == full_map.extent
    read = source.read(full_map.extent)
    np.testing.assert_array_equal(read.image, full_map.read(full_map.extent)[0])


@pytest.mark.parametrize(
    ("srs", "profile", "said"),
    [
        ("EPSG:4326", "geodetic", "profile 'geodetic'"),
        ("EPSG:2154", "raster", "profile 'raster'"),
        ("EPSG:4326", None, "CRS 'EPSG:4326'"),
        ("OSGEO:41001", "global-mercator", None),
        ("EPSG:3857", "mercator", None),
    ],
)
def test_folders_of_tiles_that_are_not_web_mercators_are_refused(
    srs: str, profile: str | None, said: str | None, full_map: TileMap, tmp_path: Path
) -> None:
    root = write_folder(tmp_path / "tms", full_map, tms=True)
    stated = "" if profile is None else f' profile="{profile}"'
    (root / "tilemapresource.xml").write_text(
        f'<TileMap version="1.0.0">\n<SRS>{srs}</SRS><TileSets{stated}></TileSets></TileMap>'
    )
    for where in (root, f"{root}/{{z}}/{{x}}/{{-y}}.png"):
        if said is None:
            assert open_source(where).info.extent == full_map.extent
        else:
            with pytest.raises(SourceError, match=f"not in web mercator: .* {said}"):
                open_source(where)


def test_folders_name_their_attribution(full_map: TileMap, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "tiles", full_map)
    (root / "metadata.json").write_text('{"attribution": "&copy; me", "minzoom": 3}')
    (root / "notes").mkdir()
    (root / "99").mkdir()
    assert open_source(root).info.attribution == "© me"


def test_folders_that_will_not_do(full_map: TileMap, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no map tiles named z/x/y"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match="there is no folder"):
        open_source(tmp_path / "no" / "{z}" / "{x}" / "{y}.png")
    with pytest.raises(SourceError, match="not a supported layout"):
        open_source(f"{tmp_path}/{{z}}_{{x}}_{{y}}.png")
    root = write_folder(tmp_path / "tiles", full_map)
    with pytest.raises(SourceError, match="has no tiles"):
        open_source(f"{root}/{{z}}/{{x}}/{{y}}.jpg")
    (root / "13" / "4661" / "9999.png").write_bytes(full_map.tile(4661, 2371))
    with pytest.raises(SourceError, match="outside the world"):
        open_source(root)


def _tilejson(server: TileServer, **content: Any) -> str:
    server.pages["/map.json"] = json.dumps({"tilejson": "3.0.0", **content}).encode()
    return f"{server.url}/map.json?key=1"


def test_tilejson_says_where_and_how(full_map: TileMap, server: TileServer, tmp_path: Path) -> None:
    x, y = full_map.tiles[0]
    for tx, ty in full_map.tiles:
        server.pages[f"/tms/13/{tx}/{(1 << 13) - 1 - ty}.png"] = full_map.tile(tx, ty)
    from maptile2sat.geo.grid import mercator_grid

    bounds = [round(v, 6) for v in mercator_grid(13).lonlat_bounds(full_map.extent)]
    stated = {
        "tiles": ["tms/{z}/{x}/{y}.png", "/tms/{z}/{x}/{y}.png?b"],
        "scheme": "tms",
        "bounds": bounds,
        "minzoom": 12,
        "maxzoom": 13,
        "attribution": "<b>me</b>",
    }
    source = open_source(_tilejson(server, **stated))
    assert source.info.extent == full_map.extent
    assert source.info.attribution == "me"
    np.testing.assert_array_equal(
        source.read(full_map.extent).image, full_map.read(full_map.extent)[0]
    )
    assert any(path.endswith("?b") for path in server.log)
    with pytest.raises(SourceError, match=r"zoom 14 .*it has 12-13"):
        open_source(_tilejson(server, **stated), SourceOptions(zoom=14))
    path = write_folder(tmp_path / "tiles", full_map).parent / "map.json"
    path.write_text('{"tiles": ["tiles/{z}/{x}/{y}.png"], "attribution": "<i>my</i> tiles"}')
    local = open_source(path)
    assert local.read(Window(x * TILE, y * TILE, 3, 3)).mask.all()
    assert local.info.attribution == "my tiles"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({}, "names no tiles"),
        ({"tiles": []}, "names no tiles"),
        ({"tiles": ["https://x.example/a.png"]}, "names no tiles"),
        ({"tiles": ["https://x/{z}/{x}/{y}.pbf"], "vector_layers": [{}]}, "vector tiles"),
        ({"tiles": ["file:///etc/{z}/{x}/{y}"]}, "not on a web server"),
        ({"tiles": ["https://x/{z}/{x}/{y}"], "minzoom": 9, "maxzoom": 3}, "has no tiles"),
    ],
)
def test_tilejson_that_will_not_do(content: dict[str, Any], match: str, server: TileServer) -> None:
    with pytest.raises(SourceError, match=match):
        open_source(_tilejson(server, **content), SourceOptions(zoom=5))


def test_json_that_is_no_tilejson(tmp_path: Path, server: TileServer) -> None:
    for text in ("", "no", "[1]", "[" * 100000):
        path = tmp_path / "map.json"
        path.write_text(text)
        with pytest.raises(SourceError, match="is not TileJSON"):
            open_source(path)
    with pytest.raises(SourceError, match="no such file"):
        open_source(f"{server.url}/no.json")


@pytest.mark.parametrize(
    ("where", "match"),
    [
        ("", "source is empty"),
        ("no/such/map.tif", "there is no file"),
        ("no/such.mbtiles", "there is no file"),
        ("ftp://example.com/map.tif", "addresses start with"),
        ("https://example.com/map.mbtiles", "download this file first"),
        ("https://example.com/town.osm.pbf", "download this file first"),
        ("https://example.com/{z}/{y}.png", "is not a tile URL"),
    ],
)
def test_what_is_no_source_says_what_to_do(where: str, match: str) -> None:
    with pytest.raises(SourceError, match=match) as caught:
        open_source(where)
    assert "\n" not in str(caught.value)


def test_paths_may_be_urls_and_start_at_home(
    full_map: TileMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_mbtiles(tmp_path / "a b.mbtiles", full_map)
    assert open_source(path.as_uri()).info.extent == full_map.extent
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_source("~/a b.mbtiles").info.extent == full_map.extent
