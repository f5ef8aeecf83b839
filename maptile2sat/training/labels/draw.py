"""Labels, shields and icons drawn over a map, so that a generator learns to see through them.

Served tiles carry text; training pairs hardly do. A generator that has never seen a street's
name makes a smear of it. Here a map gets what a real one would have at its scale: names along
its roads, house numbers, road numbers, icons with captions, arrows, boundaries. The result is
a function of the map and the random generator alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from maptile2sat.datasets.pairs import Pixels
from maptile2sat.training.labels.stamp import Colour, Place, Sheet, road_places
from maptile2sat.training.labels.symbols import ICONS, SHIELDS, SIDE, arrow, icon, shield
from maptile2sat.training.labels.text import EMS, FONTS, letters, names

T = TypeVar("T")

WHITE: Colour = (255, 255, 255)
STREET_INKS: tuple[Colour, ...] = (
    (0, 0, 0),
    (51, 51, 51),
    (90, 90, 90),
    (116, 116, 116),
    (90, 66, 42),
    (70, 70, 110),
)
SIGHT_INKS: tuple[Colour, ...] = (
    (115, 74, 8),
    (0, 110, 200),
    (172, 57, 172),
    (200, 85, 0),
    (190, 40, 40),
    (85, 85, 85),
    (70, 90, 160),
    (13, 115, 37),
)
PLACE_INKS: tuple[Colour, ...] = ((60, 60, 60), (119, 119, 119), (100, 80, 130), (130, 100, 70))
NATURE_INKS: tuple[Colour, ...] = ((50, 110, 60), (88, 140, 190), (60, 100, 170), (40, 90, 40))
NUMBER_INKS: tuple[Colour, ...] = ((116, 116, 116), (90, 66, 42))
LINE_INKS: tuple[Colour, ...] = ((150, 90, 160), (190, 130, 80), (120, 120, 120), (200, 80, 80))
HALOS: tuple[Colour, ...] = (WHITE, WHITE, (248, 246, 238))
PLATES: tuple[tuple[Colour, Colour], ...] = (
    (WHITE, (40, 40, 40)),
    ((250, 220, 80), (30, 30, 30)),
    ((30, 80, 170), WHITE),
    ((20, 120, 70), WHITE),
    ((190, 40, 40), WHITE),
    ((249, 178, 156), (90, 40, 30)),
)
"""Ground and ink of shields."""

SCRIPTS = {"latin": 0.85, "cyrillic": 0.09, "greek": 0.06}
CUTS = {"sans": 0.7, "bold": 0.15, "serif": 0.15}

AREA = 384 * 384
"""Pixels that the numbers of `annotate` are meant for."""

TRIES = 60
"""Points of a map that are asked whether they lie on a road."""


@dataclass(frozen=True)
class Style:
    """What all labels of one map have in common.

    Attributes:
        script: Of most names.
        street: Font of streets.
        other: Font of everything else.
        street_ink: Colour of streets.
        halo: Colour of halos.
        halo_width: In pixels of a 24 px font; 0 for none.
        halo_opacity: 0..1.
        size: Factor of all font sizes.
        density: Factor of all numbers.
    """

    script: str
    street: str
    other: str
    street_ink: Colour
    halo: Colour
    halo_width: int
    halo_opacity: float
    size: float
    density: float

    @classmethod
    def draw_lots(cls, random: np.random.Generator) -> Style:
        """Return a style by chance: one map in seven has no halos."""
        cut = str(random.choice(list(CUTS), p=list(CUTS.values())))
        bare = random.random() < 0.15
        return cls(
            script=str(random.choice(list(SCRIPTS), p=list(SCRIPTS.values()))),
            street=_one(FONTS[cut], random),
            other=_one(FONTS["sans"], random),
            street_ink=_one(STREET_INKS, random),
            halo=_one(HALOS, random),
            halo_width=0 if bare else int(random.integers(2, 5)),
            halo_opacity=0.0 if bare else float(random.uniform(0.6, 1.0)),
            size=float(random.uniform(0.85, 1.25)),
            density=float(random.uniform(0.3, 2.2)),
        )


def annotate(drawn: Pixels, random: np.random.Generator) -> Pixels:
    """Draw labels, symbols and lines over a map.

    Args:
        drawn: The map, uint8 (height, width, 3); not changed.
        random: Decides everything.

    Returns:
        uint8 of the same shape.
    """
    pen = _Labels(Sheet(drawn.copy()), random)
    share = drawn.shape[0] * drawn.shape[1] / AREA * pen.style.density
    if random.random() < 0.2:
        pen.boundary()
    roads = road_places(drawn, random, TRIES)
    along = share if roads else share / 3  # lakes and woods have names, but hardly streets

    def count(mean: float, often: float = 1.0) -> int:
        return int(random.poisson(mean)) if random.random() < often else 0

    # the important first: what would cover something drawn before is left out
    for _ in range(count(0.5 * share)):
        pen.place(pen.anywhere())
    for _ in range(count(1.5 * along, 0.5)):
        pen.shield(pen.pick(roads))
    for _ in range(count(0.7 * share)):
        pen.nature(pen.anywhere())
    for _ in range(count(7.0 * along)):
        pen.street(pen.pick(roads))
    for _ in range(count(6.0 * share, 0.8)):
        pen.sight(pen.anywhere())
    for _ in range(count(8.0 * along, 0.3)):
        pen.arrow(pen.pick(roads))
    for _ in range(count(20.0 * along, 0.25)):
        pen.number(pen.anywhere())
    return pen.sheet.pixels


def _one(choices: Sequence[T], random: np.random.Generator) -> T:
    return choices[int(random.integers(len(choices)))]


class _Labels:
    """One kind of label a method, all in one style."""

    def __init__(self, sheet: Sheet, random: np.random.Generator) -> None:
        self.sheet, self.random = sheet, random
        self.style = Style.draw_lots(random)

    def anywhere(self) -> Place:
        """Return a place that no road decides."""
        x, y = self.random.uniform(0, 1, 2) * (self.sheet.width, self.sheet.height)
        return Place(float(x), float(y), 0.0)

    def pick(self, roads: list[Place]) -> Place:
        """Return a place on a road; now and then, and without roads, anywhere at any angle."""
        if roads and self.random.random() < 0.9:
            return _one(roads, self.random)
        return self.anywhere()._replace(angle=float(self.random.uniform(-1.5, 1.5)))

    def street(self, place: Place) -> None:
        """Write a street's name along it."""
        style, size = self.style, self.random.uniform(9, 12.5)
        self._write(self._text("street"), style.street, size, style.street_ink, place)

    def place(self, place: Place) -> None:
        """Write a district's name, often in spaced capitals."""
        ink, size = _one(PLACE_INKS, self.random), self.random.uniform(11, 16)
        text, spacing = self._text("place"), 0
        if self.random.random() < 0.6:
            text, spacing = text.upper(), int(self.random.integers(1, 8))
        self._write(text, self.style.other, size, ink, place, spacing)

    def nature(self, place: Place) -> None:
        """Write the name of a park or a water in italics."""
        font, ink = _one(FONTS["italic"], self.random), _one(NATURE_INKS, self.random)
        self._write(_folded(self._text("nature")), font, self.random.uniform(9, 13), ink, place)

    def number(self, place: Place) -> None:
        """Write a house number."""
        ink, size = _one(NUMBER_INKS, self.random), self.random.uniform(7, 9)
        self._write(self._text("number"), self.style.other, size, ink, place)

    def sight(self, place: Place) -> None:
        """Draw an icon, most with a caption below."""
        random, style = self.random, self.style
        ink, size = _one(SIGHT_INKS, random), random.uniform(9, 14)
        number, badge = _one(ICONS, random)
        front, back = (ink, style.halo) if badge == "none" else (WHITE, ink)
        opacity = style.halo_opacity if badge == "none" else 1.0
        drawn = self.sheet.stamp(icon(number, badge), size, place, front, back, opacity)
        if drawn and random.random() < 0.7:
            text = _folded(self._text("sight"))
            below = place._replace(y=place.y + size + 6 * (1 + text.count("\n")))
            self._write(text, style.other, random.uniform(8.5, 11), ink, below)

    def shield(self, place: Place) -> None:
        """Draw a road's number, upright."""
        text = _one(names("reference", "latin"), self.random)
        ground, ink = _one(PLATES, self.random)
        plate = shield(text, _one(SHIELDS, self.random), EMS[1], int(self.random.integers(0, 3)))
        size = self.random.uniform(8, 11)
        self.sheet.stamp(plate, size, place._replace(angle=0.0), ink, ground)

    def arrow(self, place: Place) -> None:
        """Draw the arrow of a one-way street, in either direction."""
        mark = arrow(int(self.random.integers(12, 28)) * 2, int(self.random.integers(3, 6)))
        turned = place._replace(angle=place.angle + math.pi * float(self.random.random() < 0.5))
        self.sheet.stamp(mark, SIDE / 2, turned, self.style.street_ink, self.style.halo, 0.0)

    def boundary(self) -> None:
        """Draw a dashed or plain line across the map, straight or wavy, half transparent."""
        random, steps = self.random, 80
        side = math.hypot(self.sheet.height, self.sheet.width)
        bends = random.normal(0, 0.03, steps).cumsum() * float(random.random() < 0.6)
        turns = random.uniform(0, 2 * math.pi) + bends
        points = np.stack([np.cos(turns), np.sin(turns)], 1).cumsum(0) * 2 * side / steps
        middle = random.uniform(0, 1, 2) * (self.sheet.width, self.sheet.height)
        points += middle - points[steps // 2]
        width, opacity = random.uniform(1, 3.5), random.uniform(0.35, 1.0)
        self.sheet.line(points, int(random.integers(0, 4)), width, _one(LINE_INKS, random), opacity)

    def _text(self, kind: str) -> str:
        script = self.style.script if self.random.random() < 0.8 else "latin"
        return _one(names(kind, script), self.random)

    def _write(
        self, text: str, font: str, size: float, ink: Colour, place: Place, spacing: int = 0
    ) -> None:
        style, size = self.style, size * self.style.size
        em = EMS[int(np.searchsorted((9.5, 13.5), size))]
        mark = letters(text, font, em, spacing, style.halo_width * em // EMS[1])
        narrow = float(self.random.uniform(0.85, 1.0))
        self.sheet.stamp(mark, size, place, ink, style.halo, style.halo_opacity, narrow)


def _folded(text: str) -> str:
    """Break a name of several words in two lines."""
    middle = [i for i, letter in enumerate(text) if letter == " "]
    if not middle or len(text) < 10:
        return text
    cut = min(middle, key=lambda i: abs(2 * i - len(text)))
    return text[:cut] + "\n" + text[cut + 1 :]
