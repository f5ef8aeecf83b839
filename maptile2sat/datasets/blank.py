"""Whether a map or an image shows anything at all."""

from __future__ import annotations

import numpy as np
from PIL import Image

from maptile2sat.datasets.layout import Pixels

ONE_COLOUR = 0.99
"""Share of a map within `NEAR` levels of its median colour from which on it is blank."""

NEAR = 4

DULL = 3.0
"""Standard deviation in levels, after averaging, below which an image is blank."""

WHITE, GREY = 225, 24
"""Least level of all channels, and most difference between them, of clouds."""

CLOUDY = 0.25
"""Share of an image that may be cloud-white."""

BLACK = 8
"""Highest level of what counts as black: no imagery."""

_POOL = 8


def blank_map(drawn: Pixels) -> bool:
    """Whether nearly all of a map is one colour."""
    some = drawn[::2, ::2].astype(np.int16)
    middle = np.median(some[::4, ::4].reshape(-1, 3), axis=0).astype(np.int16)
    near = (np.abs(some - middle) <= NEAR).all(-1)
    return float(near.mean()) >= ONE_COLOUR


def blank_image(image: Pixels) -> str | None:
    """Say why an image shows nothing: `uniform`, `cloud` or `black`; None if it shows something.

    Averages of 8 x 8 pixels are looked at, so that white roofs and black shadows do not count.
    """
    means = np.asarray(Image.fromarray(image).reduce(_POOL), np.int16)
    if float((means.max(-1) <= BLACK).mean()) > CLOUDY:
        return "black"
    bright = (means.min(-1) >= WHITE) & (means.max(-1) - means.min(-1) <= GREY)
    if float(bright.mean()) > CLOUDY:
        return "cloud"
    return "uniform" if float(means.std(axis=(0, 1)).max()) < DULL else None
