"""What a sharded render tells: what one machine would, once, however many workers there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed")
pytest.importorskip("pystac")

from maptile2sat.geo.grid import mercator_grid
from tests.conftest import TileMap, TileServer
from tests.support_cluster import near_cluster, shard
from tests.support_render import bbox_of, random_map

TILES = TileMap.block(16, 37_306, 18_964, 12, 8)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with near_cluster(workers=2) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 4])
def test_masked_tiles_are_listed_at_the_end(
    tmp_path: Path, address: str, server: TileServer, block: int
) -> None:
    """In one line, also those that two workers, the client, or an interrupted run met."""
    url = server.serve(TileMap(16, TILES.tiles, random_map))
    holes = ["16/37306/18964", "16/37312/18968", "16/37317/18971"]  # corners, and the middle
    for hole in holes:
        del server.pages[f"/{hole}.png"]
    box = bbox_of(mercator_grid(16), TILES.extent)
    output = tmp_path / "out"
    settings = {"block": block, "bbox": box, "missing": "mask", "rate": 1000.0}
    said = f"3 tiles are missing in {url} and masked: {', '.join(holes)}"
    for resume in (False, True):
        told: list[str] = []
        result = shard(url, output, address, resume=resume, warn=told.append, **settings)
        assert [text for text in told if "missing" in text] == [said]
        assert [text for text in result.warnings if "missing" in text] == [said]
        # interrupted before it was whole, and before one record
        (output / "manifest.json").unlink()
        next((output / "blocks").glob("*.json")).unlink()
    assert result.resumed_blocks == result.blocks - 1
