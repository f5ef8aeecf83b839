"""Where a sharded render goes: taken only where nothing of anybody else's is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed")
pytest.importorskip("pystac")

import fsspec

from maptile2sat.errors import Maptile2satError
from tests.support_cluster import near_cluster, shard
from tests.support_render import files_in, run_cli

NOBODY = "tcp://127.0.0.1:9"
"""Where no scheduler is: a render there ends after it has taken its output."""


@pytest.fixture(autouse=True)
def impatient_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maptile2sat.sharding.cluster.CONNECT_SECONDS", 1)


@pytest.fixture
def memory() -> Iterator[Any]:
    """An object store in this process."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def render(output: object, *more: object) -> Any:
    return run_cli("render", "-o", output, "--dask", NOBODY, "-q", *more)


@pytest.mark.parametrize("name", ["work", "blocks"])
@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--resume"]])
def test_folders_that_are_named_like_ours_are_not_ours(
    tmp_path: Path, name: str, more: list[str]
) -> None:
    project = tmp_path / "project"
    (project / name / "thesis").mkdir(parents=True)
    (project / name / "thesis" / "one.txt").write_text("years of work")
    before = files_in(tmp_path)
    done = render(project, *more)
    assert done.code == 1
    assert f"{project} holds something else than a render" in done.err
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    "job", ["{}", '{"format": 1}', "[1]", "{torn", '{"format": 2, "block": 1}']
)
def test_a_job_that_is_not_ours_protects_what_lies_beside_it(tmp_path: Path, job: str) -> None:
    project = tmp_path / "project"
    (project / "work").mkdir(parents=True)
    (project / "work" / "thesis.txt").write_text("years of work")
    (project / "job.json").write_text(job)
    before = files_in(tmp_path)
    for more in ([], ["--overwrite"], ["--resume"]):
        done = render(project, *more)
        assert done.code == 1
        assert "job.json of" in done.err
    assert files_in(tmp_path) == before
    assert (project / "job.json").read_text() == job


def test_what_is_not_ours_in_an_object_store(memory: Any) -> None:
    memory.pipe("/bucket/project/work/thesis.txt", b"years of work")
    done = render("memory://bucket/project", "--overwrite")
    assert done.code == 1
    assert "holds something else than a render" in done.err
    assert memory.find("/bucket") == ["/bucket/project/work/thesis.txt"]


def test_run_that_was_killed_early_is_no_obstacle(tmp_path: Path) -> None:
    """What is left says that it is ours, and a run without any option cleans it up."""
    output = tmp_path / "out"
    (output / "work" / "killed").mkdir(parents=True)
    (output / "blocks").mkdir()
    (output / "work.lock").touch()
    (output / "job.json").write_text(json.dumps({"format": 1, "begun": True}))
    for more in ([], ["--resume"]):
        done = render(output, *more)
        assert "there is no Dask scheduler" in done.err
        assert "to go on" not in done.err
        assert not output.exists()
        output.mkdir()


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_render_that_cannot_begin_replaces_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with near_cluster() as address:
        shard(None, output, address, block=4)
        before = bytes_in(output)
        with pytest.raises(Maptile2satError, match="more than 3"):
            shard(None, output, address, block=4, seed=1, overwrite=True, max_tiles=3)
        assert bytes_in(output) == before
        done = render(output, "--overwrite")
        assert "there is no Dask scheduler" in done.err
        assert bytes_in(output) == before
        assert not {"work", "work.lock"} & set(files_in(output))
        shard(None, output, address, block=6, seed=1, overwrite=True)
    assert json.loads((output / "job.json").read_text())["seed"] == 1
    blocks = {path.stem for path in (output / "blocks").iterdir()}
    assert blocks == {block["name"] for block in manifest(output)["blocks"]}


def manifest(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "manifest.json").read_text())
    return found
