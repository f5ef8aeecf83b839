"""From pictures with transparency to colours and a mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from maptile2sat.source import Read
from maptile2sat.sources.options import Colour

OPAQUE_FROM = 128
"""Alpha from which on a pixel counts as map."""

GROUND = 0.5
"""Share of a picture's pixels that its ground takes at least, if signs are strewn over it."""

PARTS = 4
"""Parts along a side of a picture that are compared."""

EVEN = (0.6, 1.5)
"""Share of signs in a part of a pattern, over that in the whole: 0.75 to 1.13 in the woods of
OpenStreetMap's standard style, 0 somewhere in pictures of text that were tried."""


def flatten(rgba: npt.NDArray[np.uint8], fill: Colour) -> Read:
    """Lay a picture over `fill`; what is more transparent than not has no data.

    Args:
        rgba: uint8 (height, width, 4), alpha not premultiplied.
        fill: The colour behind partly transparent pixels.
    """
    alpha = rgba[..., 3]
    valid = alpha >= OPAQUE_FROM
    mask = np.where(valid, np.uint8(255), np.uint8(0))
    image = np.ascontiguousarray(rgba[..., :3])
    if not valid.all():
        image[~valid] = 0
    partly = valid & (alpha < 255)
    if partly.any():
        weight = alpha[partly][:, None].astype(np.uint32)
        over = image[partly].astype(np.uint32) * weight
        over += np.array(fill, np.uint32) * (255 - weight)
        image[partly] = (over + 127) // 255
    return Read(image, mask)


def halve(rgba: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Average 2x2 pixels, colours weighted by their alpha."""
    height, width = rgba.shape[:2]
    blocks = rgba.astype(np.uint32).reshape(height // 2, 2, width // 2, 2, 4)
    alpha = blocks[..., 3:]
    total = alpha.sum(axis=(1, 3))
    colour = (blocks[..., :3] * alpha).sum(axis=(1, 3))
    safe = np.maximum(total, 1)
    halved = np.concatenate([(colour + safe // 2) // safe, (total + 2) // 4], axis=-1)
    return halved.astype(np.uint8)


def may_repeat(read: Read) -> bool:
    """Whether a picture may honestly be that of many places: one colour, or a pattern.

    Sea, fields and hatched woods repeat from tile to tile; a picture of text neither repeats inside
    itself nor is spread evenly over its ground.
    """
    if not read.mask.any():
        return True
    pixels = np.dstack([read.image, read.mask])
    if (pixels == pixels[0, 0]).all():
        return True
    half = pixels.shape[0] // 2
    return bool(
        np.array_equal(pixels[:half], pixels[half:])
        or np.array_equal(pixels[:, :half], pixels[:, half:])
        or _strewn(pixels)
    )


def _strewn(pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether signs are strewn over the ground of a picture, about as many in all parts of it.

    Patterns are often as large as a tile: the trees, scrub and rocks of OpenStreetMap's standard
    style repeat after 256 or 512 px, and not before.
    """
    codes = np.ascontiguousarray(pixels).view(np.uint32)[..., 0]
    colours, counts = np.unique(codes, return_counts=True)
    if counts.max() < GROUND * codes.size:
        return False
    part = codes.shape[0] // PARTS
    signs = (codes != colours[counts.argmax()]).reshape(PARTS, part, PARTS, part).mean(axis=(1, 3))
    low, high = (share * signs.mean() for share in EVEN)
    return bool(low <= signs.min() and signs.max() <= high)
