"""What a pixel of map looks like to a generator: its classes and colour, by whole numbers.

It depends on the pixel's colour alone, so it is worked out once for each colour of a map.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from maptile2sat.models.colour_table import ColourTable
from maptile2sat.models.integers import numbers
from maptile2sat.models.integers.model import IntegerModel
from maptile2sat.models.noise import Noise

PALETTE_BITS = 4
"""Colours of a palette are in units of 1/16 level."""

SHARP_BITS = 30
"""Logits are multiplied out in units of 2^-30 and kept in those of the table of exponentials."""

SHARE_BITS, LOOK_BITS = 15, 16
"""Shares of classes are in units of 2^-15, weights of their look of 2^-16."""

COLOURS_AT_ONCE = 1 << 14
_LOGIT_SHIFT = SHARP_BITS - (numbers.EXP_STEPS.bit_length() - 1)


def look_of(model: IntegerModel, colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Return the codes (n, channels) of colours, uint8 (n, 3)."""
    parts = [
        _look_of(model, colours[first : first + COLOURS_AT_ONCE].astype(np.int64))
        for first in range(0, len(colours), COLOURS_AT_ONCE)
    ]
    return np.concatenate(parts)


def _look_of(model: IntegerModel, colours: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
    palette = model.array("palette/palette").astype(np.int64)
    sharpness = model.array("palette/sharpness").astype(np.int64)
    away = (colours << PALETTE_BITS)[:, None] - palette
    logits = -((away * away).sum(-1) * sharpness >> _LOGIT_SHIFT)
    unknown = np.full((len(colours), 1), model.number("palette/unknown"), np.int64)
    logits = np.concatenate([logits, unknown], 1)
    below = np.minimum(logits.max(1, keepdims=True) - logits, numbers.EXP_STEPS * numbers.EXP_LIMIT)
    weights = model.array("palette/exponentials").astype(np.int64)[below]
    total = weights.sum(1, keepdims=True)
    shares = ((weights << SHARE_BITS) + (total >> 1)) // total
    kernel, bias = model.array("look/weights").astype(np.int64), model.array("look/bias")
    sums = shares @ kernel[:-3] + colours @ kernel[-3:] + bias.astype(np.int64)
    shift = model.array("look/shift").astype(np.int64)
    codes = (sums + (np.int64(1) << (shift - 1))) >> shift
    found: npt.NDArray[np.int8] = np.clip(codes, numbers.CODE_MIN, numbers.CODE_MAX).astype(np.int8)
    return found


def spread(table: ColourTable, codes: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Return the codes + 128 of a picture, uint8 (height, width, channels), from its colours'."""
    rows = codes.view(np.uint8) ^ np.uint8(128)
    if rows.shape[1] == 8:  # one word a pixel: five times as fast
        words = rows.view(np.uint64)[:, 0].take(table.places)
        return words.view(np.uint8).reshape(*table.places.shape, 8)
    return rows.take(table.places, axis=0)


def noise_codes(grains: Noise) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return fine and coarse noise as codes + 128: a quarter of the raw values, halves upwards."""
    return _quarter(grains.fine), _quarter(grains.coarse)


def _quarter(raw: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
    codes: npt.NDArray[np.uint8] = np.minimum((raw + np.int16(514)) >> 2, 255).astype(np.uint8)
    return codes
