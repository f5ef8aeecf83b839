"""The folder in which a set is built: what was read stays read, whenever it is stopped."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from maptile2sat.datasets.blank import blank_image, blank_map
from maptile2sat.datasets.lattice import Cell, Lattice, Parts
from maptile2sat.datasets.layout import Pixels, Side
from maptile2sat.errors import UsageError
from maptile2sat.grid import Window
from maptile2sat.source import Source, takes_any, tile_count

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
