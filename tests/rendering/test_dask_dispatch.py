"""Giving blocks to workers: bounded, repeated where need be, and never mixed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed")

from distributed import Client, LocalCluster, get_worker

from maptile2sat.errors import (
    BlockedError,
    ClusterError,
    Maptile2satError,
    MissingTileError,
    OutputError,
    SourceError,
    UsageError,
)
from maptile2sat.geo.grid import Window
from maptile2sat.output.manifest import BlockRecord
from maptile2sat.rendering import dask
from maptile2sat.rendering.blocks import Failure, Made
from maptile2sat.rendering.cluster import check_where, worker_specs
from maptile2sat.rendering.dask import AHEAD, Dispatcher
from tests.support_render import run_cli

WORKERS = 2


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A cluster in this process, which costs little."""
    settings: dict[str, Any] = {"n_workers": WORKERS, "threads_per_worker": 1}
    with (
        LocalCluster(
            processes=False, dashboard_address=None, silence_logs=50, **settings
        ) as cluster,
        Client(cluster, set_as_default=False) as made,
    ):
        yield made


def done(index: int) -> Made:
    record = BlockRecord(f"r000000_c{index:06d}", Window(index, 0, 1, 1), None, 0, "", masked=True)
    return Made(index, record, 1, 0, 0.0)


class Run:
    """A dispatcher with what it told."""

    def __init__(self, client: Any, make: Any, straggler_seconds: float = 60.0) -> None:
        self.taken: list[int] = []
        self.warnings: list[str] = []
        self.dispatcher = Dispatcher(
            client,
            make,
            lambda made: self.taken.append(made.index),
            f"test-{time.monotonic_ns()}",
            self.warnings.append,
            straggler_seconds,
        )

    def all(self, count: int) -> list[int]:
        self.dispatcher.run(iter(range(count)))
        return sorted(self.taken)


def test_few_tasks_at_once_however_many_blocks(client: Any) -> None:
    """Neither the scheduler nor the client grows with the number of blocks."""
    known: list[int] = []
    run = Run(client, done)
    scheduler = client.cluster.scheduler

    def blocks() -> Iterator[int]:
        for index in range(600):
            known.append(len(scheduler.tasks))
            yield index

    run.dispatcher.run(blocks())
    assert sorted(run.taken) == list(range(600))
    assert max(known) <= 4 * AHEAD * WORKERS  # those that are over are forgotten a little later
    assert run.dispatcher.repeated == 0


def slow_once(folder: Path, index: int) -> Made:
    """Hang on a block the first time, until another worker has done it."""
    mark = folder / f"{index}.done"
    if index == 3:
        try:
            (folder / "began").open("x").close()
        except FileExistsError:
            mark.touch()
            return done(index)
        end = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < end:
            time.sleep(0.02)
    return done(index)


def test_straggler_is_made_by_another_worker(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask, "LOOK_SECONDS", 0.05)
    run = Run(client, partial(slow_once, tmp_path), straggler_seconds=0.3)
    assert run.all(8) == list(range(8))  # each taken once, though one was made twice
    assert run.dispatcher.repeated >= 1
    assert (tmp_path / "3.done").exists()


def failing(kind: str, folder: Path, times: int, index: int) -> Made | Failure:
    """Fail on a block for some times."""
    before = len(list(folder.iterdir()))
    if index == 2 and before < times:
        (folder / str(before)).touch()
        return Failure(get_worker().address, kind, "that tile")
    return done(index)


def unforeseen(folder: Path, times: int, index: int) -> Made:
    """Raise something that is none of our errors, for some times."""
    before = len(list(folder.iterdir()))
    if index == 2 and before < times:
        (folder / str(before)).touch()
        raise MemoryError("of this worker,\nfor a moment")
    return done(index)


def test_what_nobody_foresaw_is_tried_again(client: Any, tmp_path: Path) -> None:
    run = Run(client, partial(unforeseen, tmp_path, 2))
    assert run.all(5) == list(range(5))


