"""Seams: do neighbouring pixels differ more across the borders of cells than beside them?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


BESIDE = 16
"""Pixels on either side of a border with which it is compared: the same ground and texture."""


class Steps(NamedTuple):
    """Differences between neighbouring pixels of a picture, summed over rows and columns.

    Attributes:
        border: Sum over pairs of pixels on either side of a border.
        borders: How many such pairs there are.
        inside: Sum over pairs up to `BESIDE` pixels from a border.
        insides: How many.
    """

    border: float
    borders: int
    inside: float
    insides: int


def measure_steps(picture: Pixels, borders: Sequence[int]) -> Steps:
    """Measure a picture.

    Args:
        picture: uint8 (side, side, 3).
        borders: Columns, and rows, at which a new cell begins.
    """
    totals = [0.0, 0, 0.0, 0]
    for axis in (0, 1):
        gaps = np.abs(np.diff(picture.astype(np.float64), axis=axis)).mean(-1)
        lines = np.moveaxis(gaps, axis, 0)
        places = np.arange(1, len(lines) + 1)
        gap = np.abs(places[:, None] - np.array(borders, int)).min(axis=1, initial=len(places))
        for place, part in ((0, lines[gap == 0]), (2, lines[(gap > 0) & (gap <= BESIDE)])):
            totals[place] += float(part.sum())
            totals[place + 1] += part.size
    border, count, inside, others = totals
    return Steps(border, int(count), inside, int(others))


def seam_ratio(steps: Sequence[Steps]) -> float:
    """Return the mean step across borders over the mean step beside them; about 1 without seams.

    nan if there is no border; 1 if all pixels are equal.
    """
    border, borders, inside, insides = (sum(values) for values in zip(*steps, strict=True))
    if not borders or not insides:
        return float("nan")
    if inside == 0:
        return 1.0 if border == 0 else float("inf")
    return float((border / borders) / (inside / insides))
