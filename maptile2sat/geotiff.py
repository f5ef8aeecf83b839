"""Writing one GeoTIFF block by block in flat memory, then finishing it as a COG.

Blocks go into uncompressed temporary files beside the destination. At the end GDAL
compresses once, with overviews and a mask if anything is masked, and the result is renamed
to its place: there is the whole file or none.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.io import MemoryFile

from maptile2sat import raw_blocks
from maptile2sat.creation import BLOCK, driver_of
from maptile2sat.errors import OutputError, UsageError, refuse_undecodable
from maptile2sat.grid import Grid, Window
from maptile2sat.overviews import make_overviews
from maptile2sat.raw_blocks import RawBlocks
from maptile2sat.wholeness import is_whole

BLOCKS = (512, 384)
CACHE_BYTES = 128 << 20
TEMPORARY_BYTES_PER_PIXEL = raw_blocks.BYTES_PER_PIXEL * 4 / 3
"""What the uncompressed temporary files take, overviews included; they go away at the end."""

UNFINISHED_LETTERS = 20
"""By how much the name of a file that is not finished may be longer than that of the output."""

OVERVIEW_OPTIONS = {"RESAMPLING", "OVERVIEW_RESAMPLING", "OVERVIEWS", "OVERVIEW_COUNT"}
"""With one of these GDAL makes the overviews, since they ask for others than ours."""


def cog_block(width: int, height: int) -> int:
    """Return the block side for a COG of this size: 512 unless a level is just as wide.

    rasterio takes a level whose blocks are as wide as itself for one in strips, and so
    rio-cogeo would call a sound COG invalid. Widths halve from level to level, so that no
    image has levels of both 512 and 384.
    """
    levels = [(-(-width >> level), -(-height >> level)) for level in range(30)]
    return next(block for block in BLOCKS if not any(w == block and h > BLOCK for w, h in levels))


def check_crs(crs: CRS) -> None:
    """Make sure that a GeoTIFF can say that it is in `crs`.

    Raises:
        UsageError: If it cannot: the file would have none, or one that is no map's.
    """
    size = {"width": 1, "height": 1, "count": 1, "dtype": "uint8"}
    # or what it cannot say goes into a second file
    with rasterio.Env(GDAL_PAM_ENABLED=False), MemoryFile() as memory:
        try:
            at = Affine(1.0, 0.0, 1.0, 0.0, -1.0, 1.0)
            with memory.open(driver="GTiff", crs=crs, transform=at, **size):
                pass
            with memory.open() as dataset:
                held = dataset.crs
        except (RasterioError, CRSError, CPLE_BaseError):
            held = None
    if held is None or not (held.is_geographic or held.is_projected):
        raise UsageError(
            f"a GeoTIFF cannot be in the CRS '{crs}': choose one of longitude and latitude or of a "
            "projection, best by its EPSG code"
        )


def check_destination(path: Path, *, overwrite: bool) -> None:
    """Make sure that `path` can be written, before any work is done.

    Raises:
        OutputError: If it exists and may not be replaced, or its folder cannot be written.
    """
    refuse_undecodable(path, OutputError)
    try:
        is_folder, exists, in_folder = path.is_dir(), path.exists(), path.parent.is_dir()
        path.with_name("." * UNFINISHED_LETTERS + path.name).exists()
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}): choose a shorter name, or another folder"
        ) from error
    if is_folder:
        raise OutputError(f"{path} is a folder: give the name of a file in it")
    if exists and not overwrite:
        raise OutputError(f"{path} exists: say --overwrite to replace it, or give another name")
    if not in_folder:
        raise OutputError(f"the folder {path.parent} does not exist: make it first")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(
            f"the folder {path.parent} cannot be written: {error.strerror or error}"
        ) from error


class GeoTiffWriter:
    """Takes blocks of a render in any order and makes one GeoTIFF of them.

    Use as a context manager; `finish` puts the file in its place, and leaving without it
    leaves nothing behind.
    """

    def __init__(
        self,
        path: Path,
        grid: Grid,
        window: Window,
        tags: Mapping[str, str],
        options: Mapping[str, str],
        *,
        cog: bool = True,
        folder: Path | None = None,
    ) -> None:
        """Make the temporary files, or open those of an earlier try.

        Args:
            path: The destination; its folder must exist.
            grid: The pixel grid.
            window: The pixels of the grid that the output covers.
            tags: Metadata of the file.
            options: What `creation.creation_options` returned.
            cog: Whether to make a COG.
            folder: Where the temporary files lie, on the disk of the destination, and stay;
                None for a new folder that goes away at the end.

        Raises:
            OutputError: If the temporary files cannot be made.
        """
        self.path, self.grid, self.window, self.cog = path, grid, window, cog
        self._tags, self._options = dict(tags), dict(options)
        with output_errors(path), ExitStack() as on_failure:
            self._temporary = folder is None
            self._folder = folder or Path(
                tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)
            )
            if self._temporary:
                on_failure.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self.blocks = RawBlocks(self._folder, window)
            on_failure.pop_all()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what is temporary."""
        self.blocks.close()
        if self._temporary:
            shutil.rmtree(self._folder, ignore_errors=True)

    def write(
        self, window: Window, image: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]
    ) -> None:
        """Write pixels of `window`, which must lie inside the output.

        Args:
            window: Pixels of the grid.
            image: uint8 (height, width, 3).
            mask: uint8 (height, width), 255 valid, 0 not.

        Raises:
            OutputError: If they cannot be written.
        """
        with output_errors(self.path):
            self.blocks.write(window, image, mask)
            if not self._temporary:
                self.blocks.sync()

    def finish(self) -> None:
        """Compress, build overviews and put the file in its place.

        Raises:
            OutputError: If it cannot be written.
        """
        write_geotiff(self.blocks, self.grid, self.path, self._tags, self._options, cog=self.cog)


def write_geotiff(
    blocks: RawBlocks,
    grid: Grid,
    path: Path,
    tags: Mapping[str, str],
    options: Mapping[str, str],
    *,
    cog: bool,
) -> None:
    """Compress pixels, build overviews and put the file in its place.

    Args:
        blocks: The pixels; closed then. What is temporary goes into their folder.
        grid: Their grid.
        path: The destination, on the same disk.
        tags: Metadata of the file.
        options: What `creation.creation_options` returned.
        cog: Whether to make a COG.

    Raises:
        OutputError: If it cannot be written.
    """
    done = blocks.folder / "done.tif"
    settings = dict(options)
    if cog:
        settings.setdefault("BLOCKSIZE", str(cog_block(blocks.window.width, blocks.window.height)))
    with output_errors(path):
        if cog and not settings.keys() & OVERVIEW_OPTIONS:
            make_overviews(blocks, int(settings["BLOCKSIZE"]))
        blocks.close()
        view = blocks.write_vrt(grid, tags)
        with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES, GDAL_TIFF_INTERNAL_MASK=True):
            rasterio.shutil.copy(view, done, driver=driver_of(cog), **settings)
            if not is_whole(done, cog=cog, masked=blocks.masked):
                raise OutputError(f"{path} cannot be written: it came out damaged (disk full?)")
        done.replace(path)


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn what can go wrong while writing into an `OutputError` about `path`."""
    try:
        yield
    except (OSError, RasterioError, CPLE_BaseError) as error:
        cause: Any = error.__cause__ or error
        reason = getattr(error, "strerror", None) or " ".join(str(cause).split())
        raise OutputError(f"{path} cannot be written: {reason}") from error
