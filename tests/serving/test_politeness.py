"""A map server that is asked by several layers and a GeoTIFF at once: as if by one."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

from maptile2sat.geo.grid import TILE, Window, mercator_grid
from maptile2sat.rendering import RenderOptions
from tests.conftest import TileMap
from tests.faults.support import Fault, answer, heeded, serving
from tests.support_render import bbox_of
from tests.support_serve import model, running, wait_for

ZOOM, X, Y = 16, 37_308, 18_964
MAP = TileMap.block(ZOOM, X, Y, 16, 4)
RATE = 6.0
CONNECTIONS = 8


def tiles_being_loaded() -> int:
    """Return the threads that load tiles, or wait for their turn."""
    return sum(thread.name.startswith("maptile2sat-tiles") for thread in threading.enumerate())


def test_layers_and_geotiffs_keep_to_the_limits_together(tmp_path: Path) -> None:
    grid, opened = mercator_grid(ZOOM), threading.Event()
    times: list[tuple[float, int]] = []
    impatient = threading.Event()

    def held(to: socket.socket, body: bytes) -> bool:
        return opened.wait(60) and answer(to, "200 OK", body)

    def ask_for_patience(to: socket.socket, body: bytes) -> bool:
        done = answer(to, "429 Slow", b"", "Retry-After: 2")
        impatient.clear()
        return done

    def choose(path: str, number: int) -> Fault:
        times.append((time.monotonic(), int(path.split("/")[-2]) - X))
        return ask_for_patience if impatient.is_set() else held

    area = bbox_of(grid, Window((X + 11) * TILE, Y * TILE, 3 * TILE, 3 * TILE))
    options = RenderOptions(
        precision="integer", bbox=bbox_of(grid, MAP.extent), zoom=ZOOM, rate=RATE
    )
    with (
        serving(MAP, choose=choose) as maps,
        running(maps.template, tmp_path, models=(str(model()),) * 2, render=options) as served,
        ThreadPoolExecutor(3) as pool,
    ):
        paths = [
            f"/tiny/{ZOOM}/{X}/{Y}.png",
            f"/tiny-2/{ZOOM}/{X + 6}/{Y}.png",
            f"/tiny/area.tif?bbox={area}",
        ]
        answers = [pool.submit(served.get, path) for path in paths]
        wait_for(lambda: tiles_being_loaded() >= 3 * CONNECTIONS, 60)
        wait_for(lambda: len(times) > 0, 60)
        time.sleep(0.3)
        assert 0 < len(times) <= CONNECTIONS
        opened.set()
        assert [each.result().status_code for each in answers] == [200] * 3
        assert maps.most <= CONNECTIONS
        rest = len(times) - CONNECTIONS
        assert rest >= 16
        # a second's worth at once, then the distance; half of it, since this machine may be busy
        assert times[-1][0] - times[CONNECTIONS][0] > (rest - RATE) / RATE / 2

        # one layer is told to come back later, and the other keeps back too
        times.clear()
        impatient.set()
        with heeded() as left_alone:
            first = pool.submit(served.get, f"/tiny/{ZOOM}/{X + 2}/{Y + 2}.png")
            assert left_alone.wait(60)
        assert served.get(f"/tiny-2/{ZOOM}/{X + 8}/{Y + 2}.png").status_code == 200
        assert first.result().status_code == 200
        assert next(when for when, col in times if col >= 8) - times[0][0] > 1.8
