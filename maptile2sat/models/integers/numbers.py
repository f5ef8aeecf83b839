"""Number formats, rounding and tables of the whole-number generator.

`docs/whole-numbers.md` is the specification. What is here is shared by the conversion of a float
model and by the engines; all of it is exact, on any machine.

* A *code* is a whole number in -128..127; its unit is a power of two.
* A *stream* is a whole number in -32768..32767; its unit is 2^-`STREAM_BITS`.
* A *sum* is what a convolution makes of codes: a whole number of at most `MAX_SUM`, so that
  float32 holds it, and every partial sum of it, exactly.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

CODE_MIN, CODE_MAX = -128, 127
STREAM_MIN, STREAM_MAX = -32768, 32767
STREAM_BITS = 10
"""A stream's unit is 2^-10."""

MAX_SUM = 1 << 23
MAX_WEIGHT = 63
"""Largest weight: 255 * (63 + 63) stays below 2^15, where int8 kernels of AVX2 saturate."""

MAX_SHIFT, MAX_LEAKY_SHIFT = 16, 10
"""Most bits that a sum is shifted down by: more could not be added to 128 exactly in float32."""

SLOPE_NUMERATOR, SLOPE_BITS = 13, 6
"""Leaky ReLU multiplies what is below zero by 13 / 64."""

SQUARE_ROOTS = 255
"""Norms square whole numbers of at most this."""

MAX_CHANNELS = 256
"""Most channels of a norm: 256 * 255^2 is below 2^24."""

SHARE_BITS = 7
"""How far a label is taken off, in 128ths."""

RGB_LIMIT = 4 << STREAM_BITS
"""Streams of colour are cut off here: beyond 4, tanh is white or black."""

EXP_STEPS, EXP_LIMIT = 256, 12
"""The table of the exponential has so many steps for each unit, up to this."""

NORM_EPSILON = 1e-3

GAIN_BITS = 16
"""Gains of a norm are whole multiples of 2^-16, with at most eight bits."""

_MIDDLE, _HIGH = 1 << 12, 1 << 18
_COARSER = 6

Integers = npt.NDArray[Any]


def gain_index(total: Integers) -> Integers:
    """Return the row of the table of gains for sums of squares below 2^24, int64.

    Steps of 1 below 2^12, of 64 below 2^18 and of 4,096 above: less than 1/64 of the sum.
    """
    middle = _MIDDLE - (_MIDDLE >> _COARSER) + (total >> _COARSER)
    high = 2 * (_MIDDLE - (_MIDDLE >> _COARSER)) + (total >> 2 * _COARSER)
    return np.where(total < _MIDDLE, total, np.where(total < _HIGH, middle, high))


INDEX_PIECES = (
    (1.0, 0.0, float(_MIDDLE)),
    (2.0**-_COARSER, float(_MIDDLE - (_MIDDLE >> _COARSER)), float(_HIGH)),
    (2.0 ** (-2 * _COARSER), float(2 * (_MIDDLE - (_MIDDLE >> _COARSER))), math.inf),
)
"""`gain_index` as (factor, offset, below): floor(sum * factor) + offset for sums below that."""

GAIN_ROWS = 2 * (_MIDDLE - (_MIDDLE >> _COARSER)) + _MIDDLE
"""Rows of a table of gains."""


def gain_table(channels: int, square_shift: int, codes: float) -> npt.NDArray[np.int32]:
    """Return a norm's gains, in units of 2^-`GAIN_BITS`, by the row that `gain_index` gives.

    Args:
        channels: Channels whose squares are summed.
        square_shift: Bits by which streams are shifted down before they are squared.
        codes: How many units of the coarsest codes that the norm makes come to 1.
    """
    rows = np.arange(GAIN_ROWS, dtype=np.float64)
    lower = np.where(rows < _MIDDLE, rows, 0.0)
    edge = _MIDDLE - (_MIDDLE >> _COARSER)
    step = 1 << _COARSER
    is_middle = (rows >= _MIDDLE) & (rows < _MIDDLE + edge)
    lower = np.where(is_middle, (rows - edge + 0.5) * step, lower)
    is_high = rows >= _MIDDLE + edge
    lower = np.where(is_high, (rows - 2 * edge + 0.5) * step * step, lower)
    unit = 2.0 ** (square_shift - STREAM_BITS)
    gains = codes * 2.0**-STREAM_BITS / np.sqrt(lower * unit * unit / channels + NORM_EPSILON)
    whole = gains * (1 << GAIN_BITS)
    # eight bits: then a stream times a gain is exact in float32
    spare = np.maximum(np.ceil(np.log2(np.maximum(whole, 1.0) + 1)) - 8, 0)
    rounded = np.rint(whole / 2**spare) * 2**spare
    table: npt.NDArray[np.int32] = np.minimum(rounded, 255 * 2.0**20).astype(np.int32)
    return table


def tanh_table() -> npt.NDArray[np.uint8]:
    """Return the level 0..255 of each stream of colour from -`RGB_LIMIT` to `RGB_LIMIT`."""
    values = np.arange(-RGB_LIMIT, RGB_LIMIT + 1) / (1 << STREAM_BITS)
    return np.clip(np.rint((np.tanh(values) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def exp_table() -> npt.NDArray[np.int32]:
    """Return 65,535 exp(-i / `EXP_STEPS`), rounded, for i in 0..`EXP_STEPS` * `EXP_LIMIT`."""
    steps = np.arange(EXP_STEPS * EXP_LIMIT + 1) / EXP_STEPS
    return np.rint(65535.0 * np.exp(-steps)).astype(np.int32)


def two_to(exponents: Any) -> npt.NDArray[np.float32]:
    """Return powers of two: exact everywhere, which `exp2` of a library need not be."""
    powers: npt.NDArray[np.float32] = np.ldexp(np.float32(1), np.asarray(exponents, np.int32))
    return powers


def power_of_two(value: float | Integers) -> Any:
    """Return the smallest exponent n with `value` <= 2^n."""
    return np.ceil(np.log2(np.maximum(value, 1e-12))).astype(int)
