"""A server's error picture, known as one at the fourth place: no work that it is in is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from maptile2sat.errors import ErrorPictureError, SourceError
from maptile2sat.geo.grid import TILE, Window, mercator_grid
from maptile2sat.sources.tiles import TiledSource
from tests.conftest import TileMap, TileServer, encode, write_mbtiles
from tests.support_render import (
    bbox_of,
    files_in,
    random_map,
    read_back,
    run_cli,
    tiny_bundle,
    tiny_render,
)

X, Y, ACROSS = 37_308, 18_964, 8
MAP = TileMap(16, TileMap.block(16, X, Y, ACROSS, 2).tiles, random_map)
CELL = 2 * TILE
"""The map has four of them in a row."""

FIRST = [(X, Y), (X + 1, Y), (X, Y + 1)]
LAST = (X + 7, Y + 1)
BOX = bbox_of(mercator_grid(16), MAP.extent)


def text_picture() -> bytes:
    """Return a picture that says sorry."""
    sorry = np.full((TILE, TILE, 3), 240, np.uint8)
    sorry[100:110, 40:90] = 20
    return encode(sorry)


def trouble(
    server: TileServer, ready: Callable[[], bool] = lambda: True, *, lasting: bool = True
) -> None:
    """Send the picture for three tiles of the first cell and, once it is done, one of the last.

    Args:
        server: Where.
        ready: Whether the last one may be answered.
        lasting: Whether it goes on so; else the server is well once the last one was answered.
    """
    names = [f"/16/{x}/{y}.png" for x, y in [*FIRST, LAST]]
    headers = {} if lasting else {"Cache-Control": "no-store"}
    asked = [0]

    def answer(path: str, number: int) -> tuple[int, dict[str, str], bytes] | None:
        before = asked[0]
        if path == names[-1]:
            asked[0] += 1
            end = time.monotonic() + 30
            while not ready() and time.monotonic() < end:
                time.sleep(0.02)
        if path in names and (lasting or not before):
            return 200, headers, text_picture()
        return None

    server.answer = answer


def journal(folder: Path) -> list[dict[str, int]]:
    """Return the cells that a journal names."""
    path = folder / "out.tif.partial" / "journal.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines[1:]]


def undisturbed(folder: Path) -> np.ndarray:
    """Return the pixels of a render of the map as it is."""
    path = write_mbtiles(folder / "map.mbtiles", MAP)
    return tiny_render(path, folder, cell=CELL).image


def test_cells_with_error_pictures_are_made_again(server: TileServer, tmp_path: Path) -> None:
    words = ["render", server.serve(MAP), "-o", tmp_path / "out.tif", "-m", tiny_bundle()]
    words += ["--bbox", BOX, "--cell", CELL, "--precision", "integer"]
    trouble(server, lambda: len(journal(tmp_path)) == 3)
    failed = run_cli(*words)
    assert failed.code == 1
    assert "has one and the same picture at 4 places" in failed.err
    assert failed.err.endswith("; what is done is kept: --resume goes on with it\n")
    # the first cell has three of them, the second one in its margin
    assert [line["col"] for line in journal(tmp_path)] == [(X + 4) * TILE]
    server.answer = None
    done = run_cli(*words, "--resume")
    assert done.code == 0, done.err
    assert "3 cells (1 more done before)" in done.err
    assert np.array_equal(read_back(tmp_path / "out.tif").image, undisturbed(tmp_path))


def test_an_error_picture_that_was_read_ahead_counts_too(
    server: TileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is well when the tile is read again, but three others have been used by then."""

    def read_ahead(source: TiledSource, window: Window) -> None:
        with suppress(SourceError):  # nobody is told
            source.read(window)

    monkeypatch.setattr(TiledSource, "prefetch", read_ahead)
    trouble(server, lasting=False)
    with pytest.raises(ErrorPictureError, match="at 4 places") as caught:
        tiny_render(server.serve(MAP), tmp_path, bbox=BOX, cell=CELL)
    assert caught.value.tiles == {*FIRST, LAST}
    server.answer = None
    (output,) = {name.partition("/")[0] for name in files_in(tmp_path)}
    assert output == "render-0.tif.partial"
    again = tiny_render(server.serve(MAP), tmp_path, bbox=BOX, cell=CELL, resume=True)
    assert np.array_equal(again.image, undisturbed(tmp_path))
    assert 0 < again.result.resumed_cells < 4


def test_tiles_masked_before_an_interruption_are_told_after_it(
    server: TileServer, tmp_path: Path
) -> None:
    url = server.serve(MAP)
    absent = f"/16/{X}/{Y}.png"
    server.answer = lambda path, number: (404, {}, b"") if path == absent else None

    def stop(done: int, of: int) -> None:
        if done == of - 1:
            raise KeyboardInterrupt

    settings = {"bbox": BOX, "cell": CELL, "missing": "mask"}
    with pytest.raises(KeyboardInterrupt):
        tiny_render(url, tmp_path, progress=stop, **settings)
    again = tiny_render(url, tmp_path, resume=True, **settings)
    assert again.result.resumed_cells == 3
    (whole,) = tiny_render(url, tmp_path, **settings).result.warnings
    assert f" 16/{X}/{Y}," in whole  # and those around the map
    assert list(again.result.warnings) == [whole]
