"""`overview.tif`: a small copy of a sharded render, so that zooming out opens no block."""

from __future__ import annotations

from pathlib import Path

import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.windows import Window as RasterWindow

from maptile2sat.creation import creation_options
from maptile2sat.geotiff import CACHE_BYTES, GeoTiffWriter, output_errors
from maptile2sat.grid import Grid, Window
from maptile2sat.sharding.manifest import Manifest
from maptile2sat.sharding.replacing import write_whole

OVERVIEW = "overview.tif"
OVERVIEW_MASK = "overview_mask.vrt"
"""Shows the mask as a band: the only thing that GDAL takes for overviews of a VRT's mask."""

FEW = 64
"""Most blocks that GDAL may well open one by one."""

FACTOR = 16
"""Pixels of the render to one of the overview, at least: blocks have overviews of their own."""

LONGEST = 1 << 15
"""Longest side of an overview in pixels."""

STRIP = 512


def overview_factor(manifest: Manifest) -> int | None:
    """Return how many pixels of a render go to one of its overview, None if it needs none."""
    if sum(block.file is not None for block in manifest.blocks) <= FEW:
        return None
    longest = max(manifest.window.width, manifest.window.height)
    return max(FACTOR, 1 << (-(-longest // LONGEST) - 1).bit_length())


def write_overview(folder: Path, mosaic: Path | str, manifest: Manifest, factor: int) -> None:
    """Write `overview.tif`, a COG, whole or not at all.

    Args:
        folder: Where it goes.
        mosaic: The mosaic of the blocks at full size, as GDAL opens it.
        manifest: What it shows.
        factor: Pixels of the mosaic to one of the overview, across and down.

    Raises:
        OutputError: If the blocks cannot be read or the file cannot be written.
    """
    path = folder / OVERVIEW
    whole = manifest.window
    width, height = -(-whole.width // factor), -(-whole.height // factor)
    scale = Affine.scale(whole.width / width, whole.height / height)
    grid = Grid(manifest.grid.crs, manifest.grid.transform(whole) @ scale)
    creation = creation_options("deflate", {}, cog=True)
    with (
        output_errors(path),
        rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES),
        rasterio.open(mosaic) as dataset,
        GeoTiffWriter(path, grid, Window(0, 0, width, height), manifest.tags, creation) as writer,
    ):
        for top in range(0, height, STRIP):
            rows = min(STRIP, height - top)
            first = top * whole.height / height
            part = RasterWindow(0, first, whole.width, (top + rows) * whole.height / height - first)
            shape = (rows, width)
            image = dataset.read(out_shape=(3, *shape), window=part, resampling=Resampling.average)
            mask = dataset.dataset_mask(out_shape=shape, window=part)
            writer.write(Window(0, top, width, rows), image.transpose(1, 2, 0), mask)
        writer.finish()
        write_whole(folder / OVERVIEW_MASK, [_mask_view(width, height)])


def _mask_view(width: int, height: int) -> str:
    return (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">'
        '<VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{OVERVIEW}</SourceFilename>'
        "<SourceBand>mask,1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>\n"
    )
