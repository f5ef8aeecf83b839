"""Client and workers must see one map and one model; what differs by chance does not count."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed")
pytest.importorskip("pystac")

from maptile2sat.errors import ClusterError
from maptile2sat.paths import models_folder
from maptile2sat.rendering.job import open_job
from maptile2sat.rendering.worker import facts_of
from tests.conftest import TileMap, write_mbtiles
from tests.support_cluster import near_cluster, shard
from tests.support_render import files_in, random_map

TILES = TileMap.block(16, 37_306, 18_964, 4, 2).tiles


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with near_cluster() as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_mbtiles(tmp_path / "map.mbtiles", TileMap(16, TILES, random_map))


def elsewhere(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Let the workers find another file under the name of the map, as on another machine."""

    def opened(source: Any, *more: Any, **changes: Any) -> Any:
        return open_job(path, *more, **changes)

    monkeypatch.setattr("maptile2sat.rendering.worker.open_job", opened)


def test_other_map_under_the_same_name(
    tmp_path: Path, source: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the comparison the folder would hold blocks of the other map."""
    moved = tuple((x + 1, y) for x, y in TILES)
    other = write_mbtiles(tmp_path / "other.mbtiles", TileMap(16, moved, random_map))
    elsewhere(monkeypatch, other)
    with pytest.raises(ClusterError, match=r"has another map or model than this.*window here"):
        shard(source, tmp_path / "out", address)
    assert "out" not in files_in(tmp_path)


def test_map_of_other_content_under_the_same_name(
    tmp_path: Path, source: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sea = TileMap(16, TILES, lambda window: random_map(window) // 9)
    elsewhere(monkeypatch, write_mbtiles(tmp_path / "other.mbtiles", sea))
    with pytest.raises(ClusterError, match="source_bytes here"):
        shard(source, tmp_path / "out", address)


def test_resume_does_not_ask_when_a_workers_copy_was_made(
    tmp_path: Path, source: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever worker comes first, the job says the same."""
    output, size = tmp_path / "out", source.stat().st_size

    def copied_at(when: int) -> None:
        def facts(*given: Any) -> dict[str, Any]:
            return {**facts_of(*given), "source_file": [size, when]}

        monkeypatch.setattr("maptile2sat.rendering.worker.facts_of", facts)

    copied_at(1)
    shard(source, output, address)
    job = json.loads((output / "job.json").read_text())
    assert job["source_file"] == [size, source.stat().st_mtime_ns]
    (output / "manifest.json").unlink()
    copied_at(2)
    assert shard(source, output, address, resume=True).resumed_blocks == 8


@pytest.mark.parametrize("given", ["maps", "models/maps", "models/../models/maps/"])
def test_workers_are_told_a_shipped_model_by_its_name(
    tmp_path: Path, source: Path, address: str, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """They stand in another folder, and may have the package elsewhere."""
    told: list[str] = []

    def opened(source: Any, options: Any, *more: Any, **changes: Any) -> Any:
        told.append(options.model)
        return open_job(source, options, *more, **changes)

    monkeypatch.setattr("maptile2sat.rendering.worker.open_job", opened)
    monkeypatch.chdir(models_folder().parent)
    shard(source, tmp_path / "out", address, model=given)
    assert told == ["maps"]
