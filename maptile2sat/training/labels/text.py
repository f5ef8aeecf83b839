"""Names as maps write them, and their letters as masks: the stock that labels are drawn from.

Nothing here looks at a map. The names are made up of syllables, so that none has to be shipped.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

STOCK = 100
"""Names of each kind; a process renders each of them once per font and size."""

EMS = (16, 24, 32)
"""Font sizes in pixels that letters are rendered at, about twice the size that they get."""

MARGIN = 8
"""Pixels around letters, for their halo."""

HALO_GAIN = 8
"""How much ink a halo's pixel needs near it: an eighth of its box makes it full."""

BUILT_IN = ""
FONTS = {
    "sans": ("DejaVuSans.ttf", BUILT_IN, "cmss10.ttf", "DejaVuSans.ttf"),
    "bold": ("DejaVuSans-Bold.ttf", "DejaVuSans-Bold.ttf", "STIXGeneralBol.ttf"),
    "italic": ("DejaVuSans-Oblique.ttf", "DejaVuSerif-Italic.ttf", "STIXGeneralItalic.ttf"),
    "serif": ("DejaVuSerif.ttf", "STIXGeneral.ttf"),
}
"""Font files that come with matplotlib by cut; `BUILT_IN` is Pillow's own."""

ASCII_ONLY = (BUILT_IN, "cmss10.ttf")

SYLLABLES = {
    "latin": "al bar bel bro can dal den el far gar hal har ing kel lan lin lo mar mon nor oak "
    "pen ra ri ros san stan ten tor ul ver wen wick wood ya zur å é ñ ö ü",
    "cyrillic": "бе во гра до жи за ка ко лен ле ма ми мо на не но пе по ра ре ро са се со та "
    "ти то хо ча ше я",
    "greek": "αθ βα γε δη ελ ζω θε κα κο λα λε μα με να νε πα πε ρα σα σο τα τρι φα χα ω",
}
ENDINGS = {
    "latin": ("", "", "ton", "ford", "berg", "ville", "o", "ia", "ley", "by", "son"),
    "cyrillic": ("", "ов", "ин", "ово", "ская", "град"),
    "greek": ("ς", "ου", "α", "ος", "η"),
}
STREETS = {
    "latin": "{} St|{} Street|{} Ave|{} Avenue|{} Rd|{} Road|{} Blvd|{} Dr|{} Ln|{} Pl|{} Ct|"
    "{} Way|E {} Ave|Rue de {}|Avenue {}|Via {}|Calle {}|{}straße|{}weg|{}gatan|{}katu|{}laan"
    "|Old {} Rd|W {} St|{} Pkwy|{} Bridge",
    "cyrillic": "улица {}|{} пр.|ул. {}|{} пер.|бульвар {}",
    "greek": "Οδός {}|Λεωφ. {}|{}",
}
PLACES = {
    "latin": "{}|{}|{} Hills|North {}|{} Heights|Old {}|{} Village|Port {}|{}-{}",
    "cyrillic": "{}|Новый {}",
    "greek": "{}|Νέα {}",
}
SIGHTS = {
    "latin": "{} School|{} Library|Hotel {}|Café {}|{} Pharmacy|{} Bank|{} Museum|St {} Church|"
    "{} Hospital|{} Station|{} & Sons|Bar {}|{} Market|Police|Post Office|{} Pizza|P.S. {}|"
    "{} Community Center|{} Theatre|{} Plaza|Town Hall",
    "cyrillic": "Кафе {}|Школа № {}|{} банк|Аптека|Театр {}",
    "greek": "Καφέ {}|Σχολείο|{}",
}
NATURE = {
    "latin": "{} Park|{} River|Lake {}|{} Pond|{} Forest|{} Bay|{} Playground|{} Cemetery|{} Creek|"
    "{} Island|{} Golf Course|Mt {}",
    "cyrillic": "парк {}|река {}|озеро {}",
    "greek": "Πάρκο {}|Όρμος {}",
}
NAMES = {"street": STREETS, "place": PLACES, "sight": SIGHTS, "nature": NATURE}
REFERENCES = (
    "A {}",
    "I-{}",
    "B{}",
    "M{}",
    "E {:02d}",
    "{}",
    "{}",
    "N{}",
    "D {}",
    "SS{}",
    "K-{}",
    "US {}",
)


