"""The fields of a manifest, each checked as it is read: a folder may come from anybody."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from affine import Affine
from rasterio.crs import CRS

from maptile2sat.errors import FolderError, UsageError
from maptile2sat.grid import MAX_ZOOM, Grid, Window
from maptile2sat.projection import FARTHEST, parse_crs

MAX_BLOCK_SIDE = 16384
"""Most pixels along a side of a block: `merge` brings it to memory as a whole."""

LARGEST = 1 << 53
"""Largest whole number: beyond it, the pixels of a grid are no longer told apart by floats."""


def field_of(found: Any, name: str, kind: Callable[..., Any], where: str) -> Any:
    """Return a field of a JSON object, which must be of `kind`.

    Raises:
        FolderError: If it is missing, or not of that kind, or too large a number.
    """
    label = f"{where}.{name}" if where else name
    if not isinstance(found, dict):
        raise FolderError(f"{where or 'it'} is not an object")
    if name not in found:
        raise FolderError(f"{label} is missing")
    value = found[name]
    if type(value) is not kind:
        raise FolderError(f"{label} is {value!r:.60}, not of the type {kind.__name__}")
    if kind is int and abs(value) > LARGEST:
        raise FolderError(f"{label} is too large a number")
    return value


def text_of(found: Any, name: str) -> str:
    """Return a text, which can be written as UTF-8 again.

    Raises:
        FolderError: If it is none.
    """
    text: str = field_of(found, name, str, "")
    refuse_undecodable_text(text, name)
    return text


def tags_of(found: Any) -> dict[str, str]:
    """Return the field `tags`.

    Raises:
        FolderError: If it holds anything else than texts.
    """
    tags: dict[str, str] = field_of(found, "tags", dict, "")
    for key, value in tags.items():
        if not isinstance(value, str):
            raise FolderError(f"tags.{key} is not text")
    refuse_undecodable_text(tags, "tags")
    return tags


def job_of(found: Any) -> dict[str, Any]:
    """Return the field `job`.

    Raises:
        FolderError: If it is no object.
    """
    job: dict[str, Any] = field_of(found, "job", dict, "")
    refuse_undecodable_text(job, "job")
    return job


def refuse_undecodable_text(found: Any, label: str) -> None:
    """Refuse halves of characters, which JSON can name and no file can hold.

    Raises:
        FolderError: If there are any.
    """
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise FolderError(f"{label} holds text that is not UTF-8") from error


def window_of(found: Any, where: str) -> Window:
    """Return the field `window` of `found`.

    Raises:
        FolderError: If it is none.
    """
    label = f"{where}.window" if where else "window"
    numbers = field_of(found, "window", list, where)
    if len(numbers) != 4 or not all(type(number) is int for number in numbers):
        raise FolderError(f"{label} is not four whole numbers (column, row, width, height)")
    if any(abs(number) > LARGEST for number in numbers):
        raise FolderError(f"{label} has too large a number")
    window = Window(*numbers)
    if window.empty:
        raise FolderError(f"{label} has no pixels")
    return window


def block_window_of(found: Any, where: str) -> Window:
    """Return the window of a block, which is brought to memory as a whole.

    Raises:
        FolderError: If it is none, or too large.
    """
    window = window_of(found, where)
    if max(window.width, window.height) > MAX_BLOCK_SIDE:
        raise FolderError(
            f"{where}.window is {window.width} x {window.height} px, more than blocks have "
            f"({MAX_BLOCK_SIDE})"
        )
    return window


def grid_of(found: dict[str, Any], window: Window) -> Grid:
    """Return a grid from what `grid_as_json` gave.

    Args:
        found: What the JSON says.
        window: Pixels that must have a place on it.

    Raises:
        FolderError: If it is none.
    """
    affine = _numbers(found.get("affine"), 6)
    if affine is None:
        raise FolderError("grid.affine is not six numbers that coordinates can have")
    if not affine[0] * affine[4] - affine[1] * affine[3]:
        raise FolderError("grid.affine has no inverse")
    optional: dict[str, int | None] = {}
    for name, least, most in (("zoom", 0, MAX_ZOOM), ("wrap", 1, LARGEST)):
        value = None if found.get(name) is None else field_of(found, name, int, "grid")
        if value is not None and not least <= value <= most:
            raise FolderError(f"grid.{name} is not in {least}..{most}")
        optional[name] = value
    grid = Grid(
        crs=_crs(field_of(found, "crs", str, "grid")),
        affine=Affine(*affine),
        col0=field_of(found, "col0", int, "grid"),
        row0=field_of(found, "row0", int, "grid"),
        **optional,
    )
    if max(map(abs, grid.bounds(window))) > FARTHEST:
        raise FolderError("grid.affine puts the window where no place on Earth is")
    return grid


def _crs(text: str) -> CRS:
    try:
        return parse_crs(text)
    except UsageError as error:
        raise FolderError("grid.crs is not a CRS") from error


def _numbers(found: Any, count: int) -> Sequence[float] | None:
    """Return `found` if it is so many numbers of which coordinates can be made."""
    if not isinstance(found, list) or len(found) != count:
        return None
    # also false for NaN
    sound = all(type(value) in (int, float) and abs(value) <= FARTHEST for value in found)
    return [float(value) for value in found] if sound else None
