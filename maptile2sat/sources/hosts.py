"""What a host may be asked: how often, over how many connections, and when not at all.

Limits are those of a host, whoever asks it. So pace, pauses and connections are kept here, by
host, and not by whom they are kept for: all sources that are given the same `Hosts` share them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

from urllib3 import PoolManager

CONNECTIONS = 8
"""Most connections to one host, if nothing else is said."""

RATE = 50.0
"""Most requests a second to one host, if nothing else is said."""

BURST = 1.0
"""Seconds' worth of requests that may go out at once after a quiet time."""

POOLS = 4
"""Hosts to which connections are kept open."""

POLL_SECONDS = 0.1
"""After how long who waits for a connection sees that nobody wants it any more."""


class Pace:
    """Keeps the distance between requests to one host, over all threads.

    Args:
        rate: Most requests a second.
    """

    def __init__(self, rate: float) -> None:
        self._gap = 1.0 / rate
        self._slack = BURST - self._gap if rate * BURST > 1 else 0.0
        self._lock = threading.Lock()
        self._next = 0.0
        self._closed_until = 0.0

    def turn(self) -> float:
        """Take the next turn; return the seconds until it comes."""
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now - self._slack, self._closed_until)
            wait = max(0.0, self._next - now)
            self._next += self._gap
            return wait

    def pause(self, seconds: float) -> None:
        """Let nobody ask for a while: the host has said so."""
        with self._lock:
            self._closed_until = max(self._closed_until, time.monotonic() + seconds)

    @property
    def paused(self) -> float:
        """Seconds for which nobody may ask yet."""
        return self._closed_until - time.monotonic()


class Host:
    """What one host is asked.

    Attributes:
        pace: When it may be asked next.

    Args:
        rate: Most requests a second.
        connections: Most connections.
    """

    def __init__(self, rate: float, connections: int) -> None:
        self.pace = Pace(rate)
        self._free = threading.Semaphore(connections)

    def connection(self, unwanted: Callable[[], bool]) -> Callable[[], None]:
        """Wait for a connection to be free, and take it; a `Gate` of `SourceOptions`.

        The pools of urllib3 would have others wait too, but for ever.
        """
        while not self._free.acquire(timeout=POLL_SECONDS):
            if unwanted():
                return _nothing
        return self._free.release


class Hosts:
    """Keeps the limits of every host, for all that share it. May be used from any thread.

    Attributes:
        pools: The connections.
        proxies: Those through proxies, by their addresses.

    Args:
        rate: Most requests a second to one host.
        connections: Most connections to one host.
    """

    def __init__(self, rate: float = RATE, connections: int = CONNECTIONS) -> None:
        self.pools = PoolManager(num_pools=POOLS, maxsize=connections, block=True)
        self.proxies: dict[str, Any] = {}
        self.connections = connections
        self._rate = rate
        self._lock = threading.Lock()
        self._hosts: dict[str, Host] = {}
        self._users: WeakSet[Any] = WeakSet()

    def of(self, url: str) -> Host:
        """Return the host of an address."""
        with self._lock:
            place = urlsplit(url).netloc
            return self._hosts.setdefault(place, Host(self._rate, self.connections))

    def join(self, user: Any) -> None:
        """Take note of somebody who uses the connections."""
        with self._lock:
            self._users.add(user)

    def leave(self, user: Any) -> None:
        """Close all connections if nobody uses them any more.

        Now, that is, not when Python comes to collect them.
        """
        with self._lock:
            self._users.discard(user)
            if self._users:
                return
            for manager in (self.pools, *self.proxies.values()):
                for key in manager.pools.keys():  # noqa: SIM118 - it cannot be iterated over
                    manager.pools[key].close()
                manager.clear()


def _nothing() -> None:
    """Give nothing back."""
