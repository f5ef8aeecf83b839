"""How much ground a pixel covers: said, named by the files, or guessed from the streets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maptile2sat.datasets.layout import Pixels
from maptile2sat.grid import TILE, Window, mercator_grid

STREET_PIXELS = 9.0
"""Width of white streets at `STREET_ZOOM` in the map styles that this was measured on."""

STREET_ZOOM = 16

_WHITE = 250
_WIDTHS = range(4, 40)
"""Widths in pixels that streets may have; what is thinner is lettering."""

_LEAST_SHARE = 0.06
"""Share of white pixels that must be of the commonest width."""

_LEAST_WHITE = 0.005
"""Share of a map that must be white streets."""

_QUADKEY = re.compile(r"[0-3]{6,24}")


@dataclass(frozen=True)
class Scale:
    """The scale of a set.

    Attributes:
        zoom: The web mercator zoom of its pixels, None if not known.
        metres_per_pixel: Ground size of a pixel, None if not known.
        how: Where this comes from, and how far it can be trusted.
        street_pixels: Commonest width of white streets on the maps, None if there are none.
    """

    zoom: int | None
    metres_per_pixel: float | None
    how: str
    street_pixels: int | None = None


def find_scale(
    said: Mapping[str, Any], files: Sequence[Path], side: int, maps: Iterable[Pixels]
) -> Scale:
    """Return the scale of a set, from the best that there is.

    Args:
        said: Its `dataset.json`.
        files: Its pairs.
        side: Side of most of them in pixels.
        maps: Some of its maps.
    """
    streets = street_width(maps)
    zoom, metres = said.get("zoom"), said.get("metres_per_pixel")
    if isinstance(zoom, int):
        known = float(metres) if isinstance(metres, (int, float)) else None
        note = said.get("scale_note")
        return Scale(zoom, known, f"dataset.json{f' ({note})' if note else ''}", streets)
    if (named := _named(files, side)) is not None:
        return Scale(*named, "the files are named by quadkeys of web mercator tiles", streets)
    if streets is None:
        return Scale(None, None, "not known: no dataset.json, no quadkeys, no white streets")
    guess = STREET_ZOOM + math.log2(streets / STREET_PIXELS)
    if abs(guess - round(guess)) > 0.3:
        return Scale(None, None, f"not known: streets of {streets} px fit no zoom well", streets)
    how = (
        f"a guess: streets are {streets} px wide, and {STREET_PIXELS:.0f} px at zoom "
        f"{STREET_ZOOM} in usual map styles; ground size not known without the latitude"
    )
    return Scale(round(guess), None, how, streets)


def street_width(maps: Iterable[Pixels]) -> int | None:
    """Return the commonest width in pixels of what is white on maps, None if little is.

    The width at a pixel is the shorter of the white runs across and down through it.
    """
    counts = np.zeros(_WIDTHS.stop + 1, np.int64)
    pixels = 0
    for drawn in maps:
        white = drawn.min(-1) >= _WHITE
        widths = np.minimum(_runs(white), _runs(white.T).T)[white]
        counts += np.bincount(np.minimum(widths, _WIDTHS.stop), minlength=len(counts))
        pixels += white.size
    total = int(counts.sum())
    if total < _LEAST_WHITE * max(1, pixels):
        return None
    best = max(_WIDTHS, key=lambda width: int(counts[width]))
    return best if counts[best] >= _LEAST_SHARE * total else None


def _runs(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return for each pixel the length of the run across in which it lies, 0 outside."""
    height, width = mask.shape
    framed = np.zeros((height, width + 2), bool)
    framed[:, 1:-1] = mask
    flat = framed.ravel()
    steps = np.diff(flat.astype(np.int8))
    lengths = np.flatnonzero(steps == -1) - np.flatnonzero(steps == 1)
    result = np.zeros(flat.size, np.int64)
    result[flat] = np.repeat(lengths, lengths)
    return result.reshape(height, width + 2)[:, 1:-1]


def _named(files: Sequence[Path], side: int) -> tuple[int, float] | None:
    """Return zoom and metres per pixel if all files are named by quadkeys of one length."""
    names = [path.stem for path in files]
    lengths = {len(name) for name in names}
    if len(lengths) != 1 or not all(_QUADKEY.fullmatch(name) for name in names):
        return None
    finer = math.log2(side / TILE)
    if finer != round(finer):
        return None
    zoom = lengths.pop() + round(finer)
    grid = mercator_grid(zoom)
    columns, rows = zip(*(_position(name, side) for name in names), strict=True)
    middle = Window(int(np.median(columns)), int(np.median(rows)), side, side)
    return zoom, round(grid.metres_per_pixel(middle)[0], 3)


def _position(quadkey: str, side: int) -> tuple[int, int]:
    """Return column and row of a tile's corner pixel."""
    x = int("".join(str(int(digit) & 1) for digit in quadkey), 2)
    y = int("".join(str(int(digit) >> 1) for digit in quadkey), 2)
    return x * side, y * side
