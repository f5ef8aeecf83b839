"""Where a sharded render is written: a folder, or a place in an object store."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from maptile2sat.errors import FolderError, MissingExtraError, OutputError
from maptile2sat.output.geotiff import output_errors
from maptile2sat.output.manifest import BlockRecord, block_file
from maptile2sat.sources.options import Tile, tiles_as_json, tiles_from_json
from maptile2sat.sources.redact import safe_place, safe_reason

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
        return ObjectStore(output)
    return FolderStore(Path(output.removeprefix("file://")).absolute())


# A sharded render in an object store, by way of fsspec

READ = 1 << 20


class ObjectStore:
    """A prefix of an object store.

    Settings are those of fsspec and of the store's own client: `AWS_ENDPOINT_URL`,
    `AWS_ACCESS_KEY_ID` and so on, or `~/.config/fsspec`.

    Args:
        address: Such as `s3://bucket/prefix`.

    Raises:
        OutputError: If fsspec does not know such addresses, or cannot open this one.
        MissingExtraError: If a package for it is missing.
    """

    lock_path: Path | None = None

    def __init__(self, address: str) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise MissingExtraError("writing to an object store", "s3") from error
        self.address = address.rstrip("/")
        self.place = safe_place(self.address)
        try:
            # lists go stale: other processes write too
            self._files, self._root = url_to_fs(self.address, use_listings_cache=False)
        except ImportError as error:
            raise OutputError(
                f"{self.place} needs a package that is not installed ({self._reason(error)}); "
                "for s3:// say pip install 'maptile2sat[s3]'"
            ) from error
        # fsspec hands over to packages of others, which raise whatever they like
        except Exception as error:
            raise OutputError(
                f"{self.place} is no address that fsspec can open: {self._reason(error)}"
            ) from error
        find = getattr(self._files, "_find", self._files.find)
        self._by_prefix = "prefix" in inspect.signature(find).parameters

    def entries(self) -> set[str]:
        """Return the names of what is there, prefixes of the first level included."""
        with self._errors(self.place):
            try:
                found = self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                return set()
        return {path.rstrip("/").rpartition("/")[2] for path in found} - {""}

    def begin(self, job: bytes) -> None:
        """Write `job.json` if there is none."""
        if self.read(JOB) is None:
            self.write(JOB, job)

    def make(self) -> None:
        """Do nothing: object stores have no folders."""

    def read(self, name: str) -> bytes | None:
        """Return an object's bytes; None if it is not there."""
        with self._errors(name):
            try:
                found: bytes = self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return found

    def has(self, name: str) -> bool:
        """Whether an object is there; asks for its size only."""
        with self._errors(name):
            try:
                self._files.info(self._path(name))
            except FileNotFoundError:
                return False
            return True

    def write(self, name: str, data: bytes) -> None:
        """Write a small object."""
        with self._errors(name):
            self._files.pipe_file(self._path(name), data)

    def put(self, path: Path, name: str, sha256: str) -> None:
        """Upload a file, and make sure that it arrived as it was."""
        with self._errors(name):
            self._files.put_file(str(path), self._path(name))
            digest = hashlib.sha256()
            with self._files.open(self._path(name), "rb", block_size=8 * READ) as stream:
                while piece := stream.read(READ):
                    digest.update(piece)
        if digest.hexdigest() != sha256:
            raise OutputError(f"{self.place}/{name} did not arrive as it was sent")

    def records(self, prefix: str, names: Sequence[str]) -> Iterator[tuple[bytes, int]]:
        """Yield (the text of its record, bytes of its file) of the blocks that have a record."""
        sizes = self.sizes(prefix)
        there = [name for name in names if record_file(name) in sizes]
        with self._errors(BLOCKS):
            paths = [self._path(record_file(name)) for name in there]
            texts: dict[str, bytes] = self._files.cat(paths) if paths else {}
        for name, path in zip(there, paths, strict=True):
            yield texts[path], sizes.get(block_file(name), 0)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return the bytes of the objects of blocks whose names begin with `prefix`."""
        wanted = {"prefix": prefix} if self._by_prefix else {}
        with self._errors(BLOCKS):
            found = self._files.find(self._path(BLOCKS), detail=True, **wanted)
        start = len(self._root) + 1
        return {path[start:]: int(about["size"]) for path, about in found.items()}

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a folder of this machine; Dask sees to those that killed workers leave."""
        from distributed import get_worker

        try:
            parent: str | None = get_worker().local_directory
        except ValueError:  # not in a worker
            parent = None
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            yield Path(folder)

    def remove(self, names: tuple[str, ...]) -> None:
        """Remove objects, and all those below a name."""
        with self._errors(self.place):
            for name in names:
                path = self._path(name)
                if self._files.exists(path):
                    self._files.rm(path, recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Turn what can go wrong into an `OutputError`."""
        try:
            yield
        # file systems of others raise whatever they like
        except Exception as error:
            raise OutputError(
                f"{name} of {self.place} cannot be read or written: {self._reason(error)}"
            ) from error

    def _reason(self, error: Exception) -> str:
        """Return what an error says, in one line and without secrets."""
        return safe_reason(str(error), self.address) or type(error).__name__
