"""Sliced Wasserstein distance of pyramid patches (Karras et al. 2018, arXiv 1710.10196).

Each level of a Laplacian pyramid holds the detail of one scale. Patches of 7x7 pixels are drawn
from it, normalised per channel over the set, and compared through their projections on random
directions: the fine levels tell of texture and sharpness, the coarse ones of layout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

PATCH = 7
PATCHES = 128
"""Patches per picture and level."""

MAX_PATCHES = 1 << 16
"""Patches per level of all pictures together, beyond which each gives fewer."""

DIRECTIONS = 512
COARSEST = 16
"""Side of the smallest level in pixels."""

SCALE = 1000.0
"""The paper's: distances are shown times 1,000."""

_TAPS = np.array([1, 4, 6, 4, 1], np.float32) / 16


def level_sides(side: int) -> list[int]:
    """Return the sides of a pyramid's levels, finest first: side, side / 2, ... 16."""
    sides = []
    while side >= COARSEST:
        sides.append(side)
        side //= 2
    return sides


def laplacian_pyramid(pictures: Floats) -> list[Floats]:
    """Return the levels, finest first, of pictures (N, side, side, 3); the last is a small copy."""
    levels = []
    for _ in level_sides(pictures.shape[1])[1:]:
        smaller = _smooth(pictures)[:, ::2, ::2]
        levels.append(pictures - _enlarge(smaller))
        pictures = smaller
    return [*levels, pictures]


def _smooth(pictures: Floats) -> Floats:
    """Blur with the binomial kernel 1 4 6 4 1 along both axes, mirrored at the border."""
    for axis in (1, 2):
        margin = [(0, 0)] * 4
        margin[axis] = (2, 2)
        wide = np.pad(pictures, margin, mode="reflect")
        length = pictures.shape[axis]
        parts = [
            tap * np.take(wide, range(place, place + length), axis)
            for place, tap in enumerate(_TAPS)
        ]
        pictures = np.add.reduce(parts)
    return pictures


def _enlarge(pictures: Floats) -> Floats:
    """Double the sides: zeros between the pixels, then the same blur times 4."""
    count, high, wide, channels = pictures.shape
    large = np.zeros((count, 2 * high, 2 * wide, channels), np.float32)
    large[:, ::2, ::2] = pictures
    return 4 * _smooth(large)


def draw_patches(pictures: npt.NDArray[np.uint8], seed: int) -> list[Floats]:
    """Return patches of every level, finest first.

    Args:
        pictures: uint8 (N, side, side, 3), the side a power of two.
        seed: Of their places, which are the same for any pictures.

    Returns:
        For each level float32 (N, patches, 7, 7, 3).
    """
    count = min(PATCHES, max(1, MAX_PATCHES // len(pictures)))
    levels: list[list[Floats]] = [[] for _ in level_sides(pictures.shape[1])]
    for index, picture in enumerate(pictures):
        random = np.random.default_rng([seed, 20, index])
        for place, level in enumerate(laplacian_pyramid(picture[None].astype(np.float32))):
            windows = np.lib.stride_tricks.sliding_window_view(level[0], (PATCH, PATCH), (0, 1))
            rows, cols = random.integers(0, windows.shape[0], (2, count))
            levels[place].append(np.moveaxis(windows[rows, cols], 1, -1))
    return [np.stack(level) for level in levels]


def sliced_wasserstein(one: Floats, other: Floats, seed: int = 0) -> float:
    """Return the distance of two sets of patches, times 1,000; 0 for equal sets.

    Args:
        one: Patches (N, patches, 7, 7, 3).
        other: Patches (M, patches, 7, 7, 3).
        seed: Of the directions.
    """
    directions = np.random.default_rng([seed, 21]).normal(size=(DIRECTIONS, PATCH * PATCH * 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    places = directions.astype(np.float32)
    first, second = (_sorted_projections(part, places) for part in (one, other))
    if first.shape != second.shape:
        first, second = _same_length(first, second)
    return float(np.abs(first - second).mean() * SCALE)


def _sorted_projections(patches: Floats, directions: Floats) -> Floats:
    """Return sorted projections (directions, patches) of normalised patches."""
    flat = patches.reshape(-1, PATCH * PATCH, 3)
    mean, spread = flat.mean((0, 1)), flat.std((0, 1))
    flat = (flat - mean) / np.maximum(spread, 1e-6)
    return np.sort(directions @ flat.reshape(len(flat), -1).T, axis=1)


def _same_length(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Bring two rows of sorted values to the shorter length, by their quantiles."""
    length = min(first.shape[1], second.shape[1])

    def cut(values: Floats) -> Any:
        places = (np.arange(length) + 0.5) / length * values.shape[1] - 0.5
        low = np.clip(np.floor(places).astype(int), 0, values.shape[1] - 1)
        high = np.minimum(low + 1, values.shape[1] - 1)
        part = (places - low).astype(np.float32)
        return values[:, low] * (1 - part) + values[:, high] * part

    return cut(first), cut(second)
