"""The folder in which a set is built: what was read stays read, whenever it is stopped."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from maptile2sat._version import __version__
from maptile2sat.datasets.check import blank_image, blank_map
from maptile2sat.datasets.pairs import DESCRIPTION, Pixels, Side, read_description, write_json
from maptile2sat.errors import OutputError, TrainingError, UsageError
from maptile2sat.geo.grid import Window
from maptile2sat.sources.base import Source, takes_any, tile_count
from maptile2sat.sources.redact import address_mark, safe_url

# Where pairs are cut, and which of them are for validation

LARGEST_BLOCK = 4
"""Most squares on a side of a block of validation squares."""

SMALL = 36
"""Squares below which blocks are taken first where few others are lost beside them."""


class Cell(NamedTuple):
    """A square, by its place among the squares."""

    col: int
    row: int


@dataclass(frozen=True)
class Lattice:
    """Squares of an area of a grid.

    Attributes:
        left: First column of the first square, in pixels of the grid.
        top: First row of the first square.
        columns: Squares across.
        rows: Squares down.
        size: Side of a square in pixels.
    """

    left: int
    top: int
    columns: int
    rows: int
    size: int

    @classmethod
    def within(cls, area: Window, size: int) -> Lattice:
        """Return as many squares as fit, in the middle of `area`."""
        columns, rows = max(0, area.width) // size, max(0, area.height) // size
        left = area.col + (area.width - columns * size) // 2
        top = area.row + (area.height - rows * size) // 2
        return cls(left, top, columns, rows, size)

    def __len__(self) -> int:
        return self.columns * self.rows

    def window(self, cell: Cell) -> Window:
        """Return the pixels of a square."""
        col, row = self.left + cell.col * self.size, self.top + cell.row * self.size
        return Window(col, row, self.size, self.size)

    def shuffled(self, seed: int) -> list[Cell]:
        """Return all squares in the order that `seed` says."""
        order = np.random.default_rng([seed, 1]).permutation(len(self))
        return [Cell(int(i) % self.columns, int(i) // self.columns) for i in order]

    def blocks(self, side: int, seed: int) -> list[list[Cell]]:
        """Return all squares in blocks of at most `side` squares a side, as `seed` orders them."""
        blocks = [
            [
                Cell(col, row)
                for row in range(top, min(top + side, self.rows))
                for col in range(left, min(left + side, self.columns))
            ]
            for top in range(0, self.rows, side)
            for left in range(0, self.columns, side)
        ]
        order = np.random.default_rng([seed, 2]).permutation(len(blocks))
        shuffled = [blocks[int(i)] for i in order]
        if len(self) < SMALL:
            shuffled.sort(key=lambda block: len(self.around(block)))
        return shuffled

    def around(self, cells: Iterable[Cell]) -> set[Cell]:
        """Return the squares that touch `cells` and are none of them."""
        inner = set(cells)
        return {
            Cell(col, row)
            for cell in inner
            for col in range(max(0, cell.col - 1), min(self.columns, cell.col + 2))
            for row in range(max(0, cell.row - 1), min(self.rows, cell.row + 2))
        } - inner


class Parts(NamedTuple):
    """The squares of a set.

    Attributes:
        train: Those for training.
        val: Those for validation.
        gap: Usable ones that are left out because they touch validation; empty if a count was
            wanted, because not all are looked at then.
    """

    train: list[Cell]
    val: list[Cell]
    gap: list[Cell]


Assess = Callable[[Cell, Sequence[Cell]], bool]
"""Whether a square is usable; the second argument are those that may be asked for next."""

_AHEAD = 3


def choose(
    lattice: Lattice, assess: Assess, *, count: int | None, val_fraction: float, seed: int
) -> Parts:
    """Choose squares: a function of its arguments and of what `assess` says alone.

    Args:
        lattice: The squares.
        assess: Asked about as few of them as will do.
        count: Pairs wanted, None for all.
        val_fraction: Part of them for validation.
        seed: Decides the order.
    """
    order = lattice.shuffled(seed)
    if count is None:
        wanted = len(_usable(order, assess, None))
        parts = _split(lattice, order, assess, wanted, val_fraction, seed, limit=False)
        gap = [cell for cell in sorted(lattice.around(parts.val)) if assess(cell, ())]
        return parts._replace(gap=gap)
    wanted = min(count, len(lattice))
    parts = _split(lattice, order, assess, wanted, val_fraction, seed)
    if len(parts.train) + len(parts.val) < wanted:
        usable = len(_usable(order, assess, None))
        if usable < wanted:  # a part of what was wanted is too much of what there is
            parts = _split(lattice, order, assess, usable, val_fraction, seed)
    return parts


def _split(
    lattice: Lattice,
    order: Sequence[Cell],
    assess: Assess,
    wanted: int,
    val_fraction: float,
    seed: int,
    *,
    limit: bool = True,
) -> Parts:
    """Choose squares for validation, then others that do not touch them; the gap is left empty.

    Args:
        lattice: The squares.
        order: All of them, in the order in which they are taken for training.
        assess: Whether one is usable.
        wanted: How many are wanted in all.
        val_fraction: Part of them for validation.
        seed: Decides the order of blocks for validation.
        limit: Whether to stop when `wanted` are found.
    """
    for_val = max(1, round(val_fraction * wanted)) if val_fraction > 0 and wanted > 1 else 0
    side = max(1, min(LARGEST_BLOCK, round(math.sqrt(for_val))))
    blocked = [cell for block in lattice.blocks(side, seed) for cell in block] if for_val else []
    val = _usable(blocked, assess, for_val)
    left_out = lattice.around(val) | set(val)
    rest = [cell for cell in order if cell not in left_out]
    return Parts(_usable(rest, assess, wanted - for_val if limit else None), val, [])


def _usable(cells: Sequence[Cell], assess: Assess, limit: int | None) -> list[Cell]:
    """Return the first `limit` usable squares."""
    found: list[Cell] = []
    for place, cell in enumerate(cells):
        if limit is not None and len(found) >= limit:
            break
        if assess(cell, cells[place + 1 : place + 1 + _AHEAD]):
            found.append(cell)
    return found


Format = Literal["png", "jpeg"]
"""`png` keeps map colours exact; `jpeg` (quality 95, full colour) takes about a third."""

FOLDER = ".build"
"""Inside the set, until it is complete."""

OK = "ok"
EMPTY = "empty"
BLANK = "blank map"


class Workshop:
    """Reads squares of two sources, judges them, and keeps those that are usable.

    A square is written first and entered in the journal afterwards, so that what the journal
    says is there.

    Args:
        out: Folder of the set.
        lattice: The squares.
        sources: Map and image, on the same grid.
        map_side: Which half the map becomes.
        kind: How pairs are written.
        keep_uniform: Whether pairs of one colour are usable.
        max_tiles: Most tiles that may be read.
        progress: Called with the number of squares judged so far.
    """

    def __init__(
        self,
        out: Path,
        lattice: Lattice,
        sources: tuple[Source, Source],
        *,
        map_side: Side,
        kind: Format,
        keep_uniform: bool,
        max_tiles: int,
        progress: Callable[[int], None],
    ) -> None:
        self._out, self._folder = out, out / FOLDER
        self._lattice, self._sources = lattice, sources
        self._map_side, self._kind = map_side, kind
        self._keep_uniform = keep_uniform
        self._max_tiles, self._tiles = max_tiles, 0
        self._progress = progress
        self._journal = self._folder / "journal.jsonl"
        self._verdicts = self._read_journal()

    def assess(self, cell: Cell, coming: Sequence[Cell] = ()) -> bool:
        """Return whether a square is usable, reading it if it has not been read.

        Args:
            cell: The square.
            coming: Squares that may be next.

        Raises:
            SourceError: If a source cannot be read.
            UsageError: If this would read more tiles than allowed.
        """
        verdict = self._verdicts.get(cell)
        if verdict is None:
            for other in coming:
                if other not in self._verdicts:
                    for source in self._sources:
                        source.prefetch(self._lattice.window(other))
            verdict = self._judge(cell)
            with self._journal.open("a", encoding="utf-8") as stream:
                stream.write(_line(cell, verdict))
            self._verdicts[cell] = verdict
            self._progress(len(self._verdicts))
        return verdict == OK

    def publish(self, parts: Parts) -> None:
        """Move the chosen pairs to where they belong."""
        for split, cells in (("train", parts.train), ("val", parts.val)):
            folder = self._out / split
            folder.mkdir(exist_ok=True)
            for cell in cells:
                name = self._name(cell)
                if (folder / name).exists():
                    continue
                staged = self._folder / name
                if not staged.exists():
                    self._judge(cell)
                staged.replace(folder / name)

    def forget(self, tiles: Sequence[Collection[tuple[int, int]]]) -> None:
        """Have squares judged anew that were read from tiles which turned out to be none.

        Args:
            tiles: Column and row of those of the map, and of those of the image.
        """
        found = list(zip(self._sources, tiles, strict=True))
        bad = [
            cell
            for cell in self._verdicts
            if any(takes_any(source, self._lattice.window(cell), them) for source, them in found)
        ]
        for cell in bad:
            del self._verdicts[cell]
            (self._folder / self._name(cell)).unlink(missing_ok=True)
        if bad:
            temporary = self._journal.with_suffix(".tmp")
            lines = [_line(cell, verdict) for cell, verdict in self._verdicts.items()]
            temporary.write_text("".join(lines), encoding="utf-8")
            temporary.replace(self._journal)

    def skipped(self) -> dict[str, int]:
        """Return how many squares were not usable, by reason."""
        counts = Counter(self._verdicts.values())
        del counts[OK]
        return dict(sorted(counts.items()))

    def clear(self) -> None:
        """Remove what is only needed for building."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _judge(self, cell: Cell) -> str:
        """Read a square, keep it if it is usable, and return why it is not."""
        window = self._lattice.window(cell)
        halves: list[Pixels] = []
        for source in self._sources:
            self._count(tile_count(source, window))
            read = source.read(window)
            if not read.mask.all():
                return EMPTY
            halves.append(read.image)
        drawn, image = halves
        reason = blank_image(image)
        if reason is not None and not (self._keep_uniform and reason == "uniform"):
            return reason
        if blank_map(drawn) and not self._keep_uniform:
            return BLANK
        self._keep(self._name(cell), drawn, image)
        return OK

    def _keep(self, name: str, drawn: Pixels, image: Pixels) -> None:
        halves = [image, drawn] if self._map_side == "right" else [drawn, image]
        packed = io.BytesIO()
        picture = Image.fromarray(np.concatenate(halves, axis=1))
        if self._kind == "png":
            picture.save(packed, "PNG")
        else:
            picture.save(packed, "JPEG", quality=95, subsampling=0)
        temporary = self._folder / f".{name}.tmp"
        temporary.write_bytes(packed.getvalue())
        temporary.replace(self._folder / name)

    def _name(self, cell: Cell) -> str:
        """Name a pair by zoom, column and row of its first pixel on the world's grid."""
        window: Window = self._lattice.window(cell)
        grid = self._sources[0].info.grid
        column = window.col % grid.wrap if grid.wrap else window.col
        ending = "png" if self._kind == "png" else "jpg"
        return f"{grid.zoom}-{column}-{window.row}.{ending}"

    def _count(self, tiles: int) -> None:
        self._tiles += tiles
        if self._tiles > self._max_tiles:
            raise UsageError(
                f"this reads more than {self._max_tiles:,} tiles: say a larger --max-tiles, if the "
                "provider allows it, to go on (what was read is kept)"
            )

    def _read_journal(self) -> dict[Cell, str]:
        """Return the verdicts of an earlier run; a line that it was writing does not count."""
        verdicts: dict[Cell, str] = {}
        if not self._journal.exists():
            return verdicts
        text = self._journal.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            self._journal.write_text(whole, encoding="utf-8")
        for line in whole.splitlines():
            entry = json.loads(line)
            verdicts[Cell(*entry["square"])] = str(entry["verdict"])
        return verdicts


