"""Connections that say nothing, half of it, too much, or do not listen."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import requests

from maptile2sat.paths import sample_map
from tests.support_serve import Running, model, running

pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

from maptile2sat.serving import connections
from maptile2sat.serving.connections import Connections, Limits, limits_of

CHILD = """
import sys
from pathlib import Path
from maptile2sat.serving import ServeOptions, serve
from maptile2sat.rendering import RenderOptions
options = ServeOptions(models=(sys.argv[1],), port=0, cache=Path(sys.argv[2]),
                       render=RenderOptions(precision="integer", missing="mask"))
serve(sys.argv[3], options, ready=lambda url: print(url, flush=True))
"""

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(sample_map(), tmp_path / "cache") as server:
        yield server


def connect(url: str, sent: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
    port = int(url.rstrip("/").rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port), 10, source_address=(source, 0))
    connection.sendall(sent)
    return connection


def ends(connection: socket.socket, seconds: float) -> bytes:
    """Return what comes until the other side closes a connection, which it must in time."""
    connection.settimeout(seconds)
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received


@pytest.mark.slow
def test_few_descriptors_are_not_taken_by_idle_connections(tmp_path: Path) -> None:
    """300 connections that say nothing, or half a request, on `ulimit -n 256`."""
    low = ["bash", "-c", 'ulimit -n 256; exec "$@"', "bash"]
    child = subprocess.Popen(
        [*low, sys.executable, "-c", CHILD, model(), tmp_path / "cache", sample_map()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    held: list[socket.socket] = []
    try:
        assert child.stdout is not None
        url = child.stdout.readline().strip().rstrip("/")
        assert url, child.communicate()[1]
        for number in range(300):
            with contextlib.suppress(OSError):
                held.append(connect(url, (b"", HEALTH[:-2], HEALTH[:20])[number % 3]))
        start = time.monotonic()
        assert requests.get(f"{url}/healthz", timeout=10).status_code == 200
        tile = requests.get(f"{url}/tiny/16/37308/18968.png", timeout=60)
        assert tile.status_code == 200, tile.text
        assert time.monotonic() - start < 30
        assert child.poll() is None
    finally:
        for connection in held:
            connection.close()
        child.terminate()
        child.communicate(timeout=20)


@pytest.mark.parametrize("sent", [b"", HEALTH[:30], HEALTH + HEALTH[:30]])
def test_a_request_must_come_in_time(
    sent: bytes, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slowly its bytes come; also the second one of a connection."""
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 1.0)
    connection = connect(server.url, sent)
    start = time.monotonic()
    with contextlib.suppress(OSError):
        for _ in range(40):
            if sent:
                connection.sendall(b"x")
            time.sleep(0.05)
    ends(connection, 5)
    assert time.monotonic() - start < 6
    assert server.health()


def test_a_request_may_have_so_many_bytes(server: Running) -> None:
    connection = connect(server.url, HEALTH[:-2])
    with contextlib.suppress(OSError):
        for _ in range(40):
            connection.sendall(b"x: " + b"y" * 8000 + b"\r\n")
    received = ends(connection, 5)
    assert received == b"" or received.startswith(b"HTTP/1.1 400 ")


def test_an_answer_must_be_read(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks much and never reads does not hold its connection."""
    monkeypatch.setattr(connections, "SEND_SECONDS", 1.0)
    ask = b"GET /static/leaflet.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    connection = connect(server.url)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    start = time.monotonic()
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while time.monotonic() < start + 10:
            connection.sendall(ask)
            time.sleep(0.05)
    assert time.monotonic() - start < 9


def test_an_address_cannot_keep_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest idle connection of the greediest address makes room."""
    monkeypatch.setattr(connections, "limits_here", lambda: Limits(12, 8, 64))
    with running(sample_map(), tmp_path / "cache") as server:
        others = [connect(server.url, source="127.0.0.2") for _ in range(3)]
        held = [connect(server.url) for _ in range(20)]
        time.sleep(0.5)
        for connection in held[:12]:  # those of the same address beyond the eighth from the end
            assert ends(connection, 5) == b""
        for connection in (*others, *held[13:]):  # one more made room for the first question
            connection.sendall(HEALTH)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert server.health()
        for connection in (*others, *held):
            connection.close()


def test_connections_that_are_answered_are_not_closed() -> None:
    """With all busy, one more is refused; if one waits, it makes room."""
    known = Connections(Limits(3, 3, 64))
    held: list[Any] = [mock.Mock(busy=True) for _ in range(3)]
    assert all(known.add(each, "a") for each in held)
    assert not known.add(mock.Mock(busy=True), "b")
    held[1].busy = False
    assert known.add(mock.Mock(busy=True), "b")
    assert [each.transport.abort.called for each in held] == [False, True, False]
    known.remove(held[0])
    assert known.add(mock.Mock(busy=True), "c")
    assert not known.add(mock.Mock(busy=True), "c")


@pytest.mark.parametrize("descriptors", [None, 64, 128, 256, 1024, 1 << 20])
def test_limits_leave_room(descriptors: int | None) -> None:
    limits = limits_of(descriptors, 40)
    assert 0 < limits.address < limits.total <= 1024
    if descriptors is not None and descriptors >= 128:
        assert 40 + limits.total + limits.backlog + 32 <= descriptors or limits.total == 1024


def test_many_idle_connections_of_one_client_come_back(server: Running) -> None:
    """A browser's connections are used again."""
    with requests.Session() as session:
        for _ in range(5):
            assert session.get(f"{server.url}/healthz", timeout=10).status_code == 200
    assert server.health()
