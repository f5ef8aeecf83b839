"""Limits on connections: how many, how long one may take to ask, and how much it may ask with.

Who opens connections and says nothing must not keep others out, nor take the descriptors that the
server needs for its own files.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

IDLE_SECONDS = 60
"""Time after an answer in which the next request must begin."""

REQUEST_SECONDS = 20.0
"""Time for all of a request's lines, from the connection or from its first byte on."""

SEND_SECONDS = 60.0
"""Time that a client may take to read what is held for it, 64 kB at most."""

MAX_CONNECTIONS = 1024
MAX_OF_ADDRESS = 512
"""Most connections of one address; a proxy has those of all its clients."""

MAX_HEAD_BYTES = 64 << 10
"""Most bytes of a request's lines."""

SPARE = 32
"""Descriptors that are left for maps, tiles and caches."""

BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 2\r\n"
    b"Connection: close\r\n\r\n"
)


class Limits(NamedTuple):
    """How many connections there may be at a time.

    Attributes:
        total: In all.
        address: Of one address; less than in all, so that it cannot keep others out.
        backlog: Not yet accepted; all of them may be accepted before the first is counted.
    """

    total: int
    address: int
    backlog: int


def limits_of(descriptors: int | None, used: int) -> Limits:
    """Return what fits into a number of descriptors.

    Args:
        descriptors: How many the process may have (`ulimit -n`), None if there is no limit.
        used: How many it has.
    """
    room = (descriptors or 1 << 20) - used - SPARE
    backlog = min(512, max(4, room // 4))
    total = min(MAX_CONNECTIONS, max(8, room - backlog))
    return Limits(total, min(MAX_OF_ADDRESS, total * 3 // 4), backlog)


def limits_here() -> Limits:
    """Return what fits into this process."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return limits_of(None, 0)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    folder = Path("/proc/self/fd" if Path("/proc/self/fd").is_dir() else "/dev/fd")
    try:
        used = len(os.listdir(folder))  # noqa: PTH208 # names alone
    except OSError:
        used = 64
    return limits_of(None if soft == resource.RLIM_INFINITY else soft, used)


class Connections:
    """All connections of a server, those that have waited longest first."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._open: dict[BoundedProtocol, str] = {}
        self._count: Counter[str] = Counter()

    def protocol(self) -> Any:
        """Return what makes the protocol of a connection, as uvicorn calls it."""
        return functools.partial(BoundedProtocol, self)

    def add(self, connection: BoundedProtocol, address: str) -> bool:
        """Take a connection in, in place of one that has asked for nothing if there are too many.

        Returns:
            Whether there is room.
        """
        if self._count[address] >= self.limits.address and not self._make_room(address):
            return False
        if len(self._open) >= self.limits.total and not self._make_room(None):
            return False
        self._open[connection] = address
        self._count[address] += 1
        return True

    def remove(self, connection: BoundedProtocol) -> None:
        """Forget a connection, if it is known."""
        address = self._open.pop(connection, None)
        if address is not None:
            self._count[address] -= 1
            if not self._count[address]:
                del self._count[address]

    def used(self, connection: BoundedProtocol) -> None:
        """Take note that a connection has asked for something."""
        if connection in self._open:
            self._open[connection] = self._open.pop(connection)

    def _make_room(self, address: str | None) -> bool:
        """Close the connection that has waited longest, of an address or of the greediest."""
        waiting = [each for each in self._open.items() if not each[0].busy]
        if address is not None:
            waiting = [each for each in waiting if each[1] == address]
        if not waiting:
            return False
        connection, _ = max(waiting, key=lambda each: self._count[each[1]])
        self.remove(connection)
        connection.transport.abort()
        return True


class BoundedProtocol(HttpToolsProtocol):
    """HTTP on a connection that does not wait for ever."""

    def __init__(self, connections: Connections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._all = connections
        self._timer: asyncio.TimerHandle | None = None
        self._head = 0
        self._idle = False

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, or refuse to."""
        super().connection_made(transport)
        self._limit(REQUEST_SECONDS)
        if not self._all.add(self, self.client[0] if self.client else ""):
            transport.write(BUSY)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop()
        self._all.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        if self.transport.is_closing():
            return
        if not self.busy:
            if self._idle:
                self._limit(REQUEST_SECONDS)
            self._head += len(data)
            if self._head > MAX_HEAD_BYTES:
                self.send_400_response("the request is too long")
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Take a request as it begins to be answered."""
        if not self.flow.write_paused:  # else its time to read goes on
            self._stop()
        self._head = 0
        self._all.used(self)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if not self.busy and not self.flow.write_paused:
            self._wait()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._limit(SEND_SECONDS)

    def resume_writing(self) -> None:
        """Go on when it has."""
        super().resume_writing()
        self._stop()
        if not self.busy:
            self._wait()

    def _wait(self) -> None:
        # somewhat after uvicorn has closed the connection, which first sends what is left
        self._limit(IDLE_SECONDS + 10)
        self._idle = True

    def _limit(self, seconds: float) -> None:
        """Give the connection so much time from now on."""
        self._stop()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop(self) -> None:
        self._idle = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
