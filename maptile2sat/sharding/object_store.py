"""A sharded render in an object store, by way of fsspec.

Object stores show an object once all of it has arrived, so nothing needs a temporary name. What
was uploaded is read back and compared.
"""

from __future__ import annotations

import hashlib
import inspect
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from maptile2sat.errors import MissingExtraError, OutputError
from maptile2sat.sharding.manifest import block_file
from maptile2sat.sharding.store import BLOCKS, JOB, record_file
from maptile2sat.sources.naming import safe_place, safe_reason

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
