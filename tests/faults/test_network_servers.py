"""Tile servers that break, stall, lie and refuse; every one of them a real socket."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from maptile2sat.errors import MissingTileError, SourceError, UsageError
from maptile2sat.geo.grid import TILE, Window
from maptile2sat.sources import Hosts, SourceOptions, open_source
from tests.conftest import TileMap
from tests.faults.support import (
    HANGING,
    PASSING,
    REFUSED,
    Fault,
    FaultServer,
    answer,
    endless_redirect,
    gzip_bomb,
    heeded,
    serving,
)

MAP = TileMap.block(13, 4661, 2371, 3, 2)
FIRST = Window(*MAP.extent[:2], TILE, TILE)
QUICK = SourceOptions(zoom=13, timeout=5.0, retries=2)


@pytest.fixture
def broken() -> Iterator[FaultServer]:
    """A server of six tiles."""
    with serving(MAP) as server:
        yield server


def read(server: FaultServer, window: Window, options: SourceOptions = QUICK) -> np.ndarray:
    source = open_source(server.template, options)
    try:
        pixels = source.read(window)
        assert pixels.mask.all()
        return pixels.image
    finally:
        source.close()


def expected(window: Window) -> np.ndarray:
    return MAP.read(window)[0]


@pytest.mark.parametrize("fault", PASSING)
def test_fault_that_passes(fault: str, broken: FaultServer) -> None:
    """A server has a fault at the first request for each tile: the map is complete and right."""
    broken.choose = lambda path, number: PASSING[fault] if number == 0 else None
    np.testing.assert_array_equal(read(broken, MAP.extent), expected(MAP.extent))
    assert set(broken.asked.values()) <= {2, 3}


@pytest.mark.parametrize("fault", PASSING)
def test_fault_that_stays(fault: str, broken: FaultServer) -> None:
    """A server keeps a fault: one error, after a few requests, never a hole or a wrong tile."""
    broken.choose = lambda path, number: PASSING[fault]
    options = dataclasses.replace(QUICK, missing="mask", retries=1)
    with pytest.raises(SourceError, match=r"tile 13/4661/2371 of http://127") as caught:
        read(broken, FIRST, options)
    assert "\n" not in str(caught.value)
    assert max(broken.asked.values()) <= 6  # two tries at most for each of three pictures
    broken.choose = lambda path, number: None
    np.testing.assert_array_equal(read(broken, FIRST), expected(FIRST))  # nothing bad was kept


@pytest.mark.parametrize("fault", HANGING)
def test_server_that_hangs(fault: str, broken: FaultServer) -> None:
    """A server hangs: the tile is given up when its time is over, however bytes drip in."""
    broken.choose = lambda path, number: HANGING[fault]
    options = dataclasses.replace(QUICK, timeout=0.4, patience=1.0, retries=9)
    with pytest.raises(SourceError, match=r"tile 13/4661/2371 .* does not answer in time"):
        read(broken, FIRST, options)
    assert sum(broken.asked.values()) <= 4
    broken.choose = lambda path, number: HANGING[fault] if number == 4 else None
    options = dataclasses.replace(QUICK, timeout=0.4, retries=9)
    np.testing.assert_array_equal(read(broken, FIRST, options), expected(FIRST))


@pytest.mark.parametrize("fault", REFUSED)
def test_answer_that_is_refused(fault: str, broken: FaultServer) -> None:
    """An answer that no patience makes right is refused at once."""
    misbehave, words = REFUSED[fault]
    broken.choose = lambda path, number: misbehave
    with pytest.raises(SourceError, match=words):
        read(broken, FIRST)
    assert max(broken.asked.values()) <= 6


@pytest.mark.usefixtures("usual_garbage")
@pytest.mark.parametrize("fault", ["gzip bomb", "redirect with an endless body"])
def test_large_answers_take_no_memory(fault: str, broken: FaultServer) -> None:
    """Answers of 200 MiB and more are given up after the first megabytes."""
    import tracemalloc

    body = gzip_bomb()
    bombs = {
        "gzip bomb": lambda to: answer(to, "200 OK", body, "Content-Encoding: gzip"),
        "redirect with an endless body": lambda to: endless_redirect(to, 200),
    }
    broken.choose = lambda path, number: lambda to, _: bombs[fault](to)
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match=r"too many|not HTTP"):
            read(broken, FIRST)
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("seconds", ["3600", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_retry_after_has_a_ceiling(
    seconds: str, broken: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server asks to come back in an hour or a century: a minute is the most."""
    from maptile2sat.sources import hosts, http

    pauses: list[float] = []
    pause = hosts.Pace.pause

    def noted(self: hosts.Pace, wanted: float) -> None:
        pauses.append(wanted)
        pause(self, min(wanted, 0.1))

    monkeypatch.setattr(hosts.Pace, "pause", noted)
    broken.choose = lambda path, number: (
        lambda to, body: answer(to, "429 Slow", b"", f"Retry-After: {seconds}")
    )
    with pytest.raises(SourceError, match="keeps answering HTTP 429"):
        read(broken, FIRST)
    assert pauses == [http.MAX_WAIT] * QUICK.retries


