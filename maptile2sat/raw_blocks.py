"""Pixels of a render on disk, written in any order, until they become one GeoTIFF.

Two plain files, colours and mask, that GDAL reads through a VRT. Python writes them itself: it
says at once when a disk is full, while GDAL writes late and may keep quiet about it.
"""

from __future__ import annotations

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
        """Make the files, as holes: they take room as they are filled.

        Args:
            folder: Where they go.
            window: The pixels of the grid that they hold.

        Raises:
            OSError: If they cannot be made.
        """
        self.folder, self.window = folder, window
        self.masked = False
        pixels = window.width * window.height
        self._rgb = _holes(folder / "rgb.raw", pixels * COLOURS)
        try:
            self._mask = _holes(folder / "mask.raw", pixels)
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
            place = (window.row + row - self.window.row) * self.window.width
            place += window.col - self.window.col
            _put(self._rgb, place * COLOURS, image[row])
            _put(self._mask, place, mask[row])

    def close(self) -> None:
        """Close the files; they stay."""
        self._rgb.close()
        self._mask.close()

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


def _holes(path: Path, size: int) -> FileIO:
    """Make a file of `size` bytes that takes no room yet."""
    stream = path.open("w+b", buffering=0)
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
