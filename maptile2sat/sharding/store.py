"""Where a sharded render is written: a folder, or a place in an object store."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from maptile2sat.errors import FolderError, OutputError
from maptile2sat.geotiff import output_errors
from maptile2sat.sharding.manifest import BlockRecord, block_file
from maptile2sat.sources.masked import Tile, tiles_as_json, tiles_from_json

BLOCKS = "blocks"
JOB = "job.json"
WORK = "work"
"""What lies here is of no use once nobody works."""

LOCK = "work.lock"


def record_file(name: str) -> str:
    """Return where the record of a block lies."""
    return f"{BLOCKS}/{name}.json"


def identity_of(job: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what `job.json` says: jobs that make other blocks have others."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


def record_text(record: BlockRecord, job: str, missing: Mapping[Tile, str]) -> bytes:
    """Return what is written beside a block.

    Args:
        record: Of the block.
        job: Of which job it is; see `identity_of`.
        missing: Tiles of the map that it had to do without, by column and row.
    """
    found = {**record.as_json(), "job": job}
    if missing:
        found["missing"] = tiles_as_json(missing)
    return json.dumps(found).encode() + b"\n"


def record_of(text: bytes, job: str) -> tuple[BlockRecord, dict[Tile, str]] | None:
    """Return what `record_text` was given; None if it is torn, or of another job."""
    try:
        found = json.loads(text)
        record = BlockRecord.from_json(found)
        missing = tiles_from_json(found.get("missing", []))
    except (FolderError, ValueError, RecursionError):
        return None
    return (record, missing) if found.get("job") == job else None


class Store(Protocol):
    """A place of files that are there whole or not at all.

    Attributes:
        address: The folder, or the address; may hold secrets.
        place: What messages call it; holds none.
        lock_path: A local file to lock while somebody writes here; None for object stores.
    """

    address: str
    place: str
    lock_path: Path | None

    def entries(self) -> set[str]:
        """Return the names of what is there, folders of the first level included."""

    def begin(self, job: bytes) -> None:
        """Write `job.json`, unless there is one, before anything else and where nothing may be."""

    def make(self) -> None:
        """Make what must be there before anything else is written."""

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None if it is not there."""

    def has(self, name: str) -> bool:
        """Whether a file is there."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""

    def put(self, path: Path, name: str, sha256: str) -> None:
        """Bring a local file here; it need not stay where it was.

        Raises:
            OutputError: If it did not arrive as it was.
        """

    def records(self, prefix: str, names: Sequence[str]) -> Iterator[tuple[bytes, int]]:
        """Yield (the text of its record, bytes of its file) of the blocks that have a record.

        Args:
            prefix: What the names of all blocks begin with.
            names: The names of the blocks.
        """

    def scratch(self) -> AbstractContextManager[Path]:
        """Give a local folder in which a file can be made that `put` then takes."""

    def remove(self, names: tuple[str, ...]) -> None:
        """Remove files, and folders with all that is in them."""


class FolderStore:
    """A folder of a file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = self.place = str(root)
        self.lock_path: Path | None = root / LOCK

    def entries(self) -> set[str]:
        """Return the names of what is there, folders included."""
        try:
            if not self.root.exists():
                return set()
            if self.root.is_dir():
                return {path.name for path in self.root.iterdir()}
        except OSError as error:
            raise OutputError(
                f"{self.root} cannot be written ({error.strerror or error}): choose a shorter "
                "name, or another folder"
            ) from error
        raise OutputError(f"{self.root} is a file: --dask writes a folder, give another name")

    def begin(self, job: bytes) -> None:
        """Make the folder, whose parent must be there, and write `job.json` if there is none."""
        if not self.root.parent.is_dir():
            raise OutputError(f"the folder {self.root.parent} does not exist: make it first")
        with output_errors(self.root), suppress(FileExistsError):
            self.root.mkdir(exist_ok=True)
            with (self.root / JOB).open("xb") as stream:  # another run's must not be replaced
                stream.write(job)

    def make(self) -> None:
        """Make the parts of the folder."""
        with output_errors(self.root):
            for path in (self.root / BLOCKS, self.root / WORK):
                path.mkdir(exist_ok=True)

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None if it is not there."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OutputError(
                f"{self.root / name} cannot be read: {error.strerror or error}"
            ) from error

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.root / name).is_file()

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""
        temporary = self.root / WORK / uuid.uuid4().hex
        with output_errors(self.root / name):
            try:
                temporary.write_bytes(data)
                self._move(temporary, name)
            finally:
                temporary.unlink(missing_ok=True)

    def put(self, path: Path, name: str, sha256: str) -> None:
        """Move a file of `scratch` to its place."""
        with output_errors(self.root / name):
            self._move(path, name)

    def _move(self, path: Path, name: str) -> None:
        """Rename a file once a crash of the machine cannot empty it any more."""
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        path.replace(self.root / name)

    def records(self, prefix: str, names: Sequence[str]) -> Iterator[tuple[bytes, int]]:
        """Yield (the text of its record, bytes of its file) of the blocks that have a record."""
        for name in names:
            text = self.read(record_file(name))
            if text is not None:
                try:
                    size = (self.root / block_file(name)).stat().st_size
                except OSError:
                    size = 0
                yield text, size

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a folder on the same disk, so that a rename does; killed workers leave theirs."""
        with output_errors(self.root):
            folder = Path(tempfile.mkdtemp(dir=self.root / WORK))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self, names: tuple[str, ...]) -> None:
        """Remove files, and folders with all that is in them."""
        with output_errors(self.root):
            for name in names:
                path = self.root / name
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            with suppress(OSError):
                if not any(self.root.iterdir()):
                    self.root.rmdir()


FILE_ENDINGS = (
    *(".tif", ".tiff", ".mbtiles", ".pmtiles", ".png", ".vrt"),
    *(".jpg", ".jpeg", ".jp2", ".webp", ".img", ".gpkg"),
)
"""What names end in that are of files, as against folders of blocks."""


def is_remote(output: str) -> bool:
    """Whether an output is the address of an object store, as against a folder."""
    scheme, separator, _ = output.partition("://")
    return bool(separator) and scheme != "file"


def open_store(output: str) -> Store:
    """Return where the output goes.

    Args:
        output: A folder, or an address that fsspec knows, such as `s3://bucket/prefix`.

    Raises:
        OutputError: If the address is of no use.
        MissingExtraError: If a package for it is missing.
    """
    if is_remote(output):
        from maptile2sat.sharding.object_store import ObjectStore

        return ObjectStore(output)
    return FolderStore(Path(output.removeprefix("file://")).absolute())
