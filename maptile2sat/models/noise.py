"""World-coordinate noise: the z of the conditional GAN as a pure function of place and seed.

A value depends only on (seed, column, row, octave). It is made with integer arithmetic alone,
so that every machine makes the same bits, and it has no period. Octaves coarser than a pixel
live on their own lattice of the world grid and are interpolated between its points with
weights that are exact in binary, so that a window read alone equals the same part of a larger.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from maptile2sat.errors import UsageError
from maptile2sat.geo.grid import Window

COARSE_STEP = 4
"""Pixels between two values of `Noise.coarse`: the stride of the `local` generator."""

COARSE_OCTAVES = (4, 16, 64)
"""Lattice spacings in pixels of the channels of `Noise.coarse`; the fine octave is 1 px."""

UNIT = 147.8
"""Standard deviation of the raw values (sum of four bytes uniform in 0..255)."""

ROWS_AT_ONCE = 32
"""Rows hashed at once: what is worked on stays in the processor's cache."""

MAX_SEED = 2**32 - 1
"""Largest seed."""

Int16s = npt.NDArray[np.int16]
Words = npt.NDArray[np.uint32]


class Noise(NamedTuple):
    """Raw noise of a window; divide by `UNIT` for unit variance (coarse octaves: at most 1).

    Attributes:
        fine: int16 (height, width, 1), -510..510, one value a pixel.
        coarse: int16 (height / 4, width / 4, 3), -510..510, one channel per coarse octave.
    """

    fine: Int16s
    coarse: Int16s


def noise(seed: int, window: Window, wrap: int | None = None) -> Noise:
    """Return the noise of `window`.

    Args:
        seed: 0..2^32-1.
        window: Its corner and size must be multiples of `COARSE_STEP`.
        wrap: Columns of the world, after which the noise repeats, if the grid wraps.

    Raises:
        UsageError: If the seed is out of range.
    """
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"seed {seed} is not in 0..{MAX_SEED}")
    if any(value % COARSE_STEP for value in window):
        raise ValueError(f"{window} is not aligned to {COARSE_STEP} pixels")
    cols = np.arange(window.col, window.right, dtype=np.int64)
    rows = np.arange(window.row, window.bottom, dtype=np.int64)
    if wrap is not None:
        cols %= wrap
    fine = _lattice(seed, 1, cols, rows)[..., None]
    middles = COARSE_STEP // 2
    coarse = [
        _octave(seed, step, cols[::COARSE_STEP] + middles, rows[::COARSE_STEP] + middles, wrap)
        for step in COARSE_OCTAVES
    ]
    return Noise(fine, np.stack(coarse, axis=-1))


def _octave(
    seed: int,
    step: int,
    cols: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    wrap: int | None,
) -> Int16s:
    """Interpolate the lattice of spacing `step` at pixel corners `cols` x `rows`."""
    if step == COARSE_STEP:
        return _lattice(seed, step, cols // step, rows // step)
    left, across = np.divmod(cols, step)
    top, down = np.divmod(rows, step)
    xs = np.unique(np.concatenate([left, left + 1]))
    ys = np.unique(np.concatenate([top, top + 1]))
    turn = wrap // step if wrap is not None and wrap % step == 0 else None
    values = _lattice(seed, step, xs if turn is None else xs % turn, ys).astype(np.int32)
    i, i_next = np.searchsorted(xs, left), np.searchsorted(xs, left + 1)
    j, j_next = np.searchsorted(ys, top), np.searchsorted(ys, top + 1)
    rows_upper, rows_lower = values[j], values[j_next]
    upper = rows_upper[:, i] * (step - across) + rows_upper[:, i_next] * across
    lower = rows_lower[:, i] * (step - across) + rows_lower[:, i_next] * across
    mixed = upper * (step - down)[:, None] + lower * down[:, None]
    return np.asarray(mixed // (step * step), np.int16)


def _lattice(
    seed: int, octave: int, cols: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> Int16s:
    """Hash lattice points to the centred sum of four bytes, int16 (rows, cols)."""
    key = _mix(
        np.array([seed & 0xFFFFFFFF], np.uint32) ^ np.uint32(octave * 0x9E3779B1 & 0xFFFFFFFF)
    )
    down = _mix(_mix(_low(rows) ^ key) ^ _high(rows))
    across = _mix(_mix(_low(cols) + np.uint32(0x85EBCA77)) ^ _high(cols))
    made = np.empty((len(rows), len(cols)), np.int16)
    for top in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(top, top + ROWS_AT_ONCE)
        word = _mix_in_place(down[part, None] ^ across)
        pairs = word & np.uint32(0x00FF00FF)  # the four bytes, added up two by two
        word >>= np.uint32(8)
        word &= np.uint32(0x00FF00FF)
        pairs += word
        made[part] = (pairs & np.uint32(0xFFFF)) + (pairs >> np.uint32(16))
    made -= 510
    return made


def _low(values: npt.NDArray[np.int64]) -> Words:
    return (values & 0xFFFFFFFF).astype(np.uint32)


def _high(values: npt.NDArray[np.int64]) -> Words:
    return ((values >> 32) & 0xFFFFFFFF).astype(np.uint32)


def _mix(word: Words) -> Words:
    """Scramble 32-bit words; see `_mix_in_place`."""
    return _mix_in_place(word.copy())


def _mix_in_place(word: Words) -> Words:
    """Scramble 32-bit words so that every input bit moves every output bit.

    The multipliers are those of Chris Wellons' low-bias integer hash (lowbias32).
    """
    word ^= word >> np.uint32(16)
    word *= np.uint32(0x7FEB352D)
    word ^= word >> np.uint32(15)
    word *= np.uint32(0x846CA68B)
    word ^= word >> np.uint32(16)
    return word
