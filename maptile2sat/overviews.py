"""Smaller copies of a render for its overviews: each level half the one before.

GDAL would make them too, by cubic convolution, and takes as long for it as for everything else
in a COG (`bench/README.md`); a mean of two by two pixels costs a seventh and never rings.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from maptile2sat.grid import Window
from maptile2sat.raw_blocks import RawBlocks

PART = 2048
"""Side in pixels of what is halved at once."""

Pixels = npt.NDArray[np.uint8]


def halved(image: Pixels, mask: Pixels) -> tuple[Pixels, Pixels]:
    """Return a picture at half its size: the mean of the valid pixels of each two by two.

    Args:
        image: uint8 (height, width, 3).
        mask: uint8 (height, width), 255 valid, 0 not.

    Returns:
        Image and mask of ceil(height / 2) x ceil(width / 2); a pixel is valid if any of its
        four is, and black if none is. Halves are rounded up.
    """
    if mask.all():
        small = np.asarray(Image.fromarray(image).reduce(2))
        return small, np.full(small.shape[:2], 255, np.uint8)
    height, width = mask.shape
    odd = ((0, height % 2), (0, width % 2))
    valid = np.pad(mask > 0, odd)
    colours = np.pad(image, (*odd, (0, 0))) * valid[..., np.newaxis]
    count = _sums(valid)
    rounded = _sums(colours) + (count // 2)[..., np.newaxis]
    small = (rounded // np.maximum(count, 1)[..., np.newaxis]).astype(np.uint8)
    return small, np.where(count > 0, 255, 0).astype(np.uint8)


def _sums(values: npt.NDArray[np.bool_] | Pixels) -> npt.NDArray[np.uint16]:
    """Return the sum of each two by two."""
    wide = values.astype(np.uint16)
    tall = wide[0::2] + wide[1::2]
    return np.asarray(tall[:, 0::2] + tall[:, 1::2], np.uint16)


def level_sizes(width: int, height: int, block: int) -> list[tuple[int, int]]:
    """Return (width, height) of the overviews of a COG: down to one that is a single block."""
    sizes: list[tuple[int, int]] = []
    while max(width, height) > block:
        width, height = -(-width // 2), -(-height // 2)
        sizes.append((width, height))
    return sizes


def make_overviews(blocks: RawBlocks, block: int) -> None:
    """Halve a render again and again, and have its VRT name what came out.

    Args:
        blocks: The render, open; the levels go into folders beside its files.
        block: Side in pixels of the COG's blocks.

    Raises:
        OSError: If the disk does not take them.
    """
    above = blocks
    blocks.overviews.clear()
    for number, (width, height) in enumerate(
        level_sizes(blocks.window.width, blocks.window.height, block), start=1
    ):
        folder = Path(blocks.folder, f"overview{number}")
        folder.mkdir(exist_ok=True)
        level = RawBlocks(folder, Window(0, 0, width, height))
        level.masked = blocks.masked
        _halve(above, level)
        blocks.overviews.append(level)
        above = level


def _halve(above: RawBlocks, level: RawBlocks) -> None:
    """Fill `level` from the one above it, part by part."""
    origin = above.window
    for part in _parts(level.window):
        wide = Window(
            origin.col + 2 * part.col, origin.row + 2 * part.row, 2 * part.width, 2 * part.height
        )
        level.write(part, *halved(*above.read(wide.intersection(origin))))


def _parts(window: Window) -> Iterator[Window]:
    for row in range(0, window.height, PART // 2):
        for col in range(0, window.width, PART // 2):
            yield Window(col, row, PART // 2, PART // 2).intersection(window)
