"""Sample sheets: fixed validation crops as map, generated image and real photo, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maptile2sat.datasets.layout import Pixels
from maptile2sat.grid import Window
from maptile2sat.noise import noise
from maptile2sat.training.pairs import Pairs

CROP = 256
GAP = 4


def choose(pairs: Pairs, count: int) -> list[tuple[Pixels, Pixels]]:
    """Return `count` fixed (map, image) pairs, whole but cut to a multiple of 16 px."""
    step = max(1, len(pairs) // count)
    chosen = []
    for index in range(0, step * count, step)[:count]:
        pair = pairs[min(index, len(pairs) - 1)]
        side = pair.map.shape[0] // 16 * 16
        chosen.append((pair.map[:side, :side], pair.image[:side, :side]))
    return chosen


def draw(model: Any, chosen: list[tuple[Pixels, Pixels]], path: Path) -> None:
    """Generate from each map, put all side by side, and write a PNG (whole or not at all).

    Args:
        model: A `local` generator.
        chosen: What `choose` returned.
        path: The picture to write.
    """
    rows = []
    for index, (drawn, image) in enumerate(chosen):
        side = drawn.shape[0]
        grains = noise(1, Window(4096 * index, 0, side, side))
        inputs = [drawn.astype(np.float32), grains.fine, grains.coarse]
        batch = [np.asarray(part)[None] for part in inputs]
        made = np.asarray(model(batch, training=False))[0]
        fake = np.clip(np.rint((made + 1.0) * 127.5), 0, 255).astype(np.uint8)
        low = (side - CROP) // 2
        middle = slice(low, low + CROP)
        gap = np.full((CROP, GAP, 3), 255, np.uint8)
        parts = [part[middle, middle] for part in (drawn, fake, image)]
        rows.append(np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1))
    line = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    stacked = [part for row in rows for part in (row, line)][:-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    Image.fromarray(np.concatenate(stacked)).save(temporary, "PNG")
    temporary.replace(path)
