"""`manifest.json`: what a sharded render consists of, with the checksum of every block.

It is written last, so that a folder that has one is whole. It is plain JSON with one block to a
line, written line by line.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from affine import Affine
from rasterio.crs import CRS

from maptile2sat.errors import FolderError, UsageError
from maptile2sat.geo.crs import FARTHEST, parse_crs
from maptile2sat.geo.grid import MAX_ZOOM, Grid, Window
from maptile2sat.output.replacing import write_whole

# The fields of a manifest, each checked as it is read: a folder may come from anybody

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


CHANGED = "was changed: its SHA-256 is another"
"""What is said of a block whose size is right and whose bytes are not."""

MANIFEST = "manifest.json"
FORMAT = 1
THREADS = 8
AT_ONCE = 10_000
"""Files that are put before the threads together: a pool holds all that it is given."""

_NAME = re.compile(r"r(m?)(\d{6,10})_c(m?)(\d{6,10})", re.ASCII)
_FIELDS = {"name", "window", "file", "size", "sha256", "masked"}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """A block of a sharded render: what is there once it is done.

    Attributes:
        name: `block_name` of its place, for example `r000012_c000034`.
        window: Its pixels on the map's grid, cut to the area asked for.
        file: `blocks/NAME.tif`, relative to the folder; None: no map there at all, no file.
        size: Bytes of the file, 0 without one.
        sha256: Of the file in hexadecimal, empty without one.
        masked: Whether any pixel of it is masked.
    """

    name: str
    window: Window
    file: str | None
    size: int
    sha256: str
    masked: bool

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return dataclasses.asdict(self) | {"window": list(self.window)}

    @classmethod
    def from_json(cls, found: Any, where: str = "block") -> BlockRecord:
        """Return a record from what `as_json` gave.

        Args:
            found: What the JSON says.
            where: What an error calls it.

        Raises:
            FolderError: If a field is missing or cannot be; the message names it.
        """
        name = field_of(found, "name", str, where)
        if not _NAME.fullmatch(name):
            raise FolderError(f"{where}.name is '{name}', not a block's name like r000012_c000034")
        file = found.get("file")
        if "file" not in found:
            raise FolderError(f"{where}.file is missing")
        if file not in (None, block_file(name)):  # a path from elsewhere could lead anywhere
            raise FolderError(f"{where}.file is {file!r}, not {block_file(name)} or null")
        sha256, size = field_of(found, "sha256", str, where), field_of(found, "size", int, where)
        if file is None and (sha256 or size):
            raise FolderError(f"{where} has no file, but a size or a checksum of one")
        if file is not None and (not _SHA256.fullmatch(sha256) or size <= 0):
            raise FolderError(f"{where} has a file, but no sound sha256 and size of it")
        return cls(
            name=name,
            window=block_window_of(found, where),
            file=file,
            size=size,
            sha256=sha256,
            masked=field_of(found, "masked", bool, where),
        )


class Blocks(Protocol):
    """Records of blocks that can be counted, and gone through more than once."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __iter__(self) -> Iterator[BlockRecord]:
        """Yield them."""


@dataclass(frozen=True)
class Manifest:
    """All of a sharded render.

    Attributes:
        job: All that decides the pixels: what `job.json` says.
        grid: The pixel grid.
        window: The pixels that the render covers.
        tags: What the blocks' files are tagged with (SYNTHETIC, MODEL and so on).
        blocks: The blocks; together they cover `window` once. They may come from a file as they
            are asked for, again and again.
        created: ISO 8601 time in UTC: the one thing that differs between two runs.
    """

    job: Mapping[str, Any]
    grid: Grid
    window: Window
    tags: Mapping[str, str]
    blocks: Blocks
    created: str

    @cached_property
    def masked(self) -> bool:
        """Whether any pixel of the render is masked."""
        return any(block.masked or block.file is None for block in self.blocks)

    @cached_property
    def size(self) -> int:
        """Bytes of all blocks' files."""
        return sum(block.size for block in self.blocks)


def block_name(row: int, col: int) -> str:
    """Return the name of the block at a row and column of the grid of blocks.

    They count blocks from the grid's origin and may be negative: `rm000001_c000012`.
    """
    parts = [f"{'m' if index < 0 else ''}{abs(index):06d}" for index in (row, col)]
    return f"r{parts[0]}_c{parts[1]}"


