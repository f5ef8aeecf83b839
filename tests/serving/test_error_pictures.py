"""Error pictures of a map server while imagery of it is served: nothing made of them is kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

from maptile2sat.errors import ErrorPictureError, SourceError
from maptile2sat.geo.grid import TILE, Window
from maptile2sat.rendering import RenderOptions
from maptile2sat.serving import queue as cell_queue
from maptile2sat.serving import tiles
from maptile2sat.serving.cache import Key, TileCache
from maptile2sat.serving.queue import CellQueue
from maptile2sat.serving.tiles import TileMaker
from tests.conftest import TileServer
from tests.rendering.test_error_pictures import BOX, LAST, MAP, X, Y, trouble
from tests.support_render import tiny_render
from tests.support_serve import model, running, wait_for

ZOOM = 16


def test_tiles_of_error_pictures_are_made_again(
    server: TileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_queue, "FAILURE_SECONDS", 0.0)
    trouble(server)
    options = RenderOptions(precision="integer", bbox=BOX, zoom=ZOOM)
    with running(server.serve(MAP), tmp_path / "tiles", render=options) as served:
        shown = {
            (layer, zoom): served.tile(layer, zoom, X << zoom - ZOOM, Y << zoom - ZOOM)
            for layer in ("tiny", "source")
            for zoom in (ZOOM, ZOOM + 1)
        }
        below = served.tile("tiny", ZOOM - 1, X // 2, Y // 2)
        good = served.tile("tiny", ZOOM, X + 4, Y)
        found = served.get(f"/tiny/{ZOOM}/{LAST[0]}/{LAST[1]}.png")
        assert found.status_code == 502
        assert "same picture at 4 places" in found.text
        server.answer = None
        asked = len(server.log)
        assert np.array_equal(served.tile("tiny", ZOOM, X + 4, Y), good)
        assert len(server.log) == asked  # what is good is kept
        for (layer, zoom), before in shown.items():
            now = served.tile(layer, zoom, X << zoom - ZOOM, Y << zoom - ZOOM)
            assert not np.array_equal(now, before), (layer, zoom)
        assert not np.array_equal(served.tile("tiny", ZOOM - 1, X // 2, Y // 2), below)
        tile = served.tile("tiny", ZOOM, X, Y)[..., :3]
    render = tiny_render(server.serve(MAP), tmp_path, bbox=BOX, model=str(model()))
    assert np.array_equal(tile, render.image[:256, :256])


@pytest.mark.parametrize("late", [False, True])
def test_an_error_picture_counts_whatever_else_has_failed(
    late: bool, server: TileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fourth of them is in a cell that fails for another tile, before or after it is known."""
    monkeypatch.setattr(cell_queue, "FAILURE_SECONDS", 0.0)
    trouble(server, lambda: failed.is_set() or not late)
    answer, failed = server.answer, threading.Event()

    def unavailable(path: str, number: int) -> tuple[int, dict[str, str], bytes] | None:
        if path != f"/{ZOOM}/{X + 4}/{Y}.png":
            return answer(path, number) if answer else None
        if not late:
            wait_for(lambda: served.service.layers.map.job.repeats.found)
        return 503, {"Retry-After": "0"}, b""

    server.answer = unavailable
    options = RenderOptions(precision="integer", bbox=BOX, zoom=ZOOM)
    with running(server.serve(MAP), tmp_path, render=options) as served:
        path = f"/source/{ZOOM}/{X}/{Y}.png"
        before = served.get(path)
        assert before.status_code == 200
        found = served.get(f"/source/{ZOOM}/{X + 4}/{Y}.png")
        failed.set()
        assert found.status_code == 502
        assert ("HTTP 503" if late else "same picture at 4 places") in found.text
        server.answer = None

        def made_again() -> bool:
            """Cells that were read meanwhile may still be there, and fail for what they read."""
            now = served.get(path)
            return now.status_code == 200 and now.content != before.content

        wait_for(made_again)
        picture = MAP.read(Window(X * TILE, Y * TILE, TILE, TILE))[0]
        assert np.array_equal(served.tile("source", ZOOM, X, Y)[..., :3], picture)


def test_error_pictures_of_all_models_count_together(server: TileServer, tmp_path: Path) -> None:
    trouble(server)
    options = RenderOptions(precision="integer", bbox=BOX, zoom=ZOOM)
    models = (str(model()),) * 2
    with running(server.serve(MAP), tmp_path, render=options, models=models) as served:
        before = served.tile("tiny", ZOOM, X, Y)
        found = served.get(f"/tiny-2/{ZOOM}/{LAST[0]}/{LAST[1]}.png")
        assert found.status_code == 502
        assert "same picture at 4 places" in found.text
        server.answer = None
        assert not np.array_equal(served.tile("tiny", ZOOM, X, Y), before)


