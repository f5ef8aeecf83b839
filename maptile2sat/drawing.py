"""Drawing an OpenStreetMap extract as a label-free map: MBTiles or GeoTIFF."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import rasterio
import rasterio.windows
from PIL import Image as Pictures
from rasterio.errors import RasterioError

from maptile2sat.errors import OutputError, SourceError, UsageError, refuse_undecodable
from maptile2sat.geo.crs import MAX_LATITUDE
from maptile2sat.geo.grid import TILE, BBox, Grid, Window
from maptile2sat.output.geotiff import check_destination, is_whole
from maptile2sat.sources.base import STYLE_KEY, STYLE_TAG, common
from maptile2sat.sources.mbtiles import MBTilesWriter, viewer_bounds
from maptile2sat.sources.osm import ExtractSource, open_extract

Progress = Callable[[int, int], None]
"""Called with the tiles drawn so far and the number of all tiles."""


@dataclass(frozen=True)
class DrawResult:
    """What `draw` has made.

    Attributes:
        output: The file.
        style: The map style.
        zoom: The zoom.
        tiles: How many 256 px tiles or blocks it has.
        width: Columns of the map.
        height: Rows of the map.
        bounds: Its extent in degrees; east is above 180 if it lies across 180 degrees.
        warnings: What could not be drawn, and why.
        seconds: How long it took.
    """

    output: Path
    style: str
    zoom: int
    tiles: int
    width: int
    height: int
    bounds: BBox
    warnings: list[str]
    seconds: float


def draw(
    extract: Path,
    output: Path,
    *,
    zoom: int = 16,
    style: str = "maps",
    bbox: BBox | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DrawResult:
    """Draw an OpenStreetMap extract tile by tile into `output`.

    Args:
        extract: The .osm.pbf or .osm file.
        output: Where the map goes: `.mbtiles`, `.tif` or `.tiff`.
        zoom: Web mercator zoom.
        style: `maps` or `osm`.
        bbox: The part to draw, in degrees; the whole extract if not given. West > east means
            across 180 degrees.
        overwrite: Whether an existing file may be replaced.
        progress: Called after each tile.

    Returns:
        What was made.

    Raises:
        UsageError: If suffix, style, zoom or bbox make no sense.
        OutputError: If the output exists and `overwrite` is false, or cannot be written.
        SourceError: If the extract cannot be read.
        MissingExtraError: If osmium or shapely is not installed.
    """
    started = time.monotonic()
    extract, output = Path(extract), Path(output)
    refuse_undecodable(extract, SourceError)
    write = _writer(output)
    check_destination(output, overwrite=overwrite)
    source = open_extract(extract, zoom=zoom, style=style)
    try:
        window = _window(source, bbox, extract)
        tiles = write(source, window, output, progress or _silent)
    finally:
        source.close()
    return DrawResult(
        output=output,
        style=style,
        zoom=zoom,
        tiles=tiles,
        width=window.width,
        height=window.height,
        bounds=_bounds(source.info.grid, window),
        warnings=list(source.warnings),
        seconds=time.monotonic() - started,
    )


_Writer = Callable[[ExtractSource, Window, Path, Progress], int]


def _writer(output: Path) -> _Writer:
    """Return what writes files with the suffix of `output`."""
    suffix = output.suffix.lower()
    if suffix == ".mbtiles":
        return _write_mbtiles
    if suffix in (".tif", ".tiff"):
        return _write_geotiff
    raise UsageError(f"cannot draw into '{output.name}': the output must end in .mbtiles or .tif")


def _unfinished(output: Path) -> Path:
    """Return where a file is until it is complete."""
    return output.with_name(f".{output.name}.{os.getpid()}.partial")


def _window(source: ExtractSource, bbox: BBox | None, extract: Path) -> Window:
    """Return the pixels to draw."""
    extent = source.info.extent
    if bbox is None:
        return extent
    grid = source.info.grid
    window = common(source.info, grid.window(bbox))
    if window.empty:
        covered = ",".join(f"{value:.5f}" for value in grid.lonlat_bounds(extent))
        raise UsageError(
            f"the box lies outside of {extract.name}: choose one within --bbox {covered}"
        )
    return window


def _write_mbtiles(source: ExtractSource, window: Window, output: Path, progress: Progress) -> int:
    info = source.info
    zoom, style = info.grid.zoom or 0, info.style or ""
    name = info.name.split(".")[0]
    across = 1 << zoom
    rows = range(window.row // TILE, (window.bottom - 1) // TILE + 1)
    columns = range(window.col // TILE, (window.right - 1) // TILE + 1)
    columns = columns[:across]  # all the way round, both ends are of one tile
    total = len(rows) * len(columns)
    bounds, center = viewer_bounds(info.grid, window)
    with MBTilesWriter(
        output,
        name=name,
        format="png",
        attribution=info.attribution,
        description=f"{name}: label-free map in the style '{style}', drawn by maptile2sat "
        "from OpenStreetMap data (ODbL)",
        extra={STYLE_KEY: style},
        bounds=bounds,
        center=center,
    ) as writer:
        for done, (row, column) in enumerate(product(rows, columns), 1):
            x = column % across
            tile = Window(x * TILE, row * TILE, TILE, TILE)
            writer.add(zoom, x, row, _png(source, window, tile))
            progress(done, total)
    return total


def _png(source: ExtractSource, window: Window, tile: Window) -> bytes:
    """Draw and encode a tile; what is not in `window` is transparent."""
    whole = np.zeros((TILE, TILE, 4), np.uint8)
    for part, _ in source.info.grid.pieces(window, tile):
        read = source.read(part)
        whole[part.slices(tile)] = np.dstack([read.image, read.mask])
    picture = Pictures.fromarray(whole[..., :3] if whole[..., 3].all() else whole)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _write_geotiff(source: ExtractSource, window: Window, output: Path, progress: Progress) -> int:
    temporary = _unfinished(output)
    try:
        blocks = _fill_geotiff(source, window, temporary, progress)
        if not is_whole(temporary, cog=False, masked=True):
            raise OutputError(f"cannot write {output} (it came out damaged): is the disk full?")
        temporary.replace(output)
        return blocks
    except (RasterioError, OSError) as error:
        reason = " ".join(str(error).split())
        raise OutputError(f"cannot write {output} ({reason}): check the disk") from error
    finally:
        with suppress(OSError):  # what went wrong before is what is to be said
            temporary.unlink(missing_ok=True)


def _fill_geotiff(source: ExtractSource, window: Window, path: Path, progress: Progress) -> int:
    """Write the map as it is drawn; blocks wait in GDAL's cache until they are complete."""
    info = source.info
    profile = {
        "driver": "GTiff", "width": window.width, "height": window.height, "count": 3,
        "dtype": "uint8", "crs": info.grid.crs, "transform": info.grid.transform(window),
        "photometric": "RGB", "tiled": True, "blockxsize": TILE, "blockysize": TILE,
        "compress": "deflate", "predictor": 2, "interleave": "pixel", "bigtiff": "IF_SAFER",
    }  # fmt: skip
    rows = range(window.row, window.bottom, TILE)
    columns = range(window.col, window.right, TILE)
    total = len(rows) * len(columns)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **profile) as target,
    ):
        target.update_tags(
            TIFFTAG_COPYRIGHT=info.attribution,
            TIFFTAG_SOFTWARE="maptile2sat",
            TIFFTAG_IMAGEDESCRIPTION=f"Label-free map of {info.name} in the style '{info.style}', "
            "drawn from OpenStreetMap data (ODbL)",
            **{STYLE_TAG: info.style or ""},
        )
        for done, (row, column) in enumerate(product(rows, columns), 1):
            block = Window(column, row, TILE, TILE).intersection(window)
            read = source.read(block)
            place = rasterio.windows.Window(
                block.col - window.col, block.row - window.row, block.width, block.height
            )
            target.write(read.image.transpose(2, 0, 1), window=place)
            target.write_mask(read.mask, window=place)
            progress(done, total)
    return total


def _bounds(grid: Grid, window: Window) -> BBox:
    """Return the extent in degrees, within web mercator in spite of rounding."""
    west, south, east, north = grid.lonlat_bounds(window)
    return BBox(west, max(south, -MAX_LATITUDE), east, min(north, MAX_LATITUDE))


def _silent(done: int, total: int) -> None:
    """Show no progress."""
