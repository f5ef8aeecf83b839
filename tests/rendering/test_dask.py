"""Renders by real worker processes: the pixels of one machine, whatever happens to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

pytest.importorskip("distributed")
pytest.importorskip("pystac")
pytest.importorskip("moto")
pytest.importorskip("s3fs")

import s3fs

import maptile2sat
from maptile2sat.errors import ClusterError, MissingTileError, OutputError, UnfinishedError
from maptile2sat.geo.grid import Window, mercator_grid
from maptile2sat.output.manifest import check_files, read_manifest, sha256_of
from maptile2sat.output.store import ObjectStore
from maptile2sat.paths import sample_map
from maptile2sat.rendering.cluster import connected
from maptile2sat.rendering.options import ShardOptions, ShardResult
from maptile2sat.rendering.run import render_sharded
from tests.conftest import TileMap, TileServer, write_mbtiles, write_raster
from tests.support_render import (
    CELL,
    bbox_of,
    files_in,
    large_render,
    random_map,
    read_back,
    run_cli,
    tiny_bundle,
    tiny_render,
    write_tiny_bundle,
)

SCRIPT = "import sys; sys.argv[0] = 'maptile2sat'; from maptile2sat.cli import process; process()"
PLAIN = {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket of an object store on the loopback, which this process and workers know of."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MAPTILE2SAT_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        # fsspec keeps clients, and one that another test made knows neither keys nor this host
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("maps")
        yield "s3://maps"
    server.stop()


@pytest.fixture(scope="module")
def client(bucket: str) -> Iterator[Any]:
    """Two worker processes, one thread each, whose client is in this process."""
    with connected("local:2", "cpu") as made:
        yield made


@pytest.fixture
def address(client: Any) -> str:
    """The scheduler of the two workers."""
    found: str = client.scheduler.address
    return found


def sharded(source: Any, output: Any, address: str, **changes: Any) -> ShardResult:
    """Render with the tiny bundle in blocks of 2 x 2 cells, if nothing else is said."""
    sharding = ShardOptions(address, changes.pop("block", 2), changes.pop("straggler", 30.0))
    settings = {"model": str(tiny_bundle()), "precision": "integer", **changes}
    return render_sharded(source, output, sharding, **settings)


def assert_same(folder: Path, expected: Any) -> None:
    """Compare a folder of blocks, read as one layer, with a render in one file."""
    made = read_back(folder / "mosaic.vrt")
    np.testing.assert_array_equal(made.mask, expected.mask)
    valid = expected.mask > 0
    np.testing.assert_array_equal(made.image[valid], expected.image[valid])
    assert made.transform.almost_equals(expected.raster.transform)
    assert made.crs == expected.raster.crs


def parts(folder: Path) -> list[str]:
    """Return what a finished folder holds, the blocks left out."""
    return sorted(path.name for path in folder.iterdir() if path.name != "blocks")


def test_pixels_of_one_machine(tmp_path: Path, address: str) -> None:
    """One thread in each of two processes, or all of them in one: the same bits."""
    steps: list[tuple[int, int]] = []
    result = sharded(
        sample_map(), tmp_path / "out", address, progress=lambda *step: steps.append(step)
    )
    assert (result.blocks, result.cells, result.empty_blocks) == (9, 24, 0)
    assert steps == [(done, 9) for done in range(10)]
    assert_same(tmp_path / "out", large_render())
    expected = large_render().raster
    manifest = read_manifest(tmp_path / "out")
    assert check_files(tmp_path / "out", manifest) == []
    assert manifest.tags["SYNTHETIC"] == "YES"
    for block in manifest.blocks:
        assert block.file is not None
        made = read_back(tmp_path / "out" / block.file)
        left = round((made.transform.c - expected.transform.c) / expected.transform.a)
        top = round((made.transform.f - expected.transform.f) / expected.transform.e)
        there = (slice(top, top + block.window.height), slice(left, left + block.window.width))
        np.testing.assert_array_equal(made.mask, expected.mask[there])
        valid = made.mask > 0
        np.testing.assert_array_equal(made.image[valid], expected.image[there][valid])
        assert block.masked == (not valid.all())
        assert {**made.tags, "AREA_OR_POINT": ""} == {**expected.tags, "AREA_OR_POINT": ""}
    assert parts(tmp_path / "out") == [
        *("collection.json", "item.json", "job.json", "manifest.json", "mosaic.vrt")
    ]


@pytest.mark.slow
def test_blocks_lie_at_fixed_places(tmp_path: Path, address: str) -> None:
    """Of a box inside, the inner block has the name and the bytes that it has of all."""
    with rasterio.open(large_render().result.output) as whole:
        transform = whole.transform
    grid = mercator_grid(16)
    col, row = (round(value) for value in ~grid.affine @ (transform.c, transform.f))
    inner = Window(col + 100, row + 90, 700, 1000)
    box = bbox_of(grid, inner)
    sharded(sample_map(), tmp_path / "part", address, bbox=box, block=1)
    alone = tiny_render(sample_map(), tmp_path, bbox=box)
    assert_same(tmp_path / "part", alone)
    again = sharded(sample_map(), tmp_path / "whole", address, block=1)
    assert again.blocks == 24
    full = [b for b in read_manifest(tmp_path / "part").blocks if b.window[2:] == (CELL, CELL)]
    assert len(full) >= 2
    for block in full:
        assert block.file is not None
        found = (
            read_back(tmp_path / "part" / block.file),
            read_back(tmp_path / "whole" / block.file),
        )
        np.testing.assert_array_equal(found[0].image, found[1].image)


def test_blocks_without_a_map_have_no_file(tmp_path: Path, address: str) -> None:
    corners = {(37_306, 18_964), (37_313, 18_969)}
    source = write_mbtiles(tmp_path / "map.mbtiles", TileMap(16, tuple(corners), random_map))
    result = sharded(source, tmp_path / "out", address)
    records = read_manifest(tmp_path / "out").blocks
    assert sum(record.file is not None for record in records) == 2
    assert result.empty_blocks == result.blocks - 2 > 0
    assert all(record.masked and record.size == 0 for record in records if record.file is None)
    assert len(list((tmp_path / "out" / "blocks").glob("*.tif"))) == 2
    assert len(list((tmp_path / "out" / "blocks").glob("*.json"))) == result.blocks
    assert_same(tmp_path / "out", tiny_render(source, tmp_path))


@pytest.mark.slow
def test_raster_with_negative_columns_and_holes(tmp_path: Path, address: str) -> None:
    window = Window(-300, -200, 900, 700)
    image = np.moveaxis(random_map(window), -1, 0)
    image[:, 260:420, 100:340] = 0
    transform = Affine(2.0, 0, -600.0, 0, -2.0, 400.0)
    source = write_raster(tmp_path / "map.tif", image, transform, "EPSG:3067", nodata=0)
    sharded(source, tmp_path / "out", address, block=1)
    assert "rm000001_cm000001" in {b.name for b in read_manifest(tmp_path / "out").blocks}
    assert_same(tmp_path / "out", tiny_render(source, tmp_path))


def test_missing_tile_beside_a_block_is_an_error_too(
    tmp_path: Path, address: str, server: TileServer
) -> None:
    tiles = TileMap.block(16, 37_306, 18_964, 4, 2).tiles
    source = server.serve(TileMap(16, tiles, random_map))
    del server.pages["/16/37308/18964.png"]
    box = bbox_of(mercator_grid(16), TileMap(16, tiles).extent)
    with pytest.raises(MissingTileError, match="tile 16/37308/18964"):
        sharded(source, tmp_path / "out", address, bbox=box, block=1)
    result = sharded(
        *(source, tmp_path / "out", address), bbox=box, block=1, missing="mask", overwrite=True
    )
    assert (result.blocks, result.empty_blocks) == (8, 1)


@pytest.mark.slow
def test_workers_ask_a_server_together_as_one(
    tmp_path: Path, address: str, server: TileServer
) -> None:
    """Neither more often nor more at once than one process would."""
    tiles = TileMap.block(16, 37_306, 18_964, 8, 6)
    url = server.serve(TileMap(16, tiles.tiles, random_map))
    rate, times, now, most = 20.0, [], [0], [0]
    lock = threading.Lock()

    def slowly(path: str, number: int) -> None:
        with lock:
            times.append(time.monotonic())
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.1)
        with lock:
            now[0] -= 1

    server.answer = slowly
    box = bbox_of(mercator_grid(16), tiles.extent)
    result = sharded(url, tmp_path / "out", address, bbox=box, block=2, rate=rate)
    assert result.tiles == len(set(server.log)) == 80  # with those around
    assert 2 <= most[0] <= 8
    for first, began in enumerate(times):
        for last in range(first, len(times)):
            # a burst of 8 and what comes after; as many again for requests that arrive late
            assert last - first + 1 <= 16 + rate * (times[last] - began)
    server.answer = None
    assert_same(tmp_path / "out", tiny_render(url, tmp_path, bbox=box))


def test_object_store(tmp_path: Path, client: Any, address: str, bucket: str) -> None:
    """Blocks are made locally and uploaded; a resume finds them; GDAL reads what is there."""
    output = f"{bucket}/deep/render"
    result = sharded(sample_map(), output, address)
    assert result.output == output
    files = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    names = sorted(path.removeprefix("maps/deep/render/") for path in files.find("maps"))
    sharded(sample_map(), tmp_path / "out", address)
    assert names == [
        name for name in files_in(tmp_path / "out") if (tmp_path / "out" / name).is_file()
    ]
    for name in names:
        if name.startswith("blocks/"):
            assert files.cat_file(f"maps/deep/render/{name}") == (
                (tmp_path / "out" / name).read_bytes()
            )
    files.get("maps/deep/render", str(tmp_path / "copy"), recursive=True)
    assert check_files(tmp_path / "copy", read_manifest(tmp_path / "copy")) == []
    assert_same(tmp_path / "copy", large_render())
    with pytest.raises(UnfinishedError, match="exists: pass --resume"):
        sharded(sample_map(), output, address)
    files.rm(f"maps/deep/render/{names[0]}")
    files.rm("maps/deep/render/manifest.json")
    again = sharded(sample_map(), output, address, resume=True)
    assert (again.resumed_blocks, again.blocks) == (8, 9)
    assert len(files.find("maps")) == len(names)


def test_store_that_cannot_be_written(tmp_path: Path, address: str, bucket: str) -> None:
    with pytest.raises(OutputError, match="of s3://elsewhere/out cannot be"):
        sharded(sample_map(), "s3://elsewhere/out", address)
    with pytest.raises(OutputError, match="no address that fsspec can open"):
        sharded(sample_map(), "nowhere://bucket/out", address)


def test_damaged_upload_is_noticed(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(f"{bucket}/damaged")
    path = tmp_path / "block.tif"
    path.write_bytes(b"pixels")
    with pytest.raises(OutputError, match=r"x\.tif did not arrive as it was sent"):
        store.put(path, "x.tif", "0" * 64)
    store.put(path, "x.tif", sha256_of(path))
    assert store.read("x.tif") == b"pixels"


def environment() -> dict[str, str]:
    return dict(os.environ)


def test_worker_processes_are_set_up_for_tensorflow(client: Any) -> None:
    cores = len(os.sched_getaffinity(0))
    for found in client.run(environment).values():
        assert found["TF_NUM_INTRAOP_THREADS"] == str(max(1, cores // 2))
        assert "MALLOC_TRIM_THRESHOLD_" not in found


def workers_of(client: Any) -> list[int]:
    """Return the process numbers of the workers."""
    return [worker.process.pid for worker in client.cluster.workers.values() if worker.process]


@pytest.mark.slow
def test_kill_9_at_random(tmp_path: Path, client: Any, address: str) -> None:
    """Workers die while they make, write and upload; nothing is lost and nothing half there."""
    random = np.random.default_rng(8)
    over = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        while len(killed) < 3 and not over.wait(random.uniform(0.05, 0.6)):
            # one that is being started again has no number yet
            alive = [pid for pid in workers_of(client) if pid and pid not in killed]
            if alive:
                pid = alive[int(random.integers(len(alive)))]
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    def start(done: int, total: int) -> None:
        if done == 1 and not thread.is_alive() and not killed:
            thread.start()

    thread = threading.Thread(target=kill, daemon=True)
    result = sharded(sample_map(), tmp_path / "out", address, block=1, progress=start)
    over.set()
    thread.join()
    assert killed
    assert result.blocks == 24
    assert_same(tmp_path / "out", large_render())
    assert check_files(tmp_path / "out", read_manifest(tmp_path / "out")) == []
    assert "work" not in files_in(tmp_path / "out")


def test_resume_makes_what_is_missing(tmp_path: Path, address: str) -> None:
    output = tmp_path / "out"
    sharded(sample_map(), output, address)
    tifs = sorted((output / "blocks").glob("*.tif"))
    records = sorted((output / "blocks").glob("*.json"))
    kept = {path: path.stat().st_mtime_ns for path in tifs[4:]}
    before = tifs[0].read_bytes()
    tifs[0].unlink()  # somebody removed it
    tifs[1].write_bytes(b"torn")
    records[2].write_text("{torn")
    records[3].unlink()  # killed between the block and its record
    (output / "manifest.json").unlink()
    result = sharded(sample_map(), output, address, resume=True)
    assert (result.resumed_blocks, result.blocks) == (5, 9)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert tifs[0].read_bytes() == before
    assert_same(output, large_render())


@pytest.mark.slow
def test_another_render_is_not_gone_on_with(tmp_path: Path, address: str) -> None:
    output = tmp_path / "out"
    sharded(sample_map(), output, address, block=4)
    other = write_tiny_bundle(tmp_path / "other", weight_seed=2)
    before = files_in(output)
    for changes, words in (
        ({"resume": False}, "out exists: pass --resume to continue it"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"block": 2}, "block was 1024, is 512"),
        ({"model": str(other)}, "model was "),
        ({"profile": "jpeg"}, "profile was deflate, is jpeg"),
    ):
        settings = {"block": 4, "resume": True, **changes}
        with pytest.raises(UnfinishedError, match=words):
            sharded(sample_map(), output, address, **settings)
    assert files_in(output) == before
    sharded(sample_map(), output, address, block=4, seed=1, overwrite=True)
    assert json.loads((output / "job.json").read_text())["seed"] == 1


def test_what_is_not_ours_is_not_touched(tmp_path: Path, address: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="holds something else than a render"):
        sharded(sample_map(), tmp_path / "out", address, overwrite=True)
    assert files_in(tmp_path / "out") == ["thesis.txt"]
    with pytest.raises(OutputError, match="is a file"):
        sharded(sample_map(), tmp_path / "out" / "thesis.txt", address, overwrite=True)


def test_error_leaves_nothing_behind(tmp_path: Path, address: str) -> None:
    with pytest.raises(maptile2sat.Maptile2satError, match="more than 3"):
        sharded(sample_map(), tmp_path / "out", address, max_tiles=3)
    assert files_in(tmp_path) == []


@pytest.mark.slow
def test_unlike_workers_are_not_mixed(tmp_path: Path, address: str) -> None:
    """A worker whose processor sums in another order is found before anything is made."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
    odd = subprocess.Popen(
        [*command, "--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path / "odd")],
        env={**os.environ, **PLAIN, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        from distributed import Client

        with Client(address, set_as_default=False) as watching:
            watching.wait_for_workers(3, timeout=60)
        with pytest.raises(ClusterError) as caught:
            sharded(sample_map(), tmp_path / "out", address)
    finally:
        odd.terminate()
        odd.wait()
    said = str(caught.value)
    assert "must not be mixed" in said
    assert "\n" not in said
    numerics = large_render().raster.tags["NUMERICS"]
    assert numerics in said
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in said
    assert not (tmp_path / "out").exists()


def command(output: Path, *more: object) -> list[str]:
    arguments = ["render", sample_map(), "-o", output, "-m", tiny_bundle(), "--dask", "local:1"]
    settings = ["--precision", "integer", "--block", "1", *more]
    return [sys.executable, "-c", SCRIPT, *map(str, [*arguments, *settings])]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks into /proc")
def test_ctrl_c_keeps_what_is_done(tmp_path: Path, address: str) -> None:
    output = tmp_path / "out"
    running = subprocess.Popen(
        command(output), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while running.poll() is None and len(list(output.glob("blocks/*.json"))) < 3:
        time.sleep(0.005)
    below = [
        pid
        for task in Path(f"/proc/{running.pid}/task").iterdir()
        for pid in map(int, (task / "children").read_text().split())
    ]
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to all processes
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "error: interrupted"
    hint = next(line for line in said.splitlines() if line.startswith("to go on: maptile2sat "))
    assert f"-o {output}" in hint
    assert hint.endswith("--resume")
    assert below
    end = time.monotonic() + 20  # Python's own helpers go a moment after it
    while any(alive(pid) for pid in below) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in below)
    done = len(list(output.glob("blocks/*.json")))
    assert not (output / "work").exists()
    result = sharded(sample_map(), output, address, block=1, resume=True)
    assert result.resumed_blocks == done >= 3
    assert_same(output, large_render())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "out.tif", "--dask", "local"], "--dask writes a folder"),
        (["-o", "out", "--dask", "here"], "say local, local:N"),
        (["-o", "out", "--dask", "local", "--cell", "0"], "cell 0 is not a multiple of 256"),
        (
            ["-o", "out", "--dask", "local", "--cell", "32768", "--block", "1"],
            "cell 32768 is not a multiple of 256 up to 8192",
        ),
        (["-o", "out", "--block", "2"], "--block goes with --dask only"),
        (["-o", "out", "--dask", "local", "--no-cog"], "--no-cog does not go with --dask"),
        (["-o", "out", "--dask", "local", "--preview", "p.png"], "--preview does not go with"),
        (["-o", "out", "--dask", "local", "--dst-crs", "EPSG:3067"], "--dst-crs does not go with"),
        (["-o", "s3://a:b@c/out.tif", "--dask", "local"], "s3://c/out.tif is named like a file"),
    ],
)
def test_usage(arguments: list[str], words: str) -> None:
    for more in ([], ["--dry-run"]):
        done = run_cli("render", *arguments, "-q", *more)
        assert done.code == 2
        assert words in done.err


def test_no_scheduler_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maptile2sat.rendering.cluster.CONNECT_SECONDS", 1)
    done = run_cli("render", "-o", tmp_path / "out", "--dask", "tcp://127.0.0.1:9", "-q")
    assert done.code == 1
    assert "there is no Dask scheduler at tcp://127.0.0.1:9" in done.err
    assert files_in(tmp_path) == []


@pytest.mark.slow
def test_client_needs_no_tensorflow(tmp_path: Path, address: str) -> None:
    """What shares out the work loads neither TensorFlow nor, before it is used, Dask."""
    code = (
        "import sys, maptile2sat.cli.app, maptile2sat.rendering.run as run; "
        "from maptile2sat.rendering.options import ShardOptions; "
        "assert 'distributed' not in sys.modules; "
        f"run.render_sharded({str(sample_map())!r}, {str(tmp_path / 'out')!r}, "
        f"ShardOptions({address!r}, 4), model={str(tiny_bundle())!r}, precision='float32'); "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **PLAIN})
    assert (tmp_path / "out" / "manifest.json").exists()


def test_without_dask_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    done = run_cli("render", "-o", tmp_path / "out", "--dask", "local", "-q")
    assert done.code == 1
    assert "pip install 'maptile2sat[dask]'" in done.err
