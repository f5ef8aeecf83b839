"""Maps as a table of their colours and a number per pixel.

A map has few colours, and what a generator first makes of a pixel depends on its colour alone:
it is worked out once per colour and looked up for each pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

ROWS = 4096
"""Tables are a multiple of this long, so that few lengths occur."""


class ColourTable(NamedTuple):
    """A picture as colours and places.

    Attributes:
        colours: uint8 (n, 3), the colours in ascending order, then black up to a multiple of
            `ROWS`.
        places: int32 (height, width), the row of each pixel's colour.
    """

    colours: npt.NDArray[np.uint8]
    places: npt.NDArray[np.int32]


def colour_table(image: npt.NDArray[np.uint8]) -> ColourTable:
    """Return the table of a picture, uint8 (height, width, 3).

    Marks go into an array over all 24-bit colours: no sorting, whatever the picture.
    """
    words = np.zeros((*image.shape[:2], 4), np.uint8)
    words[..., 2::-1] = image  # little-endian: red is the highest byte
    keys = words.view("<i4")[..., 0].astype(np.int32, copy=False)
    there = np.zeros(1 << 24, np.bool_)
    there[keys] = True
    found = np.flatnonzero(there)
    row_of = np.empty(1 << 24, np.int32)
    row_of[found] = np.arange(len(found), dtype=np.int32)
    colours = np.zeros((-(-len(found) // ROWS) * ROWS, 3), np.uint8)
    for channel, shift in enumerate((16, 8, 0)):
        colours[: len(found), channel] = found >> shift & 255
    return ColourTable(colours, row_of.take(keys))
