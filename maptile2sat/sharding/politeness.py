"""One server, many workers: together they ask no faster, and no more at once, than one would.

The limits are leases of a semaphore that the Dask scheduler keeps. A request needs a lease, and
keeps it at least for the time that makes `leases / time` the rate; so both limits hold however
many workers there are, and whoever has most to ask may use most of them. Leases of workers that
were killed come back after half a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from maptile2sat.errors import SourceError
from maptile2sat.sharding.order import Limits

POLL_SECONDS = 1.0


def limits_of(name: str, rate: float, connections: int, workers: int) -> Limits:
    """Return the limits that all workers share.

    Args:
        name: Of the semaphore, another for each run.
        rate: Most requests a second to the server.
        connections: Most connections to it.
        workers: Workers there are; how many connections each keeps open depends on it.
    """
    # no more at once than a second's worth: else slow rates would come in bursts
    leases = min(connections, max(1, int(rate)))
    return Limits(name, leases, leases / rate, max(1, leases // max(1, workers)))


class SharedGate:
    """Lets a worker's requests through: a `Gate` of `SourceOptions`.

    Args:
        limits: What all workers together may do.
        worker: The Dask worker of this process.
    """

    def __init__(self, limits: Limits, worker: Any) -> None:
        from distributed import Semaphore

        self._hold = limits.hold
        self._loop = worker.loop
        # given here, since the threads that download are none of Dask's
        self._leases = Semaphore(
            max_leases=limits.leases,
            name=limits.name,
            scheduler_rpc=worker.scheduler,
            loop=worker.loop,
        )

    def __call__(self, unwanted: Callable[[], bool]) -> Callable[[], None]:
        """Wait for a lease; return what gives it back."""
        try:
            while not self._leases.acquire(timeout=POLL_SECONDS):
                if unwanted():
                    return _nothing
        except OSError as error:  # what Dask raises when a connection is lost
            raise SourceError("the cluster's scheduler is gone, which shares out requests") from (
                error
            )
        return self._return_after(time.monotonic() + self._hold)

    def _return_after(self, end: float) -> Callable[[], None]:
        def leave() -> None:
            wait = max(0.0, end - time.monotonic())
            self._loop.add_callback(self._loop.call_later, wait, self._leases.release)

        return leave


def _nothing() -> None:
    """Give nothing back."""
