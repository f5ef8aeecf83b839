"""A Dask cluster inside the test process, whose workers have a stand-in for the generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from maptile2sat.rendering.options import ShardOptions, ShardResult
from maptile2sat.rendering.run import render_sharded

CELL = 256


class StandIn:
    """A generator that gives the map back: starts at once, needs no TensorFlow."""

    cell, step, batch, overlap, halo, reach, exact = CELL, CELL, 1, 0, 0, 0, True

    def pack(self, image: npt.NDArray[np.uint8], grains: object) -> Any:
        """Keep the map."""
        return image

    def start(self, packed: Sequence[Any]) -> Any:
        """Keep it."""
        return packed

    def finish(self, started: Any) -> list[npt.NDArray[np.uint8]]:
        """Give it back."""
        return list(started)


@contextmanager
def near_cluster(workers: int = 1) -> Iterator[str]:
    """Give the address of a scheduler with workers in threads."""
    from distributed import LocalCluster

    device = SimpleNamespace(name="/CPU:0", precision="float32", fingerprint="none; stand-in")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maptile2sat.rendering.worker.device_of", lambda job: device)
        patch.setattr("maptile2sat.rendering.worker.translator_of", lambda *given: StandIn())
        patch.setattr("maptile2sat.rendering.worker.computing_threads", lambda: 1)
        with LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=False,
            protocol="tcp",
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=50,
        ) as cluster:
            yield cluster.scheduler_address


def shard(source: Any, output: Any, address: str, **changes: Any) -> ShardResult:
    """Render with the shipped model's stand-in, in blocks of one cell if nothing else is said."""
    sharding = ShardOptions(address, changes.pop("block", 1))
    return render_sharded(source, output, sharding, cell=CELL, **changes)
