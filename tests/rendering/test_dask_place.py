"""Where a sharded render goes: taken only where nothing of anybody else's is."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed")
pytest.importorskip("pystac")

import fsspec
from affine import Affine
from rasterio.crs import CRS

from maptile2sat.errors import Maptile2satError, OutputError, UnfinishedError
from maptile2sat.geo.grid import Window
from maptile2sat.output.store import LOCK, WORK, FolderStore
from maptile2sat.rendering.blocks import render_block
from maptile2sat.rendering.work import Claim
from tests.conftest import TileMap, write_mbtiles, write_raster
from tests.support_cluster import near_cluster, shard
from tests.support_render import files_in, random_map, run_cli

NOBODY = "tcp://127.0.0.1:9"
"""Where no scheduler is: a render there ends after it has taken its output."""


@pytest.fixture(autouse=True)
def impatient_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maptile2sat.rendering.cluster.CONNECT_SECONDS", 1)


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
    memory.pipe(f"/bucket/project/{WORK}/thesis.txt", b"years of work")
    done = render("memory://bucket/project", "--overwrite")
    assert done.code == 1
    assert "holds something else than a render" in done.err
    assert memory.find("/bucket") == [f"/bucket/project/{WORK}/thesis.txt"]


def test_a_map_whose_corners_are_beyond_the_earth(tmp_path: Path) -> None:
    """Such as a picture of the whole disc from a satellite."""
    side = 512
    pixels = random_map(Window(0, 0, side, side)).transpose(2, 0, 1)
    size = 11_000_000 / side
    at = Affine(size, 0, -5.5e6, 0, -size, 5.5e6)
    crs = CRS.from_proj4("+proj=geos +h=35785831 +lon_0=140.7")
    source = write_raster(tmp_path / "disc.tif", pixels, at, crs)
    with near_cluster() as address:
        shard(source, tmp_path / "OUT", address)
    item = json.loads((tmp_path / "OUT" / "item.json").read_text())
    assert item["bbox"] == pytest.approx([60, -81, -138, 81], abs=1)
    for thing in (source, tmp_path / "OUT"):
        facts = json.loads(run_cli("info", thing, "--json").out)
        assert facts["bounds_degrees"] == pytest.approx([60, -81, 222, 81], abs=1)


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


def test_blocks_of_another_render_are_made_again(tmp_path: Path) -> None:
    """A late worker of an earlier run may have left one: its place and size say nothing."""
    output, other = tmp_path / "out", tmp_path / "other"
    with near_cluster() as address:
        shard(None, other, address, block=4, seed=1)
        shard(None, output, address, block=4)
        before = bytes_in(output / "blocks")
        for path in list((other / "blocks").iterdir())[:2]:
            for ending in (".tif", ".json"):
                name = path.with_suffix(ending).name
                shutil.copy(other / "blocks" / name, output / "blocks" / name)
        (output / "manifest.json").unlink()
        strange = sum(
            path.read_bytes() != before[str(path)] for path in (output / "blocks").glob("*.tif")
        )
        assert strange >= 1
        again = shard(None, output, address, block=4, resume=True)
    assert again.resumed_blocks == again.blocks - strange
    assert bytes_in(output / "blocks") == before


@pytest.mark.parametrize("empty", [True, False], ids=["empty", "with a map"])
def test_worker_that_is_late_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: bool
) -> None:
    """The run is over while it renders: another one may have begun there."""
    tiles = {(37_306, 18_964), (37_313, 18_969)}
    source = write_mbtiles(tmp_path / "map.mbtiles", TileMap(16, tuple(tiles), random_map))
    output = tmp_path / "out"
    written: list[str] = []

    def late(*given: Any, **more: Any) -> Any:
        block = render_block(*given, **more)
        if block.empty == empty:
            for path in (output / "work").iterdir():
                if path.is_file():
                    path.unlink()
        written[:] = [path.name for path in (output / "blocks").iterdir()]
        return block

    monkeypatch.setattr("maptile2sat.rendering.worker.render_block", late)
    with near_cluster() as address, pytest.raises(OutputError, match=r"the render into .* is over"):
        shard(source, output, address)
    assert len(written) < 4


def test_lock_is_held_until_it_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that both have a lock, of which one was removed, would write at once."""
    store = FolderStore(tmp_path / "out")
    claim = Claim(store, resume=False, overwrite=False)
    claim.describe_job({"format": 1, "block": 256})
    claim.kept = True
    refused: list[UnfinishedError] = []
    remove = store.remove

    def meanwhile(names: tuple[str, ...]) -> None:
        if names == (LOCK,):
            with pytest.raises(UnfinishedError) as caught:
                Claim(FolderStore(store.root), resume=True, overwrite=False)
            refused.append(caught.value)
        remove(names)

    monkeypatch.setattr(store, "remove", meanwhile)
    claim.__exit__(None, None, None)
    assert "another render is writing" in str(refused[0])
    with (
        Claim(FolderStore(store.root), resume=True, overwrite=False),
        pytest.raises(UnfinishedError, match="another render is writing"),
    ):
        Claim(FolderStore(store.root), resume=True, overwrite=False)
    assert not (store.root / LOCK).exists()


