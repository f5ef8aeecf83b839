"""Pairs made for the tests, and the command line run inside the test process."""

from __future__ import annotations

import contextlib
import functools
import io
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import numpy.typing as npt
from PIL import Image

from maptile2sat.cli import main
from maptile2sat.geo.grid import Window

Pixels = npt.NDArray[np.uint8]

GROUND, STREET, WATER = (234, 230, 222), (254, 254, 254), (178, 210, 254)
ROOFS = 40


class Outcome(NamedTuple):
    """What a run of the command line did."""

    code: int
    out: str
    err: str


def run(*arguments: str | Path) -> Outcome:
    """Run `maptile2sat` with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["maptile2sat", *map(str, arguments)]
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


@functools.cache
def town(window: Window) -> tuple[Pixels, Pixels]:
    """Return map and image of a place: streets of 9 px, at distances that do not repeat.

    The image has the same streets in grey between roofs of random brightness; both are
    functions of the world's columns and rows alone.
    """
    cols = np.arange(window.col, window.right, dtype=np.int64)[None, :]
    rows = np.arange(window.row, window.bottom, dtype=np.int64)[:, None]
    across, down = _street(cols, 71), _street(rows, 89)
    street = across | down
    drawn = np.where(street[..., None], np.uint8(STREET), np.uint8(GROUND)).astype(np.uint8)
    roofs = _hash(cols // ROOFS, rows // ROOFS) % 120 + 40
    grain = _hash(cols, rows) % 17
    image = np.where(street, 120 + grain, roofs + grain).astype(np.uint8)
    return drawn, np.stack([image, image, image - np.uint8(20)], -1)


def _hash(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    mixed = (a * 73856093 ^ b * 19349663) & 0x7FFFFFFF
    return (mixed * 48271 % 2147483647) >> 7


def _street(position: npt.NDArray[np.int64], period: int) -> npt.NDArray[np.bool_]:
    block = position // period
    return (position - block * period - _hash(block, block + 3) % (period - 10)) % period < 9


def write_pair(path: Path, drawn: Pixels, image: Pixels, *, map_side: str = "right") -> Path:
    """Write a pair, as JPEG or PNG by its name."""
    halves = [image, drawn] if map_side == "right" else [drawn, image]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(halves, axis=1)).save(path, quality=95)
    return path


def write_set(folder: Path, train: int = 4, val: int = 2, side: int = 256, **options: Any) -> Path:
    """Write a sound set of pairs of different places."""
    for number in range(train + val):
        split = "train" if number < train else "val"
        window = Window(5000 + number * 997, 300 + number * 1013, side, side)
        write_pair(folder / split / f"{number}.jpg", *town(window), **options)
    return folder