def test_retry_after_holds_for_all_tiles(broken: FaultServer) -> None:
    """One tile is told to come back in a second: no other tile is asked for before."""
    times: list[tuple[float, int]] = []

    def choose(path: str, number: int) -> object:
        times.append((time.monotonic(), sum(broken.asked.values())))
        if len(times) > 1:
            return None
        return lambda to, body: answer(to, "429 Slow", b"", "Retry-After: 1")

    broken.choose = choose  # type: ignore[assignment]
    options = dataclasses.replace(QUICK, max_connections=1)
    np.testing.assert_array_equal(read(broken, MAP.extent, options), expected(MAP.extent))
    assert times[1][0] - times[0][0] > 0.9


def test_rate_is_kept(broken: FaultServer) -> None:
    """At most so many requests a second, over all connections."""
    times: list[float] = []
    broken.choose = lambda path, number: times.append(time.monotonic())  # type: ignore[func-returns-value]
    read(broken, MAP.extent, dataclasses.replace(QUICK, rate=4.0))
    # a second's worth at once, then the distance
    # half of it: a busy machine sees the first request late
    assert times[-1] - times[0] > (len(MAP.tiles) - 4) / 4 / 2


def read_by_many(server: FaultServer, sources: int, hosts: Hosts) -> None:
    """Read all of the map by several sources at once, each for itself."""
    options = dataclasses.replace(QUICK, hosts=hosts)
    with ThreadPoolExecutor(sources) as pool:
        done = [pool.submit(read, server, MAP.extent, options) for _ in range(sources)]
        for each in done:
            np.testing.assert_array_equal(each.result(), expected(MAP.extent))


def test_sources_keep_to_the_rate_together(broken: FaultServer) -> None:
    """Several sources of one host ask no faster than one may."""
    times: list[float] = []
    broken.extra = ("Cache-Control: no-store",)
    broken.choose = lambda path, number: times.append(time.monotonic())  # type: ignore[func-returns-value]
    read_by_many(broken, 3, Hosts(rate=6.0))
    # a second's worth at once, then the distance
    assert times[-1] - times[0] > (3 * len(MAP.tiles) - 6) / 6 / 2


def test_sources_share_connections(broken: FaultServer) -> None:
    """Several sources of one host have no more connections than one may have."""

    def slow(to: socket.socket, body: bytes) -> bool:
        time.sleep(0.05)
        return answer(to, "200 OK", body, "Cache-Control: no-store")

    broken.choose = lambda path, number: slow
    read_by_many(broken, 3, Hosts(connections=2))
    assert broken.most <= 2


def test_sources_that_share_connections_close_their_own_downloads(broken: FaultServer) -> None:
    """One source holds all connections for ever: another one can be closed all the same."""
    broken.choose = lambda path, number: HANGING["no answer at all"]
    options = dataclasses.replace(QUICK, timeout=60.0, hosts=Hosts(connections=1))
    first, second = (open_source(broken.template, options) for _ in range(2))
    with ThreadPoolExecutor(1) as pool:
        first.prefetch(FIRST)
        while not broken.asked:
            time.sleep(0.01)
        waiting = pool.submit(second.read, FIRST.shifted(TILE, 0))
        time.sleep(0.3)
        start = time.monotonic()
        second.close()
        with pytest.raises(SourceError):
            waiting.result()
        assert time.monotonic() - start < 20
        broken.choose = lambda path, number: None
        first.close()
    assert sum(broken.asked.values()) == 1


