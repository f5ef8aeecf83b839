"""Folders as sharded renders leave them, cut out of a render of one machine."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from maptile2sat.geo.grid import Grid, Window, raster_grid
from maptile2sat.output.geotiff import GeoTiffWriter, creation_options
from maptile2sat.output.manifest import BlockRecord, Manifest, block_file, block_name
from tests.conftest import TileMap, write_map_raster
from tests.support_once import once, scratch
from tests.support_render import FILL, Rendered, random_map, tiny_render

CREATED = "2026-01-02T03:04:05Z"
HOLES = {(4662, 2371), (4663, 2373)}


@once
def whole_render(*, masked: bool = True) -> Rendered:
    """Return the render that folders are cut from, 1024 x 768 px; do not change its file."""
    tiles = TileMap.block(13, 4661, 2371, 4, 3).tiles
    holes = HOLES if masked else set()
    made = TileMap(13, tuple(tile for tile in tiles if tile not in holes), random_map)
    folder = scratch("whole")
    return tiny_render(write_map_raster(folder / "map.tif", made), folder)


def cut_folder(whole: Path, folder: Path, side: int, **changes: Any) -> Manifest:
    """Cut a GeoTIFF into blocks of `side` aligned to the grid, as workers would write them.

    Args:
        whole: The GeoTIFF.
        folder: Where the folder `blocks` goes.
        side: Of a block, in pixels.
        **changes: Fields of the manifest to set.
    """
    (folder / "blocks").mkdir(parents=True)
    with rasterio.open(whole) as dataset:
        grid, window = raster_grid(dataset.crs, dataset.transform, dataset.width, dataset.height)
        image, mask, tags = dataset.read(), dataset.dataset_mask(), dataset.tags()
    tags.pop("AREA_OR_POINT", None)
    records = []
    for row in range(window.row // side, -(-window.bottom // side)):
        for col in range(window.col // side, -(-window.right // side)):
            part = Window(col * side, row * side, side, side).intersection(window)
            there = part.slices(window)
            pixels = np.moveaxis(image, 0, -1)[there]
            name = block_name(row, col)
            records.append(_write(folder, name, grid, part, pixels, mask[there], tags))
    fields = {
        "job": {"fill": list(FILL), "seed": 0, "architecture": {"width": 12}},
        "grid": grid,
        "window": window,
        "tags": tags,
        "blocks": tuple(records),
        "created": CREATED,
    }
    return Manifest(**{**fields, **changes})


def _write(
    folder: Path, name: str, grid: Grid, part: Window, pixels: Any, mask: Any, tags: dict[str, str]
) -> BlockRecord:
    """Write one block, or none where nothing is valid."""
    if not mask.any():
        return BlockRecord(name, part, None, 0, "", masked=True)
    path = folder / block_file(name)
    with GeoTiffWriter(path, grid, part, tags, creation_options("deflate", {}, cog=True)) as writer:
        writer.write(part, pixels, mask)
        writer.finish()
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    masked = not bool(mask.all())
    return BlockRecord(name, part, block_file(name), len(data), digest, masked=masked)