def _line(cell: Cell, verdict: str) -> str:
    """Return what the journal says of a square."""
    return json.dumps({"square": list(cell), "verdict": verdict}) + "\n"


# Whose folder it is: a build goes on only with the arguments that it was begun with

ARGUMENTS = "arguments.json"


def identity(source: str) -> dict[str, Any]:
    """Return how a source is recognised: no secrets, and no folders of this machine.

    Args:
        source: Its path or address, as `located` returns it.
    """
    if "://" in source:
        # two maps of one server may differ in nothing but what is hidden of its address
        mark = address_mark(source)
        return {"name": safe_url(source), **({} if mark is None else {"mark": mark})}
    path = Path(source)
    parts = path.parts
    first = next((place for place, part in enumerate(parts) if "{" in part), None)
    if first is not None:  # a template of paths: its own folder and what follows
        return {"name": "/".join(parts[max(0, first - 1) :])}
    try:
        if path.is_dir():
            return {"name": path.resolve().name}
        return {"name": path.name, "bytes": path.stat().st_size}
    except OSError:  # it is not there, or never can be: opening it says so
        return {"name": path.name}


def is_complete(out: Path, arguments: Mapping[str, Any]) -> bool:
    """Return whether the set in `out` is complete already; nothing is written.

    Args:
        out: Folder of the set.
        arguments: What decides its content, as JSON can hold it.

    Raises:
        TrainingError: If `out` is a set of other arguments; the message names them.
        OutputError: If it holds something else.
    """
    if (out / DESCRIPTION).exists():
        _compare(out, read_description(out).get("arguments"), _as_json(arguments))
        return True
    begun = out / FOLDER / ARGUMENTS
    if begun.exists():
        _compare(out, json.loads(begun.read_text(encoding="utf-8")), _begun(arguments))
    elif out.exists() and any(entry.name != FOLDER for entry in out.iterdir()):
        raise OutputError(f"{out} is not empty and no set that was begun: give another --out")
    return False


