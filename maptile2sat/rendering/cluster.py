"""The Dask cluster: one that is there, or processes of this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maptile2sat.errors import ClusterError, MissingExtraError, UsageError

CORES_PER_WORKER = 4
"""Of a machine without GPU, if no number of workers is asked for."""

CONNECT_SECONDS = 15
WORKERS_SECONDS = 60

LOST = "the connection to the Dask scheduler is lost"

SILENT = logging.CRITICAL
"""What Dask says of trouble with workers: it shows in their blocks."""

TRIM = "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_"
"""Has glibc give memory back at once: the generator takes 6 % longer with it (measured)."""

NVIDIA = Path("/proc/driver/nvidia/gpus")
SCHEMES = ("tcp", "tls", "ucx", "ws", "wss")


def check_where(where: str) -> None:
    """Refuse what names no cluster.

    Raises:
        UsageError: If it is neither `local[:N]` nor an address.
        MissingExtraError: If Dask is not installed.
    """
    scheme, separator, _ = where.partition("://")
    number = where.removeprefix("local").removeprefix(":")
    is_number = number.isascii() and number.isdigit() and 0 < int(number[:5]) < 10_000
    is_local = where == "local" or (where.startswith("local:") and is_number)
    if not is_local and not (separator and scheme in SCHEMES):
        raise UsageError(
            f"--dask '{where}': say local, local:N with N workers, or the address of a scheduler "
            "such as tcp://10.0.0.1:8786"
        )
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("--dask", "dask") from error


@contextmanager
def connected(where: str, device: str = "auto") -> Iterator[Any]:
    """Give a Dask client, and end the processes that were started for it.

    Args:
        where: `local`, `local:N` or an address.
        device: Processor that was asked for; `auto` and `gpu` share out the GPUs.

    Raises:
        ClusterError: If there is no cluster, or no worker in it.
    """
    from distributed import Client
    from distributed.utils import silence_logging_cmgr

    if where.startswith("local"):
        number = where.partition(":")[2]
        with (
            _local(worker_specs(int(number) if number else None, device)) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
        return
    _check_connector(where)
    try:
        client = Client(where, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"there is no Dask scheduler at {where}: start one with 'dask scheduler', or pass "
            "--dask local"
        ) from error
    with silence_logging_cmgr(SILENT), client:  # a lost connection is told as an error of ours
        _wait_for_workers(client, where)
        yield client


def _check_connector(where: str) -> None:
    """Refuse an address that Dask cannot connect to as it is set up here.

    A client that fails for that leaves a traceback of its own when it is thrown away.

    Raises:
        ClusterError: If it cannot.
    """
    from distributed.comm.registry import get_backend
    from distributed.security import Security

    scheme = where.partition("://")[0]
    try:
        get_backend(scheme).get_connector()
        secrets = Security().get_connection_args("client")
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ClusterError(
            f"Dask cannot use {scheme}:// here ({error}): install what it needs, or give the "
            "scheduler's tcp:// address"
        ) from error
    if scheme in ("tls", "wss") and secrets.get("ssl_context") is None:
        raise ClusterError(
            f"{where} needs certificates: name them in Dask's configuration, "
            "distributed.comm.tls.ca-file and distributed.comm.tls.client"
        )


def workers_of(client: Any) -> list[str]:
    """Return the addresses of the workers that there are now.

    Raises:
        ClusterError: If the scheduler is gone.
    """
    try:
        return list(client.nthreads())
    except (OSError, TimeoutError) as error:
        raise ClusterError(LOST) from error


def _wait_for_workers(client: Any, where: str) -> None:
    from distributed import TimeoutError as DaskTimeout

    try:
        client.wait_for_workers(1, timeout=WORKERS_SECONDS)
    except DaskTimeout as error:
        raise ClusterError(
            f"the Dask scheduler at {where} has no workers: start some, for example "
            f"dask worker {where} --nthreads 1"
        ) from error


@contextmanager
def _local(specs: dict[int, Any]) -> Iterator[Any]:
    """Start a scheduler in this process, and workers in processes of their own."""
    import dask
    from distributed import Scheduler, SpecCluster

    scheduler = {
        "cls": Scheduler,
        "options": {
            "host": "127.0.0.1",
            "port": 0,
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",  # any port: several renders may run
        },
    }
    try:
        with dask.config.set({TRIM: None}):
            cluster = SpecCluster(
                specs, scheduler=scheduler, silence_logs=SILENT, name="maptile2sat"
            )
    except (OSError, RuntimeError) as error:
        raise ClusterError(f"the workers cannot be started: {error}") from error
    with cluster:
        yield cluster


def worker_specs(number: int | None, device: str) -> dict[int, Any]:
    """Return what starts each worker of this machine: a process with its GPU or its cores.

    Args:
        number: Workers; None for one a GPU, or one for every four cores.
        device: `auto`, `cpu`, `gpu` or `gpu:N`; all workers share a GPU that is named.
    """
    from distributed import Nanny

    gpus = gpus_of_this_machine() if device in ("auto", "gpu") else []
    cores = _cores()
    count = number or len(gpus) or max(1, cores // CORES_PER_WORKER)
    threads = str(max(1, cores // count))
    specs = {}
    for index in range(count):
        environment = {"TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": threads}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
        specs[index] = {
            "cls": Nanny,
            "options": {
                "host": "127.0.0.1",
                "nthreads": 1,  # blocks at once; a block takes all its cores
                # results are small; killing workers for what TensorFlow takes would help nobody
                "memory_limit": 0,
                "dashboard": False,
                "silence_logs": SILENT,
                "preload": ["maptile2sat.rendering.worker"],
                "env": environment,
            },
        }
    return specs


def gpus_of_this_machine() -> list[str]:
    """Return the NVIDIA GPUs that may be used, as `CUDA_VISIBLE_DEVICES` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    if not NVIDIA.is_dir():
        return []
    return [str(index) for index, _ in enumerate(NVIDIA.iterdir())]


def _cores() -> int:
    """Return how many cores this process may use."""
    available = getattr(os, "sched_getaffinity", None)
    return len(available(0)) if available else os.cpu_count() or 1
