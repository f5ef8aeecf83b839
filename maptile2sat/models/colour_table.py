"""Maps as a table of their colours and a number per pixel.

A map has few colours, and what a generator first makes of a pixel depends on its colour alone:
it is worked out once per colour and looked up for each pixel.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

TABLE_ROWS = 4096
"""Tables are a multiple of this long, so that few lengths occur."""

ROWS_AT_ONCE = 32
"""Rows of the picture worked on at once: they stay in the processor's cache."""


class ColourTable(NamedTuple):
    """A picture as colours and places.

    Attributes:
        colours: uint8 (n, 3), the colours in ascending order, then black up to a multiple of
            `TABLE_ROWS`.
        places: int32 (height, width), the row of each pixel's colour.
    """

    colours: npt.NDArray[np.uint8]
    places: npt.NDArray[np.int32]


class _Scratch(threading.local):
    """Arrays over all 24-bit colours, one set a thread: new ones would cost more than the work."""

    def __init__(self) -> None:
        self.there = np.zeros(1 << 24, np.bool_)  # all false between calls
        self.row_of = np.zeros(1 << 24, np.int32)


_scratch = _Scratch()


def colour_table(image: npt.NDArray[np.uint8]) -> ColourTable:
    """Return the table of a picture, uint8 (height, width, 3).

    Colours are marked in an array over all of them: no sorting, whatever the picture.
    """
    there, row_of = _scratch.there, _scratch.row_of
    height, width = image.shape[:2]
    places = np.empty((height, width), np.int32)
    wide = np.empty((ROWS_AT_ONCE, width), np.intp)  # what numpy takes as it is for places
    parts = [slice(top, min(top + ROWS_AT_ONCE, height)) for top in range(0, height, ROWS_AT_ONCE)]
    for part in parts:
        keys = wide[: part.stop - part.start]
        keys[...] = image[part, :, 0]
        for channel in (1, 2):
            keys <<= 8
            keys |= image[part, :, channel]
        there[keys] = True
        places[part] = keys
    found = np.flatnonzero(there)
    there[found] = False
    row_of[found] = np.arange(len(found), dtype=np.int32)
    for part in parts:
        keys = wide[: part.stop - part.start]
        keys[...] = places[part]
        row_of.take(keys, out=places[part], mode="clip")  # the other modes copy the output
    colours = np.zeros((-(-len(found) // TABLE_ROWS) * TABLE_ROWS, 3), np.uint8)
    for channel, shift in enumerate((16, 8, 0)):
        colours[: len(found), channel] = found >> shift & 255
    return ColourTable(colours, places)