def claim(out: Path, arguments: Mapping[str, Any]) -> None:
    """Begin a build in `out`, which from then on is of these arguments.

    Args:
        out: Folder of the set, which `is_complete` has found to be free or of these arguments.
        arguments: What decides its content, as JSON can hold it.
    """
    begun = out / FOLDER / ARGUMENTS
    if not begun.exists():
        begun.parent.mkdir(parents=True, exist_ok=True)
        write_json(begun, _begun(arguments))


def _begun(arguments: Mapping[str, Any]) -> dict[str, Any]:
    # another version may draw the map otherwise
    return {**_as_json(arguments), "version": __version__}


def _as_json(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(arguments)))


def _compare(out: Path, old: Any, new: dict[str, Any]) -> None:
    if not isinstance(old, dict):
        raise TrainingError(f"{out} is a data set that was not built here: give another --out")
    different = [
        f"{key}: {_show(old.get(key))} != {_show(new.get(key))}"
        for key in {**old, **new}
        if not _same(old.get(key), new.get(key))
    ]
    if different:
        raise TrainingError(
            f"{out} was built with other arguments ({'; '.join(different)}): "
            "repeat them, or give another --out"
        )


def _same(old: Any, new: Any) -> bool:
    """Whether two values are equal; sources of older versions have no mark."""
    if isinstance(old, dict) and isinstance(new, dict) and "mark" not in old:
        new = {name: value for name, value in new.items() if name != "mark"}
    return bool(old == new)


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(str(part) for part in value.values())
    return "none" if value is None else str(value)
