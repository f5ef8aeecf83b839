"""The cheap check of a set: every file opened, measured and decoded, none of them kept.

JPEGs are decoded at an eighth of their size, which reads all of their data: a truncated or
damaged file shows in about 2 ms. (Pillow passes over damage inside a JPEG; GDAL can be told
not to.)
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from maptile2sat.datasets.layout import DAMAGE, SPLITS, list_pairs, mode_problem, size_problem
from maptile2sat.errors import TrainingError

Progress = Callable[[int, int], None]
"""Called with what is done so far and with all there is."""

SHOWN = 3
"""Bad files that an error names."""

_OVERVIEWS = ((1024, 2), (512, 1))
"""Longer side from which on GDAL offers JPEGs at 1/8 and 1/4, and the number of that level."""

_DAMAGED = ("corrupt jpeg", "premature end", "huffman", "not a jpeg")
_HARMLESS = "extraneous bytes"


class FileState(NamedTuple):
    """What the cheap check knows of a file.

    Attributes:
        path: The file.
        width: Its width, 0 if it cannot be opened.
        height: Its height.
        problem: Why it cannot be used, None if it can.
    """

    path: Path
    width: int
    height: int
    problem: str | None

    @property
    def side(self) -> int:
        """Side of one half."""
        return self.height


def silent(done: int, total: int) -> None:
    """Show no progress."""


def examine_file(path: Path) -> FileState:
    """Open, measure and decode one file."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            problem = size_problem(width, height) or mode_problem(picture.mode)
            if problem is None and picture.format != "JPEG":
                picture.load()
                return FileState(path, width, height, None)
            if problem is None:
                problem = _jpeg_problem(path, picture)
    except DAMAGE as error:
        return FileState(path, 0, 0, f"is not a readable image ({_one_line(error)})")
    return FileState(path, width, height, problem)


def examine_files(paths: Sequence[Path], progress: Progress = silent) -> list[FileState]:
    """Check files in parallel; the order stays.

    Args:
        paths: The files.
        progress: Called after each.
    """
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module=r"rasterio$")
    states = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for state in pool.map(examine_file, paths):
            states.append(state)
            progress(len(states), len(paths))
    return states


def require_sound(
    folder: Path,
    min_side: int = 0,
    progress: Progress = silent,
    instead: Callable[[int], str] = lambda side: "",
) -> dict[str, list[FileState]]:
    """Check all files of a set before training on it.

    Args:
        folder: The set, with `train` and `val`.
        min_side: Smallest side that the training can use.
        progress: Called after each file.
        instead: Called if all that is wrong are small pairs, with the smallest side; returns what
            else to do about it.

    Returns:
        The state of each file by split.

    Raises:
        TrainingError: If files cannot be used; the message names the first of them.
    """
    found = {split: list_pairs(folder / split) for split in SPLITS}
    states = examine_files([path for paths in found.values() for path in paths], progress)
    bad = [f"{_short(state.path)} {state.problem}" for state in states if state.problem]
    advice = "replace or delete them"
    if not bad:
        small = [state for state in states if state.side < min_side]
        bad = [
            f"{_short(state.path)} has pairs of {state.side} px, and {min_side} px are needed"
            for state in small
        ]
        advice += instead(min(state.side for state in small)) if small else ""
    if bad:
        more = f"; and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
        raise TrainingError(
            f"{len(bad):,} of {len(states):,} pairs in {folder} cannot be used: "
            f"{'; '.join(bad[:SHOWN])}{more}: {advice} "
            f"(maptile2sat dataset check {folder} lists all)"
        )
    parted = iter(states)
    return {split: [next(parted) for _ in paths] for split, paths in found.items()}


def common_side(states: Sequence[FileState]) -> int:
    """Return the side that most usable pairs have, 0 if none is usable."""
    sides = Counter(state.side for state in states if state.problem is None)
    return max(sides, key=lambda side: (sides[side], side)) if sides else 0


def _jpeg_problem(path: Path, picture: Image.Image) -> str | None:
    """Decode a JPEG strictly, as small as that can be done."""
    level = next((level for side, level in _OVERVIEWS if max(picture.size) >= side), None)
    options = {} if level is None else {"overview_level": level}
    try:
        with (
            rasterio.Env(GDAL_ERROR_ON_LIBJPEG_WARNING=True),
            rasterio.open(path, driver="JPEG", **options) as dataset,
        ):
            dataset.read()
    except RasterioError as error:
        said = str(error.__cause__ or error)
        if any(word in said.lower() for word in _DAMAGED) and _HARMLESS not in said.lower():
            return f"is damaged ({_one_line(said.removeprefix('libjpeg: '))})"
        picture.load()  # a kind of JPEG that only Pillow knows, or damage that it will name
    return None


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _one_line(said: object) -> str:
    return " ".join(str(said).split())
