"""Sample sheets: fixed validation crops as map, generated image and real photo, row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from maptile2sat.datasets.pairs import Pixels
from maptile2sat.geo.grid import Window
from maptile2sat.models.noise import noise
from maptile2sat.training.data import Pairs

CROP = 256
GAP = 4
CAPTION = 18
_PAPER, _INK = (255, 255, 255), (40, 40, 40)

Generate = Callable[[Pixels, int], npt.NDArray[Any]]
"""Takes a map, uint8 (side, side, 3), and the number of its row, which may seed the noise;
gives the image made from it, float (side, side, 3) in -1..1."""


@dataclass(frozen=True)
class Row:
    """One line of a sheet: three pictures of one place, each uint8 (side, side, 3).

    Attributes:
        map: What the generator saw.
        made: What it made.
        photo: What is really there.
    """

    map: Pixels
    made: Pixels
    photo: Pixels


def choose(pairs: Pairs, count: int) -> list[tuple[Pixels, Pixels]]:
    """Return at most `count` fixed (map, image) pairs, whole but cut to a multiple of 16 px."""
    chosen = []
    for index in range(0, len(pairs), max(1, len(pairs) // count))[:count]:
        pair = pairs[index]
        side = pair.map.shape[0] // 16 * 16
        chosen.append((pair.map[:side, :side], pair.image[:side, :side]))
    return chosen


def from_local(model: Any) -> Generate:
    """Return how a `local` generator makes a row: with noise of the row's own place."""

    def generate(drawn: Pixels, row: int) -> npt.NDArray[Any]:
        side = drawn.shape[0]
        grains = noise(1, Window(4096 * row, 0, side, side))
        inputs = [drawn.astype(np.float32), grains.fine, grains.coarse]
        batch = [np.asarray(part)[None] for part in inputs]
        made: npt.NDArray[Any] = np.asarray(model(batch, training=False))[0]
        return made

    return generate


def draw(
    generate: Generate, chosen: list[tuple[Pixels, Pixels]], path: Path, caption: str = "generated"
) -> dict[str, float]:
    """Generate from each map, put all side by side, and write a PNG (whole or not at all).

    Args:
        generate: Any network, as a function of the map.
        chosen: What `choose` returned: maps and images of a side that `generate` takes.
        path: The picture to write.
        caption: Stands over the generated images.

    Returns:
        `sample_l1`, the mean absolute difference from the photos on the scale -1..1, and
        `sample_detail`, the mean step between neighbouring pixels divided by that of the photos:
        1 is as much fine detail as they have, less is blurred. It is left out if the photos have
        no detail at all.
    """
    rows = []
    for number, (drawn, image) in enumerate(chosen):
        made = generate(drawn, number)
        fake = np.clip(np.rint((made + 1.0) * 127.5), 0, 255).astype(np.uint8)
        side = min(CROP, drawn.shape[0])
        low = (drawn.shape[0] - side) // 2
        middle = slice(low, low + side)
        rows.append(Row(*(part[middle, middle] for part in (drawn, fake, image))))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    _assemble(rows, caption).save(temporary, "PNG")
    temporary.replace(path)
    return _figures(rows)


def cut(path: Path) -> list[Row]:
    """Take a sheet that `draw` wrote apart again.

    Raises:
        OSError: If it is not a picture.
    """
    with Image.open(path) as picture:
        sheet = np.asarray(picture.convert("RGB"))
    side = (sheet.shape[1] - 2 * GAP) // 3
    caption = (sheet.shape[0] + GAP) % (side + GAP)
    lefts = [place * (side + GAP) for place in range(3)]
    return [
        Row(*(sheet[top : top + side, left : left + side] for left in lefts))
        for top in range(caption, sheet.shape[0] - side + 1, side + GAP)
    ]


def _assemble(rows: list[Row], caption: str) -> Image.Image:
    side = rows[0].map.shape[0]
    step = side + GAP
    sheet = Image.new("RGB", (3 * step - GAP, CAPTION + len(rows) * step - GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, text in enumerate(("map", caption, "photo")):
        pen.text((place * step + 4, 3), text, fill=_INK)
    for number, row in enumerate(rows):
        for place, pixels in enumerate((row.map, row.made, row.photo)):
            sheet.paste(Image.fromarray(pixels), (place * step, CAPTION + number * step))
    return sheet


def _figures(rows: list[Row]) -> dict[str, float]:
    made = np.stack([row.made for row in rows]).astype(np.float64)
    photo = np.stack([row.photo for row in rows]).astype(np.float64)
    figures = {"sample_l1": round(float(np.abs(made - photo).mean()) / 127.5, 5)}
    if _steps(photo):
        figures["sample_detail"] = round(_steps(made) / _steps(photo), 5)
    return figures


def _steps(images: npt.NDArray[np.float64]) -> float:
    """Return the mean absolute step to the next pixel, across and down."""
    return float(np.abs(np.diff(images, axis=1)).mean() + np.abs(np.diff(images, axis=2)).mean())