class Letters(NamedTuple):
    """Text as masks, each "L" of one size.

    Attributes:
        ink: The letters.
        halo: The letters, widened.
        em: Font size in pixels of both.
    """

    ink: Image.Image
    halo: Image.Image
    em: int


@functools.cache
def names(kind: str, script: str) -> tuple[str, ...]:
    """Return the stock of names.

    Args:
        kind: `street`, `place`, `sight`, `nature`, `number` (of a house) or `reference` (of
            a road; its script does not count).
        script: `latin`, `cyrillic` or `greek`.
    """
    order = ["street", "place", "sight", "nature", "number", "reference"]
    random = np.random.default_rng([11, order.index(kind), list(SYLLABLES).index(script)])
    if kind == "number":
        letters = ("", "", "", "", "a", "b", "-2", "/1")
        return tuple(f"{random.integers(1, 300)}{random.choice(letters)}" for _ in range(STOCK))
    if kind == "reference":
        forms = [str(random.choice(REFERENCES)) for _ in range(STOCK)]
        return tuple(form.format(int(random.integers(1, 99))) for form in forms)
    forms = NAMES[kind][script].split("|")
    return tuple(
        str(random.choice(forms)).format(_word(random, script), _word(random, script))
        for _ in range(STOCK)
    )


def _word(random: np.random.Generator, script: str) -> str:
    """Return a made-up name, now and then a number of the street."""
    if script == "latin" and random.random() < 0.15:
        number = int(random.integers(1, 120))
        tail = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
        return f"{number}{'th' if number // 10 == 1 else tail}"
    parts = SYLLABLES[script].split()
    word = "".join(random.choice(parts, int(random.integers(1, 4))))
    return (word + str(random.choice(ENDINGS[script]))).capitalize()


@functools.lru_cache(4096)
def letters(text: str, font: str, em: int, spacing: int = 0, halo: int = 3) -> Letters:
    """Render `text` (lines parted by newlines, centred).

    Args:
        text: What to write.
        font: Name of a file out of `FONTS`.
        em: Font size in pixels.
        spacing: Pixels added between letters.
        halo: Pixels that the halo reaches beyond the letters.
    """
    ink = _inked(text, font, em, spacing)
    if not halo:
        return Letters(ink, Image.new("L", ink.size), em)
    # a box of any ink is as good as an outline at this size, and ten times as fast as a stroke
    wide = ink.filter(ImageFilter.BoxBlur(halo)).point(lambda value: min(255, value * HALO_GAIN))
    return Letters(ink, wide, em)


@functools.lru_cache(4096)
def _inked(text: str, font: str, em: int, spacing: int) -> Image.Image:
    """Return the letters alone, with room for a halo around them."""
    if font in ASCII_ONLY and not text.isascii():
        font = "DejaVuSans.ttf"
    face, lines = _face(font, em), text.split("\n")
    widths = [face.getlength(line) + spacing * len(line) for line in lines]
    step = round(em * 1.15)
    height = step * (len(lines) - 1) + round(em * 1.3)
    mask = Image.new("L", (int(max(widths)) + 2 * MARGIN, height + 2 * MARGIN))
    pen = ImageDraw.Draw(mask)
    for row, (line, width) in enumerate(zip(lines, widths, strict=True)):
        x, y = (mask.width - width) / 2, MARGIN + row * step
        if not spacing:
            pen.text((x, y), line, 255, face)
            continue
        for letter in line:
            pen.text((x, y), letter, 255, face)
            x += face.getlength(letter) + spacing
    return mask


@functools.cache
def _face(font: str, em: int) -> Any:
    """Open a font; matplotlib is asked for its folder only here, because its import is slow."""
    if font == BUILT_IN:
        return ImageFont.load_default(em)
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / font), em)
