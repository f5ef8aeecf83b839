"""A pyramid of web mercator tiles, made of finished pixels: MBTiles, or PMTiles from those.

Tiles of the deepest zoom are the pixels themselves; a tile above is its four children halved, as
the overviews of a GeoTIFF are. Tiles are made depth first, so that few are in memory at once,
and encoded in threads. Tiles without any valid pixel are left out.
"""

from __future__ import annotations

import io
import os
import sqlite3
import tempfile
from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from maptile2sat.errors import MissingExtraError
from maptile2sat.geo.grid import TILE, Grid, Window
from maptile2sat.output.geotiff import halved
from maptile2sat.output.raw_blocks import BlocksSource, RawBlocks
from maptile2sat.sources.base import Read, blank
from maptile2sat.sources.mbtiles import MBTilesWriter, viewer_bounds

ENDINGS = (".mbtiles", ".pmtiles")
"""Of the names of its files."""

TileFormat = Literal["png", "webp", "jpeg"]

BYTES_PER_PIXEL = {"png": 1.7, "webp": 0.45, "jpeg": 0.5}
"""Per pixel of the deepest zoom, all zooms included; what `--dry-run` reckons with."""

QUALITY = 90
"""Of lossy tiles, as of the GeoTIFF's lossy profiles."""

PNG_LEVEL = 3
"""Effort of compression: an eighth larger than by the usual 6, in a quarter of the time."""

FOUR = Window(0, 0, 2 * TILE, 2 * TILE)
"""Four tiles that are halved to one."""

_WORKERS = min(4, os.cpu_count() or 1)


class Zooms(NamedTuple):
    """The zooms of a pyramid."""

    low: int
    high: int


