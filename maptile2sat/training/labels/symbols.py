"""Shields, arrows and icons of maps as masks, drawn from simple shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from maptile2sat.training.labels.text import Letters, letters

SIDE = 24
"""Side in pixels of an icon's mask, about twice the size that it gets."""

FINE = 4
"""Shapes are drawn this many times larger, then averaged, because Pillow's have hard edges."""

Pen = Any
"""A `PIL.ImageDraw.ImageDraw` whose unit is 1/96 of an icon's side."""

Polygon = list[tuple[float, float]]


def _bus(pen: Pen) -> None:
    pen.rounded_rectangle((18, 10, 78, 78), 10, 255)
    pen.rectangle((26, 22, 70, 46), 0)
    for x in (22, 58):
        pen.rectangle((x, 78, x + 16, 90), 255)


def _cross(pen: Pen) -> None:
    pen.rectangle((42, 8, 54, 90), 255)
    pen.rectangle((22, 28, 74, 40), 255)


def _food(pen: Pen) -> None:
    for x in (22, 32, 42):
        pen.rectangle((x, 8, x + 4, 36), 255)
    pen.rectangle((22, 34, 46, 42), 255)
    pen.rectangle((30, 40, 38, 90), 255)
    pen.ellipse((58, 6, 78, 50), 255)
    pen.rectangle((66, 40, 74, 90), 255)


def _peak(pen: Pen) -> None:
    pen.polygon([(48, 14), (88, 82), (8, 82)], 255)


def _tree(pen: Pen) -> None:
    pen.ellipse((18, 6, 78, 62), 255)
    pen.rectangle((42, 56, 54, 90), 255)


def _dot(pen: Pen) -> None:
    pen.ellipse((28, 28, 68, 68), 255)


def _ring(pen: Pen) -> None:
    pen.ellipse((20, 20, 76, 76), outline=255, width=12)


def _star(pen: Pen) -> None:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    reach = np.where(np.arange(10) % 2, 18, 44)
    pen.polygon(
        [(48 + r * np.cos(a), 48 + r * np.sin(a)) for r, a in zip(reach, angles, strict=True)], 255
    )


def _bed(pen: Pen) -> None:
    pen.rectangle((8, 20, 16, 84), 255)
    pen.rectangle((8, 54, 88, 68), 255)
    pen.rectangle((80, 54, 88, 84), 255)
    pen.ellipse((20, 34, 42, 54), 255)


def _bag(pen: Pen) -> None:
    pen.rectangle((18, 34, 78, 88), 255)
    pen.arc((32, 8, 64, 58), 180, 360, 255, 8)


def _lights(pen: Pen) -> None:
    pen.rounded_rectangle((32, 6, 64, 90), 10, 255)
    for y in (14, 40, 66):
        pen.ellipse((40, y, 56, y + 16), 0)


def _pin(pen: Pen) -> None:
    pen.ellipse((20, 4, 76, 60), 255)
    pen.polygon([(24, 44), (72, 44), (48, 94)], 255)
    pen.ellipse((38, 22, 58, 42), 0)


def _gate(pen: Pen) -> None:
    pen.line((14, 20, 14, 80), 255, 10)
    pen.line((82, 20, 82, 80), 255, 10)
    pen.line((14, 34, 82, 66), 255, 10)


SHAPES: tuple[Callable[[Pen], None], ...] = (
    _bus, _cross, _food, _peak, _tree, _dot, _ring, _star, _bed, _bag, _lights, _pin, _gate,
)  # fmt: skip
MARKS = ("P", "M", "H", "S", "U", "i", "T")
"""Letters that stand in badges: parking, stations, hospitals, information."""

BADGES = ("none", "disc", "square")
ICONS = tuple((shape, badge) for shape in range(len(SHAPES) + len(MARKS)) for badge in BADGES)
"""Every icon: its number (shapes, then marks) and what stands behind it."""

INTERSTATE: Polygon = [
    (0.08, 0.12), (0.28, 0.05), (0.5, 0.12), (0.72, 0.05), (0.92, 0.12), (1.0, 0.45), (0.86, 0.75),
    (0.5, 1.0), (0.14, 0.75), (0.0, 0.45),
]  # fmt: skip
HEXAGON: Polygon = [(0.0, 0.5), (0.15, 0.0), (0.85, 0.0), (1.0, 0.5), (0.85, 1.0), (0.15, 1.0)]
SHIELDS = ("box", "round", "pill", "interstate", "hexagon")


