"""The errors that maptile2sat raises on purpose.

Every message says what was wrong, where, and what to do next, in one line, so that the
command line can print it as it is. Anything that is not a `Maptile2satError` is a defect.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike, fspath


class Maptile2satError(Exception):
    """Base of all errors of this package; ends the command line with exit code 1."""

    exit_code = 1


class UsageError(Maptile2satError):
    """The request itself makes no sense (bad option, impossible area); exit code 2."""

    exit_code = 2


class SourceError(Maptile2satError):
    """A map source cannot be opened or read."""


class MissingTileError(SourceError):
    """A tile inside the source's bounds is not there and `--missing mask` was not given."""


class BlockedError(SourceError):
    """A server refuses: nothing more may be asked of it."""


class ErrorPictureError(SourceError):
    """A map has one picture at so many places that it is taken for a server's error picture.

    Attributes:
        picture: What tells the picture from others.
        tiles: Column and row of all places known to have it; cells made of them are of no use.
    """

    picture: bytes = b""
    tiles: frozenset[tuple[int, int]] = frozenset()

    def __init__(self, message: str, picture: bytes, tiles: Iterable[tuple[int, int]]) -> None:
        """Say what is wrong, and of which tiles."""
        super().__init__(message)
        self.picture, self.tiles = picture, frozenset(tiles)


class BundleError(Maptile2satError):
    """A model bundle is unknown, damaged or of a kind this version cannot load."""


class OutputError(Maptile2satError):
    """The output cannot be written."""


class UnfinishedError(OutputError):
    """The output's folder of unfinished work is not free: in use, not asked for, or of another."""


class FolderError(Maptile2satError):
    """The folder of a sharded render is not whole, or is not one."""


class DeviceError(Maptile2satError):
    """A processor cannot do what was asked, for example for lack of memory."""


class AddressError(Maptile2satError):
    """A server cannot listen at its port: it is in use, or not for this user."""


class ClusterError(Maptile2satError):
    """A Dask cluster, or a worker of it, cannot be used."""


class TrainingError(Maptile2satError):
    """Training data or a training run cannot be used."""


def refuse_undecodable(path: str | PathLike[str], kind: type[Maptile2satError]) -> None:
    """Refuse a file name that is not text, which neither GDAL nor SQLite can open.

    Raises:
        Maptile2satError: Of the kind given, if the name's bytes are not UTF-8.
    """
    try:
        fspath(path).encode()
    except UnicodeEncodeError as error:
        shown = fspath(path).encode(errors="backslashreplace").decode()
        raise kind(f"the name {shown} is not UTF-8: rename it first") from error


class MissingExtraError(Maptile2satError):
    """An optional dependency is needed; the message names the extra to install."""

    def __init__(self, what: str, extra: str) -> None:
        """Say that `what` needs the package's optional dependency group `extra`."""
        super().__init__(f"{what} needs an optional part: pip install 'maptile2sat[{extra}]'")
