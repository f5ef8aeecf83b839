"""Whether a finished GeoTIFF is all there: GDAL passes over some writes that a disk refuses."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import rasterio
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from maptile2sat.quiet import ignore_missing_position

ROWS = 512
READ_WIDTH = 16 * ROWS
FRAME = 4
"""Bytes before a block of a COG that say its size, and after it that repeat its last ones."""


def is_whole(path: Path, *, cog: bool, masked: bool) -> bool:
    """Return whether nothing of a GeoTIFF is missing.

    A COG frames each block with its size and its last four bytes (GDAL, "COG -- Cloud Optimized
    GeoTIFF generator", ghost area), which are compared; other files are decoded from end to end.

    Args:
        path: The file.
        cog: Whether GDAL's COG driver made it.
        masked: Whether it must have a mask.
    """
    ignore_missing_position()
    try:
        with rasterio.open(path) as dataset:
            if (MaskFlags.per_dataset in dataset.mask_flag_enums[0]) != masked:
                return False
            levels = 1 + len(dataset.overviews(1))
            if not cog:
                _decode(dataset)
                return True
        with path.open("rb") as stream:
            return all(
                _is_framed(stream, offset, size)
                for number in range(1, levels * (2 if masked else 1) + 1)
                for offset, size in _blocks_of(path, number)
            )
    except RasterioError:
        return False


def _blocks_of(path: Path, number: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, size) of every block of a file's directory, 1 the first."""
    with rasterio.open(f"GTIFF_DIR:{number}:{path}") as level:
        height, width = level.block_shapes[0]
        for row in range(-(-level.height // height)):
            for col in range(-(-level.width // width)):
                offset = level.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", 1)
                size = level.get_tag_item(f"BLOCK_SIZE_{col}_{row}", "TIFF", 1)
                if offset is not None and size is not None:  # else empty: SPARSE_OK
                    yield int(offset), int(size)


def _is_framed(stream: BinaryIO, offset: int, size: int) -> bool:
    """Return whether a block lies between its size and the repetition of its end."""
    stream.seek(offset - FRAME)
    before = stream.read(FRAME)
    stream.seek(offset + size - FRAME)
    after = stream.read(2 * FRAME)
    framed = len(before) == FRAME and len(after) == 2 * FRAME
    return framed and struct.unpack("<I", before)[0] == size and after[:FRAME] == after[FRAME:]


def _decode(dataset: Any) -> None:
    """Decode every pixel and the mask, in flat memory."""
    for row in range(0, dataset.height, ROWS):
        for col in range(0, dataset.width, READ_WIDTH):
            width, height = min(READ_WIDTH, dataset.width - col), min(ROWS, dataset.height - row)
            part = RasterWindow(col, row, width, height)
            dataset.read(window=part)
            dataset.read_masks(1, window=part)
