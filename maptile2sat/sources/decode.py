"""From the bytes of a tile to its pixels, with every doubt about them raised first."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pictures
from PIL import features

from maptile2sat.errors import SourceError
from maptile2sat.source import Read
from maptile2sat.sources.options import Colour
from maptile2sat.sources.pixels import flatten, halve

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", *(["AVIF"] if features.check("avif") else []))
"""Kinds of pictures that tiles may be; AVIF where Pillow reads it, as from 11.3 on."""

MAX_TILE_BYTES = 16 << 20
"""Size from which on the bytes of a tile are not believed."""

_GZIP = b"\x1f\x8b"
_AVIF = (b"ftypavif", b"ftypavis")
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")

DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    TypeError,
    struct.error,
    zlib.error,
    MemoryError,
)
"""What Pillow's decoders raise over damaged files."""

# Pillow prints this for large pictures; here they are refused, with a message
warnings.filterwarnings("ignore", category=Pictures.DecompressionBombWarning, module="PIL.Image")


@dataclass(frozen=True)
class Decoder:
    """Decodes the tiles of one source.

    Attributes:
        side: Pixels per side that tiles have in the pixel grid.
        retina: Whether tiles have twice as many pixels, to be averaged.
        fill: The colour behind partly transparent pixels.
    """

    side: int
    retina: bool
    fill: Colour

    def decode(self, data: bytes, place: str) -> Read:
        """Return the pixels of an encoded tile.

        Args:
            data: The bytes of the picture.
            place: The tile's name for messages, such as `16/37308/18960`.

        Raises:
            SourceError: If it is not a sound picture of the expected size.
        """
        picture = open_picture(data, place)
        if self.retina and picture.size == (2 * self.side, 2 * self.side):
            return flatten(halve(_pixels(picture, place)), self.fill)
        if picture.size != (self.side, self.side):
            raise SourceError(self._wrong_size(picture.size, place))
        return flatten(_pixels(picture, place), self.fill)

    def _wrong_size(self, size: tuple[int, int], place: str) -> str:
        text = f"tile {place} is {size[0]}x{size[1]} px, not {self.side}x{self.side}"
        sides = {256: 256, 512: 512} | ({1024: 512} if self.retina else {})
        if size[0] == size[1] and (side := sides.get(size[0])) is not None:
            text += f": say --tile-size {side}"
        return text


def open_picture(data: bytes, place: str) -> Pictures.Image:
    """Read the header of an encoded tile; pixels are not decoded yet.

    Raises:
        SourceError: If it is not a picture of a supported kind; the message says what it is.
    """
    data = unpacked(data)
    if len(data) > MAX_TILE_BYTES:
        raise SourceError(f"tile {place} has {len(data)} bytes: that is not a map tile")
    try:
        return Pictures.open(io.BytesIO(data), formats=FORMATS)
    except Pictures.DecompressionBombError as error:
        raise SourceError(
            f"tile {place} says that it has more pixels than any map tile: not decoded"
        ) from error
    except DAMAGE as error:
        if data[4:12] in _AVIF:
            raise SourceError(
                f"tile {place} is an AVIF picture, which Pillow reads from version 11.3 on: "
                "pip install 'pillow>=11.3'"
            ) from error
        raise SourceError(
            f"tile {place} is {describe(data)}, not a PNG, JPEG, WebP, AVIF or GIF picture"
        ) from error


def unpacked(data: bytes) -> bytes:
    """Return the bytes of a tile without gzip, whatever its container says of it.

    No picture begins like it.
    """
    if not data.startswith(_GZIP):
        return data
    try:
        content = zlib.decompressobj(31).decompress(data, MAX_TILE_BYTES + 1)
    except zlib.error:
        return data
    return content if len(content) > MAX_TILE_BYTES or is_picture(content) else data


def is_picture(data: bytes) -> bool:
    """Whether the bytes of a tile begin like a picture, be it within gzip."""
    if data.startswith(_GZIP):
        with suppress(zlib.error):
            data = zlib.decompressobj(31).decompress(data, 64)
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    avif = data[4:12] in (*_AVIF, b"ftypmif1")
    return webp or avif or data.startswith(_PICTURES)


def describe(data: bytes) -> str:
    """Say what bytes that are no picture look like."""
    start = data[:512].lstrip().lower()
    if not data:
        return "empty"
    if start.startswith((b"<!doctype html", b"<html")) or b"<html" in start:
        return "an HTML page (an error page or a login?)"
    if start.startswith(b"<"):
        return "an XML text (an error message?)"
    if start.startswith((b"{", b"[")):
        return "a JSON text (an error message?)"
    if data.startswith((b"\x1f\x8b", b"\x1a")):
        return "a vector tile (this needs raster tiles)"
    return "something else"


def _pixels(picture: Pictures.Image, place: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Decode to uint8 (height, width, 4)."""
    if picture.mode.startswith(("I", "F")):
        raise SourceError(f"tile {place} has {picture.mode} pixels: only 8 bits are supported")
    try:
        return np.asarray(picture.convert("RGBA"), np.uint8)
    except DAMAGE as error:
        raise SourceError(f"tile {place} is damaged: {error}") from error
