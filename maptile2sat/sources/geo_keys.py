"""The texts in which GeoTIFF and JPEG 2000 may hold a whole CRS, read before GDAL does.

GDAL opens the grids that a CRS names as soon as it is asked for the CRS.
"""

from __future__ import annotations

import dataclasses
import io
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from maptile2sat.errors import Maptile2satError, SourceError
from maptile2sat.geo.crs import MAX_CRS_TEXT, names_files
from maptile2sat.sources.options import SourceOptions
from maptile2sat.sources.pmtiles import UrlBytes
from maptile2sat.sources.redact import safe_url

_TEXTS = 34737
"""The tag GeoAsciiParams."""

_GEO_JP2 = bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03")
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_MAX_BOXES = 1000
_BUFFER = 16 << 10


def check_geo_keys(path: Path) -> None:
    """Make sure that the CRS within a picture names no files.

    Raises:
        SourceError: If it does.
    """
    with suppress(OSError), path.open("rb") as file:  # else GDAL says what is wrong
        _check(file, path.stat().st_size, str(path))


def check_remote_geo_keys(url: str, options: SourceOptions) -> None:
    """Do the same for a picture on a web server, as far as it serves ranges.

    Raises:
        SourceError: If its CRS names files.
    """
    content = UrlBytes(url, dataclasses.replace(options, retries=0))
    try:
        _check(io.BufferedReader(_Ranges(content), _BUFFER), 1 << 62, safe_url(url))
    finally:
        content.close()


def _check(file: BinaryIO | io.BufferedReader, size: int, name: str) -> None:
    try:
        start = file.read(len(_JP2))
        places = _within_jp2(file, size) if start == _JP2 else [0]
        texts = [text for place in places for text in _texts(file, place)]
    except (OSError, struct.error, ValueError, OverflowError):
        return  # cut short, or not to be had
    for text in texts:
        if len(text) > MAX_CRS_TEXT or names_files(text.decode("utf-8", "replace")):
            raise SourceError(
                f"{name} has a CRS that names files to read: give it another, gdal_translate "
                f"-a_srs EPSG:... {name} b.tif, or if you trust it, pass --allow-vrt"
            )


class _Ranges(io.RawIOBase):
    """A file on a server."""

    def __init__(self, content: UrlBytes) -> None:
        self._content, self._at = content, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (self._at if whence == io.SEEK_CUR else 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._content.get(self._at, len(buffer))
        except Maptile2satError as error:
            raise OSError(str(error)) from error
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _texts(file: BinaryIO | io.BufferedReader, place: int) -> list[bytes]:
    """Return the texts of the first directory of a TIFF that begins at a place of a file."""
    file.seek(place)
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None:
        return []
    big = struct.unpack_from(order + "H", start, 2)[0] == 43
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), start, 8 if big else 4)
    counts, entry = ("Q", "HHQ8s") if big else ("H", "HHI4s")
    file.seek(place + at)
    (count,) = struct.unpack(order + counts, file.read(struct.calcsize(order + counts)))
    found = []
    size = struct.calcsize(order + entry)
    entries = file.read(min(count, 1 << 16) * size)
    for tag, _, length, value in struct.iter_unpack(
        order + entry, entries[: len(entries) // size * size]
    ):
        if tag == _TEXTS and length <= len(value):
            found.append(value[:length])
        elif tag == _TEXTS:
            file.seek(place + struct.unpack(order + ("Q" if big else "I"), value)[0])
            found.append(file.read(min(length, MAX_CRS_TEXT + 1)))
    return found


def _within_jp2(file: BinaryIO | io.BufferedReader, end: int) -> list[int]:
    """Return where TIFFs of nothing but keys begin in a JPEG 2000 file."""
    at, found = 0, []
    for _ in range(_MAX_BOXES):
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            (size,), head = struct.unpack(">Q", file.read(8)), 16
        if kind == b"uuid" and file.read(16) == _GEO_JP2:
            found.append(at + head + 16)
        if size < head or at + size >= end:  # 0: as long as the file
            break
        at += size
    return found
