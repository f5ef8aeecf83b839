"""The whole check of a set of pairs: files, blank pairs, alignment, scale."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from maptile2sat.datasets.pairs import (
    SPLITS,
    FileState,
    Pixels,
    Side,
    common_side,
    examine_files,
    half_like_a_map,
    list_pairs,
    read_description,
    read_pair,
    spread,
)
from maptile2sat.errors import OutputError, UsageError
from maptile2sat.geo.grid import TILE, Window, mercator_grid
from maptile2sat.output.geotiff import check_destination

# How well maps and aerial images fit: do the edges of one lie on the edges of the other?

REACH = 16
"""Largest shift in pixels that is tried."""

CLEAR = 5.0
"""Height of a peak over the spread around it from which on it counts as one."""

MAP_STEP, IMAGE_STEP = 24.0, 64.0
"""Steps in colour from which on edges of maps and images count in full."""

APART = 3
"""Pixels by which a pair's own shift may differ from that of all."""

_WIDTH = 4
"""Pixels around a peak that belong to it."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Alignment:
    """Where the edges of maps lie in the images.

    Attributes:
        pairs: Pairs that were compared.
        score: Mean correlation of the edges as they lie.
        best_score: The highest at any shift of at most `REACH` pixels.
        right: Pixels by which the images lie to the right of their maps, at the best shift.
        down: Pixels by which they lie below.
        clear: Whether the peak stands out; if not, the shift means nothing.
        elsewhere: Mean correlation of maps with images of other places.
        misplaced: Numbers of pairs whose own edges clearly say another shift than all together.
    """

    pairs: int
    score: float
    best_score: float
    right: int
    down: int
    clear: bool
    elsewhere: float
    misplaced: tuple[int, ...]

    @property
    def fits(self) -> bool:
        """Whether the pairs lie on each other to a pixel or two."""
        return self.clear and max(abs(self.right), abs(self.down)) <= 2


def align(pairs: Iterable[tuple[Pixels, Pixels]]) -> Alignment | None:
    """Compare the edges of pairs (map, image) of any sizes; None without pairs.

    Args:
        pairs: Decoded pairs, which are gone through once.
    """
    total = np.zeros((2 * REACH + 1, 2 * REACH + 1))
    shifts: list[tuple[int, int] | None] = []
    other, others = 0.0, 0
    before: Floats | None = None
    for drawn, image in pairs:
        map_edges, image_edges = edges(drawn, MAP_STEP), edges(image, IMAGE_STEP)
        own = correlation(map_edges, image_edges)
        total += own
        shifts.append(_peak(own) if _clear(own, *_peak(own)) else None)
        if before is not None and before.shape == image_edges.shape:
            other += float(correlation(map_edges, before)[REACH, REACH])
            others += 1
        before = image_edges
    if not shifts:
        return None
    mean = total / len(shifts)
    row, col = _peak(mean)
    return Alignment(
        pairs=len(shifts),
        score=round(float(mean[REACH, REACH]), 4),
        best_score=round(float(mean[row, col]), 4),
        right=col - REACH,
        down=row - REACH,
        clear=_clear(mean, row, col),
        elsewhere=round(other / max(1, others), 4),
        misplaced=tuple(
            number
            for number, shift in enumerate(shifts)
            if shift is not None and max(abs(shift[0] - row), abs(shift[1] - col)) > APART
        ),
    )


def edges(pixels: Pixels, limit: float) -> Floats:
    """Return how strong the edges are, from 0 to 1.

    Args:
        pixels: A picture.
        limit: Step between neighbours from which on edges count in full, so that a few strong
            ones do not decide.
    """
    values = pixels.astype(np.float32)
    across = np.abs(values[1:-1, 2:] - values[1:-1, :-2]).max(-1)
    down = np.abs(values[2:, 1:-1] - values[:-2, 1:-1]).max(-1)
    strength: Floats = np.minimum(np.hypot(across, down), limit) / np.float32(limit)
    return strength


def correlation(first: Floats, second: Floats) -> npt.NDArray[np.float64]:
    """Return the correlation at shifts up to `REACH`, [REACH + down, REACH + right].

    At (down, right) each point of `first` is compared with the one of `second` that lies that
    far down and right.
    """
    a, b = (part - part.mean() for part in (first, second))
    energy = float(np.sqrt((a * a).sum(dtype=np.float64) * (b * b).sum(dtype=np.float64)))
    if energy < 1e-6:
        return np.zeros((2 * REACH + 1, 2 * REACH + 1))
    shape = [side + REACH for side in a.shape]
    product = np.conj(np.fft.rfft2(a, shape)) * np.fft.rfft2(b, shape)
    whole = np.fft.irfft2(product, shape)
    index = np.arange(-REACH, REACH + 1)
    near: npt.NDArray[np.float64] = whole[np.ix_(index, index)] / energy
    return near


def _peak(mean: npt.NDArray[np.float64]) -> tuple[int, int]:
    row, col = np.unravel_index(int(mean.argmax()), mean.shape)
    return int(row), int(col)


def _clear(mean: npt.NDArray[np.float64], row: int, col: int) -> bool:
    """Whether the peak stands out of what is around it."""
    rows, cols = np.ogrid[: mean.shape[0], : mean.shape[1]]
    around = mean[(abs(rows - row) > _WIDTH) | (abs(cols - col) > _WIDTH)]
    return float(mean[row, col] - around.mean()) > CLEAR * float(around.std()) + 0.005


# Whether a map or an image shows anything at all

ONE_COLOUR = 0.99
"""Share of a map within `NEAR` levels of its median colour from which on it is blank."""

NEAR = 4

DULL = 3.0
"""Standard deviation in levels, after averaging, below which an image is blank."""

WHITE, GREY = 225, 24
"""Least level of all channels, and most difference between them, of clouds."""

CLOUDY = 0.25
"""Share of an image that may be cloud-white."""

BLACK = 8
"""Highest level of what counts as black: no imagery."""

_POOL = 8


def blank_map(drawn: Pixels) -> bool:
    """Whether nearly all of a map is one colour."""
    some = drawn[::2, ::2].astype(np.int16)
    middle = np.median(some[::4, ::4].reshape(-1, 3), axis=0).astype(np.int16)
    near = (np.abs(some - middle) <= NEAR).all(-1)
    return float(near.mean()) >= ONE_COLOUR


def blank_image(image: Pixels) -> str | None:
    """Say why an image shows nothing: `uniform`, `cloud` or `black`; None if it shows something.

    Averages of 8 x 8 pixels are looked at, so that white roofs and black shadows do not count.
    """
    means = np.asarray(Image.fromarray(image).reduce(_POOL), np.int16)
    if float((means.max(-1) <= BLACK).mean()) > CLOUDY:
        return "black"
    bright = (means.min(-1) >= WHITE) & (means.max(-1) - means.min(-1) <= GREY)
    if float(bright.mean()) > CLOUDY:
        return "cloud"
    return "uniform" if float(means.std(axis=(0, 1)).max()) < DULL else None


# A contact sheet: many pairs in one picture

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


# How much ground a pixel covers: said, named by the files, or guessed from the streets

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


Progress = Callable[[str, int, int], None]
"""Called with `files` or `pairs`, what is done so far and all there is."""

COMPARED = 100
"""Pairs whose edges are compared, evenly spaced."""

ON_SHEET = 24
"""Pairs on a contact sheet: flawed ones first, then evenly spaced ones."""


BLANK_MAP = "blank map"


@dataclass(frozen=True)
class SplitReport:
    """The files of `train` or `val`.

    Attributes:
        files: How many there are.
        sizes: How many have each size, as `WIDTHxHEIGHT`.
        unusable: File name to why it cannot be used: unreadable, damaged, or no pair.
        odd_sized: Usable files of another size than most.
        blank_maps: Files whose map is nearly all one colour.
        blank_images: File name to `uniform`, `cloud` or `black`.
    """

    files: int
    sizes: dict[str, int]
    unusable: dict[str, str]
    odd_sized: list[str]
    blank_maps: list[str] = field(default_factory=list)
    blank_images: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckReport:
    """What `check` has found.

    Attributes:
        folder: The set.
        map_side: The half that was taken for the map.
        map_looks: The half that looks like a map: flat colours.
        splits: The files by split.
        side: Side in pixels of most pairs.
        alignment: How well map and image edges fit; None without usable pairs.
        misplaced: Files whose own edges say another shift than those of the others.
        scale: Ground size of a pixel, as far as it is known.
        attribution: Who is to be named, as `dataset.json` says.
        sheet: The contact sheet, if one was asked for.
    """

    folder: Path
    map_side: str
    map_looks: str | None
    splits: dict[str, SplitReport]
    side: int
    alignment: Alignment | None
    misplaced: list[str]
    scale: Scale
    attribution: str
    sheet: Path | None = None

    @property
    def usable(self) -> bool:
        """Whether training would take the set."""
        return not any(split.unusable for split in self.splits.values())


def check(
    folder: Path,
    *,
    map_side: Side | None = None,
    sheet: Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> CheckReport:
    """Look through a set of pairs.

    Args:
        folder: The set, with `train` and `val`.
        map_side: Which half is the map; by default what `dataset.json` says, else `right`.
        sheet: Where to write a contact sheet: `.png`.
        overwrite: Whether an existing sheet may be replaced.
        progress: Called as it goes on.

    Raises:
        TrainingError: If there are no pairs.
        UsageError: If `map_side` is neither `left` nor `right`, or the sheet no `.png`.
        OutputError: If the sheet exists and `overwrite` is false, or cannot be written.
    """
    said = read_description(folder)
    side = map_side or str(said.get("map_side", "right"))
    if side not in ("left", "right"):
        raise UsageError(f"the map is on the left or on the right, not '{side}'")
    if sheet is not None:
        check_sheet(sheet, overwrite=overwrite)
    found = {split: list_pairs(folder / split) for split in SPLITS}
    every = [path for paths in found.values() for path in paths]
    states = examine_files(every, lambda done, total: progress("files", done, total))
    good = [state.path for state in states if state.problem is None]
    usual = common_side(states)
    blank = _find_blank(good, side, progress)
    # with the wrong side for the map all pairs may seem blank
    flawless = [path for path in good if path not in blank] or good
    compared = spread(flawless, COMPARED)
    alignment = align(read_pair(path, side) for path in compared)
    misplaced = [] if alignment is None else [compared[number] for number in alignment.misplaced]
    some = spread(flawless, COMPARED // 2)
    parted = iter(states)
    if sheet is not None:
        flaws = {path: " ".join(words) for path, words in blank.items()}
        flaws |= dict.fromkeys(misplaced, "misplaced?")
        _draw(good, flaws, side, sheet)
    return CheckReport(
        folder=folder,
        map_side=side,
        map_looks=half_like_a_map(some),
        splits={
            split: _report([next(parted) for _ in paths], usual, blank)
            for split, paths in found.items()
        },
        side=usual,
        alignment=alignment,
        misplaced=[_name(path) for path in misplaced],
        scale=find_scale(said, good, usual, _maps(some, side)),
        attribution=str(said.get("attribution", "")),
        sheet=sheet,
    )


def _find_blank(
    files: Sequence[Path], side: str, progress: Progress
) -> dict[Path, tuple[str, ...]]:
    """Return the files with a blank half: `blank map`, or what the image is."""
    blank = {}
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda path: _flaws(*read_pair(path, side)), files)
        for done, (path, flaws) in enumerate(zip(files, found, strict=True), 1):
            if flaws:
                blank[path] = flaws
            progress("pairs", done, len(files))
    return blank


def _flaws(drawn: Pixels, image: Pixels) -> tuple[str, ...]:
    reason = blank_image(image)
    return ((BLANK_MAP,) if blank_map(drawn) else ()) + ((reason,) if reason else ())


def _report(
    states: Sequence[FileState], usual: int, blank: dict[Path, tuple[str, ...]]
) -> SplitReport:
    sizes: dict[str, int] = {}
    for state in states:
        if state.width:
            size = f"{state.width}x{state.height}"
            sizes[size] = sizes.get(size, 0) + 1
    own = {state.path.name: blank[state.path] for state in states if state.path in blank}
    return SplitReport(
        files=len(states),
        sizes=sizes,
        unusable={state.path.name: state.problem for state in states if state.problem},
        odd_sized=[
            state.path.name for state in states if not state.problem and state.side != usual
        ],
        blank_maps=[name for name, flaws in own.items() if BLANK_MAP in flaws],
        blank_images={name: flaws[-1] for name, flaws in own.items() if flaws[-1] != BLANK_MAP},
    )


def _maps(files: Sequence[Path], side: str) -> Iterator[Pixels]:
    return (read_pair(path, side)[0] for path in files)


def _draw(files: Sequence[Path], flaws: dict[Path, str], side: str, sheet: Path) -> None:
    flawed = list(flaws)[: ON_SHEET // 2]
    rest = [path for path in files if path not in flaws]
    chosen = flawed + spread(rest, ON_SHEET - len(flawed))
    entries = [Entry(_name(path), *read_pair(path, side), flaws.get(path, "")) for path in chosen]
    draw_sheet(entries, sheet)


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
