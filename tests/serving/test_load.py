"""How the server behaves when much is asked of it, or something wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import requests

from maptile2sat.errors import AddressError, MissingExtraError, SourceError, UsageError
from maptile2sat.geo.grid import Window, mercator_grid
from maptile2sat.paths import sample_map
from maptile2sat.rendering import RenderOptions
from maptile2sat.serving import ServeOptions, serve
from maptile2sat.serving.cache import BLOCK, Key, TileCache
from maptile2sat.serving.layers import ImageLayer
from maptile2sat.serving.queue import BusyError, CellQueue
from tests.conftest import TileMap, TileServer
from tests.support_render import bbox_of, copy_of_tiny, write_tiny_bundle
from tests.support_serve import SIDE, Running, model, running, wait_for

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

PROCESS = "import sys; sys.argv[0] = 'm'; from maptile2sat.cli import process; process()"

ZOOM, COL, ROW = 16, 37308, 18968
"""A tile of the sample map that begins a cell."""


def make_late(gate: threading.Event) -> Callable[[Any], Any]:
    """Return something to make cells with that waits for a sign."""

    def make(key: Any) -> Any:
        assert gate.wait(30)
        return f"made {key}"

    return make


def test_a_cell_is_made_once_for_all_who_wait() -> None:
    gate = threading.Event()

    async def ask() -> list[str]:
        queue = CellQueue(make_late(gate), 4)
        jobs = [asyncio.create_task(queue.get("a")) for _ in range(64)]
        await asyncio.sleep(0.05)
        gate.set()
        answers = await asyncio.gather(*jobs)
        assert (queue.counts.made, queue.counts.shared) == (1, 63)
        queue.close()
        return list(answers)

    assert set(asyncio.run(ask())) == {"made a"}


def test_a_full_queue_turns_away_and_says_when_to_come_again() -> None:
    gate = threading.Event()

    async def ask() -> None:
        queue = CellQueue(make_late(gate), 2, threads=1)
        jobs = [asyncio.create_task(queue.get(number)) for number in range(3)]
        await asyncio.sleep(0.05)
        assert (queue.running, queue.waiting) == (1, 2)
        with pytest.raises(BusyError) as caught:
            await queue.get("one more")
        assert 1 <= caught.value.seconds <= 60
        also = asyncio.create_task(queue.get(2))  # a cell that waits already takes no place
        await asyncio.sleep(0)
        gate.set()
        assert await also == "made 2"
        await asyncio.gather(*jobs)
        assert await queue.get("one more") == "made one more"
        queue.close()

    asyncio.run(ask())


def test_what_nobody_waits_for_any_more_is_not_made() -> None:
    gate = threading.Event()
    made = []

    def make(key: Any) -> Any:
        assert gate.wait(30)
        made.append(key)
        return key

    async def ask() -> None:
        queue = CellQueue(make, 9, threads=1)
        first = asyncio.create_task(queue.get("first"))
        left = asyncio.create_task(queue.get("left"))
        two = [asyncio.create_task(queue.get("shared")) for _ in range(2)]
        await asyncio.sleep(0.05)
        left.cancel()
        two[0].cancel()
        await asyncio.sleep(0.05)
        gate.set()
        assert await first == "first"
        assert await two[1] == "shared"
        assert queue.counts.cancelled == 1
        queue.close()

    asyncio.run(ask())
    assert made == ["first", "shared"]


def test_a_cell_that_failed_is_not_tried_again_at_once() -> None:
    tries = []

    def make(key: Any) -> Any:
        tries.append(key)
        raise SourceError("no such map")

    async def ask() -> None:
        queue = CellQueue(make, 9)
        for _ in range(5):
            with pytest.raises(SourceError, match="no such map"):
                await queue.get("a")
        queue.close()

    asyncio.run(ask())
    assert tries == ["a"]


@contextmanager
def held() -> Iterator[threading.Event]:
    """Let cells of imagery wait for a sign."""
    gate = threading.Event()
    make = ImageLayer.make

    def late(self: ImageLayer, col: int, row: int) -> Any:
        assert gate.wait(30)
        return make(self, col, row)

    with mock.patch.object(ImageLayer, "make", late):
        try:
            yield gate
        finally:
            gate.set()


def ask_and_leave(server: Running, path: str) -> socket.socket:
    """Ask for an address without waiting for the answer."""
    host, port = server.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return client


def test_clients_that_leave_and_clients_too_many(tmp_path: Path) -> None:
    step = SIDE // 256
    paths = [
        f"/tiny/{ZOOM}/{COL + right * step}/{ROW + down * step}.png"
        for down in (0, 1)
        for right in (0, 1)
    ]
    with held() as gate, running(sample_map(), tmp_path, queue=1) as server:
        cells = server.service.cells
        clients = [ask_and_leave(server, path) for path in paths[:3]]
        wait_for(lambda: (cells.running, cells.waiting) == (2, 1))
        busy = server.get(paths[3])
        assert busy.status_code == 503
        assert int(busy.headers["Retry-After"]) >= 1
        assert server.tile("source", ZOOM, COL, ROW)[..., 3].any()  # the map does not wait
        clients[2].close()
        wait_for(lambda: cells.counts.cancelled == 1)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(server.get, paths[3])
            wait_for(lambda: cells.waiting == 1)
            gate.set()
            assert answer.result().status_code == 200
        for client in clients:
            client.close()
        health = server.health()
    assert health["requests"]["busy"] == 1
    assert health["requests"]["gone"] == 1
    assert health["cells"]["made"] == 3


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of the sample map that renders small areas only."""
    with running(sample_map(), tmp_path_factory.mktemp("tiles"), max_download=10_000) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/tiny/16/65536/0.png", 400),
        ("/tiny/31/0/0.png", 400),
        ("/tiny/016/1/1.png", 400),
        ("/tiny/16/-1/1.png", 400),
        ("/tiny/16/1e3/1.png", 400),
        ("/tiny/16/99999999999999999999/1.png", 400),
        ("/tiny/16/1/1.png?size=9", 400),
        ("/tiny/16/1/1.tif", 404),
        ("/other/16/1/1.png", 404),
        ("/other/tilejson.json", 404),
        ("/source/tilejson.json", 404),
        ("/source/area.tif?bbox=24.94,60.17,24.941,60.1701", 404),
        ("/static/index.html", 404),
        ("/static/..%2f..%2fapp.py", 404),
        ("/static/%2e%2e/app.py", 404),
        ("/..%2f..%2fetc%2fpasswd/16/1/1.png", 404),
        ("/tiny/16/..%2f..%2f1/1.png", 404),
        ("/tiny/area.tif", 400),
        ("/tiny/area.tif?bbox=1,2,3", 400),
        ("/tiny/area.tif?bbox=nan,2,3,4", 400),
        ("/tiny/area.tif?bbox=24.93,60.16,24.95,60.18", 400),
        ("/tiny/area.tif?bbox=1,1,1.0001,1.0001", 400),
        ("/tiny/area.tif?bbox=24.94,60.17,24.941,60.1701&model=/etc/passwd", 400),
        ("/" + "a" * 600, 414),
    ],
)
def test_wrong_requests_are_refused(sample: Running, path: str, status: int) -> None:
    answer = sample.get(path)
    assert answer.status_code == status, answer.text
    assert "Traceback" not in answer.text


