"""The held-out pairs that are measured, and the squares cut from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from maptile2sat.datasets.layout import Pixels, list_pairs, read_pair
from maptile2sat.errors import UsageError

CROP = 256
"""Side in pixels of what is measured."""

MIN_PAIRS = 4
"""Halves of a set need two pairs each."""

PROTOCOLS = ("crops", "resize")
"""`crops`: squares of the pairs' own pixels; `resize`: each half resized whole to one square."""


class Pair(NamedTuple):
    """A pair to measure.

    Attributes:
        name: Name of its file.
        map: uint8 (side, side, 3).
        real: uint8 (side, side, 3), the aerial photo.
    """

    name: str
    map: Pixels
    real: Pixels


def choose_files(data: Path, limit: int) -> list[Path]:
    """Return at most `limit` pairs of `data/val`, evenly chosen by name.

    Raises:
        TrainingError: If there are none.
        UsageError: If `limit`, or the number of pairs that there are, is below `MIN_PAIRS`.
    """
    if limit < MIN_PAIRS:
        raise UsageError(f"limit {limit}: at least {MIN_PAIRS} pairs are needed to compare sets")
    files = list_pairs(data / "val")
    if len(files) < MIN_PAIRS:
        raise UsageError(
            f"pairs in {data / 'val'}: {len(files)}, and at least {MIN_PAIRS} are needed"
        )
    chosen = np.linspace(0, len(files) - 1, min(limit, len(files))).round().astype(int)
    return [files[index] for index in chosen]


def read_pairs(files: Sequence[Path], map_side: str, protocol: str) -> list[Pair]:
    """Decode pairs, resized to `CROP` for the protocol `resize`.

    Raises:
        TrainingError: If one is damaged.
        UsageError: If there is no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"protocol '{protocol}' is not one of {', '.join(PROTOCOLS)}")
    resize = CROP if protocol == "resize" else 0
    return [Pair(path.name, *read_pair(path, map_side, resize)) for path in files]


def cut_squares(pictures: Sequence[Pixels]) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Cut pictures into the squares of `CROP` pixels that fit, from the middle.

    Args:
        pictures: Each uint8 (side, side, 3), side at least `CROP`.

    Returns:
        uint8 (N, 256, 256, 3), and for each the index of its picture.
    """
    squares, places = [], []
    for index, picture in enumerate(pictures):
        count = picture.shape[0] // CROP
        start = (picture.shape[0] - count * CROP) // 2
        lines = range(start, start + count * CROP, CROP)
        for row in lines:
            for col in lines:
                squares.append(picture[row : row + CROP, col : col + CROP])
                places.append(index)
    return np.stack(squares), places