def block_file(name: str) -> str:
    """Return where a block's file lies in the folder."""
    return f"blocks/{name}.tif"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, whole or not at all.

    Raises:
        OutputError: If it cannot be written.
    """
    write_whole(folder / MANIFEST, _lines(manifest))


def read_manifest(folder: Path) -> Manifest:
    """Return what `manifest.json` of a folder says.

    Raises:
        FolderError: If there is none, or it cannot be; the message names the field.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FolderError(
            f"{folder} has no {MANIFEST}: the render there is not finished (render it again with "
            "--resume), or it is another kind of folder"
        ) from error
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} cannot be read: {error}") from error
    return parse_manifest(text, str(path))


def parse_manifest(text: str, name: str = MANIFEST) -> Manifest:
    """Return what the text of a manifest says.

    Args:
        text: JSON.
        name: What errors call it.

    Raises:
        FolderError: If it cannot be; the message names the field.
    """
    try:
        found = json.loads(text, object_hook=_early)
        if field_of(found, "format", int, "") != FORMAT:
            raise FolderError(
                f"format is {found['format']}, this version of maptile2sat reads {FORMAT}"
            )
        window = window_of(found, "")
        return Manifest(
            job=job_of(found),
            grid=grid_of(field_of(found, "grid", dict, ""), window),
            window=window,
            tags=tags_of(found),
            blocks=_blocks(field_of(found, "blocks", list, ""), window),
            created=text_of(found, "created"),
        )
    except FolderError as error:
        raise FolderError(f"{name} cannot be used: {error}") from error
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{name} is not JSON: {error}") from error


def check_files(folder: Path, manifest: Manifest, *, checksums: bool = True) -> list[str]:
    """Compare the blocks' files with the manifest.

    Args:
        folder: The folder of the render.
        manifest: What it should hold.
        checksums: Whether to read every file; else only their sizes are compared.

    Returns:
        What is wrong, a line for each file; empty if nothing is.
    """

    def fault(block: BlockRecord) -> str | None:
        assert block.file is not None
        path = folder / block.file
        try:
            size = path.stat().st_size
            if size != block.size:
                return f"{block.file} has {size} bytes instead of {block.size}"
            if checksums and sha256_of(path) != block.sha256:
                return f"{block.file} {CHANGED}"
        except FileNotFoundError:
            return f"{block.file} is missing"
        except OSError as error:
            return f"{block.file} cannot be read: {error.strerror or error}"
        return None

    found: list[str] = []
    files = (block for block in manifest.blocks if block.file is not None)
    with ThreadPoolExecutor(THREADS) as pool:  # waiting for disks, and hashes leave the GIL
        while some := list(islice(files, AT_ONCE)):
            found += [text for text in pool.map(fault, some) if text is not None]
    return found


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def grid_as_json(grid: Grid) -> dict[str, Any]:
    """Return a grid as JSON can hold it; floats survive bit by bit."""
    return {
        "crs": grid.crs.to_wkt(),
        "affine": list(grid.affine[:6]),
        "col0": grid.col0,
        "row0": grid.row0,
        "zoom": grid.zoom,
        "wrap": grid.wrap,
    }


def _lines(manifest: Manifest) -> Iterator[str]:
    """Yield the text, a line for each block."""
    head = {
        "format": FORMAT,
        "created": manifest.created,
        "job": dict(manifest.job),
        "grid": grid_as_json(manifest.grid),
        "window": list(manifest.window),
        "tags": dict(manifest.tags),
    }
    yield json.dumps(head, ensure_ascii=False, indent=1).removesuffix("\n}")
    yield ',\n "blocks": [\n'
    comma = ""
    for block in manifest.blocks:
        yield comma + json.dumps(block.as_json())
        comma = ",\n"
    yield "\n]}\n"


def _early(found: dict[str, Any]) -> Any:
    """Turn whole blocks into records as soon as they are read: a million dicts are large."""
    if found.keys() != _FIELDS:
        return found
    return BlockRecord.from_json(found, f"block {found['name']}")


def _blocks(found: list[Any], window: Window) -> tuple[BlockRecord, ...]:
    """Return the blocks, after checking that they can cover `window` once."""
    for number, block in enumerate(found):
        if not isinstance(block, BlockRecord):  # then something is wrong with it: say what
            BlockRecord.from_json(block, f"blocks[{number}]")
            raise FolderError(f"blocks[{number}] has fields of another version")
        if not window.contains(block.window):
            raise FolderError(f"block {block.name} reaches beyond the window")
    if len({block.name for block in found}) != len(found):
        raise FolderError("blocks has one block twice")
    area = sum(block.window.width * block.window.height for block in found)
    if area != window.width * window.height:
        raise FolderError(
            f"blocks cover {area} pixels, the window has {window.width * window.height}"
        )
    return tuple(found)
