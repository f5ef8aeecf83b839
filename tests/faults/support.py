"""A tile server on a raw socket that breaks the rules of HTTP in every way that is known."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from unittest import mock

from maptile2sat.geo.grid import Window
from maptile2sat.sources.hosts import Pace
from tests.conftest import TileMap, encode, pattern

LONG = os.environ.get("MAPTILE2SAT_FAULTS") == "long"
"""Whether this is the long form, `make faults`."""

Fault = Callable[[socket.socket, bytes], bool]
"""Answers a request for a body in a wrong way; returns whether the connection goes on."""


def examples(short: int, long: int) -> int:
    """Return how many examples to try in this form of the suite."""
    return long if LONG else short


def answer(connection: socket.socket, status: str, body: bytes, *headers: str) -> bool:
    """Send a sound answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    return True


def raw(connection: socket.socket, data: bytes) -> bool:
    """Send bytes and end the connection."""
    connection.sendall(data)
    return False


def reset(connection: socket.socket, sent: bytes = b"") -> bool:
    """Send bytes, then cut the connection as a crashed server would."""
    connection.sendall(sent)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def drip(connection: socket.socket, data: bytes, pause: float = 0.05) -> bool:
    """Send one byte now and then, for ever in practice."""
    for value in data:
        connection.sendall(bytes([value]))
        time.sleep(pause)
    return False


def hang(connection: socket.socket, sent: bytes = b"") -> bool:
    """Send bytes, then nothing, until the client gives up."""
    connection.sendall(sent)
    connection.settimeout(30)
    connection.recv(1)
    return False


def head(body: bytes, *headers: str) -> bytes:
    """Return the start of a sound answer."""
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


@contextlib.contextmanager
def heeded() -> Iterator[threading.Event]:
    """Give what is set as soon as a host that asked for patience will be left alone."""
    seen, pause = threading.Event(), Pace.pause

    def noted(pace: Pace, seconds: float) -> None:
        pause(pace, seconds)
        seen.set()

    with mock.patch.object(Pace, "pause", noted):
        yield seen


def gzip_bomb() -> bytes:
    """Return 256 MiB of nothing, gzip within gzip's means."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(256)) + packer.flush()


def endless_redirect(connection: socket.socket, megabytes: int) -> bool:
    """Send a redirect with a body that nobody needs."""
    connection.sendall(b"HTTP/1.1 301 Oh\r\nLocation: ftp://127.0.0.1/\r\n\r\n")
    block = bytes(1 << 20)
    for _ in range(megabytes):
        connection.sendall(block)
    return False


def huge_png(side: int = 30_000) -> bytes:
    """Return a small PNG that says it is large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def small_picture() -> bytes:
    """Return a picture that is no tile."""
    return encode(pattern(Window(0, 0, 100, 100)))


def in_a_second() -> str:
    """Return a date for Retry-After."""
    return formatdate(time.time() + 1.5, usegmt=True)


