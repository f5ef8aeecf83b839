"""Response to noise: how far a picture changes when only the seed does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from maptile2sat.evaluation.classes import CLASSES, Labels

Pixels = npt.NDArray[np.uint8]


def noise_response(
    versions: Sequence[npt.NDArray[np.uint8]], labels: Labels | None
) -> dict[str, float]:
    """Return the standard deviation over seeds in levels, mean over pixels and channels.

    That of a few seeds is too small on average; it is put right for normally distributed levels.

    Args:
        versions: For each seed pictures uint8 (N, side, side, 3) of the same maps.
        labels: The maps' classes, uint8 (N, side, side), if known.

    Returns:
        `all`, and the mean of each class that occurs.
    """
    moved = np.stack(versions).astype(np.float32).std(0, ddof=1).mean(-1)
    moved /= _share_seen(len(versions))
    found = {"all": float(moved.mean())}
    if labels is not None:
        for number, name in enumerate(CLASSES):
            mine = labels == number
            if mine.any():
                found[name] = float(moved[mine].mean())
    return found


def _share_seen(count: int) -> float:
    """Return how much of a normal deviation `count` draws show on average, with `count - 1`."""
    return math.sqrt(2.0 / (count - 1)) * math.gamma(count / 2) / math.gamma((count - 1) / 2)
