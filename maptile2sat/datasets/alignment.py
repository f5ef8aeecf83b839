"""How well maps and aerial images fit: do the edges of one lie on the edges of the other?

Roads, blocks and shores are edges in both. The edge strengths of map and image are
cross-correlated at every shift of a few pixels, and the correlations of many pairs averaged:
where the halves fit, there is one narrow peak. How high it is depends on the map's detail, so
it is put beside the same figure for maps and images of different places.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maptile2sat.datasets.layout import Pixels

REACH = 16
"""Largest shift in pixels that is tried."""

CLEAR = 5.0
"""Height of a peak over the spread around it from which on it counts as one."""

MAP_STEP, IMAGE_STEP = 24.0, 64.0
"""Steps in colour from which on edges of maps and images count in full."""

APART = 3
"""Pixels by which a pair's own shift may differ from that of all."""

_WIDTH = 4
"""Pixels around a peak that belong to it."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Alignment:
    """Where the edges of maps lie in the images.

    Attributes:
        pairs: Pairs that were compared.
        score: Mean correlation of the edges as they lie.
        best_score: The highest at any shift of at most `REACH` pixels.
        right: Pixels by which the images lie to the right of their maps, at the best shift.
        down: Pixels by which they lie below.
        clear: Whether the peak stands out; if not, the shift means nothing.
        elsewhere: Mean correlation of maps with images of other places.
        misplaced: Numbers of pairs whose own edges clearly say another shift than all together.
    """

    pairs: int
    score: float
    best_score: float
    right: int
    down: int
    clear: bool
    elsewhere: float
    misplaced: tuple[int, ...]

    @property
    def fits(self) -> bool:
        """Whether the pairs lie on each other to a pixel or two."""
        return self.clear and max(abs(self.right), abs(self.down)) <= 2


def align(pairs: Iterable[tuple[Pixels, Pixels]]) -> Alignment | None:
    """Compare the edges of pairs (map, image) of any sizes; None without pairs.

    Args:
        pairs: Decoded pairs, which are gone through once.
    """
    total = np.zeros((2 * REACH + 1, 2 * REACH + 1))
    shifts: list[tuple[int, int] | None] = []
    other, others = 0.0, 0
    before: Floats | None = None
    for drawn, image in pairs:
        map_edges, image_edges = edges(drawn, MAP_STEP), edges(image, IMAGE_STEP)
        own = correlation(map_edges, image_edges)
        total += own
        shifts.append(_peak(own) if _clear(own, *_peak(own)) else None)
        if before is not None and before.shape == image_edges.shape:
            other += float(correlation(map_edges, before)[REACH, REACH])
            others += 1
        before = image_edges
    if not shifts:
        return None
    mean = total / len(shifts)
    row, col = _peak(mean)
    return Alignment(
        pairs=len(shifts),
        score=round(float(mean[REACH, REACH]), 4),
        best_score=round(float(mean[row, col]), 4),
        right=col - REACH,
        down=row - REACH,
        clear=_clear(mean, row, col),
        elsewhere=round(other / max(1, others), 4),
        misplaced=tuple(
            number
            for number, shift in enumerate(shifts)
            if shift is not None and max(abs(shift[0] - row), abs(shift[1] - col)) > APART
        ),
    )


def edges(pixels: Pixels, limit: float) -> Floats:
    """Return how strong the edges are, from 0 to 1.

    Args:
        pixels: A picture.
        limit: Step between neighbours from which on edges count in full, so that a few strong
            ones do not decide.
    """
    values = pixels.astype(np.float32)
    across = np.abs(values[1:-1, 2:] - values[1:-1, :-2]).max(-1)
    down = np.abs(values[2:, 1:-1] - values[:-2, 1:-1]).max(-1)
    strength: Floats = np.minimum(np.hypot(across, down), limit) / np.float32(limit)
    return strength


def correlation(first: Floats, second: Floats) -> npt.NDArray[np.float64]:
    """Return the correlation at shifts up to `REACH`, [REACH + down, REACH + right].

    At (down, right) each point of `first` is compared with the one of `second` that lies that
    far down and right.
    """
    a, b = (part - part.mean() for part in (first, second))
    energy = float(np.sqrt((a * a).sum(dtype=np.float64) * (b * b).sum(dtype=np.float64)))
    if energy < 1e-6:
        return np.zeros((2 * REACH + 1, 2 * REACH + 1))
    shape = [side + REACH for side in a.shape]
    product = np.conj(np.fft.rfft2(a, shape)) * np.fft.rfft2(b, shape)
    whole = np.fft.irfft2(product, shape)
    index = np.arange(-REACH, REACH + 1)
    near: npt.NDArray[np.float64] = whole[np.ix_(index, index)] / energy
    return near


def _peak(mean: npt.NDArray[np.float64]) -> tuple[int, int]:
    row, col = np.unravel_index(int(mean.argmax()), mean.shape)
    return int(row), int(col)


def _clear(mean: npt.NDArray[np.float64], row: int, col: int) -> bool:
    """Whether the peak stands out of what is around it."""
    rows, cols = np.ogrid[: mean.shape[0], : mean.shape[1]]
    around = mean[(abs(rows - row) > _WIDTH) | (abs(cols - col) > _WIDTH)]
    return float(mean[row, col] - around.mean()) > CLEAR * float(around.std()) + 0.005
