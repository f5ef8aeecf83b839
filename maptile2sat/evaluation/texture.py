"""Texture within each class of the map: how strong it is, and how far it hangs together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from maptile2sat.evaluation.classes import CLASSES, Labels
from maptile2sat.evaluation.spectrum import LUMA

Floats = npt.NDArray[np.float64]

LAGS = (1, 2, 4, 8)
"""Pixels between the two points of an autocorrelation."""

MIN_PIXELS = 1500
"""Pixels of a class in a picture below which its texture is not measured."""


class Texture(NamedTuple):
    """Texture of pictures by class; nan where a picture has too little of a class.

    Attributes:
        std: Standard deviation of grey values in levels, (N, classes).
        correlation: Correlation of grey values that lie `LAGS` apart, (N, classes, lags).
    """

    std: Floats
    correlation: Floats


def measure_texture(pictures: npt.NDArray[np.uint8], labels: Labels) -> Texture:
    """Measure pictures.

    Args:
        pictures: uint8 (N, side, side, 3).
        labels: Their maps' classes, uint8 (N, side, side).
    """
    std = np.full((len(pictures), len(CLASSES)), np.nan)
    correlation = np.full((len(pictures), len(CLASSES), len(LAGS)), np.nan)
    for index, (picture, classes) in enumerate(zip(pictures, labels, strict=True)):
        grey = picture @ LUMA
        for number in range(len(CLASSES)):
            mine = classes == number
            if mine.sum() >= MIN_PIXELS:
                values = grey - grey[mine].mean()
                std[index, number] = values[mine].std()
                correlation[index, number] = [_correlation(values, mine, lag) for lag in LAGS]
    return Texture(std, correlation)


def _correlation(values: Floats, mine: npt.NDArray[np.bool_], lag: int) -> float:
    """Return the correlation of pixels `lag` apart, both of the class; 1 if all are equal."""
    products, squares = 0.0, 0.0
    for axis in (0, 1):
        one, other = (np.moveaxis(values, axis, 0)[part] for part in _apart(lag))
        both = np.logical_and(*(np.moveaxis(mine, axis, 0)[part] for part in _apart(lag)))
        products += float((one * other)[both].sum())
        squares += float((one**2 + other**2)[both].sum()) / 2
    return products / squares if squares > 0 else 1.0


def _apart(lag: int) -> tuple[slice, slice]:
    return slice(None, -lag), slice(lag, None)


def class_means(values: Floats) -> Floats:
    """Return the mean over pictures of what is known, nan for a class that none shows."""
    known = ~np.isnan(values)
    count = known.sum(0)
    sums = np.where(known, values, 0).sum(0)
    return np.where(count > 0, sums / np.maximum(count, 1), np.nan)


def std_distance(one: Floats, other: Floats) -> float:
    """Return the mean over classes of |ln(std / std)|: 0.1 is about ten per cent.

    nan if no class is in both.
    """
    gap = np.abs(np.log((class_means(one) + 0.5) / (class_means(other) + 0.5)))
    return _mean_known(gap)


def correlation_distance(one: Floats, other: Floats) -> float:
    """Return the mean over classes and lags of the difference of autocorrelations, 0..2."""
    return _mean_known(np.abs(class_means(one) - class_means(other)))


def _mean_known(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
