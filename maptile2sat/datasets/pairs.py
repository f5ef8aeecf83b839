"""How a set of pairs lies on disk: `train` and `val`, full of two squares side by side."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from maptile2sat.errors import TrainingError, UsageError
from maptile2sat.sources.tiles import DAMAGE as DECODER_ERRORS

Pixels = npt.NDArray[np.uint8]
"""uint8 (height, width, 3)."""

Side = Literal["left", "right"]
"""Which half of a pair is the map."""

SPLITS = ("train", "val")
"""The folders of a set."""

SUFFIXES = {".jpg", ".jpeg", ".png"}
"""What the names of pairs end in."""

MIN_SIDE = 256
"""Smallest side of one half of a pair in pixels."""

LOOKED_AT = 8
"""Pairs by which it is told which half looks like a map."""

DESCRIPTION = "dataset.json"
"""The file that says where a set comes from."""

DAMAGE = (*DECODER_ERRORS, Image.DecompressionBombError)
"""What Pillow raises for files that are no sound pictures."""


def list_pairs(folder: Path) -> list[Path]:
    """Return the pictures in `folder`, sorted by name; hidden files are left out.

    Raises:
        TrainingError: If it is missing or has none.
    """
    try:
        files = sorted(
            path
            for path in folder.glob("*")
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        )
    except OSError as error:  # a name longer than the file system takes, for example
        raise TrainingError(f"{folder} cannot be read: {error.strerror or error}") from error
    if not files:
        raise TrainingError(
            f"no pairs in {folder}: give a folder that has train/ and val/ with "
            "side-by-side .jpg or .png pairs (map and aerial image of the same size)"
        )
    return files


def size_problem(width: int, height: int) -> str | None:
    """Say why a picture of this size cannot be a pair, None if it can."""
    if width == 2 * height and height >= MIN_SIDE:
        return None
    return f"is {width}x{height}: a pair is two squares of at least {MIN_SIDE} px side by side"


def mode_problem(mode: str) -> str | None:
    """Say why a picture of this mode of Pillow's cannot be a pair, None if it can.

    Pillow clips what it makes 8 bits of one channel of more: all but black would be white.
    """
    if mode.startswith(("I", "F")):
        return "has one channel of 16 or 32 bits: save it as RGB of 8 bits"
    return None


def read_pair(
    path: Path, map_side: str, resize: int = 0, *, nearest: bool = False
) -> tuple[Pixels, Pixels]:
    """Decode a pair.

    Args:
        path: The picture.
        map_side: Which half is the map: `left` or `right`.
        resize: Side to which each half is resized (antialiased); 0 keeps its own pixels.
        nearest: Resize by taking the nearest pixel instead, which aliases.

    Returns:
        The map and the aerial image, each uint8 (side, side, 3).

    Raises:
        TrainingError: If the file is damaged, of more than 8 bits, or not two squares side by side.
    """
    try:
        with Image.open(path) as picture:
            mode, whole = picture.mode, picture.convert("RGB")
    except DAMAGE as error:
        raise TrainingError(f"{path} is not a readable image: {error}") from error
    problem = size_problem(*whole.size) or mode_problem(mode)
    if problem is not None:
        raise TrainingError(f"{path} {problem}")
    side = whole.height
    # cut first, so that resizing does not mix the two across their border
    halves = [whole.crop((left, 0, left + side, side)) for left in (0, side)]
    if resize not in (0, side):
        how = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
        halves = [half.resize((resize, resize), how) for half in halves]
    first, second = (np.asarray(half) for half in halves)
    return (first, second) if map_side == "left" else (second, first)


def read_description(folder: Path) -> dict[str, Any]:
    """Return what `dataset.json` of a set says, nothing if there is none.

    Raises:
        TrainingError: If it is not a JSON object.
    """
    path = folder / DESCRIPTION
    try:
        said = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read: {error}; delete or mend it") from error
    if not isinstance(said, dict):
        raise TrainingError(f"{path} is not a JSON object: delete or mend it")
    return said


def choose_map_side(folder: Path, given: str | None = None, usual: str = "right") -> str:
    """Return which half is the map: what is given, what `dataset.json` says, else the usual one.

    Raises:
        UsageError: If it is neither `left` nor `right`.
        TrainingError: If `dataset.json` cannot be read.
    """
    side = given or str(read_description(folder).get("map_side", usual))
    if side not in ("left", "right"):
        raise UsageError(f"map side '{side}' is not left or right")
    return side


def is_there(folder: str | Path) -> bool:
    """Return whether a folder is there; one that may not be looked for is not."""
    try:
        return Path(folder).is_dir()
    except OSError:
        return False


def spread(files: Sequence[Path], count: int) -> list[Path]:
    """Return at most `count` files, evenly spaced."""
    step = max(1.0, len(files) / count)
    return [files[int(number * step)] for number in range(min(count, len(files)))]


def half_like_a_map(files: Sequence[Path]) -> str | None:
    """Return the half in which more neighbours are of one colour; None if that is not clear."""
    flat = np.zeros(2)
    for path in files:
        for place, pixels in enumerate(read_pair(path, "left")):
            steps = np.abs(np.diff(pixels.astype(np.int16), axis=1)).max(-1)
            flat[place] += float((steps <= 2).mean())
    left, right = flat
    if max(left, right) < 1.25 * min(left, right) or not files:
        return None
    return "left" if left > right else "right"


def doubt_of_side(files: Sequence[Path], side: str) -> str | None:
    """Return what to say if the other half than `side` looks like the map, else None."""
    looks = half_like_a_map(spread(files, LOOKED_AT))
    if looks in (None, side):
        return None
    return (
        f"the {looks} half of the pairs looks like the map, but the {side} one is taken for it: "
        f"if that is wrong, pass --map-side {looks}"
    )


def stated_style(folder: Path) -> str | None:
    """Return the style of a set's maps as `dataset.json` says it.

    Returns:
        `own` for a set that was built of maps which do not say it; None without `dataset.json`.

    Raises:
        TrainingError: If `dataset.json` cannot be read.
    """
    said = read_description(folder)
    style = said.get("style")
    if isinstance(style, str) and style.isprintable() and style:
        return style
    return "own" if said.get("kind") == "built" else None


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


# The cheap check of a set: every file opened, measured and decoded, none of them kept

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
