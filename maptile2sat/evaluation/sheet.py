"""The contact sheet: map, generated and real picture side by side, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]

ROWS = 8
GAP = 6
HEAD = 24
PAPER, INK = (250, 250, 248), (40, 40, 40)


def draw_sheet(columns: Sequence[tuple[str, Pixels]], places: Sequence[int]) -> Image.Image:
    """Return a picture of the sheet.

    Args:
        columns: Title and squares uint8 (N, side, side, 3) of each column.
        places: For each square the index of its pair; rows are of different pairs.
    """
    firsts = np.unique(np.asarray(places), return_index=True)[1]
    chosen = firsts[np.linspace(0, len(firsts) - 1, min(ROWS, len(firsts))).round().astype(int)]
    side = columns[0][1].shape[1]
    width = len(columns) * (side + GAP) + GAP
    sheet = Image.new("RGB", (width, HEAD + len(chosen) * (side + GAP) + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for number, (title, squares) in enumerate(columns):
        left = GAP + number * (side + GAP)
        pen.text((left, 5), _fitting(title, font, side), fill=INK, font=font)
        for row, index in enumerate(chosen):
            sheet.paste(Image.fromarray(squares[index]), (left, HEAD + GAP + row * (side + GAP)))
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "…"
    return text