@functools.cache
def icon(number: int, badge: str) -> Letters:
    """Return the icon `(number, badge)` of `ICONS`: the glyph as ink, its ground as halo."""
    if number < len(SHAPES):
        large = Image.new("L", (SIDE * FINE, SIDE * FINE))
        SHAPES[number](ImageDraw.Draw(large))
        ink = large.reduce(FINE)
    else:
        mark = letters(MARKS[number - len(SHAPES)], "DejaVuSans-Bold.ttf", SIDE, 0, 0).ink
        ink = Image.new("L", (SIDE, SIDE))
        ink.paste(mark, ((SIDE - mark.width) // 2, (SIDE - mark.height) // 2))
    margin = 4 if badge == "none" else 8
    size = (SIDE + 2 * margin, SIDE + 2 * margin)
    glyph = Image.new("L", size)
    glyph.paste(ink, (margin, margin))
    if badge == "none":
        return Letters(glyph, glyph.filter(ImageFilter.MaxFilter(5)), SIDE)
    large = Image.new("L", (size[0] * FINE, size[1] * FINE))
    pen, edge = ImageDraw.Draw(large), (size[0] - 1) * FINE
    if badge == "disc":
        pen.ellipse((FINE, FINE, edge, edge), 255)
    else:
        pen.rounded_rectangle((FINE, FINE, edge, edge), 4 * FINE, 255)
    return Letters(glyph, large.reduce(FINE), SIDE)


@functools.lru_cache(1024)
def shield(text: str, shape: str, em: int, border: int) -> Letters:
    """Return a road number: text and border as ink, the plate as halo.

    Args:
        text: The road's number.
        shape: Out of `SHIELDS`.
        em: Font size in pixels.
        border: Width in pixels of the line around; 0 for none.
    """
    word = letters(text, "DejaVuSans-Bold.ttf", em, 0, 0).ink
    box = word.getbbox() or (0, 0, em, em)
    word = word.crop(box)
    tall = shape in ("interstate", "hexagon")
    across, down = (em * 3 // 4, em) if tall else (em // 2, em // 2)
    width = max(word.width + across, (em * 2 if tall else em))
    size = (width + 4, word.height + down + 4)
    plate, inner = _plate(size, shape, 1), _plate(size, shape, 1 + border)
    ink = Image.new("L", size)
    ink.paste(word, ((size[0] - word.width) // 2, (size[1] - word.height) // 2))
    if border:
        ink = ImageChops.lighter(ink, ImageChops.subtract(plate, inner))
    return Letters(ink, plate, em)


def _plate(size: tuple[int, int], shape: str, inset: int) -> Image.Image:
    large = Image.new("L", (size[0] * FINE, size[1] * FINE))
    pen = ImageDraw.Draw(large)
    left = top = inset * FINE
    right, bottom = ((side - inset) * FINE - 1 for side in size)
    if shape in ("interstate", "hexagon"):
        outline = INTERSTATE if shape == "interstate" else HEXAGON
        pen.polygon(
            [(left + x * (right - left), top + y * (bottom - top)) for x, y in outline], 255
        )
    else:
        radius = {"box": 0, "round": 4 * FINE, "pill": (bottom - top) // 2}[shape]
        pen.rounded_rectangle((left, top, right, bottom), radius, 255)
    return large.reduce(FINE)


@functools.cache
def arrow(length: int, head: int) -> Letters:
    """Return an arrow to the right of `length` px, as one-way streets have them; no halo."""
    size = (length + 4, 2 * head + 4)
    large = Image.new("L", (size[0] * FINE, size[1] * FINE))
    pen, middle = ImageDraw.Draw(large), size[1] * FINE // 2
    tip = (size[0] - 2) * FINE
    pen.line((2 * FINE, middle, tip - head * FINE, middle), 255, 2 * FINE)
    pen.polygon(
        [(tip, middle), *((tip - 2 * head * FINE, middle + s * head * FINE) for s in (-1, 1))], 255
    )
    return Letters(large.reduce(FINE), Image.new("L", size), SIDE)
