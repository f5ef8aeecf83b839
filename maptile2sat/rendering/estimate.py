"""How long cells take on this machine."""

from __future__ import annotations

import time

import numpy as np

from maptile2sat.grid import Window
from maptile2sat.noise import noise
from maptile2sat.translator import NetworkTranslator

PROBE = 512
"""Side in pixels of the cell that is timed on a processor."""


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
