"""Time and peak memory of renders as the area grows: a table, and a picture of it.

    python bench/scaling.py [--sides 2048 4096 8192 16384] [--model maps] [-o bench/scaling.png]

Each size runs in a process of its own, so that its peak memory is its own. The CPU time is what
tells about growth on a machine that does other things too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import clocks, write_map

SIDES = (2048, 4096, 8192, 16384)


def one(drawn: str, output: str, model: str) -> dict[str, Any]:
    """Render one map in this process, TensorFlow loaded before the clock starts."""
    from maptile2sat import render

    render(None, output, model=model, overwrite=True)
    with clocks() as times:
        made = render(drawn, output, model=model, overwrite=True)
    pixels = made.width * made.height
    return {
        "side": made.width,
        "cells": made.cells,
        "wall_seconds": round(times["wall"], 1),
        "cpu_seconds": round(times["cpu"], 1),
        "generator_seconds": made.generator_seconds,
        "cpu_microseconds_per_pixel": round(times["cpu"] / pixels * 1e6, 3),
        "peak_rss_mb": made.peak_rss_mb,
        "file_mb": round(Path(output).stat().st_size / 1e6, 1),
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot time per pixel and peak memory over the side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    sides = [row["side"] for row in rows]
    for place, (name, title) in enumerate(
        (
            ("cpu_microseconds_per_pixel", "CPU microseconds per output pixel"),
            ("peak_rss_mb", "peak memory, MB"),
        ),
        start=1,
    ):
        axes = figure.add_subplot(1, 2, place)
        axes.plot(sides, [row[name] for row in rows], "o-", color="#1f6f8b")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sides, [f"{side:,}" for side in sides])
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("side of the rendered square, pixels", fontsize=9)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the benchmark, print JSON, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--model", default="maps")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).with_name("scaling.png")
    )
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(*options.one, options.model)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for side in options.sides:
            drawn, output = Path(scratch) / "map.tif", Path(scratch) / "out.tif"
            write_map(drawn, side)
            command = [sys.executable, __file__, "--model", options.model]
            done = subprocess.run(
                [*command, "--one", str(drawn), str(output)], stdout=subprocess.PIPE, check=True
            )
            rows.append(json.loads(done.stdout))
            print(json.dumps(rows[-1]), flush=True)
    draw(rows, options.output)


if __name__ == "__main__":
    main()
