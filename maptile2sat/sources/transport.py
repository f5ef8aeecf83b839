"""Below HTTP: connections that end in time, requests that keep their distance.

A time-out of a socket starts anew with every byte, so a server that sends one byte now and then
would hold a download for ever. Here every read of an answer, its headers included, also ends with
the download's own deadline.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from http.client import HTTPResponse
from typing import Any

import requests
from cachecontrol import CacheControlAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from maptile2sat.sources.hosts import POOLS, Host, Hosts
from maptile2sat.sources.http_cache import BlindSerializer, KeepAWeek, LenientCache
from maptile2sat.sources.options import Gate

REDIRECTS = (301, 302, 303, 307, 308)
"""Answers that name another address."""


class Transfer:
    """One download under way.

    Args:
        patience: Seconds until it is given up; None for never.
    """

    def __init__(self, patience: float | None) -> None:
        self._end = None if patience is None else time.monotonic() + patience
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._leave: list[Callable[[], None]] = []
        self._aborted = threading.Event()

    @property
    def left(self) -> float | None:
        """Seconds left; None for ever, 0 or less when it is over."""
        return None if self._end is None else self._end - time.monotonic()

    @property
    def over(self) -> bool:
        """Whether it is to end now."""
        left = self.left
        return self._aborted.is_set() or (left is not None and left <= 0)

    def wait(self, seconds: float) -> None:
        """Sleep without this counting against the deadline; less long if aborted."""
        if seconds > 0:
            start = time.monotonic()
            self._aborted.wait(seconds)
            if self._end is not None:
                self._end += time.monotonic() - start

    def enter(self, gate: Gate) -> None:
        """Wait for a gate to let a request through, without this counting against the deadline."""
        start = time.monotonic()
        self._leave.append(gate(self._aborted.is_set))
        if self._end is not None:
            self._end += time.monotonic() - start

    def leave(self) -> None:
        """Tell all gates that have let the request through that it is answered."""
        while self._leave:
            self._leave.pop()()

    def listens_to(self, connection: socket.socket) -> None:
        """Take note of the socket that an answer comes from."""
        with self._lock:
            self._socket = connection
        if self._aborted.is_set():
            self.abort()

    def abort(self) -> None:
        """End it from another thread, whatever it waits for; a connection once it is there."""
        self._aborted.set()
        with self._lock, suppress(OSError):
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)


_current: ContextVar[Transfer | None] = ContextVar("maptile2sat transfer", default=None)


@contextmanager
def under_way(transfer: Transfer) -> Iterator[None]:
    """Let the requests of this thread belong to `transfer`."""
    token = _current.set(transfer)
    try:
        yield
    finally:
        _current.reset(token)


class PoliteAdapter(requests.adapters.HTTPAdapter):
    """Sends requests when it is their turn, over connections that end in time.

    Args:
        hosts: Keeps the limits of hosts, and the connections to them.
        gate: What else must let each request through.
    """

    def __init__(self, *, hosts: Hosts, gate: Gate | None = None, **kwargs: Any) -> None:
        self._hosts = hosts
        self._gate = gate
        super().__init__(
            pool_connections=POOLS,
            pool_maxsize=hosts.connections,
            pool_block=True,
            max_retries=0,
            **kwargs,
        )
        hosts.join(self)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Use the connections that are shared, and of them those of this module."""
        self.poolmanager, self.proxy_manager = self._hosts.pools, self._hosts.proxies
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Use them through proxies too."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        """Send a request that the cache could not answer."""
        transfer = _current.get()
        if transfer is not None:
            self._wait(transfer, self._hosts.of(request.url or ""))
        return super().send(request, *args, **kwargs)

    def _wait(self, transfer: Transfer, host: Host) -> None:
        """Wait for a free connection first: a turn that is not used at once would be no limit."""
        transfer.leave()  # the host that has redirected here has answered
        transfer.enter(host.connection)
        if not transfer.over:
            transfer.wait(host.pace.turn())
        while not transfer.over and (left := host.pace.paused) > 0:
            transfer.wait(left)
        if transfer.over:
            raise requests.exceptions.Timeout("timed out")
        if self._gate is not None:
            transfer.enter(self._gate)

    def close(self) -> None:
        """Close the connections, unless others use them."""
        self._hosts.leave(self)


class CachedAdapter(CacheControlAdapter, PoliteAdapter):  # type: ignore[misc,unused-ignore]
    """Asks the cache first; only what it does not have is a request."""

    def build_response(  # type: ignore[override,unused-ignore]
        self, request: Any, response: Any, from_cache: bool = False, *args: Any, **kwargs: Any
    ) -> Any:
        """Leave redirects to where they lead: CacheControl would read all of their bodies."""
        if not from_cache and response.status in REDIRECTS:
            plain: Any = requests.adapters.HTTPAdapter.build_response
            return plain(self, request, response)
        caching: Any = super()  # CacheControl has no types
        return caching.build_response(request, response, from_cache, *args, **kwargs)


class PlainSession(requests.Session):
    """A session that never looks at redirects itself, for which it reads all of their bodies."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: whoever asks follows redirects."""


def adapter(cache: LenientCache | None, hosts: Hosts, gate: Gate | None = None) -> PoliteAdapter:
    """Return what sends requests, with a cache in front if there is one."""
    if cache is None:
        return PoliteAdapter(hosts=hosts, gate=gate)
    kept: dict[str, Any] = {
        "cache": cache,
        "heuristic": KeepAWeek(),
        "serializer": BlindSerializer(),
    }
    return CachedAdapter(hosts=hosts, gate=gate, **kept)


class _BoundedReader(io.RawIOBase):
    """Reads a socket until the transfer's deadline."""

    def __init__(self, raw: Any, connection: socket.socket, transfer: Transfer) -> None:
        self._raw = raw
        self._connection = connection
        self._silence = connection.gettimeout()
        self._transfer = transfer

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._transfer.over:
            raise TimeoutError("timed out")
        left, silence = self._transfer.left, self._silence
        bounds = [value for value in (left, silence) if value is not None]
        self._connection.settimeout(max(min(bounds), 1e-3) if bounds else None)
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _BoundedResponse(HTTPResponse):
    """An answer that is read through a `_BoundedReader` from its first byte."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        transfer = _current.get()
        if transfer is not None:
            transfer.listens_to(sock)
            reader: Any = self.fp
            self.fp = io.BufferedReader(_BoundedReader(reader.detach(), sock, transfer))


def _check_wanted() -> None:
    """Ask the server nothing over a new connection if nobody waits for the answer any more."""
    transfer = _current.get()
    if transfer is not None and transfer.over:
        raise TimeoutError("timed out")


class _Http(HTTPConnection):
    response_class = _BoundedResponse

    def connect(self) -> None:
        """Connect, unless nobody waits for it any more when it is done."""
        super().connect()
        _check_wanted()


class _Https(HTTPSConnection):
    response_class = _BoundedResponse

    def connect(self) -> None:
        """Connect, unless nobody waits for it any more when it is done."""
        super().connect()
        _check_wanted()


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


_POOLS = {"http": _HttpPool, "https": _HttpsPool}
