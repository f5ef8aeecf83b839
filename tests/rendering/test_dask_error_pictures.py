"""Error pictures of a server while many workers read: no block that they are in is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("distributed")
pytest.importorskip("pystac")

from maptile2sat.errors import ErrorPictureError
from maptile2sat.geo.grid import TILE, Window
from maptile2sat.rendering.job import open_job
from tests.conftest import TileMap, TileServer
from tests.rendering.test_error_pictures import BOX, FIRST, LAST, MAP, trouble
from tests.support_cluster import near_cluster, shard
from tests.support_render import read_back


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with near_cluster() as made:
        yield made


@pytest.fixture
def many_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the worker stand for many elsewhere, none of which sees a picture at four places."""

    def opened(*given: Any, **changes: Any) -> Any:
        job = open_job(*given, cache_dir=tmp_path / "cache", **changes)
        job.repeats.limit = 99
        return job

    monkeypatch.setattr("maptile2sat.rendering.worker.open_job", opened)


def blocks_in(folder: Path) -> int:
    return len(list(folder.glob("blocks/*.json")))


def check_resumed(server: TileServer, output: Path, address: str, **changes: Any) -> None:
    """Go on once the server is well; the stand-in for the generator gives the map back."""
    # those that touch none of the tiles, margin included, in columns 3 to 5
    assert blocks_in(output) == 6
    server.answer = None
    done = shard(server.serve(MAP), output, address, bbox=BOX, rate=1000.0, resume=True)
    assert done.resumed_blocks == 6
    made = read_back(output / "mosaic.vrt")
    assert np.array_equal(made.image, MAP.read(MAP.extent)[0])


def test_blocks_with_error_pictures_are_made_again(
    server: TileServer, tmp_path: Path, address: str
) -> None:
    trouble(server)
    url, output = server.serve(MAP), tmp_path / "out"
    with pytest.raises(ErrorPictureError, match="at 4 places") as caught:
        shard(url, output, address, bbox=BOX, rate=1000.0)
    assert caught.value.tiles == {*FIRST, LAST}
    last = f"/16/{LAST[0]}/{LAST[1]}.png"
    assert server.log.count(last) <= 2  # read ahead and read: the block is not tried again
    check_resumed(server, output, address)


@pytest.mark.usefixtures("many_workers")
def test_few_places_at_each_of_many_workers_add_up(
    server: TileServer, tmp_path: Path, address: str
) -> None:
    trouble(server)
    url, output = server.serve(MAP), tmp_path / "out"
    with pytest.raises(ErrorPictureError, match="at 4 places"):
        shard(url, output, address, bbox=BOX, rate=1000.0)
    check_resumed(server, output, address)


@pytest.mark.usefixtures("many_workers")
def test_a_server_that_is_well_again_does_not_clear_what_it_sent(
    server: TileServer, tmp_path: Path, address: str
) -> None:
    trouble(server, lasting=False)
    url, output = server.serve(MAP), tmp_path / "out"
    with pytest.raises(ErrorPictureError, match="at 4 places"):
        shard(url, output, address, bbox=BOX, rate=1000.0)
    check_resumed(server, output, address)


@pytest.mark.usefixtures("many_workers")
def test_sea_that_many_workers_see_may_repeat(
    server: TileServer, tmp_path: Path, address: str
) -> None:
    def sea(window: Window) -> np.ndarray:
        return np.full((window.height, window.width, 3), (163, 204, 255), np.uint8)

    assert MAP.extent.width == 8 * TILE
    url = server.serve(TileMap(16, MAP.tiles, sea))
    done = shard(url, tmp_path / "out", address, bbox=BOX, rate=1000.0)
    assert done.blocks == 16


def test_nothing_is_left_if_no_block_is_good(
    server: TileServer, tmp_path: Path, address: str
) -> None:
    trouble(server)
    url, output = server.serve(MAP), tmp_path / "out"
    with pytest.raises(ErrorPictureError):
        shard(url, output, address, bbox=BOX, block=4, rate=1000.0)
    assert not output.exists()