def test_retry_after_holds_for_all_sources(broken: FaultServer) -> None:
    """One source is told to come back in a second: no other asks that host before."""
    asked = list[float]()
    options = dataclasses.replace(QUICK, hosts=Hosts())

    def ask_for_patience(to: socket.socket, body: bytes) -> bool:
        return answer(to, "429 Slow", b"", "Retry-After: 1")

    def choose(path: str, number: int) -> Fault | None:
        asked.append(time.monotonic())
        return ask_for_patience if len(asked) == 1 else None

    broken.choose = choose
    with ThreadPoolExecutor(1) as pool, heeded() as left_alone:
        first = pool.submit(read, broken, FIRST, options)
        assert left_alone.wait(60)
        read(broken, FIRST.shifted(TILE, 0), options)
        first.result()
    assert asked[1] - asked[0] > 0.9


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_rate_that_makes_no_sense(rate: float) -> None:
    """A rate of nothing, of less, of no number."""
    with pytest.raises(UsageError, match="rate"):
        SourceOptions(rate=rate)


@pytest.mark.parametrize("limit", [1, 3])
def test_connections_are_few(limit: int, broken: FaultServer) -> None:
    """Never more connections than allowed, although the answers are slow and broken."""

    def slow(to: object, body: bytes) -> bool:
        time.sleep(0.05)
        return False

    broken.choose = lambda path, number: slow if number == 0 else None
    read(broken, MAP.extent, dataclasses.replace(QUICK, max_connections=limit))
    assert broken.most <= limit


def test_changed_and_unchanged_tiles(broken: FaultServer) -> None:
    """Stale copies are asked for conditionally, and 304 makes them good again."""
    broken.extra = ('ETag: "one"', "Cache-Control: max-age=0")
    read(broken, FIRST)
    broken.choose = lambda path, number: (
        lambda to, body: to.sendall(b'HTTP/1.1 304 Not Modified\r\nETag: "one"\r\n\r\n') or True
    )
    np.testing.assert_array_equal(read(broken, FIRST), expected(FIRST))
    assert b'If-None-Match: "one"' in broken.headers[-1]
    broken.choose = lambda path, number: lambda to, body: answer(to, "304 Oh", b"")
    other = FIRST.shifted(TILE, 0)
    with pytest.raises(SourceError, match="HTTP 304"):  # of a tile that it was never asked for so
        read(broken, other)


