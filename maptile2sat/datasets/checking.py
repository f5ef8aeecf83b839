"""The whole check of a set of pairs: files, blank pairs, alignment, scale."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from maptile2sat.datasets.alignment import Alignment, align
from maptile2sat.datasets.blank import blank_image, blank_map
from maptile2sat.datasets.contact import Entry, check_sheet, draw_sheet
from maptile2sat.datasets.files import FileState, common_side, examine_files
from maptile2sat.datasets.layout import (
    SPLITS,
    Pixels,
    Side,
    half_like_a_map,
    list_pairs,
    read_description,
    read_pair,
    spread,
)
from maptile2sat.datasets.scale import Scale, find_scale
from maptile2sat.errors import UsageError

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
