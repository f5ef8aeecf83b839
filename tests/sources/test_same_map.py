"""One map is the same map in every container, window by window."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from maptile2sat.geo.grid import TILE, Window, mercator_grid
from maptile2sat.sources import (
    Source,
    SourceInfo,
    SourceOptions,
    open_source,
    tile_count,
    tile_count_of_rows,
)
from tests.conftest import (
    TileMap,
    TileServer,
    write_folder,
    write_map_raster,
    write_mbtiles,
    write_pmtiles,
)

KINDS = (
    "mbtiles",
    "folder",
    "folder template",
    "tms folder",
    "pmtiles",
    "raster",
    "http",
    "http tms",
    "quadkey",
    "tilejson",
    "pmtiles over http",
)


def _quadkey(zoom: int, x: int, y: int) -> str:
    digits = ""
    for level in range(zoom, 0, -1):
        bit = 1 << (level - 1)
        digits += str((1 if x & bit else 0) + (2 if y & bit else 0))
    return digits


def _open(kind: str, tile_map: TileMap, folder: Path, server: TileServer) -> Source:
    """Write the map in some container and open it."""
    options = SourceOptions(zoom=tile_map.zoom, missing="mask")
    last = (1 << tile_map.zoom) - 1
    if kind == "mbtiles":
        where = str(write_mbtiles(folder / "map.mbtiles", tile_map))
    elif kind == "folder":
        where = str(write_folder(folder / "tiles", tile_map))
    elif kind == "folder template":
        where = str(write_folder(folder / "tiles", tile_map)) + "/{z}/{x}/{y}.png"
    elif kind == "tms folder":
        where = str(write_folder(folder / "tms", tile_map, tms=True)) + "/{z}/{x}/{-y}.png"
    elif kind.startswith("pmtiles"):
        path = write_pmtiles(folder / "map.pmtiles", tile_map)
        where = str(path)
        if kind == "pmtiles over http":
            server.pages["/map.pmtiles"] = path.read_bytes()
            where = f"{server.url}/map.pmtiles"
    elif kind == "raster":
        where = str(write_map_raster(folder / "map.tif", tile_map))
        options = SourceOptions()
    elif kind == "http":
        where = server.serve(tile_map)
    elif kind == "http tms":
        for x, y in tile_map.tiles:
            server.pages[f"/tms/{tile_map.zoom}/{x}/{last - y}"] = tile_map.tile(x, y)
        where = server.url + "/tms/{z}/{x}/{-y}"
    elif kind == "quadkey":
        for x, y in tile_map.tiles:
            server.pages[f"/q/{_quadkey(tile_map.zoom, x, y)}.png"] = tile_map.tile(x, y)
        where = server.url + "/q/{q}.png"
    else:
        template = server.serve(tile_map).removeprefix(server.url)
        content = {"tilejson": "3.0.0", "tiles": [template], "minzoom": 3, "maxzoom": 13}
        server.pages["/map.json"] = json.dumps(content).encode()
        where = f"{server.url}/map.json"
    return open_source(where, options)


@pytest.mark.parametrize("kind", KINDS)
def test_any_window_of_any_container(
    kind: str, tile_map: TileMap, tmp_path: Path, server: TileServer
) -> None:
    source = _open(kind, tile_map, tmp_path, server)
    try:
        assert source.info.grid.zoom == tile_map.zoom
        assert source.info.extent.contains(tile_map.extent)
        if not kind.startswith(("http", "quadkey", "tilejson")):
            assert source.info.extent == tile_map.extent
        dice = random.Random(kind)
        around = tile_map.extent.grown(90)
        for _ in range(12):
            window = Window(
                dice.randrange(around.col, around.right - 1),
                dice.randrange(around.row, around.bottom - 1),
                dice.randrange(1, 700),
                dice.randrange(1, 400),
            )
            image, mask = tile_map.read(window)
            read = source.read(window)
            np.testing.assert_array_equal(read.mask, mask)
            np.testing.assert_array_equal(read.image, image)
    finally:
        source.close()


@pytest.mark.parametrize("internal", [True, False])
def test_a_raster_over_http(
    internal: bool, tile_map: TileMap, tmp_path: Path, server: TileServer
) -> None:
    path = write_map_raster(tmp_path / "map.tif", tile_map, internal_mask=internal)
    for file in tmp_path.glob("map.tif*"):
        server.pages[f"/{file.name}"] = file.read_bytes()
    assert ("/map.tif.msk" in server.pages) is not internal
    script = (
        "import sys, numpy; from maptile2sat.sources import SourceOptions, open_source\n"
        "source = open_source(sys.argv[1]); read = source.read(source.info.extent)\n"
        "numpy.savez(sys.argv[2], image=read.image, mask=read.mask)\n"
        "warped = open_source(sys.argv[1], SourceOptions(zoom=12))\n"
        "print(source.info.remote, warped.info.remote)"
    )  # in another process, as GDAL holds the interpreter's lock while it waits for a server
    command = [sys.executable, "-c", script, f"{server.url}/map.tif", tmp_path / "out.npz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True\n", "")
    image, mask = tile_map.read(tile_map.extent)
    with np.load(tmp_path / "out.npz") as read:
        np.testing.assert_array_equal(read["image"], image)
        np.testing.assert_array_equal(read["mask"], mask)
    assert path.stat().st_size > 1000


def test_a_raster_of_part_of_the_map_agrees_with_the_whole(
    full_map: TileMap, tmp_path: Path
) -> None:
    extent = full_map.extent
    part = Window(extent.col + 37, extent.row + 101, 300, 211)
    source = open_source(write_map_raster(tmp_path / "part.tif", full_map, part))
    assert source.info.extent == part
    window = part.grown(5)
    read = source.read(window)
    assert read.mask.sum() == 255 * part.width * part.height
    inner = part.slices(window)
    np.testing.assert_array_equal(read.image[inner], full_map.read(part)[0])
    assert not read.image[0].any()


def test_tiles_are_counted_as_they_are_fetched(
    full_map: TileMap, server: TileServer, tmp_path: Path
) -> None:
    template = server.serve(full_map)
    x, y = full_map.tiles[0]
    windows = {
        Window(x * TILE, y * TILE, TILE, TILE): 1,
        Window(x * TILE - 1, y * TILE - 1, TILE + 2, TILE + 2): 9,
        Window(x * TILE + 255, y * TILE + 255, 2, 2): 4,
        Window(-300, -300, 301, 301): 3,
    }
    for number, (window, tiles) in enumerate(windows.items()):
        options = SourceOptions(zoom=13, missing="mask", cache_dir=tmp_path / str(number))
        source = open_source(template, options)
        server.log.clear()
        source.read(window)
        assert tile_count(source, window) == tiles == len(server.log)
        source.close()
    assert tile_count(source, Window(0, 0, 3 * (TILE << 13), 1)) == 1 << 13


@pytest.mark.usefixtures("usual_garbage")
def test_tiles_of_many_windows_are_counted_once_in_flat_memory() -> None:
    """Cells of a wide cutline, row by row, with what they share with their neighbours."""

    class Tiles:
        info = SourceInfo(
            "a", mercator_grid(16), Window(0, 0, 1 << 24, 1 << 24), tiled=True, tile_side=TILE
        )

    source = cast(Source, Tiles())
    side, count = 2048, 200
    windows = (
        Window(col * side, row * side, side, side).grown(128)
        for row in range(9, 9 + count)
        for col in range(9, 9 + count)
        if (row + col) % 3
    )
    assert tile_count_of_rows(source, [Window(0, 0, 300, 9), Window(250, 5, 9, 300)]) == 4
    tracemalloc.start()
    found = tile_count_of_rows(source, windows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    spans = [slice(max(0, 8 * n - 1), 8 * n + 9) for n in range(count + 20)]
    right = np.zeros((8 * count + 90, 8 * count + 90), bool)
    for row in range(9, 9 + count):
        for col in range(9, 9 + count):
            right[spans[row], spans[col]] |= bool((row + col) % 3)
    assert found == right.sum() > 2_000_000
    assert peak < 20 << 20


def test_many_threads_read_the_same(tile_map: TileMap, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    sources = [
        open_source(write_mbtiles(tmp_path / "map.mbtiles", tile_map)),
        open_source(write_map_raster(tmp_path / "map.tif", tile_map)),
    ]
    dice = random.Random(5)
    extent = tile_map.extent
    windows = [
        Window(extent.col + dice.randrange(600), extent.row + dice.randrange(500), 200, 150)
        for _ in range(60)
    ]
    for source in sources:
        with ThreadPoolExecutor(6) as pool:
            for window, read in zip(windows, pool.map(source.read, windows), strict=True):
                np.testing.assert_array_equal(read.image, tile_map.read(window)[0])
        source.close()
