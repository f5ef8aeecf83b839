"""The scheduler goes away: one line says so, and a render that is complete stays one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed")
pytest.importorskip("pystac")

from distributed import Client
from distributed.comm.core import CommClosedError

from maptile2sat.errors import ClusterError
from maptile2sat.rendering import run
from tests.support_cluster import near_cluster, shard
from tests.support_render import files_in

START = [sys.executable, "-m"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler in a process of its own, with a worker; its address and the process."""
    file = tmp_path / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", file]
    command = [*START, "distributed.cli.dask_scheduler", *map(str, options)]
    scheduling = subprocess.Popen(command, env=ENVIRONMENT, **QUIET)
    options = ["--scheduler-file", file, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    more = ["--local-directory", tmp_path / "scratch", "--death-timeout", "30"]
    command = [*START, "distributed.cli.dask_worker", *map(str, [*options, *more])]
    working = subprocess.Popen(command, env=ENVIRONMENT, **QUIET)
    try:
        with Client(scheduler_file=str(file), timeout=60, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
            address = client.scheduler.address
        yield address, scheduling
    finally:
        for process in (working, scheduling):
            process.kill()
            process.wait()


def asleep(order: Any) -> None:
    """Take as long as loading a model does."""
    time.sleep(60)


def test_scheduler_that_dies_while_workers_load_the_model(
    tmp_path: Path,
    scheduler: tuple[str, subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, process = scheduler
    agreed = run.agreed

    def begun(*given: Any) -> Any:
        threading.Timer(1.0, process.kill).start()
        return agreed(*given)

    monkeypatch.setattr("maptile2sat.rendering.dask.check_worker", asleep)
    monkeypatch.setattr(run, "agreed", begun)
    with pytest.raises(ClusterError, match="connection to the Dask scheduler is lost"):
        shard(None, tmp_path / "out", address)
    assert "out" not in files_in(tmp_path)


def test_scheduler_that_dies_when_all_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are there, so the render has succeeded; workers are those of its start."""
    described = run.describe

    def lost(client: Client) -> None:
        raise CommClosedError("in <TCP>: Stream is closed")

    def last(*given: Any, **more: Any) -> None:
        described(*given, **more)
        monkeypatch.setattr(Client, "nthreads", lost)

    monkeypatch.setattr(run, "describe", last)
    with near_cluster(workers=2) as address:
        result = shard(None, tmp_path / "out", address, block=4)
    assert result.workers == 2
    assert (tmp_path / "out" / "manifest.json").exists()
