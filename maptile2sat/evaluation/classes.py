"""What a map says is on the ground: a few classes that every map style shares.

The colours are those of the styles `maps` (pix2pix maps, 2016) and `osm` (OpenStreetMap
standard, 2020-21). A pixel takes the class of the nearest colour. Pixels far from every colour
(labels, icons, borders) and pixels beside another class (anti-aliased edges pass through the
colours of a third class) have none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]
"""uint8 (height, width): an index into `CLASSES`, or `NONE`."""

CLASSES = ("ground", "water", "green", "road", "building")
NONE = 255
"""Label of pixels that are of no class."""

REACH = 11.0
"""Largest Euclidean distance in RGB to a class's colour; JPEG moves flat colours by about 6."""

MIN_COVER = 0.35
"""Share of pixels with a class below which a style is not taken to be the map's."""

PALETTES: dict[str, dict[str, tuple[str, ...]]] = {
    "maps": {
        "ground": ("eae6de", "e5e2da", "dedad4", "e8dcc4", "e4e4e4"),
        "water": ("b2d2fe", "abc9ff"),
        "green": ("cadeae", "c9e1ab", "bad2ba", "cfe1ab"),
        "road": ("fefefe", "f8a030", "fedb62", "fde293"),
        "building": ("f2f2ea",),
    },
    "osm": {
        "ground": ("f2efe9", "e0dfdf", "f2dad9", "ebdbe8", "eedbc8", "eef0d5", "f2f0e6"),
        "water": ("aad3df", "b5d0d0"),
        "green": (
            "add19e",
            "cdf7c9",
            "c8facc",
            "b7e1b7",
            "cdebb0",
            "aae0cb",
            "c8d7ab",
            "b0cf9f",
            "9dca8a",
            "def6c0",
        ),
        "road": ("fefefe", "f7fabf", "fcd6a4", "f9b29c", "e892a2"),
        "building": ("d9d0c9", "c6b2b0", "bfb0ad"),
    },
}
"""Colours of each class in each style."""


def label(drawn: Pixels, style: str) -> Labels:
    """Return the class of every pixel of a map.

    Args:
        drawn: uint8 (height, width, 3).
        style: A key of `PALETTES`.
    """
    colours, owners = _colours(style)
    packed = drawn.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    found, place = np.unique(packed, return_inverse=True)
    rgb = np.stack([found >> 16, found >> 8 & 255, found & 255], -1).astype(np.float64)
    gap = np.linalg.norm(rgb[:, None] - colours, axis=-1)
    nearest = np.where(gap.min(1) <= REACH, owners[gap.argmin(1)], NONE).astype(np.uint8)
    return _without_edges(nearest[place].reshape(drawn.shape[:2]))


def find_style(maps: Sequence[Pixels]) -> str | None:
    """Return the style whose colours explain most of these maps, None if none does."""
    cover = {
        style: float(np.mean([(label(drawn, style) != NONE).mean() for drawn in maps]))
        for style in PALETTES
    }
    best = max(cover, key=lambda style: cover[style])
    return best if cover[best] >= MIN_COVER else None


def _colours(style: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Return the colours of a style, (N, 3), and the class of each, (N,)."""
    given = [
        (bytes.fromhex(text), CLASSES.index(name))
        for name, texts in PALETTES[style].items()
        for text in texts
    ]
    colours = np.array([list(colour) for colour, _ in given], np.float64)
    return colours, np.array([owner for _, owner in given], np.uint8)


def _without_edges(labels: Labels) -> Labels:
    """Take the label from every pixel whose eight neighbours do not all share it."""
    wide = np.pad(labels, 1, mode="edge")
    high, width = labels.shape
    same = np.ones(labels.shape, bool)
    for down in range(3):
        for across in range(3):
            same &= wide[down : down + high, across : across + width] == labels
    return np.where(same, labels, NONE).astype(np.uint8)
