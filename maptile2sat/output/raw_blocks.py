"""Pixels of a render on disk, written in any order, until they become one GeoTIFF.

Two plain files, colours and mask, that GDAL reads through a VRT. Python writes them itself: it
says at once when a disk is full, while GDAL writes late and may keep quiet about it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt

from maptile2sat.geo.grid import Grid, Window
from maptile2sat.sources.base import Read, SourceInfo, blank

COLOURS = 3
BYTES_PER_PIXEL = COLOURS + 1
"""What the files take on disk."""

VIEW = "view.vrt"

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
        self.overviews: list[RawBlocks] = []
        """Smaller copies in folders of their own below `folder`, the largest first."""
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
        """Close the files, and those of the overviews; they stay."""
        for level in (self, *self.overviews):
            level._rgb.close()
            level._mask.close()

    def _place(self, window: Window, row: int) -> int:
        """Return which pixel of the files a row of `window` starts at."""
        return (window.row + row - self.window.row) * self.window.width + (
            window.col - self.window.col
        )

    def write_vrt(self, grid: Grid, tags: Mapping[str, str]) -> Path:
        """Write a VRT that shows the files as RGB with georeference, tags, mask and overviews.

        Args:
            grid: The pixel grid.
            tags: Metadata of the picture.

        Returns:
            `view.vrt` in the folder; the overviews have one each.

        Raises:
            OSError: If it cannot be written.
        """
        transform = ", ".join(repr(value) for value in grid.transform(self.window).to_gdal())
        items = "".join(
            f"<MDI key={quoteattr(key)}>{escape(value)}</MDI>"
            for key, value in sorted(tags.items())
        )
        about = (
            f"<SRS>{escape(grid.crs.to_wkt())}</SRS>"
            f"<GeoTransform>{transform}</GeoTransform><Metadata>{items}</Metadata>"
        )
        for level in self.overviews:
            level._write_vrt("")
        return self._write_vrt(about)

    def _write_vrt(self, about: str) -> Path:
        bands = "".join(
            self._band("rgb.raw", COLOURS, number, f"<ColorInterp>{name}</ColorInterp>")
            for number, name in enumerate(_COLOUR_NAMES)
        )
        mask = f"<MaskBand>{self._band('mask.raw', 1, 0, '')}</MaskBand>" if self.masked else ""
        view = self.folder / VIEW
        view.write_text(
            f'<VRTDataset rasterXSize="{self.window.width}" rasterYSize="{self.window.height}">'
            f"{about}{bands}{mask}</VRTDataset>",
            encoding="utf-8",
        )
        return view

    def _band(self, name: str, channels: int, channel: int, about: str) -> str:
        source = "mask,1" if channels == 1 else str(channel + 1)
        smaller = "".join(
            f'<Overview><SourceFilename relativetoVRT="1">{level.folder.name}/{VIEW}'
            f"</SourceFilename><SourceBand>{source}</SourceBand></Overview>"
            for level in self.overviews
        )
        return (
            f'<VRTRasterBand dataType="Byte" band="{channel + 1}" subClass="VRTRawRasterBand">'
            f'{about}{smaller}<SourceFilename relativetoVRT="1">{name}</SourceFilename>'
            f"<ImageOffset>{channel}</ImageOffset><PixelOffset>{channels}</PixelOffset>"
            f"<LineOffset>{channels * self.window.width}</LineOffset></VRTRasterBand>"
        )


class BlocksSource:
    """Raw blocks as something to read from several threads; a `Source`."""

    def __init__(self, blocks: RawBlocks, grid: Grid) -> None:
        """Take what somebody else has opened and closes."""
        self._blocks = blocks
        self._lock = threading.Lock()
        self.info = SourceInfo(str(blocks.folder), grid, blocks.window)

    def read(self, window: Window, needed: Window | None = None) -> Read:
        """Return the pixels of `window`, masked where there are none."""
        found = blank(window)
        for part, place in self.info.grid.pieces(window, self._blocks.window):
            with self._lock:
                image, mask = self._blocks.read(part)
            there = place.slices(window)
            found.image[there], found.mask[there] = image, mask
        return found

    def prefetch(self, window: Window) -> None:
        """Do nothing: the pixels are at hand."""

    def close(self) -> None:
        """Do nothing."""


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