def lowest_zoom(zoom: int, window: Window) -> int:
    """Return the zoom at which a window of `zoom` is no larger than one tile."""
    side = max(window.width, window.height)
    return max(0, zoom - max(0, (-(-side // TILE) - 1).bit_length()))


def at_zoom(window: Window, zoom: int, lower: int) -> Window:
    """Return the pixels of a lower zoom that a window of `zoom` touches."""
    side = 1 << (zoom - lower)
    col, row = window.col // side, window.row // side
    return Window(col, row, -(-window.right // side) - col, -(-window.bottom // side) - row)


def write_mbtiles(
    blocks: RawBlocks,
    grid: Grid,
    path: Path,
    name: str,
    zooms: Zooms,
    form: TileFormat,
    tags: Mapping[str, str],
    fill: tuple[int, int, int],
) -> int:
    """Write pixels as a pyramid of tiles into an MBTiles file.

    Args:
        blocks: The pixels.
        grid: Their grid, the world grid of a zoom not below the pyramid's.
        path: The file.
        name: What the tile set is called.
        zooms: The pyramid's zooms.
        form: Format of the tiles. `png` is lossless, the others have quality 90.
        tags: A render's metadata.
        fill: Colour of masked pixels in `jpeg`, which cannot be transparent.

    Returns:
        The number of tiles.

    Raises:
        OutputError: If there is no valid pixel, or the file cannot be written.
        OSError: If the pixels cannot be read.
    """
    about = {name.removeprefix("TIFFTAG_"): text for name, text in tags.items()}
    count = 0
    bounds, center = viewer_bounds(grid, blocks.window)
    with (
        MBTilesWriter(
            path,
            name=name,
            format="jpg" if form == "jpeg" else form,
            attribution=about.pop("COPYRIGHT", ""),
            description=about.pop("IMAGEDESCRIPTION", ""),
            extra=about,
            bounds=bounds,
            center=center,
        ) as writer,
        ThreadPoolExecutor(_WORKERS, "encode") as pool,
    ):
        waiting: deque[tuple[_Place, Future[bytes]]] = deque()
        source = BlocksSource(blocks, grid)
        for place, tile in _built(source, _Place(0, 0, 0), zooms):
            waiting.append((place, pool.submit(_encoded, tile, form, fill)))
            count += 1
            if len(waiting) > 4 * _WORKERS:
                _add(writer, *waiting.popleft())
        while waiting:
            _add(writer, *waiting.popleft())
    return count


class _Place(NamedTuple):
    """Where a tile lies."""

    zoom: int
    x: int
    y: int


def _add(writer: MBTilesWriter, place: _Place, data: Future[bytes]) -> None:
    writer.add(place.zoom, place.x, place.y, data.result())


def _built(
    source: BlocksSource, place: _Place, zooms: Zooms
) -> Generator[tuple[_Place, Read], None, Read | None]:
    """Yield the tiles of the pyramid at and below a place; return the one at it."""
    grid, (zoom, x, y) = source.info.grid, place
    below = (grid.zoom or 0) - zoom
    side = TILE << below
    here = Window(x * side, y * side, side, side)
    if not any(True for _ in grid.pieces(here, source.info.extent)):
        return None
    if not below:
        tile = source.read(here)
    else:
        whole = blank(FOUR)
        for down, across in ((0, 0), (0, 1), (1, 0), (1, 1)):
            child = yield from _built(source, _Place(zoom + 1, 2 * x + across, 2 * y + down), zooms)
            if child is not None:
                rows, cols = Window(across * TILE, down * TILE, TILE, TILE).slices(FOUR)
                whole.image[rows, cols], whole.mask[rows, cols] = child
        tile = Read(*halved(whole.image, whole.mask))
    if not tile.mask.any():
        return None
    if zooms.low <= zoom <= zooms.high:
        yield place, tile
    return tile


def _encoded(tile: Read, form: TileFormat, fill: tuple[int, int, int]) -> bytes:
    """Return a tile as a file."""
    image, mask = tile
    buffer = io.BytesIO()
    if form == "jpeg":
        whole = np.where(mask[..., None] > 0, image, np.array(fill, np.uint8))
        Image.fromarray(whole).save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()
    picture = Image.fromarray(image if mask.all() else np.dstack([image, mask]))
    if form == "png":
        picture.save(buffer, "PNG", compress_level=PNG_LEVEL)
    else:
        picture.save(buffer, "WEBP", quality=QUALITY)
    return buffer.getvalue()


def to_pmtiles(source: Path, path: Path) -> None:
    """Convert an MBTiles file to PMTiles 3.

    Args:
        source: The MBTiles.
        path: The PMTiles to write; its temporary file lies beside it.

    Raises:
        MissingExtraError: If the optional package is not installed.
        OSError: If it cannot be written.
    """
    require_pmtiles()
    from pmtiles.convert import mbtiles_to_header_json
    from pmtiles.tile import zxy_to_tileid
    from pmtiles.writer import Writer

    with (
        closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as database,
        path.open("wb") as file,
        tempfile.TemporaryFile(dir=path.parent) as tiles,
    ):
        about = dict(database.execute("SELECT name, value FROM metadata"))
        # the package knows JPEG by another name than MBTiles has for it
        stated = {**about, "format": about["format"].replace("jpg", "jpeg")}
        header, _ = mbtiles_to_header_json(stated)
        writer = Writer(file)
        writer.tile_f.close()
        writer.tile_f = tiles  # or it would lie where there may be no room
        places = database.execute("SELECT zoom_level, tile_column, tile_row, rowid FROM tiles")
        order = sorted(
            (zxy_to_tileid(zoom, x, (1 << zoom) - 1 - row), number)
            for zoom, x, row, number in places
        )
        for number, rowid in order:
            ((data,),) = database.execute("SELECT tile_data FROM tiles WHERE rowid = ?", (rowid,))
            writer.write_tile(number, data)
        writer.finalize(header, about)
        file.flush()
        os.fsync(file.fileno())


def require_pmtiles() -> None:
    """Make sure that PMTiles can be written.

    Raises:
        MissingExtraError: If the optional package is not installed.
    """
    if find_spec("pmtiles") is None:
        raise MissingExtraError("writing PMTiles", "pmtiles")
