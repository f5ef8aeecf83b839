"""Cells being made: each once, however many wait for it, and not too many at a time."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from maptile2sat.errors import Maptile2satError

FAILURE_SECONDS = 5.0
"""For how long a cell that failed is not tried again."""

FIRST_GUESS = 2.0
"""Seconds per cell before any was made."""


class BusyError(Maptile2satError):
    """Too many cells wait; `seconds` is after how long to ask again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too much is asked for at once: try again in {seconds} s")
        self.seconds = seconds


@dataclass
class QueueCounts:
    """What a queue has done.

    Attributes:
        made: Cells made.
        failed: Cells that could not be made.
        refused: Requests turned away since too many cells waited.
        cancelled: Cells not made since nobody waited for them any more.
        shared: Requests that waited for a cell which another had asked for.
        seconds: Time spent making cells.
    """

    made: int = 0
    failed: int = 0
    refused: int = 0
    cancelled: int = 0
    shared: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class _Flight:
    """A cell on its way, and how many wait for it."""

    key: Hashable
    result: asyncio.Future[Any]
    waiters: int = 0
    started: bool = False


@dataclass
class CellQueue:
    """Makes cells in a few threads.

    Attributes:
        make: Makes a cell, given its key; runs in a thread.
        limit: Cells that may wait.
        threads: Cells made at the same time.
    """

    make: Callable[[Any], Any]
    limit: int
    threads: int = 2
    counts: QueueCounts = field(default_factory=QueueCounts)

    def __post_init__(self) -> None:
        """Make the threads."""
        self._pool = ThreadPoolExecutor(self.threads, "cell")
        self._flights: dict[Hashable, _Flight] = {}
        self._waiting: deque[_Flight] = deque()
        self._running = 0
        self._failures: dict[Hashable, tuple[float, Maptile2satError]] = {}

    @property
    def waiting(self) -> int:
        """Cells that wait to be made."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Cells being made."""
        return self._running

    async def get(self, key: Hashable) -> Any:
        """Return what `make` returns for a cell; if this is cancelled, so is work that is left.

        Raises:
            BusyError: If too many cells wait.
            Maptile2satError: If the cell cannot be made.
        """
        self._refuse_failed(key)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._add(key)
        else:
            self.counts.shared += 1
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.result)
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.started:
                self._waiting.remove(flight)
                del self._flights[key]
                self.counts.cancelled += 1

    def close(self) -> None:
        """Make no further cells."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _refuse_failed(self, key: Hashable) -> None:
        """Raise the error of a cell that has just failed: a server in trouble needs a rest."""
        now = time.monotonic()
        self._failures = {
            failed: (when, error)
            for failed, (when, error) in self._failures.items()
            if now - when < FAILURE_SECONDS
        }
        if key in self._failures:
            raise self._failures[key][1]

    def _add(self, key: Hashable) -> _Flight:
        if len(self._waiting) >= self.limit + self.threads - self._running:
            self.counts.refused += 1
            raise BusyError(self._patience())
        flight = _Flight(key, asyncio.get_running_loop().create_future())
        self._flights[key] = flight
        self._waiting.append(flight)
        # not at once: the caller is not yet counted as waiting
        asyncio.get_running_loop().call_soon(self._start)
        return flight

    def _patience(self) -> int:
        """Return the seconds in which half of what waits will be done."""
        done = self.counts.made
        each = self.counts.seconds / done if done else FIRST_GUESS
        return max(1, min(60, math.ceil(each * len(self._waiting) / 2 / self.threads)))

    def _start(self) -> None:
        while self._waiting and self._running < self.threads:
            flight = self._waiting.popleft()
            flight.started = True
            self._running += 1
            work = asyncio.get_running_loop().run_in_executor(self._pool, self._timed, flight.key)
            work.add_done_callback(partial(self._finish, flight))

    def _timed(self, key: Hashable) -> tuple[Any, float]:
        start = time.perf_counter()
        return self.make(key), time.perf_counter() - start

    def _finish(self, flight: _Flight, done: asyncio.Future[tuple[Any, float]]) -> None:
        self._running -= 1
        del self._flights[flight.key]
        error = None if done.cancelled() else done.exception()
        if done.cancelled():
            flight.result.cancel()
        elif error is not None:
            self.counts.failed += 1
            if isinstance(error, Maptile2satError):
                self._failures[flight.key] = (time.monotonic(), error)
            flight.result.set_exception(error)
            flight.result.exception()  # nobody may be left to look at it
        else:
            made, seconds = done.result()
            self.counts.made += 1
            self.counts.seconds += seconds
            flight.result.set_result(made)
        self._start()
