"""Renders shared out among Dask workers: what it costs, against one process.

    python bench/sharding.py speed [--side 16384] [--workers 2] [--model maps]
    python bench/sharding.py overhead [--blocks 20000] [--planned 1000000]

`speed` renders one map in one process with all cores, and with workers that share the cores, each
after a first render that is not counted, and compares the pixels. It needs a quiet machine.

`overhead` sends blocks without any work through a real scheduler with two worker processes, and a
million through everything else: plan, records, and all files that describe the result.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from common import CORNER, ZOOM, write_map
from rasterio.windows import Window as RasterWindow

from maptile2sat.geo.grid import Window, mercator_grid
from maptile2sat.output.folder import describe
from maptile2sat.output.manifest import BlockRecord, Manifest, block_file
from maptile2sat.output.store import FolderStore, identity_of, record_file, record_text
from maptile2sat.rendering.blocks import BlockPlan, Made
from maptile2sat.rendering.dask import Dispatcher
from maptile2sat.rendering.work import Claim, Ledger

SIDE = 4096


def rss_mb() -> float:
    """Return this process's memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def one_process(drawn: str, output: str, model: str) -> None:
    """Render in this process; print the seconds of the second time."""
    from maptile2sat import render

    render(None, output, model=model, overwrite=True)
    made = render(drawn, output, model=model, overwrite=True)
    print(json.dumps({"seconds": made.seconds, "generator_seconds": made.generator_seconds}))


def speed(side: int, workers: int, model: str) -> dict[str, Any]:
    """Return the seconds of one process and of several, and whether the pixels agree."""
    from maptile2sat import ShardOptions, render_sharded

    with tempfile.TemporaryDirectory() as scratch:
        drawn, one, many = (Path(scratch) / name for name in ("map.tif", "one.tif", "many"))
        write_map(drawn, side)
        command = [sys.executable, __file__, "one", str(drawn), str(one), "--model", model]
        alone = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        # the clock of a sharded render starts when its workers have generated their test cell
        shared = render_sharded(drawn, many, ShardOptions(f"local:{workers}"), model=model)
        return {
            "side": side,
            "cores": len(os.sched_getaffinity(0)),
            "workers": workers,
            "blocks": shared.blocks,
            "one_process_seconds": alone["seconds"],
            "one_process_generator_seconds": alone["generator_seconds"],
            "workers_seconds": shared.seconds,
            "workers_generator_seconds": shared.generator_seconds,
            "speed_over_one_process": round(alone["seconds"] / shared.seconds, 3),
            "different_pixels": different(one, many / "mosaic.vrt"),
        }


def different(one: Path, other: Path) -> int:
    """Return how many pixels differ between two rasters."""
    count = 0
    with rasterio.open(one) as first, rasterio.open(other) as second:
        for row in range(0, first.height, 1024):
            part = RasterWindow(0, row, first.width, min(1024, first.height - row))
            count += int(np.any(first.read(window=part) != second.read(window=part), axis=0).sum())
    return count


def record_of(plan: BlockPlan, index: int) -> BlockRecord:
    """Return a record that looks like one."""
    name = plan.name(index)
    return BlockRecord(name, plan.part(index), block_file(name), 48_000_000, "0" * 64, masked=False)


def no_work(plan: BlockPlan, index: int) -> Made:
    """Be a block that takes no time."""
    return Made(index, record_of(plan, index), 4, 0, 0.0)


