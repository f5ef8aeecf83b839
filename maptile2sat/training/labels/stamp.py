"""Laying marks on a map: turned, scaled, blended, never over one another; where its roads run."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from maptile2sat.datasets.pairs import Pixels
from maptile2sat.training.labels.text import Letters

Colour = tuple[int, int, int]

REACH = 12
"""Pixels around a point in which a road's direction is looked for."""

VISIBLE = 60
"""Opacity 0..255 from which a pixel counts as covered."""


class Place(NamedTuple):
    """Where something may be drawn: its middle in pixels and a direction in radians."""

    x: float
    y: float
    angle: float


class Sheet:
    """A map that is being drawn on.

    Attributes:
        pixels: uint8 (height, width, 3), changed in place.
        taken: bool (height, width), where a mark is already.
    """

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]
        self.taken = np.zeros((self.height, self.width), bool)

    def stamp(
        self,
        mark: Letters,
        size: float,
        place: Place,
        ink: Colour,
        ground: Colour,
        opacity: float = 1.0,
        narrow: float = 1.0,
    ) -> bool:
        """Draw a mark unless it would cover another.

        Args:
            mark: What to draw.
            size: Font size in pixels that it gets.
            place: Where its middle comes and how it is turned.
            ink: Colour of the ink.
            ground: Colour of the halo.
            opacity: Of the halo, 0..1.
            narrow: Factor of its width.

        Returns:
            Whether there was room for it.
        """
        left, top, front, back = _turned(mark, size / mark.em, place.angle, narrow, place)
        rows = slice(max(0, top), min(self.height, top + front.shape[0]))
        cols = slice(max(0, left), min(self.width, left + front.shape[1]))
        if rows.start >= rows.stop or cols.start >= cols.stop:
            return False
        part = (
            slice(rows.start - top, rows.stop - top),
            slice(cols.start - left, cols.stop - left),
        )
        front, back = front[part], back[part]
        covered = (front > VISIBLE) | (back > VISIBLE)
        if (self.taken[rows, cols] & covered).any():
            return False
        self.taken[rows, cols] |= covered
        if opacity:
            _blend(self.pixels, (rows, cols), back, ground, opacity)
        _blend(self.pixels, (rows, cols), front, ink)
        return True

    def line(
        self,
        points: npt.NDArray[np.float64],
        dashes: int,
        width: float,
        ink: Colour,
        opacity: float,
    ) -> None:
        """Draw a line under the marks to come.

        Args:
            points: (N, 2) of x and y in pixels.
            dashes: Steps between points that a dash takes, before a gap of one; 0 for no gaps.
            width: In pixels.
            ink: Its colour.
            opacity: 0..1.
        """
        mask = Image.new("L", (self.width * 2, self.height * 2))
        pen = ImageDraw.Draw(mask)
        length = dashes or len(points)
        for start in range(0, len(points) - 1, length + 1):
            piece = points[start : start + length + 1] * 2
            pen.line([(float(x), float(y)) for x, y in piece], 255, round(2 * width))
        box = mask.getbbox()
        if box is None:
            return
        left, top, right, bottom = (value // 2 * 2 for value in box)
        small = mask.crop((left, top, right + 2, bottom + 2)).reduce(2)
        area = (slice(top // 2, bottom // 2 + 1), slice(left // 2, right // 2 + 1))
        under = self.pixels[area]
        cover = np.asarray(small)[: under.shape[0], : under.shape[1]]
        _blend(self.pixels, area, cover, ink, opacity)


def _turned(
    mark: Letters, scale: float, angle: float, narrow: float, place: Place
) -> tuple[int, int, Pixels, Pixels]:
    """Return left, top, ink and halo of a mark as it comes to lie, both uint8 of one shape."""
    cos, sin = math.cos(angle), math.sin(angle)
    width, height = mark.ink.width * scale * narrow, mark.ink.height * scale
    across = math.ceil(abs(width * cos) + abs(height * sin)) + 2
    down = math.ceil(abs(width * sin) + abs(height * cos)) + 2
    a, b = cos / scale / narrow, sin / scale / narrow
    d, e = -sin / scale, cos / scale
    x0 = mark.ink.width / 2 - (a * across + b * down) / 2
    y0 = mark.ink.height / 2 - (d * across + e * down) / 2
    ink, halo = (
        mask.transform(
            (across, down),
            Image.Transform.AFFINE,
            (a, b, x0, d, e, y0),
            Image.Resampling.BILINEAR,
        )
        for mask in (mark.ink, mark.halo)
    )
    left, top = round(place.x - across / 2), round(place.y - down / 2)
    return left, top, np.asarray(ink), np.asarray(halo)


def _blend(
    canvas: Pixels,
    area: tuple[slice, slice],
    cover: Pixels,
    colour: Colour,
    opacity: float = 1.0,
) -> None:
    """Lay `colour` over an area of the canvas by `cover` 0..255 (height, width), in place."""
    # 256 instead of 255 parts, because a shift is faster than a division
    share: npt.NDArray[np.uint16] = cover.astype(np.uint16) + (cover > 127)
    if opacity < 1.0:
        share = np.right_shift(share * np.uint16(255 * opacity), 8)
    share = share[..., None]
    canvas[area] = (canvas[area] * (256 - share) + np.array(colour, np.uint16) * share) >> 8


def road_places(drawn: Pixels, random: np.random.Generator, tries: int) -> list[Place]:
    """Return points on roads and other straight bands, with their direction.

    The structure tensor of a neighbourhood gives the direction across its edges; where all of
    them agree and the point's colour is not that of the whole, it lies on a band.
    """
    height, width = drawn.shape[:2]
    if min(height, width) <= 2 * REACH:
        return []
    rows = random.integers(REACH, height - REACH, tries)
    cols = random.integers(REACH, width - REACH, tries)
    offset = np.arange(-REACH, REACH + 1)
    # green alone: three times as fast as all, and no style's roads hide from it
    shade = drawn[rows[:, None, None] + offset[:, None], cols[:, None, None] + offset, 1]
    shade = shade.astype(np.float32)
    down = shade[:, 2:, 1:-1] - shade[:, :-2, 1:-1]
    across = shade[:, 1:-1, 2:] - shade[:, 1:-1, :-2]
    xx, yy, xy = (
        np.einsum("nij,nij->n", p, q) for p, q in ((across, across), (down, down), (across, down))
    )
    spread = np.hypot(xx - yy, 2 * xy)
    middle = shade[:, REACH, REACH]
    apart = np.abs(middle - shade.mean((1, 2))) > 4
    good = apart & (spread > 0.6 * (xx + yy)) & (xx + yy > 1e3)
    # the gradient points across the road; wrapped, so that text stands upright
    angle = (0.5 * np.arctan2(2 * xy, xx - yy) + np.pi) % np.pi - np.pi / 2
    near = np.abs(shade - middle[:, None, None]) < 6
    weight = np.maximum(near.sum((1, 2)), 1)
    x = cols + (near * offset).sum((1, 2)) / weight
    y = rows + (near * offset[:, None]).sum((1, 2)) / weight
    return [Place(float(x[i]), float(y[i]), float(angle[i])) for i in np.flatnonzero(good)]
