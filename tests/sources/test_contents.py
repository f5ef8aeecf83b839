"""What a file or a server holds counts, not what it is called or says of itself."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image, features

from maptile2sat.errors import SourceError
from maptile2sat.geo.grid import TILE, Window
from maptile2sat.rendering.job import YEAR, excess
from maptile2sat.sources import Source, SourceOptions, open_source
from maptile2sat.sources.hilbert import Hull, first_number, numbers_of, squares
from maptile2sat.sources.pmtiles import FileBytes, PMTiles
from tests.conftest import TileMap, TileServer, write_map_raster, write_mbtiles, write_pmtiles

WORLD = (-1800000000, -850511280, 1800000000, 850511280)
KEYS = ("min_lon_e7", "min_lat_e7", "max_lon_e7", "max_lat_e7")


def _pmtiles(path: Path, zoom: int, tiles: Iterable[tuple[int, int]], **header: Any) -> Path:
    """Write tiles that all differ, and are no pictures, in leaf directories of 100."""
    from pmtiles.tile import Compression, TileType, zxy_to_tileid
    from pmtiles.writer import Writer, build_roots_leaves

    leaves = mock.patch(
        "pmtiles.writer.optimize_directories", lambda entries, _: build_roots_leaves(entries, 100)
    )
    with path.open("wb") as file, leaves:
        writer = Writer(file)
        for number in sorted(zxy_to_tileid(zoom, x, y) for x, y in tiles):
            writer.write_tile(number, number.to_bytes(8))
        said = {"tile_type": TileType.PNG, "tile_compression": Compression.NONE}
        writer.finalize({**said, **header}, {})
    return path


def _is_the_map(source: Source, tile_map: TileMap) -> None:
    assert source.info.extent == tile_map.extent
    read, (image, mask) = source.read(tile_map.extent), tile_map.read(tile_map.extent)
    np.testing.assert_array_equal(read.image, image)
    np.testing.assert_array_equal(read.mask, mask)


def test_numbers_lie_where_the_specification_says() -> None:
    from pmtiles.tile import tileid_to_zxy

    for zoom in range(5):
        for number in numbers_of(zoom):
            ((x, y, side),) = squares(range(number, number + 1), zoom)
            assert (zoom, x, y) == tileid_to_zxy(number)
            assert side == 1
    generator = np.random.default_rng(5)
    for start, stop in np.sort(generator.integers(0, 4**5 + 1, (60, 2))):
        run = range(first_number(5) + int(start), first_number(5) + int(stop))
        cut = list(squares(run, 5))
        covered = [(s.x + i, s.y + j) for s in cut for i in range(s.side) for j in range(s.side)]
        assert len(covered) == len(run)
        assert set(covered) == {tileid_to_zxy(number)[1:] for number in run}
    whole = list(squares(numbers_of(30), 30))
    assert whole == [(0, 0, 1 << 30)]


@pytest.mark.parametrize(
    "bounds",
    [
        WORLD,
        (0, 0, 0, 0),
        (600000000, 240000000, 601000000, 250000000),
        tuple(reversed(WORLD)),
        (-(2**31), -(2**31), 2**31 - 1, 2**31 - 1),
    ],
    ids=["world", "zero", "swapped axes", "reversed", "largest"],
)
def test_the_extent_of_pmtiles_is_that_of_their_tiles(
    bounds: tuple[int, ...], tile_map: TileMap, tmp_path: Path
) -> None:
    path = write_pmtiles(tmp_path / "map.pmtiles", tile_map)
    data = bytearray(path.read_bytes())
    data[100:102] = b"\x00\x1e"  # zooms 0 to 30
    data[102:118] = b"".join(value.to_bytes(4, "little", signed=True) for value in bounds)
    path.write_bytes(data)
    _is_the_map(open_source(path), tile_map)
    with pytest.raises(SourceError, match="it has 13"):
        open_source(path, SourceOptions(zoom=12))


@pytest.mark.parametrize(
    ("box", "holes"),
    [((900, 500, 990, 547), 0), ((900, 500, 990, 547), 7), ((0, 0, 2048, 3), 0)],
    ids=["full", "holes", "strip"],
)
def test_extents_of_pmtiles_with_leaf_directories(
    box: tuple[int, int, int, int], holes: int, tmp_path: Path
) -> None:
    west, north, east, south = box
    tiles = [
        (x, y)
        for y in range(north, south)
        for x in range(west, east)
        if not holes or (x * 31 + y * 17) % holes
    ]
    path = _pmtiles(tmp_path / "map.pmtiles", 11, tiles)
    found = PMTiles(FileBytes(path), "map", remote=False)
    assert found._header["leaf_directory_length"] > 0
    assert list(found.zooms) == [11]
    assert found.span(11) == Window(west, north, east - west, south - north)
    found.close()


def test_few_directories_of_a_large_map_are_asked_for(server: TileServer, tmp_path: Path) -> None:
    tiles = [(x, y) for y in range(400, 500) for x in range(300, 400)]
    path = _pmtiles(tmp_path / "map.pmtiles", 11, tiles)
    server.pages["/map.pmtiles"] = path.read_bytes()
    from maptile2sat.sources.pmtiles import UrlBytes

    options = SourceOptions(cache_dir=tmp_path / "cache", rate=1000)
    found = PMTiles(UrlBytes(f"{server.url}/map.pmtiles", options), "map", remote=True)
    assert found.span(11) == Window(300, 400, 100, 100)
    found.close()
    assert len(server.log) < 50, "of 100 leaves only those along the border"


def test_pmtiles_across_180_degrees(tmp_path: Path) -> None:
    tiles = [(x % 64, y) for x in range(60, 67) for y in (20, 21)]
    path = _pmtiles(tmp_path / "map.pmtiles", 6, tiles)
    assert PMTiles(FileBytes(path), "map", remote=False).span(6) == Window(60, 20, 7, 2)


def test_hulls_know_what_they_hold() -> None:
    hull = Hull(4)
    assert hull.span() is None
    hull.add(squares(range(first_number(4), first_number(4) + 64), 4))
    assert hull.span() == Window(0, 0, 8, 8)
    assert all(map(hull.holds, squares(range(first_number(4) + 3, first_number(4) + 60), 4)))
    assert not all(map(hull.holds, squares(numbers_of(4), 4)))


def test_plans_that_cannot_be_meant_say_so(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert excess(YEAR / 2, free // 2, tmp_path) == ""
    text = excess(YEAR * 40, free * 1000, tmp_path)
    assert "40 years" in text
    assert "GB of disk" in text
    assert "--bbox" in text
    assert "--bbox" in excess(0, free * 2, tmp_path)
    assert excess(0, free * 2, None) == ""


@pytest.mark.parametrize("name", ["map.mbtile", "map.db", "map", "map.tif", "map.pmtiles"])
def test_mbtiles_of_any_name(name: str, full_map: TileMap, tmp_path: Path) -> None:
    path = write_mbtiles(tmp_path / "map.mbtiles", full_map).rename(tmp_path / name)
    _is_the_map(open_source(path), full_map)


@pytest.mark.parametrize("name", ["map.bin", "map.mbtiles", "map.json"])
def test_pmtiles_and_rasters_of_any_name(name: str, full_map: TileMap, tmp_path: Path) -> None:
    path = write_pmtiles(tmp_path / "a.pmtiles", full_map).rename(tmp_path / name)
    _is_the_map(open_source(path), full_map)
    path = write_map_raster(tmp_path / "a.tif", full_map).rename(tmp_path / name)
    _is_the_map(open_source(path), full_map)


def _changed(path: Path, *statements: str) -> Path:
    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement)
    return path


def _with_index_as(path: Path, kind: str, cast: str) -> Path:
    """Write the tiles again with another type of index."""
    columns = ", ".join(
        f"CAST({name} AS {cast})" for name in ("zoom_level", "tile_column", "tile_row")
    )
    return _changed(
        path,
        "ALTER TABLE tiles RENAME TO old",
        f"CREATE TABLE tiles (zoom_level {kind}, tile_column {kind}, tile_row {kind}, tile_data)",
        f"INSERT INTO tiles SELECT {columns}, tile_data FROM old",
        "DROP TABLE old",
    )


@pytest.mark.parametrize(
    ("kind", "cast"), [("TEXT", "TEXT"), ("", "TEXT"), ("REAL", "REAL"), ("", "INTEGER")]
)
@pytest.mark.parametrize("zoom", [9, 13])
def test_an_index_may_be_text(kind: str, cast: str, zoom: int, tmp_path: Path) -> None:
    """As text, row 1000 comes before row 999."""
    tile_map = TileMap.block(zoom, 98, 508 if zoom == 9 else 7190, 4, 3)
    tile_map = TileMap(zoom, (*tile_map.tiles, (99, 7193))) if zoom == 13 else tile_map
    path = _with_index_as(write_mbtiles(tmp_path / "a.mbtiles", tile_map), kind, cast)
    source = open_source(path)
    assert source.info.grid.zoom == zoom
    _is_the_map(source, tile_map)


def test_mbtiles_without_metadata(full_map: TileMap, tmp_path: Path) -> None:
    path = write_mbtiles(tmp_path / "map.mbtiles", full_map)
    _is_the_map(open_source(_changed(path, "DROP TABLE metadata")), full_map)


def _recoded(path: Path, recode: Any) -> Path:
    with sqlite3.connect(path) as database:
        database.create_function("recode", 1, recode)
        database.execute("UPDATE tiles SET tile_data = recode(tile_data)")
    return path


def test_gzipped_pictures_that_are_called_vector(
    full_map: TileMap, server: TileServer, quick: SourceOptions, tmp_path: Path
) -> None:
    path = write_mbtiles(tmp_path / "map.mbtiles", full_map, format="pbf")
    _is_the_map(open_source(path), full_map)
    _is_the_map(open_source(_recoded(path, gzip.compress)), full_map)
    template = server.serve(full_map)
    server.pages = {name: gzip.compress(data) for name, data in server.pages.items()}
    server.pages["/t.json"] = json.dumps({"tiles": [template], "format": "pbf"}).encode()
    source = open_source(f"{server.url}/t.json", dataclasses.replace(quick, zoom=13))
    np.testing.assert_array_equal(
        source.read(full_map.extent).image, full_map.read(full_map.extent)[0]
    )


def test_vector_tiles_are_still_refused(full_map: TileMap, tmp_path: Path) -> None:
    path = write_mbtiles(tmp_path / "map.mbtiles", full_map, format="pbf")
    _recoded(path, lambda data: gzip.compress(b"\x1a\x0dvector"))
    with pytest.raises(SourceError, match=r"vector tiles.*draw"):
        open_source(path)
    from pmtiles.tile import TileType

    path = _pmtiles(tmp_path / "v.pmtiles", 3, [(1, 1)], tile_type=TileType.MVT)
    with pytest.raises(SourceError, match=r"vector tiles.*draw"):
        open_source(path)


@pytest.mark.parametrize("compression", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_pmtiles_whose_header_is_wrong_of_its_tiles(
    compression: int, kind: int, full_map: TileMap, tmp_path: Path
) -> None:
    path = write_pmtiles(tmp_path / "map.pmtiles", full_map)
    data = bytearray(path.read_bytes())
    data[98:100] = bytes([compression, kind])
    path.write_bytes(data)
    _is_the_map(open_source(path), full_map)


def test_gzip_bombs_are_no_tiles(tmp_path: Path) -> None:
    tile = TileMap(3, ((1, 1),))
    path = write_mbtiles(tmp_path / "map.mbtiles", tile)
    _recoded(path, lambda data: gzip.compress(data + bytes(40 << 20)))
    with pytest.raises(SourceError, match="bytes: that is not a map tile"):
        open_source(path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_tiles(full_map: TileMap, tmp_path: Path) -> None:
    def recode(data: bytes) -> bytes:
        out = io.BytesIO()
        flat = np.full((TILE, TILE, 3), (200, 120, 40), np.uint8)
        Image.fromarray(flat).save(out, "AVIF", quality=100)
        return out.getvalue()

    path = _recoded(write_mbtiles(tmp_path / "map.mbtiles", full_map), recode)
    read = open_source(path).read(full_map.extent)
    assert read.mask.all()
    assert np.abs(read.image.astype(int) - (200, 120, 40)).max() <= 3
    folder = tmp_path / "tiles" / "0" / "0"
    folder.mkdir(parents=True)
    (folder / "0.avif").write_bytes(recode(b""))
    assert open_source(tmp_path / "tiles").read(Window(0, 0, TILE, TILE)).mask.all()


@pytest.mark.parametrize("path", ["/tiles", "/v1/map?f=json", "/map.tilejson", "/style/"])
def test_tilejson_at_any_address(
    path: str, full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    content = {"tilejson": "2.0.0", "tiles": [server.serve(full_map)], "minzoom": "13"}
    content |= {"maxzoom": "13", "bounds": "24.8,60,25.2,62"}
    server.pages[path.partition("?")[0]] = json.dumps(content).encode()
    source = open_source(server.url + path, quick)
    assert source.info.grid.zoom == 13
    read = source.read(full_map.extent)
    np.testing.assert_array_equal(read.image, full_map.read(full_map.extent)[0])


def test_other_maps_at_any_address(
    full_map: TileMap, server: TileServer, quick: SourceOptions, tmp_path: Path
) -> None:
    server.pages["/p"] = write_pmtiles(tmp_path / "p", full_map).read_bytes()
    _is_the_map(open_source(f"{server.url}/p", quick), full_map)
    with pytest.raises(SourceError, match="HTTP 404"):
        open_source(server.url + "/nothing", quick)
    server.pages["/m"] = write_mbtiles(tmp_path / "m", full_map).read_bytes()
    with pytest.raises(SourceError, match="download this file first"):
        open_source(server.url + "/m", quick)


def test_tilejson_files_of_any_name(full_map: TileMap, server: TileServer, tmp_path: Path) -> None:
    path = tmp_path / "map.txt"
    path.write_text(json.dumps({"tiles": [server.serve(full_map)], "maxzoom": 13}))
    source = open_source(path, SourceOptions(zoom=13))
    assert source.info.tiled
