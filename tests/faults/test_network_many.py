"""Many tiles from a server at which one answer in twenty is wrong."""

from __future__ import annotations

import hashlib
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maptile2sat.geo.grid import TILE, Window
from maptile2sat.sources import SourceOptions, open_source
from tests.conftest import Pixels, TileMap
from tests.faults.support import HANGING, LONG, PASSING, Fault, serving

ACROSS, DOWN = (100, 100) if LONG else (20, 15)
CONNECTIONS = 8
FAULTS = {**PASSING, "stalls in the body": HANGING["stalls in the body"]}
PERCENT = 5


def picture(window: Window) -> Pixels:
    """Return one colour, and pixels that spell the tile's place, so that PNGs are quick."""
    x, y = window.col // TILE, window.row // TILE
    image = np.empty((window.height, window.width, 3), np.uint8)
    image[:] = (x % 256, y % 256, 200)
    spelled = np.frombuffer(hashlib.blake2b(f"{x} {y}".encode()).digest(), np.uint8)
    image[3, 5 : 5 + len(spelled)] = spelled[:, None]
    return image


def choose(path: str, number: int) -> Fault | None:
    """Return the fault of a request: always the same for the same request."""
    drawn = int.from_bytes(hashlib.blake2b(f"{path} {number}".encode()).digest()[:8])
    if drawn % 100 >= PERCENT:
        return None
    return list(FAULTS.values())[drawn // 100 % len(FAULTS)]


def asks_needed(path: str) -> int:
    """Return how often a tile must be asked for until the answer is sound."""
    return next(number for number in range(100) if choose(path, number) is None) + 1


@pytest.mark.usefixtures("usual_garbage")
@pytest.mark.slow
def test_one_answer_in_twenty_is_wrong(tmp_path: Path, record_property: Any) -> None:
    """Tiles from a server with 5 % random faults: all there, all right, none asked for in vain."""
    tile_map = TileMap.block(14, 8000, 5000, ACROSS, DOWN)
    tile_map = TileMap(14, tile_map.tiles, picture)
    options = SourceOptions(
        zoom=14,
        cache_dir=tmp_path,
        max_connections=CONNECTIONS,
        timeout=3.0,
        retries=5,
        rate=2000.0,
        cache_bytes=1,
    )
    record_property("tried", len(tile_map.tiles))
    rows = [Window(8000 * TILE, (5000 + row) * TILE, ACROSS * TILE, TILE) for row in range(DOWN)]
    with serving(tile_map, choose=choose) as server:
        source = open_source(server.template, options)
        for window in rows[: DOWN // 2]:
            assert_right(source.read(window), window)
        source.close()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        source = open_source(server.template, options)  # another run, which finds the first half
        for window in rows:
            assert_right(source.read(window), window)
        source.close()
        assert server.most <= CONNECTIONS
        paths = [f"/14/{x}/{y}.png" for x, y in tile_map.tiles]
        assert server.asked == {path: asks_needed(path) for path in paths}
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 300 << 10  # kilobytes: memory does not grow with the map


def assert_right(read: Any, window: Window) -> None:
    assert read.mask.all()
    for x in range(window.col // TILE, window.right // TILE):
        tile = Window(x * TILE, window.row, TILE, TILE)
        np.testing.assert_array_equal(read.image[tile.slices(window)], picture(tile))