def test_only_reading_is_served(sample: Running) -> None:
    import requests

    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = requests.request(method, f"{sample.url}/tiny/16/1/1.png", timeout=10)
        assert answer.status_code == 405
    assert requests.head(f"{sample.url}/tiny/16/1/1.png", timeout=10).status_code == 200


def test_other_sites_cannot_read_from_loopback(sample: Running) -> None:
    assert sample.get("/healthz", headers={"Host": "evil.example"}).status_code == 421
    assert sample.get("/healthz", headers={"Host": "localhost:1234"}).status_code == 200
    answer = sample.get("/healthz", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_origins_may_be_let_in(tmp_path: Path) -> None:
    with running(sample_map(), tmp_path, cors=("https://maps.example.com",)) as server:
        good = server.get("/healthz", headers={"Origin": "https://maps.example.com"})
        bad = server.get("/healthz", headers={"Origin": "https://evil.example"})
    assert good.headers["Access-Control-Allow-Origin"] == "https://maps.example.com"
    assert "Access-Control-Allow-Origin" not in bad.headers


def test_a_failing_map_server_is_an_error_without_its_key(
    server: TileServer, tmp_path: Path
) -> None:
    template = server.serve(TileMap.block(16, COL, ROW, 2, 2)) + "?key=SECRET"
    server.answer = lambda path, number: (403, {}, b"go away")
    with running(template, tmp_path) as serving:
        answer = serving.get(f"/tiny/{ZOOM}/{COL}/{ROW}.png")
        pages = answer.text + serving.get("/viewer.json").text + serving.get("/healthz").text
        server.answer = None
    assert answer.status_code == 502
    assert answer.headers["Cache-Control"] == "no-store"
    assert "403" in answer.text
    assert "SECRET" not in pages


def test_an_area_is_all_that_is_served(tmp_path: Path) -> None:
    options = RenderOptions(precision="integer", bbox="24.94,60.17,24.942,60.171")
    with running(sample_map(), tmp_path, render=options) as server:
        inside = server.get("/tiny/area.tif?bbox=24.9401,60.1701,24.9402,60.1702")
        outside = server.get("/tiny/area.tif?bbox=24.936,60.1701,24.937,60.1702")
        assert not server.tile("tiny", ZOOM, COL, ROW).any()
    assert (inside.status_code, outside.status_code) == (200, 400)


def key(number: int) -> Key:
    return Key("0123456789abcdef01234567", 1, number, 0, "webp")


def used(folder: Path) -> int:
    """Return the bytes that the files of a cache take."""
    sizes = [path.stat().st_size for path in folder.rglob("*.webp")]
    return sum(-(-size // BLOCK) * BLOCK for size in sizes)


def test_the_cache_keeps_to_its_size_and_throws_the_oldest_away(tmp_path: Path) -> None:
    limit = 40 * BLOCK
    cache = TileCache(tmp_path, limit)
    for number in range(200):
        cache.write(key(number), bytes([number]) * 1000)
        assert used(tmp_path) <= limit + limit // 10
        time.sleep(0.001)  # file times tell which is oldest
    fresh = TileCache(tmp_path, limit)
    assert fresh.read(key(0)) is None
    kept = fresh.read(key(199))
    assert kept is not None
    assert kept.content == bytes([199]) * 1000


def test_a_cache_of_no_size_keeps_nothing(tmp_path: Path) -> None:
    TileCache(tmp_path, 1 << 20).write(key(1), b"old")
    cache = TileCache(tmp_path, 0)
    cache.write(key(2), b"new")
    assert used(tmp_path) == 0


def test_a_cache_throws_away_nothing_of_others(tmp_path: Path) -> None:
    """`--cache` may be given a folder that holds somebody's work."""
    folder = tmp_path / "mine"
    ours = folder / key(1).of / "1" / "1"
    outside = tmp_path / "outside" / "1" / "1"
    others = [
        *(
            folder / "thesis.txt",
            folder / ".lock",
            folder / "draft.tmp",
            folder / "tmpabcdefgh.tmp",
        ),
        *(folder / "photos" / "2" / "3" / "4.png", folder / "photos" / "old.tmp"),
        *(folder / key(1).of / "notes.txt", folder / key(1).of / "1" / "5.webp"),
        *(ours / "thesis.txt", ours / "draft.tmp", ours / "deeper" / "1.webp"),
        *(outside / "6.webp", outside / "tmpabcdefgh.tmp"),
    ]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("years of work")
        os.utime(path, (0, 0))
    (folder / ("f" * 24)).symlink_to(tmp_path / "outside")
    (ours / "7.webp").symlink_to(outside / "6.webp")
    TileCache(folder, 1 << 20).write(key(1), b"tile")
    assert (ours / "0.webp").exists()
    stale = ours / "tmp12345678.tmp"
    stale.write_bytes(b"half a tile")
    os.utime(stale, (0, 0))
    TileCache(folder, 0)
    assert not (ours / "0.webp").exists()
    assert not stale.exists()
    assert (ours / "7.webp").is_symlink()
    assert [path.read_text() for path in others] == ["years of work"] * len(others)


def test_a_cache_counts_its_own_files_only(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(bytes(100 * BLOCK))
    TileCache(tmp_path, 40 * BLOCK).write(key(1), b"tile")
    os.utime(film, (2**32, 2**32))  # the tile is what was used least recently
    kept = TileCache(tmp_path, 40 * BLOCK).read(key(1))
    assert kept is not None
    assert kept.content == b"tile"


def test_tiles_without_a_map_take_memory_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maptile2sat.serving.cache.MEMORY_BYTES", 30_000)
    cache = TileCache(tmp_path, 0)
    for number in range(1000):
        cache.write(key(number), b"")
    assert cache.read(key(999)) is not None
    assert cache.read(key(0)) is None
    held = sum(cache.read(key(number)) is not None for number in range(1000))
    assert 10 <= held <= 300


def test_several_caches_share_a_folder(tmp_path: Path) -> None:
    """Many write, read and throw away at once: whatever is read is whole."""
    caches = [TileCache(tmp_path, 30 * BLOCK) for _ in range(4)]

    def work(cache: TileCache) -> int:
        found = 0
        for turn in range(150):
            number = turn % 50
            cache.write(key(number), bytes([number]) * 5000)
            cache._memory.clear()  # what other processes wrote is on disk only
            kept = cache.read(key((number * 7) % 50))
            if kept is not None:
                found += 1
                assert kept.content == bytes([(number * 7) % 50]) * 5000
        return found

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, caches)) > 0
    assert not list(tmp_path.rglob("*.tmp"))


def test_missing_parts_are_named() -> None:
    with (
        mock.patch("maptile2sat.serving.server.find_spec", return_value=None),
        pytest.raises(MissingExtraError, match=r"pip install 'maptile2sat\[serve\]'"),
    ):
        serve(sample_map())


def test_a_port_in_use_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=f"port {port}.*give another --port"):
            serve(sample_map(), models=("no such model",), port=port, cache=tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70000},
        {"models": ()},
        {"queue": 0},
        {"cors": ("maps.example.com",)},
        {"cors": ("https://maps.example.com/",)},  # which no browser sends: nobody would be let in
        {"cors": ("https://Maps.example.com",)},
        {"cors": ("https://maps.example.com/map",)},
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ServeOptions(**wrong)


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_listening_to_other_machines_prints_a_warning(
    host: str, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.support_render import run_cli

    with mock.patch("uvicorn.Server.run"):  # all but answering
        done = run_cli(
            "serve", "-m", model(), "--precision", "integer", "--host", host, "--port", "0",
            "--cache", tmp_path, "--cache-size", "10M",
        )  # fmt: skip
    assert done.code == 0, done.err
    assert done.out.startswith(f"http://{host}:")
    assert ("everyone who reaches this machine" in done.err) is warned


def test_port_in_use_is_one_line(tmp_path: Path) -> None:
    from tests.support_render import run_cli

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run_cli("serve", "-m", model(), "--port", port, "--cache", tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: cannot listen at 127.0.0.1 port {port}: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("host", ["ä" * 80, "a" * 300])
def test_host_that_cannot_be_is_one_line(host: str, tmp_path: Path) -> None:
    from tests.support_render import run_cli

    done = run_cli("serve", "-m", model(), "--host", host, "--port", "0", "--cache", tmp_path)
    assert done.code == 2
    assert done.err.startswith(f"error: cannot listen at {host} port 0: ")
    assert done.err.count("\n") == 1


def test_model_of_the_environment_may_have_blanks_in_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support_render import run_cli

    monkeypatch.setenv("MAPTILE2SAT_MODEL", str(tmp_path / "my model"))
    done = run_cli("serve", "--port", "0", "--cache", tmp_path / "tiles")
    assert done.code == 1
    assert f"no model '{tmp_path / 'my model'}'" in done.err


@pytest.mark.parametrize("asked", ["bytes=99999999999-", "bytes=5-1", "bytes=0-99", ""])
def test_geotiffs_of_areas_go_away(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if a client asks for a part that is not there."""
    models = (str(model()),)  # which may be made now, in the tests' own temporary folder
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with running(sample_map(), tmp_path / "tiles", models=models) as server:
        answer = server.get(
            "/tiny/area.tif?bbox=24.94,60.17,24.941,60.1701",
            headers={"Range": asked} if asked else {},
        )
        assert answer.status_code in (200, 206, 400, 416)
        wait_for(lambda: not list(tmp_path.glob("maptile2sat-*")))


def test_a_geotiff_without_a_place_does_not_block_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/tiny/area.tif?bbox=24.94,60.17,24.941,60.1701"
    with running(sample_map(), tmp_path / "tiles") as server:
        with monkeypatch.context() as patch:
            patch.setattr("tempfile.tempdir", str(tmp_path / "none"))
            answers = [server.get(path) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [502, 502]
        assert "no temporary folder can be made" in answers[0].text
        assert server.get(path).status_code == 200


def test_geotiff_of_a_model_that_has_changed(tmp_path: Path) -> None:
    """Tiles go on by the model that was loaded; a GeoTIFF would be of the new one."""
    copy = copy_of_tiny(tmp_path)
    path = "/tiny/area.tif?bbox=24.94,60.17,24.941,60.1701"
    with running(sample_map(), tmp_path / "tiles", models=(str(copy),)) as server:
        assert server.get(path).status_code == 200
        write_tiny_bundle(copy, weight_seed=9)
        answer = server.get(path)
    assert answer.status_code >= 400
    assert "has changed since the server was started" in answer.text


def test_requests_at_the_same_time_are_limited(tmp_path: Path) -> None:
    path = f"/tiny/{ZOOM}/{COL}/{ROW}.png"
    with (
        held() as gate,
        mock.patch("maptile2sat.serving.app.MAX_REQUESTS", 2),
        running(sample_map(), tmp_path) as server,
    ):
        clients = [ask_and_leave(server, path) for _ in range(2)]
        wait_for(lambda: server.service.cells.counts.shared == 1)
        refused = server.get("/healthz")
        gate.set()
        for client in clients:
            client.settimeout(30)
            assert client.recv(12) == b"HTTP/1.1 200"
            client.close()
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]


def test_one_geotiff_is_rendered_at_a_time(tmp_path: Path) -> None:
    gate, begun = threading.Event(), threading.Event()

    def slow(*given: Any, **named: Any) -> None:
        begun.set()
        assert gate.wait(30)
        raise SourceError("the map is gone")

    path = "/tiny/area.tif?bbox=24.94,60.17,24.941,60.1701"
    with (
        running(sample_map(), tmp_path) as server,
        mock.patch("maptile2sat.serving.service.render", slow),
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(server.get, path)
        assert begun.wait(30)
        second = server.get(path)
        gate.set()
        assert first.result().status_code == 502
        assert "gone" in server.get(path).text  # and the next may begin
    assert second.status_code == 503
    assert second.headers["Retry-After"]


def test_json_is_there_as_soon_as_the_server_is(tmp_path: Path) -> None:
    """A program that reads it by a pipe must not wait for the end of the server."""
    code = (
        "import os\n"
        "from unittest import mock\n"
        "from maptile2sat.cli import process\n"
        # leaves what was not written yet
        "with mock.patch('uvicorn.Server.run', lambda self, sockets: os._exit(0)):\n"
        "    process()\n"
    )
    options = ["-m", str(model()), "--precision", "integer", "--cache", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--json", "--port", "0", *options],
        stdout=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["health"] == f"{told['url']}healthz"


@pytest.mark.slow
def test_a_stop_waits_for_no_map_server_and_prints_no_traceback(
    server: TileServer, tmp_path: Path
) -> None:
    asked, gate = threading.Event(), threading.Event()

    def silent(path: str, number: int) -> None:
        asked.set()
        assert gate.wait(120)

    template = server.serve(TileMap.block(ZOOM, COL, ROW, 2, 2))
    server.answer = silent
    box = bbox_of(mercator_grid(ZOOM), Window(COL * 256, ROW * 256, 512, 512))
    options = ["-m", str(model()), "--precision", "integer", "--cache", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, "serve", template, "--bbox", box, "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with ThreadPoolExecutor(1) as pool:
            tile = f"{address}tiny/{ZOOM}/{COL}/{ROW}.png"
            answer = pool.submit(requests.get, tile, timeout=120)
            assert asked.wait(60)
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=60)[1]  # the map server is silent for longer
            assert answer.result().status_code == 503
    finally:
        gate.set()
        process.kill()
    assert process.returncode == 143
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "error: terminated"


@pytest.mark.parametrize("size", ["much", "9" * 400, "-1", "1P"])
def test_what_is_no_size(size: str) -> None:
    from tests.support_render import run_cli

    done = run_cli("serve", f"--cache-size={size}")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert "is not a size" in done.err


@pytest.mark.slow
def test_a_stop_waits_for_no_geotiff_and_leaves_none(tmp_path: Path) -> None:
    code = (
        "import time\n"
        "from unittest import mock\n"
        "from maptile2sat.cli import process\n"
        "def slow(source, output, options, **more):\n"
        "    output.write_bytes(b'half of it')\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(600)\n"
        "with mock.patch('maptile2sat.serving.service.render', slow):\n"
        "    process()\n"
    )
    (tmp_path / "temporary").mkdir()
    options = ["-m", str(model()), "--precision", "integer", "--cache", str(tmp_path / "tiles")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with ThreadPoolExecutor(1) as pool:
            area = f"{address}tiny/area.tif?bbox=24.94,60.17,24.941,60.1701"
            answer = pool.submit(requests.get, area, timeout=120)
            assert process.stdout.readline() == "begun\n"
            assert list((tmp_path / "temporary").glob("*/area.tif"))
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=60)[1]
            assert answer.result().status_code == 503
    finally:
        process.kill()
    assert "Traceback" not in said
    assert not list((tmp_path / "temporary").glob("maptile2sat-*"))


def _tilejson_address(options: ServeOptions, host: str, server: tuple[str, int]) -> str:
    from maptile2sat.serving.app import base_address

    scope = {"type": "http", "headers": [(b"host", host.encode())], "server": server}
    return base_address(options, scope)


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("evil.example", "http://192.0.2.7:8080"),
        ("evil.example:8080", "http://192.0.2.7:8080"),
        ("192.0.2.7.evil.example", "http://192.0.2.7:8080"),
        ("localhost@evil.example", "http://192.0.2.7:8080"),
        ("192.0.2.7:8080/evil", "http://192.0.2.7:8080"),
        ("", "http://192.0.2.7:8080"),
        ("192.0.2.7:8080", "http://192.0.2.7:8080"),
        ("192.0.2.7:9999", "http://192.0.2.7:9999"),
        ("localhost:9999", "http://localhost:9999"),
    ],
)
def test_tilejson_names_no_foreign_host(host: str, base: str) -> None:
    options = ServeOptions(host="0.0.0.0")
    assert _tilejson_address(options, host, ("192.0.2.7", 8080)) == base


def test_tilejson_behind_a_proxy_names_its_address(tmp_path: Path) -> None:
    public = "https://maps.example.com/imagery/"
    with running(sample_map(), tmp_path, public_url=public) as server:
        for host in ("maps.example.com", "localhost", "127.0.0.1:80"):
            about = server.get("/tiny/tilejson.json", headers={"Host": host}).json()
            assert about["tiles"][0].startswith("https://maps.example.com/imagery/tiny/{z}/{x}/{y}")
        assert server.get("/healthz", headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize(
    "url",
    [
        *("maps.example.com", "ftp://maps.example.com", "https://", "https://a b/"),
        *("https://h/?q", "https://h/#f", "https://u:p@h/", "https://h:99999/", "https://h/{z}"),
    ],
)
def test_public_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UsageError, match="is no address by which a server is reached"):
        ServeOptions(public_url=url)