@pytest.mark.parametrize("damage", ["cut", "zeros", "random", "empty", "swapped"])
def test_cache_that_is_damaged(damage: str, broken: FaultServer, tmp_path: Path) -> None:
    """Files of the cache are cut, overwritten or swapped: tiles are asked for again, all right."""
    options = dataclasses.replace(QUICK, cache_dir=tmp_path)
    read(broken, MAP.extent, options)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    contents = [path.read_bytes() for path in files]
    for number, path in enumerate(files):
        data = contents[number]
        path.write_bytes(
            {
                "cut": data[: len(data) // 2],
                "zeros": bytes(len(data)),
                "random": data[:5] + np.random.default_rng(number).bytes(len(data)),
                "empty": b"",
                "swapped": data.replace(b"IDAT", b"iDAT"),
            }[damage]
        )
    np.testing.assert_array_equal(read(broken, MAP.extent, options), expected(MAP.extent))
    assert set(broken.asked.values()) == {2}


def test_server_that_dies_and_returns(broken: FaultServer) -> None:
    """The server is gone in the middle of a map; when it is back, only the rest is asked for."""
    options = dataclasses.replace(QUICK, max_connections=1, retries=1)
    top = Window(*MAP.extent[:2], 3 * TILE, TILE)
    read(broken, top, options)
    broken.stop()
    with pytest.raises(SourceError, match="cannot be reached"):
        read(broken, MAP.extent, options)
    broken.start()
    np.testing.assert_array_equal(read(broken, MAP.extent, options), expected(MAP.extent))
    assert set(broken.asked.values()) == {1}


def test_server_that_is_back_in_time(broken: FaultServer) -> None:
    """The server is away for a second: the render does not notice."""
    import threading

    broken.stop()
    timer = threading.Timer(0.8, broken.start)
    timer.start()
    options = dataclasses.replace(QUICK, retries=5)
    np.testing.assert_array_equal(read(broken, MAP.extent, options), expected(MAP.extent))
    timer.join()


def test_close_ends_downloads_that_hang(broken: FaultServer) -> None:
    """Closing does not wait for a server that will never answer."""
    broken.choose = lambda path, number: HANGING["no answer at all"]
    options = dataclasses.replace(QUICK, timeout=60.0)
    source = open_source(broken.template, options)
    source.prefetch(MAP.extent)
    while not broken.asked:
        time.sleep(0.01)
    start = time.monotonic()
    source.close()
    assert time.monotonic() - start < 30


def test_close_while_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source is closed while it waits for a busy server: nothing is asked when that answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as busy:
        address, port = busy.getsockname()
        with socket.create_connection((address, port)):  # the queue is full
            source = open_source(f"http://{address}:{port}/{{z}}/{{x}}/{{y}}.png", QUICK)
            begun, connect = threading.Event(), socket.socket.connect

            def noted(connection: socket.socket, there: tuple[str, int]) -> None:
                begun.set()
                connect(connection, there)

            monkeypatch.setattr(socket.socket, "connect", noted)
            source.prefetch(FIRST)
            assert begun.wait(60)
            source.close()
            busy.settimeout(20)
            busy.accept()[0].close()
            connection, _ = busy.accept()  # the system has tried again
            with connection:
                connection.settimeout(20)
                assert connection.recv(65536) == b""


def test_redirect_to_another_host_without_headers(broken: FaultServer) -> None:
    """A redirect leads to another host: the tile is taken, the user's headers stay behind."""
    with serving(MAP) as other:
        there = other.template.replace("127.0.0.1", "localhost")
        broken.choose = lambda path, number: (
            lambda to, body: answer(
                to, "302 Oh", b"", "Location: " + there.partition("/{z}")[0] + path
            )
        )
        options = dataclasses.replace(QUICK, headers={"X-Key": "marker"})
        np.testing.assert_array_equal(read(broken, FIRST, options), expected(FIRST))
        assert b"marker" in broken.headers[0]
        assert b"marker" not in b"".join(other.headers)


def test_tile_that_is_missing(broken: FaultServer) -> None:
    """A tile that is not there is an error by default, or masked and listed by name."""
    wider = Window(*MAP.extent[:2], MAP.extent.width + TILE, MAP.extent.height)
    with pytest.raises(MissingTileError, match=r"13/4664/237\d .* missing .*--missing mask"):
        open_source(broken.template, QUICK).read(wider)
    told: list[str] = []
    options = dataclasses.replace(QUICK, missing="mask", warn=told.append)
    source = open_source(broken.template, options)
    mask = source.read(wider).mask
    source.close()
    assert mask[:, : 3 * TILE].all()
    assert not mask[:, 3 * TILE :].any()
    assert len(told) == 1
    assert "13/4664/2371, 13/4664/2372" in told[0]


def test_certificates(tmp_path: Path) -> None:
    """A certificate that nobody vouches for is refused, and taken with `--ca-bundle`."""
    trustme = pytest.importorskip("trustme")
    import ssl

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with serving(MAP, secure=context) as server:
        for options in (QUICK, dataclasses.replace(QUICK, ca_bundle=other)):
            with pytest.raises(SourceError, match=r"certificate is not trusted.*--ca-bundle"):
                read(server, FIRST, options)
        assert not server.asked
        trusting = dataclasses.replace(QUICK, ca_bundle=bundle)
        np.testing.assert_array_equal(read(server, FIRST, trusting), expected(FIRST))
    wrong_host = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("tiles.example.com").configure_cert(wrong_host)
    with (
        serving(MAP, secure=wrong_host) as server,
        pytest.raises(SourceError, match="certificate is not trusted"),
    ):
        read(server, FIRST.shifted(TILE, 0), trusting)


def test_certificates_that_are_none(tmp_path: Path) -> None:
    """A bundle of certificates that is missing, or is none."""
    (tmp_path / "none.pem").write_text("hello")
    with pytest.raises(UsageError, match=r"none\.pem cannot be used"):
        SourceOptions(ca_bundle=tmp_path / "none.pem")
    with pytest.raises(UsageError, match=r"gone\.pem cannot be used: No such file"):
        SourceOptions(ca_bundle=tmp_path / "gone.pem")
