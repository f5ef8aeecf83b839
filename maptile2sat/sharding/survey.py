"""Asking every worker what it would compute, before any block is made."""

from __future__ import annotations

import dataclasses
import functools
import queue
from concurrent.futures import CancelledError
from typing import Any

from maptile2sat.errors import ClusterError
from maptile2sat.rendering.job import Job
from maptile2sat.sharding.agreement import disagreements, facts_without_computing
from maptile2sat.sharding.cluster import LOST, workers_of
from maptile2sat.sharding.order import Failure, Order, Report
from maptile2sat.sharding.worker import check_worker

LOOK_SECONDS = 1.0


def agreed(client: Any, order: Order, job: Job) -> tuple[Order, Report]:
    """Return the order with what all workers and this process agree on, and a report.

    Args:
        client: The Dask client.
        order: Without facts.
        job: The render as this process sees it.

    Raises:
        ClusterError: If workers would make different pixels, or have another map or model than
            this process; the message says who and in what.
        Maptile2satError: If one cannot open the map or the model.
    """
    reports = sorted(_asked(client, order), key=lambda report: report.worker)
    one = reports[0]
    for other in reports[1:]:
        texts = disagreements(one.facts, other.facts)
        if texts:
            raise ClusterError(
                f"workers {one.worker} (here, threads: {one.threads}) and {other.worker} (there, "
                f"threads: {other.threads}) would make different pixels ({'; '.join(texts)}), and "
                "they must not be mixed: give all the same map and model, in whole numbers, or "
                "use workers of one kind"
            )
    here = facts_without_computing(job)
    texts = disagreements(here, {name: one.facts.get(name) for name in here})
    if texts:
        raise ClusterError(
            f"worker {one.worker} (there) has another map or model than this process (here): "
            f"{'; '.join(texts)}: put the same files under the same paths on all machines"
        )
    # which worker comes first, and when its copy was made, is chance: --resume compares facts
    facts = {**one.facts, "source_file": here["source_file"]}
    return dataclasses.replace(order, facts=facts, tags=one.tags), one


def _asked(client: Any, order: Order) -> list[Report]:
    """Return what each worker reports; those that go away meanwhile do not count."""
    call = functools.partial(check_worker, order)
    over: queue.SimpleQueue[Any] = queue.SimpleQueue()
    waiting: dict[Any, Any] = {}
    for worker in workers_of(client):
        key = ("maptile2sat-check", order.id, worker)
        waiting[key] = client.submit(call, key=key, workers=[worker], pure=False)
        waiting[key].add_done_callback(over.put)
    reports: list[Report] = []
    while waiting:
        try:
            key = over.get(timeout=LOOK_SECONDS).key
        except queue.Empty:
            there = workers_of(client)
            waiting = {key: future for key, future in waiting.items() if key[-1] in there}
            continue
        if key in waiting:
            reports += _report(waiting.pop(key), worker=key[-1])
    if not reports:
        raise ClusterError("all workers died while they loaded the model: is there memory for it?")
    return reports


def _report(future: Any, worker: str) -> list[Report]:
    """Return what a worker reports; nothing if it died.

    Raises:
        ClusterError: If the scheduler is gone, or the worker failed in a way that nobody foresaw.
        Maptile2satError: If it cannot do what is asked for.
    """
    from distributed import KilledWorker

    error = future.exception()
    if isinstance(error, KilledWorker):
        return []
    if isinstance(error, CancelledError):  # and not by us
        raise ClusterError(LOST) from error
    if isinstance(error, (ModuleNotFoundError, AttributeError)):
        raise ClusterError(
            f"worker {worker} cannot run this maptile2sat ({error}): install the same version there"
        ) from error
    if error is not None:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ClusterError(f"worker {worker} cannot be used: {reason}") from error
    try:
        found = future.result()
    except (OSError, TimeoutError, CancelledError) as lost:
        raise ClusterError(LOST) from lost
    if isinstance(found, Failure):
        raise found.error
    return [found]
