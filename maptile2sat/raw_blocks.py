"""Pixels of a render on disk, written in any order, until they become one GeoTIFF.

Two plain files, colours and mask, that GDAL reads through a VRT. Python writes them itself: it
says at once when a disk is full, while GDAL writes late and may keep quiet about it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt

from maptile2sat.grid import Grid, Window

COLOURS = 3
BYTES_PER_PIXEL = COLOURS + 1
"""What the files take on disk."""

_COLOUR_NAMES = ("Red", "Green", "Blue")


class RawBlocks:
    """The files `rgb.raw` and `mask.raw` of a folder: row by row, pixel by pixel.

    Pixels that were never written are masked.
    """

    def __init__(self, folder: Path, window: Window) -> None:
        """Open the files, or make them as holes: they take room as they are filled.

        Args:
            folder: Where they lie.
            window: The pixels of the grid that they hold.

        Raises:
            OSError: If they cannot be made.
        """
        self.folder, self.window = folder, window
        self.masked = False
        """Whether any pixel is known to be masked; set it when old files are opened."""
        pixels = window.width * window.height
        self._rgb = _opened(folder / "rgb.raw", pixels * COLOURS)
        try:
            self._mask = _opened(folder / "mask.raw", pixels)
        except OSError:
            self._rgb.close()
            raise

    def write(
        self, window: Window, image: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]
    ) -> None:
        """Write the pixels of `window`, which must lie inside.

        Args:
            window: Pixels of the grid.
            image: uint8 (height, width, 3).
            mask: uint8 (height, width), 255 valid, 0 not.

        Raises:
            OSError: If the disk does not take them.
        """
        self.masked = self.masked or bool((mask == 0).any())
        for row in range(window.height):
            place = self._place(window, row)
            _put(self._rgb, place * COLOURS, image[row])
            _put(self._mask, place, mask[row])

    def read(self, window: Window) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Return image (height, width, 3) and mask (height, width) of `window`.

        Raises:
            OSError: If the files cannot be read.
        """
        image = np.empty((window.height, window.width, COLOURS), np.uint8)
        mask = np.empty((window.height, window.width), np.uint8)
        for row in range(window.height):
            place = self._place(window, row)
            _get(self._rgb, place * COLOURS, image[row])
            _get(self._mask, place, mask[row])
        return image, mask

    def sync(self) -> None:
        """Make sure that what was written outlives a crash of the machine.

        Raises:
            OSError: If the disk does not take it.
        """
        os.fsync(self._rgb.fileno())
        os.fsync(self._mask.fileno())

    def close(self) -> None:
        """Close the files; they stay."""
        self._rgb.close()
        self._mask.close()

    def _place(self, window: Window, row: int) -> int:
        """Return which pixel of the files a row of `window` starts at."""
        return (window.row + row - self.window.row) * self.window.width + (
            window.col - self.window.col
        )

    def vrt(self, grid: Grid, tags: Mapping[str, str]) -> str:
        """Return a VRT that shows the files as RGB with georeference, tags and mask.

        Args:
            grid: The pixel grid.
            tags: Metadata of the picture.
        """
        window = self.window
        transform = ", ".join(repr(value) for value in grid.transform(window).to_gdal())
        items = "".join(
            f"<MDI key={quoteattr(key)}>{escape(value)}</MDI>"
            for key, value in sorted(tags.items())
        )
        bands = "".join(
            self._band("rgb.raw", COLOURS, number, f"<ColorInterp>{name}</ColorInterp>")
            for number, name in enumerate(_COLOUR_NAMES)
        )
        mask = f"<MaskBand>{self._band('mask.raw', 1, 0, '')}</MaskBand>" if self.masked else ""
        return (
            f'<VRTDataset rasterXSize="{window.width}" rasterYSize="{window.height}">'
            f"<SRS>{escape(grid.crs.to_wkt())}</SRS>"
            f"<GeoTransform>{transform}</GeoTransform><Metadata>{items}</Metadata>"
            f"{bands}{mask}</VRTDataset>"
        )

    def _band(self, name: str, channels: int, channel: int, colour: str) -> str:
        return (
            f'<VRTRasterBand dataType="Byte" band="{channel + 1}" subClass="VRTRawRasterBand">'
            f'{colour}<SourceFilename relativetoVRT="1">{name}</SourceFilename>'
            f"<ImageOffset>{channel}</ImageOffset><PixelOffset>{channels}</PixelOffset>"
            f"<LineOffset>{channels * self.window.width}</LineOffset></VRTRasterBand>"
        )


def _opened(path: Path, size: int) -> FileIO:
    """Open a file, or make it: of `size` bytes that take no room yet."""
    stream = path.open("r+b" if path.exists() else "w+b", buffering=0)
    try:
        stream.truncate(size)
    except OSError:
        stream.close()
        raise
    return stream


def _put(stream: FileIO, place: int, pixels: npt.NDArray[np.uint8]) -> None:
    """Write a row of pixels at a place of the file, all of it."""
    left = np.ascontiguousarray(pixels).data.cast("B")
    stream.seek(place)
    while left:
        left = left[stream.write(left) :]


def _get(stream: FileIO, place: int, pixels: npt.NDArray[np.uint8]) -> None:
    """Read a row of pixels from a place of the file."""
    left = pixels.data.cast("B")
    stream.seek(place)
    while left:
        count = stream.readinto(left)
        if not count:
            raise OSError(f"{stream.name} is too short")
        left = left[count:]
