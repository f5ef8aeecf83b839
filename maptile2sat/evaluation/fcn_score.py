"""FCN-score: does a network that knows real images find in a picture what its map says?

After Isola et al. 2017 (arXiv 1611.07004, section 4.1), with the network of `fcn.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from maptile2sat.evaluation.classes import CLASSES, NONE, Labels

MIN_PIXELS = 1000
"""A class with fewer pixels in the maps has no intersection over union: too few to say."""


class Score(NamedTuple):
    """How well classes were found.

    Attributes:
        accuracy: Share of labelled pixels with the map's class, 0..1.
        mean_iou: Mean of `iou`, 0..1.
        iou: Intersection over union by class.
    """

    accuracy: float
    mean_iou: float
    iou: dict[str, float]


class Confusion:
    """Counts of (class of the map, class read from the picture)."""

    def __init__(self) -> None:
        self._counts: npt.NDArray[np.int64] = np.zeros((len(CLASSES), len(CLASSES)), np.int64)

    def add(self, labels: Labels, found: Labels) -> None:
        """Count pictures, uint8 of one shape; pixels that the map gives no class are left out."""
        known = labels != NONE
        pairs = labels[known].astype(np.int64) * len(CLASSES) + found[known]
        counts = np.bincount(pairs, minlength=self._counts.size)
        self._counts += counts.reshape(self._counts.shape)

    def score(self) -> Score:
        """Return the score of what was counted; nan where nothing was."""
        right, mapped = np.diag(self._counts), self._counts.sum(1)
        either = mapped + self._counts.sum(0) - right
        iou = {
            name: float(right[index] / either[index])
            for index, name in enumerate(CLASSES)
            if mapped[index] >= MIN_PIXELS
        }
        total = int(mapped.sum())
        accuracy = float(right.sum() / total) if total else float("nan")
        mean = float(np.mean(list(iou.values()))) if iou else float("nan")
        return Score(accuracy, mean, iou)
