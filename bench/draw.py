"""Time `draw` by stage, in processor seconds of one run.

    python bench/draw.py [EXTRACT.osm.pbf] [--style maps] [--zoom 16]

Without an extract it fetches the one of the sample (`examples/fetch_helsinki.py`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from maptile2sat import drawing
from maptile2sat.sources import osm

STAGES = {
    "read and sort the extract": (osm, "read_extract"),
    "lay out what is drawn": (osm, "Scene"),
    "paint": (osm, "paint_tile"),
    "encode as PNG": (drawing, "_png"),
}


@contextmanager
def timed_stages() -> Iterator[dict[str, float]]:
    """Give the processor seconds spent in each stage within the block."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            inner, start = sum(seconds.values()), time.process_time()
            made = work(*given, **named)
            # a stage that calls another does not count it as its own
            seconds[stage] += time.process_time() - start - (sum(seconds.values()) - inner)
            return made

        return run

    with ExitStack() as stack:
        for stage, (module, name) in STAGES.items():
            replaced = timed(stage, getattr(module, name))
            stack.enter_context(mock.patch.object(module, name, replaced))
        yield seconds


def main() -> None:
    """Run the benchmark and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extract", type=Path, nargs="?")
    parser.add_argument("--style", default="maps")
    parser.add_argument("--zoom", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        extract = options.extract or _fetched(Path(scratch))
        output = Path(scratch, "map.mbtiles")
        settings = {"style": options.style, "zoom": options.zoom}
        drawing.draw(extract, output, **settings)  # imports, caches
        with timed_stages() as seconds:
            start = time.process_time()
            made = drawing.draw(extract, output, overwrite=True, **settings)
            total = time.process_time() - start
    rest = {"all else": total - sum(seconds.values())}
    print(
        json.dumps(
            {
                "tiles": made.tiles,
                "seconds": round(total, 3),
                "share": {name: round(t / total, 3) for name, t in {**seconds, **rest}.items()},
            },
            indent=2,
        )
    )


def _fetched(folder: Path) -> Path:
    script = Path(__file__).parents[1] / "examples" / "fetch_helsinki.py"
    subprocess.run([sys.executable, script, folder], check=True)
    return folder / "Helsinki.osm.pbf"


if __name__ == "__main__":
    main()