PASSING: dict[str, Fault] = {
    "reset before the answer": lambda to, body: reset(to),
    "reset midway": lambda to, body: reset(to, head(body) + body[: len(body) // 2]),
    "closed without an answer": lambda to, body: False,
    "closed within the headers": lambda to, body: raw(to, head(body)[:25]),
    "Content-Length too long": lambda to, body: raw(to, head(body + b"more") + body),
    "Content-Length too short": lambda to, body: raw(to, head(body[:900]) + body),
    "truncated chunks": lambda to, body: raw(
        to, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + body[:500]
    ),
    "truncated PNG": lambda to, body: answer(to, "200 OK", body[: len(body) // 2]),
    "PNG cut off, no length": lambda to, body: raw(to, b"HTTP/1.1 200 OK\r\n\r\n" + body[:700]),
    "HTML with status 200": lambda to, body: answer(to, "200 OK", b"<html>We are busy</html>"),
    "another size of tile": lambda to, body: answer(to, "200 OK", small_picture()),
    "30000x30000 px": lambda to, body: answer(to, "200 OK", huge_png()),
    "damaged gzip": lambda to, body: answer(to, "200 OK", body, "Content-Encoding: gzip"),
    "500": lambda to, body: answer(to, "500 Oh", b"trace"),
    "502": lambda to, body: answer(to, "502 Oh", b"<html>"),
    "503": lambda to, body: answer(to, "503 Oh", b""),
    "504": lambda to, body: answer(to, "504 Oh", b""),
    "429": lambda to, body: answer(to, "429 Slow", b"slow down"),
    "429, Retry-After in seconds": lambda to, body: answer(to, "429 S", b"", "Retry-After: 1"),
    "429, Retry-After as a date": lambda to, body: answer(
        to, "429 S", b"", f"Retry-After: {in_a_second()}"
    ),
    "503, Retry-After of nonsense": lambda to, body: answer(to, "503 S", b"", "Retry-After: soon"),
}
"""Faults that a server may have for a while."""

HANGING: dict[str, Fault] = {
    "no answer at all": lambda to, body: hang(to),
    "stalls in the headers": lambda to, body: hang(to, head(body)[:20]),
    "stalls in the body": lambda to, body: hang(to, head(body) + body[:1000]),
    "headers byte by byte": lambda to, body: drip(to, head(body, "X: " + "y" * 5000)),
    "body byte by byte": lambda to, body: drip(to, head(body) + body),
    "chunks byte by byte": lambda to, body: drip(
        to, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 9999
    ),
}
"""Faults that cost time."""

REFUSED: dict[str, tuple[Fault, str]] = {
    "gzip bomb": (
        lambda to, body: answer(to, "200 OK", gzip_bomb(), "Content-Encoding: gzip"),
        "too many",
    ),
    "gzip bomb in chunks, no length": (
        lambda to, body: raw(
            to, b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip_bomb()
        ),
        "too many",
    ),
    "length of an exabyte": (
        lambda to, body: raw(to, b"HTTP/1.1 200 OK\r\nContent-Length: 1" + b"0" * 18 + b"\r\n\r\n"),
        "too many",
    ),
    "redirect to a file": (
        lambda to, body: answer(to, "302 Oh", b"", "Location: file:///etc/passwd"),
        "not HTTP",
    ),
    "redirect to gopher": (
        lambda to, body: answer(to, "301 Oh", b"", "Location: gopher://127.0.0.1/"),
        "not HTTP",
    ),
    "redirect to nowhere": (lambda to, body: answer(to, "302 Oh", b""), "in circles"),
    "redirect to openstreetmap.org": (
        lambda to, body: answer(
            to, "307 Oh", b"", "Location: https://a.TILE.openstreetmap.org./13/1/1.png"
        ),
        "does not allow bulk",
    ),
    "redirect to a bad address": (
        lambda to, body: answer(to, "302 Oh", b"", "Location: http://[::1/x"),
        "valid",
    ),
    "redirect with an endless body": (
        lambda to, body: endless_redirect(to, 200),
        "not HTTP",
    ),
    "status 418": (lambda to, body: answer(to, "418 Teapot", b"short"), "HTTP 418"),
}
"""Answers that no patience makes right."""


@dataclass
class FaultServer:
    """A map behind a socket of which every answer can be chosen.

    Attributes:
        tile_map: The map.
        choose: Given (path, number of requests for it so far), the fault, None for none.
        asked: How often each path was asked for.
        headers: The headers of the requests, as bytes.
        most: Most connections at the same time.
        secure: Wraps connections in TLS.
    """

    tile_map: TileMap
    choose: Callable[[str, int], Fault | None] = lambda path, number: None
    asked: Counter[str] = field(default_factory=Counter)
    headers: list[bytes] = field(default_factory=list)
    extra: tuple[str, ...] = ()
    port: int = 0
    most: int = 0
    secure: ssl.SSLContext | None = None
    _open: set[socket.socket] = field(default_factory=set)
    _stopping: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def template(self) -> str:
        """The tile URL."""
        scheme = "http" if self.secure is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/{{z}}/{{x}}/{{y}}.png"

    def start(self) -> None:
        """Listen; on the same port if it has listened before."""
        self._stopping = False
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Die: connections are refused and those that are open are answered no more."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        connection = accepted
        with self._lock:
            self._open.add(connection)
            self.most = max(self.most, sum(map(_established, self._open)))
        try:
            with contextlib.suppress(OSError):
                if self.secure is not None:
                    connection = self.secure.wrap_socket(connection, server_side=True)
                while not self._stopping and self._one(connection):
                    pass
        finally:
            with self._lock:
                self._open.discard(accepted)
            connection.close()

    def _one(self, connection: socket.socket) -> bool:
        request = b""
        while b"\r\n\r\n" not in request:
            more = connection.recv(65536)
            if not more:
                return False
            request += more
        if self._stopping:
            return False
        path = request.split(b" ", 2)[1].decode()
        with self._lock:
            number = self.asked[path]
            self.asked[path] += 1
            self.headers.append(request)
        body = self._tile(path.partition("?")[0])
        if body is None:
            return answer(connection, "404 Not Found", b"")
        fault = self.choose(path, number)
        if fault is not None:
            return fault(connection, body)
        return answer(connection, "200 OK", body, *self.extra)

    def _tile(self, path: str) -> bytes | None:
        zoom, x, y = (int(part) for part in path.removesuffix(".png").split("/")[-3:])
        known = zoom == self.tile_map.zoom and (x, y) in self._places
        return self.tile_map.tile(x, y) if known else None

    def __post_init__(self) -> None:
        """Know the tiles by heart."""
        self._places = set(self.tile_map.tiles)


def _established(connection: socket.socket) -> bool:
    """Whether the client has not closed a connection, which a thread notices later only."""
    try:
        if not hasattr(socket, "TCP_INFO"):
            return True
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1
    except OSError:
        return False


@contextlib.contextmanager
def serving(tile_map: TileMap, **settings: object) -> Iterator[FaultServer]:
    """Run a server for the time of a `with` block."""
    server = FaultServer(tile_map, **settings)  # type: ignore[arg-type]
    server.start()
    try:
        yield server
    finally:
        server.stop()


def vrt(path: Path, source: str, *, attributes: str = 'relativeToVRT="1"', more: str = "") -> Path:
    """Write a VRT of three bands of `source`."""
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"{more}><SimpleSource>'
        f"<SourceFilename {attributes}>{source}</SourceFilename><SourceBand>{band}</SourceBand>"
        "</SimpleSource></VRTRasterBand>"
        for band in (1, 2, 3)
    )
    path.write_text(
        '<VRTDataset rasterXSize="64" rasterYSize="64"><SRS>EPSG:3857</SRS>'
        f"<GeoTransform>2700000,2,0,8400000,0,-2</GeoTransform>{bands}</VRTDataset>"
    )
    return path
