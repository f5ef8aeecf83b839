"""How long cells take on this machine."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from maptile2sat.grid import Window
from maptile2sat.noise import noise
from maptile2sat.translator import NetworkTranslator

PROBE = 512
"""Side in pixels of the cell that is timed on a processor."""

YEAR = 365.25 * 24 * 3600
"""Seconds from which on a render is not meant."""

LARGE = 10**11
"""Pixels from which on a render may take so long."""


def excess(seconds: float, needed: int, folder: Path | None) -> str:
    """Return what makes a plan one that cannot be meant, in one line; empty if nothing does.

    Args:
        seconds: How long it takes.
        needed: Bytes of disk that it takes, at most.
        folder: Where; None leaves this out.
    """
    said = [f"takes about {seconds / YEAR:,.0f} years on this machine"] if seconds > YEAR else []
    if folder is not None:
        with suppress(OSError):  # a folder that is not there yet, or of which nothing is known
            free = shutil.disk_usage(folder).free
            if needed > free:
                said.append(f"needs up to {_gb(needed)} GB of disk, of which {_gb(free)} are free")
    if not said:
        return ""
    return f"this render {' and '.join(said)}: give a smaller area (--bbox), or a lower --zoom"


def _gb(count: int) -> str:
    return f"{count / 1e9:,.0f}" if count >= 10e9 else f"{count / 1e9:,.2f}"


def seconds_per_cell(translator: NetworkTranslator, cell: Window) -> float:
    """Return how long a cell takes on this machine, the first call's tracing left out.

    A processor is timed with a small cell: an estimate should not take as long as the work. A
    GPU is as fast as it is with its usual cells alone.
    """
    whole = cell.grown(translator.halo)
    if not translator.overlap:
        translator = translator.resized(min(PROBE, translator.cell))
    window = Window(0, 0, translator.cell, translator.cell).grown(translator.halo)
    image = np.full((window.height, window.width, 3), 230, np.uint8)
    batch = [translator.pack(image, noise(0, window))] * translator.batch
    translator.finish(translator.start(batch))
    start = time.perf_counter()
    translator.finish(translator.start(batch))
    seconds = (time.perf_counter() - start) / translator.batch
    return seconds * whole.width * whole.height / window.width**2
