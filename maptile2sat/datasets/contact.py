"""A contact sheet: many pairs in one picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from maptile2sat.datasets.layout import Pixels
from maptile2sat.errors import OutputError, UsageError
from maptile2sat.geotiff import check_destination

COLUMNS = 4
_SIDE, _GAP, _LINE = 192, 8, 16
_PAPER, _INK, _ALARM = (250, 250, 248), (40, 40, 40), (200, 30, 30)


class Entry(NamedTuple):
    """A pair on a sheet.

    Attributes:
        name: Written below it.
        map: The map.
        image: The aerial image.
        flaw: What is wrong with it, empty if nothing is; framed in red.
    """

    name: str
    map: Pixels
    image: Pixels
    flaw: str = ""


def check_sheet(path: Path, *, overwrite: bool) -> None:
    """Refuse a place where no sheet can or may be written.

    Raises:
        UsageError: If the name does not end in `.png`.
        OutputError: If the file exists and may not be replaced, or its folder is missing.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"the contact sheet {path.name} must end in .png: choose another name")
    check_destination(path, overwrite=overwrite)


def draw_sheet(entries: Sequence[Entry], path: Path) -> None:
    """Write a PNG of pairs, map left and image right.

    Args:
        entries: The pairs, in order of reading.
        path: The picture; replaced if it exists.

    Raises:
        OutputError: If it cannot be written.
    """
    across, down = 2 * _SIDE + _GAP, _SIDE + _LINE + _GAP
    columns = max(1, min(COLUMNS, len(entries)))
    rows = -(-len(entries) // columns)
    sheet = Image.new("RGB", (columns * across + _GAP, max(1, rows) * down + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, entry in enumerate(entries):
        left = _GAP + number % columns * across
        top = _GAP + number // columns * down
        for place, pixels in enumerate((entry.map, entry.image)):
            small = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX)
            sheet.paste(small, (left + place * _SIDE, top))
        text = f"{entry.name}  {entry.flaw}".rstrip()
        pen.text((left, top + _SIDE + 2), text, fill=_ALARM if entry.flaw else _INK)
        if entry.flaw:
            pen.rectangle(
                (left - 2, top - 2, left + 2 * _SIDE + 1, top + _SIDE + 1), None, _ALARM, 2
            )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        sheet.save(temporary, "PNG")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror or error}): check it") from error
    finally:
        with suppress(OSError):  # what went wrong before is what is to be said
            temporary.unlink(missing_ok=True)