def plan_of(blocks: int) -> BlockPlan:
    """Return a plan of about so many blocks, a thousand to a row."""
    across = min(1000, blocks)
    origin = CORNER // SIDE * SIDE
    return BlockPlan(Window(origin, origin, across * SIDE, blocks // across * SIDE), SIDE)


def scheduled(blocks: int) -> dict[str, Any]:
    """Send blocks without work through a real scheduler and two worker processes."""
    from functools import partial

    from maptile2sat.rendering.cluster import connected

    plan = plan_of(blocks)
    known = 0
    marks: list[float] = []
    with connected("local:2", "cpu") as client, Ledger(plan) as ledger:
        scheduler = client.cluster.scheduler

        def take(made: Made) -> None:
            nonlocal known
            ledger.add(made.index, made.record)
            known = max(known, len(scheduler.tasks))
            if len(ledger) % (blocks // 4) == 0:
                marks.append(round(rss_mb(), 1))

        dispatcher = Dispatcher(client, partial(no_work, plan), take, "bench", print, 60.0)
        start, cpu = time.perf_counter(), time.process_time()
        dispatcher.run(ledger.missing())
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        assert len(ledger) == len(plan)
    return {
        "blocks": len(plan),
        "seconds": round(wall, 1),
        "milliseconds_per_block": round(wall / len(plan) * 1e3, 3),
        "processor_milliseconds_per_block": round(cpu / len(plan) * 1e3, 3),
        "most_tasks_the_scheduler_knew": known,
        "memory_mb_after_each_quarter": marks,
    }


def journalled(blocks: int) -> dict[str, Any]:
    """Write and read the records that lie beside blocks, as workers and a resume do."""
    plan = plan_of(blocks)
    with tempfile.TemporaryDirectory() as folder:
        store = FolderStore(Path(folder) / "out")
        with Claim(store, resume=False, overwrite=False) as claim:
            job = {"format": 1, "block": SIDE}
            claim.describe_job(job)
            start = time.perf_counter()
            for index in range(len(plan)):
                record = record_of(plan, index)
                (store.root / block_file(record.name)).touch()
                os.truncate(store.root / block_file(record.name), record.size)  # takes no room
                store.write(record_file(record.name), record_text(record, identity_of(job)))
            written = time.perf_counter() - start
            claim.kept = True
        with Claim(store, resume=True, overwrite=False) as claim:
            start = time.perf_counter()
            found = sum(1 for _ in claim.records(plan))
            read = time.perf_counter() - start
    assert found == len(plan)
    return {
        "blocks": len(plan),
        "milliseconds_to_write_a_record": round(written / len(plan) * 1e3, 3),
        "milliseconds_to_find_it_again": round(read / len(plan) * 1e3, 3),
    }


def planned(blocks: int) -> dict[str, Any]:
    """Bring a whole run's blocks through plan, ledger and description, without a scheduler."""
    plan = plan_of(blocks)
    before = rss_mb()
    with Ledger(plan) as ledger, tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for index in ledger.missing():
            ledger.add(index, record_of(plan, index))
        noted, held = time.perf_counter() - start, rss_mb() - before
        tags = {"SYNTHETIC": "YES", "MODEL": "maps", "NUMERICS": "none"}
        manifest = Manifest({}, mercator_grid(ZOOM), plan.window, tags, ledger, "2026-01-01T00:00")
        start = time.perf_counter()
        describe(Path(folder), manifest, overview=False)
        described = time.perf_counter() - start
        sizes = {path.name: round(path.stat().st_size / 1e6, 1) for path in Path(folder).iterdir()}
    return {
        "blocks": len(plan),
        "seconds_of_plan_and_ledger": round(noted, 1),
        "memory_mb_of_plan_and_ledger": round(held, 1),
        "seconds_of_description": round(described, 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "description_mb": sizes,
    }


def main() -> None:
    """Run a benchmark, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    fast = commands.add_parser("speed")
    fast.add_argument("--side", type=int, default=16384)
    fast.add_argument("--workers", type=int, default=2)
    alone = commands.add_parser("one")
    alone.add_argument("paths", nargs=2)
    for command in (fast, alone):
        command.add_argument("--model", default="maps")
    small = commands.add_parser("overhead")
    small.add_argument("--blocks", type=int, default=20_000)
    small.add_argument("--planned", type=int, default=1_000_000)
    options = parser.parse_args()
    if options.command == "one":
        one_process(*options.paths, options.model)
    elif options.command == "speed":
        print(json.dumps(speed(options.side, options.workers, options.model), indent=1))
    else:
        for part, count in (
            (scheduled, options.blocks),
            (journalled, min(options.blocks, 20_000)),
            (planned, options.planned),
        ):
            print(json.dumps({part.__name__: part(count)}), flush=True)


if __name__ == "__main__":
    main()