def no_locks(file: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_place_that_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some file systems of networks: one line, and nothing is left."""
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", no_locks)
        done = render(tmp_path / "out")
    assert done.code == 1
    assert done.err.startswith(f"error: {tmp_path / 'out'} cannot be locked: No locks available")
    assert files_in(tmp_path) == []


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    done = render(tmp_path / ("n" * 300))
    assert done.code == 1
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert "choose a shorter name" in done.err
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    "address",
    [
        *("ftp://127.0.0.1:9/x", "zip://foo", "tar://foo", "github://foo", "reference://foo"),
        *("dir://foo", "nowhere://foo", "data://foo", "simplecache::zip://foo"),
    ],
)
def test_addresses_of_which_nothing_comes(address: str) -> None:
    """Packages of others open them, and raise whatever they like."""
    for done in (
        run_cli("render", "-o", address, "--dask", "local:1", "-q"),
        run_cli("info", address),
        run_cli("merge", address, "-o", "one.tif"),
    ):
        assert done.code == 1
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1


SECRETS = [
    *("sftp://bob:hunter2@127.0.0.1:9/x", "ftp://bob:hun/ter2@127.0.0.1:9/x"),
    *("s3://hunter1:hunter2@bucket/x", "zip://x::ftp://bob:hunter2@127.0.0.1:9/f.zip"),
    "abfs://hunter1@127.0.0.1/x?sig=hunter2",
]


@pytest.mark.parametrize("address", SECRETS)
def test_secrets_of_addresses_are_not_told(address: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for done in (
        run_cli("render", "-o", address, "--dask", "local:1", "-q"),
        run_cli("info", address, "--verify"),
        run_cli("merge", address, "-o", "one.tif"),
        run_cli("render", "-o", f"{address}.tif", "--dask", "local:1", "-q"),
    ):
        assert done.code in (1, 2)
        assert not any(secret in done.out + done.err for secret in ("hun/", "hunter", "ter2"))


def test_secrets_of_an_output_are_not_told(memory: Any, tmp_path: Path) -> None:
    """Names that only look like keys are: a script reads from stdout where the render is."""
    address = "memory://bob:hunter2@bucket/helsinki2026winter16"
    with near_cluster() as scheduler:
        more = ["--cell", 256, "--block", 4, "--dask", scheduler]
        done = run_cli("render", "-o", address, *more)
        assert done.code == 0, done.err
        assert done.out == "memory://bucket/helsinki2026winter16\n"
        as_json = run_cli("render", "-o", address, *more, "--overwrite", "--json", "-q")
        assert json.loads(as_json.out)["output"] == "memory://bucket/helsinki2026winter16"
    facts = run_cli("info", address, "--json")
    assert json.loads(facts.out)["name"] == "memory://bucket/helsinki2026winter16"
    told = done.out + done.err + as_json.out + as_json.err + facts.out
    kept = b"".join(memory.cat_file(path) for path in memory.find("/"))
    assert "hunter2" not in told
    assert b"hunter2" not in kept


def test_folders_whose_names_have_dots(memory: Any, tmp_path: Path) -> None:
    with near_cluster() as scheduler:
        for output in ("memory://bucket/city.v2", f"file://{tmp_path}/city.v2"):
            shard(None, output, scheduler, block=4)
            facts = run_cli("info", output, "--json")
            assert facts.code == 0, facts.err
            assert json.loads(facts.out)["what"] == "folder of a sharded render"