def test_what_nobody_foresaw_ends_in_one_line(client: Any, tmp_path: Path) -> None:
    run = Run(client, partial(unforeseen, tmp_path, 9))
    said = r"^block 2 failed 3 times: MemoryError: of this worker, for a moment$"
    with pytest.raises(ClusterError, match=said) as told:
        run.all(5)
    assert isinstance(told.value.__cause__, MemoryError)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_may_pass_is_tried_again(client: Any, tmp_path: Path) -> None:
    run = Run(client, partial(failing, "SourceError", tmp_path, 2))
    assert run.all(5) == list(range(5))


@pytest.mark.parametrize(
    ("kind", "tries"),
    [(SourceError, 3), (OutputError, 3), (MissingTileError, 1), (BlockedError, 1), (UsageError, 1)],
)
def test_what_does_not_pass_ends_the_run(
    client: Any, tmp_path: Path, kind: type[Maptile2satError], tries: int
) -> None:
    run = Run(client, partial(failing, kind.__name__, tmp_path, 99))
    with pytest.raises(kind, match=r"^that tile$"):
        run.all(50)
    assert len(list(tmp_path.iterdir())) == tries
    assert len(run.taken) < 50


def unfit(which: list[str], index: int) -> Made | Failure:
    address = get_worker().address
    if address in which:
        return Failure(address, "ClusterError", f"worker {address}: other numerics", unfit=True)
    time.sleep(0.01)
    return done(index)


def test_worker_that_joins_and_does_not_fit_is_left_out(client: Any) -> None:
    first, *_ = client.nthreads()
    run = Run(client, partial(unfit, [first]))
    assert run.all(30) == list(range(30))
    assert run.warnings == [f"worker {first}: other numerics; that worker is left out"]


def test_no_worker_fits(client: Any) -> None:
    run = Run(client, partial(unfit, list(client.nthreads())))
    with pytest.raises(ClusterError, match="other numerics"):
        run.all(30)


def slow(index: int) -> Made:
    time.sleep(0.05)
    return done(index)


def tasks_of(run: Run, client: Any) -> list[Any]:
    """Return what the scheduler knows of a run."""
    return [key for key in list(client.cluster.scheduler.tasks) if key[0] == run.dispatcher.name]


def test_interruption_takes_back_what_was_given(client: Any) -> None:
    run = Run(client, slow)

    def interrupt() -> None:
        while not run.taken:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run.all(100_000)
    end = time.monotonic() + 60
    while (left := tasks_of(run, client)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not left


@pytest.mark.parametrize(
    "where",
    [
        *("loc", "local:0", "local:-1", "local:x", "8786", "ftp://x", "local:²", "local:٣"),
        "local:" + "9" * 5000,
    ],
)
def test_no_cluster(where: str) -> None:
    with pytest.raises(UsageError, match="say local, local:N"):
        check_where(where)


@pytest.mark.parametrize(
    ("where", "said"),
    [("tls://127.0.0.1:9", "needs certificates"), ("ucx://127.0.0.1:9", "cannot use ucx://")],
)
def test_address_that_dask_is_not_set_up_for(where: str, said: str) -> None:
    """One line at once, and no traceback of a client that was half made."""
    done = run_cli("render", "-o", "out", "--dask", where, "-q")
    assert done.code == 1
    assert said in done.err
    assert done.err.count("\n") == 1


def test_a_gpu_for_each_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def visible(number: int | None, device: str = "auto") -> list[str | None]:
        specs = worker_specs(number, device)
        return [spec["options"]["env"].get("CUDA_VISIBLE_DEVICES") for spec in specs.values()]

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5,7")
    assert visible(None) == ["2", "GPU-5", "7"]
    assert visible(2, "gpu") == ["2", "GPU-5"]
    assert visible(4) == ["2", "GPU-5", "7", "2"]
    assert visible(2, "cpu") == [None, None]
    assert visible(2, "gpu:1") == [None, None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert set(visible(None)) == {None}


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maptile2sat.rendering.cluster._cores", lambda: 16)
    monkeypatch.setattr("maptile2sat.rendering.cluster.gpus_of_this_machine", list)
    for number, workers, threads in ((None, 4, "4"), (2, 2, "8"), (32, 32, "1")):
        specs = worker_specs(number, "auto")
        assert len(specs) == workers
        assert {s["options"]["env"]["TF_NUM_INTRAOP_THREADS"] for s in specs.values()} == {threads}