def test_what_is_made_of_tiles_thrown_away_meanwhile_is_not_kept(
    server: TileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles of other zooms and formats are half made when it turns out what they are made of."""
    monkeypatch.setattr(cell_queue, "FAILURE_SECONDS", 0.0)
    trouble(server)
    paths = [
        f"/tiny/{ZOOM - 1}/{X // 2}/{Y // 2}.webp",
        f"/tiny/{ZOOM + 1}/{2 * X}/{2 * Y}.webp",
        f"/tiny/{ZOOM}/{X}/{Y}.png",
    ]
    begun, known = threading.Barrier(len(paths) + 1), threading.Event()

    def late(derive: Callable[..., bytes]) -> Callable[..., bytes]:
        def wait(*given: Any) -> bytes:
            if not known.is_set():
                begun.wait(60)
                known.wait(60)
            return derive(*given)

        return wait

    for name in ("halved", "enlarged", "repacked"):
        monkeypatch.setattr(tiles, name, late(getattr(tiles, name)))
    options = RenderOptions(precision="integer", bbox=BOX, zoom=ZOOM)
    with (
        running(server.serve(MAP), tmp_path, render=options) as served,
        ThreadPoolExecutor(len(paths)) as pool,
    ):
        answers = [pool.submit(served.get, path) for path in paths]
        begun.wait(60)
        found = served.get(f"/tiny/{ZOOM}/{LAST[0]}/{LAST[1]}.webp")
        known.set()
        assert "same picture at 4 places" in found.text
        server.answer = None
        for path, answer in zip(paths, answers, strict=True):
            before, now = answer.result(), served.get(path)
            assert before.status_code == now.status_code == 200
            assert before.headers["Cache-Control"] == "no-store"
            assert "ETag" not in before.headers
            assert "ETag" in now.headers
            assert now.content != before.content, path


class Found:
    """A layer of one cell; as it is made, another layer finds out what it is made of."""

    name, digest, zoom, window, side, ground = "found", "0", ZOOM, MAP.extent, 256, (0, 0, 0)

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None

    def make(self, col: int, row: int) -> dict[tuple[int, int], bytes]:
        self.meanwhile()
        return {(col, row): b"made"}

    def forget(self, tiles: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        return set(tiles)


def test_a_cell_under_way_is_not_kept_either(tmp_path: Path) -> None:
    layer, cache = Found(), TileCache(tmp_path, 1 << 20)
    maker = TileMaker(layer, cache, CellQueue(lambda key: None, 1))
    error = ErrorPictureError("one picture at 4 places", b"", [(X, Y)])
    layer.meanwhile = lambda: maker.forget(error)
    with pytest.raises(SourceError, match="one picture at 4 places"):
        maker.make_cell(X, Y)
    assert maker.kept(ZOOM, X, Y, "webp") is None
    assert maker.make_cell(X + 4, Y)  # another cell
    layer.meanwhile = lambda: None
    maker.make_cell(X, Y)
    assert maker.kept(ZOOM, X, Y, "webp") is not None


def test_a_cell_thrown_away_on_its_way_is_not_used(tmp_path: Path) -> None:
    """It was kept, and then thrown away before whoever waits for it has got it."""

    def make(key: Any) -> Any:
        made = maker.make_cell(*key[1:])
        maker.forget(ErrorPictureError("one picture at 4 places", b"", [(X, Y)]))
        return made

    queue = CellQueue(make, 1)
    maker = TileMaker(Found(), TileCache(tmp_path, 1 << 20), queue)
    with pytest.raises(SourceError, match="one picture at 4 places"):
        asyncio.run(maker.get(ZOOM, X, Y))
    queue.close()


def test_a_tile_thrown_away_while_it_is_read_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Key("0123456789abcdef01234567", ZOOM, X, Y, "webp")
    TileCache(tmp_path, 1 << 20).write(key, b"bad")
    cache, read = TileCache(tmp_path, 1 << 20), Path.read_bytes

    def read_slowly(path: Path) -> bytes:
        content = read(path)
        cache.drop(key.of, {ZOOM: (range(X, X + 1), range(Y, Y + 1))})
        return content

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", read_slowly)
        assert cache.read(key) is not None
    assert cache.read(key) is None
