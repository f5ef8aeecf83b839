"""Writing one GeoTIFF block by block in flat memory, then finishing it as a COG.

Blocks go into uncompressed temporary files beside the destination. At the end GDAL
compresses once, with overviews and a mask if anything is masked, and the result is renamed
to its place: there is the whole file or none.
"""

from __future__ import annotations

import re
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
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from maptile2sat import raw_blocks
from maptile2sat.errors import OutputError, UsageError, refuse_undecodable
from maptile2sat.grid import Grid, Window
from maptile2sat.overviews import make_overviews
from maptile2sat.raw_blocks import RawBlocks
from maptile2sat.wholeness import is_whole

BLOCK = 512
BLOCKS = (512, 384)
CACHE_BYTES = 128 << 20
TEMPORARY_BYTES_PER_PIXEL = raw_blocks.BYTES_PER_PIXEL * 4 / 3
"""What the uncompressed temporary files take, overviews included; they go away at the end."""

PROFILES: dict[str, dict[str, str]] = {
    "deflate": {"COMPRESS": "DEFLATE", "PREDICTOR": "YES"},
    "jpeg": {"COMPRESS": "JPEG", "QUALITY": "90"},
    "webp": {"COMPRESS": "WEBP", "QUALITY": "90"},
}
"""Lossless, small, smaller: COG creation options by the name that `--profile` takes."""

BYTES_PER_PIXEL = {"deflate": 3.0, "jpeg": 0.66, "webp": 0.47}
"""Measured on 747 x 1312 px of Helsinki, overviews included; what `--dry-run` reckons with."""

OVERVIEW_OPTIONS = {"RESAMPLING", "OVERVIEW_RESAMPLING", "OVERVIEWS", "OVERVIEW_COUNT"}
"""With one of these GDAL makes the overviews, since they ask for others than ours."""

_PLAIN = {
    "deflate": {"COMPRESS": "DEFLATE", "PREDICTOR": "2"},
    "jpeg": {"COMPRESS": "JPEG", "JPEG_QUALITY": "90", "PHOTOMETRIC": "YCBCR"},
    "webp": {"COMPRESS": "WEBP", "WEBP_LEVEL": "90"},
}

_SWITCH = "YES|NO|TRUE|FALSE|ON|OFF"
_NUMBER = r"[0-9]{1,9}"
_DECIMAL = r"[0-9]{1,6}(\.[0-9]{1,9})?"
_LEVEL = "[0-9]{1,2}"
_PERCENT = "[1-9]|[1-9][0-9]|100"
_SIDE = "128|256|384|512|1024|2048|4096"
_BIGTIFF = "YES|NO|IF_NEEDED|IF_SAFER"
_VERSION = r"AUTO|1\.0|1\.1"
_THREADS = f"ALL_CPUS|{_NUMBER}"
_COMPRESS = "NONE|LZW|DEFLATE|ZSTD|LZMA|JPEG|WEBP|LERC|LERC_DEFLATE|LERC_ZSTD"
_PREDICTOR = "YES|NO|STANDARD|1|2"
_RESAMPLING = "NEAREST|AVERAGE|BILINEAR|CUBIC|CUBICSPLINE|LANCZOS|MODE|RMS"

# GDAL takes unknown creation options in silence, so a typing error would do nothing; some
# wrong values it replaces by its default, of others (BLOCKSIZE=0) it dies. These are the
# drivers' documented options of GDAL 3.10 with their values, less those that would move the
# grid, turn the picture into something else, fail with a mask (STATISTICS) or write a second
# file (TFW).
_COG_OPTIONS = {
    "COMPRESS": _COMPRESS,
    "LEVEL": _LEVEL,
    "QUALITY": _PERCENT,
    "NUM_THREADS": _THREADS,
    "BLOCKSIZE": _SIDE,
    "BIGTIFF": _BIGTIFF,
    "RESAMPLING": _RESAMPLING,
    "OVERVIEW_RESAMPLING": _RESAMPLING,
    "OVERVIEWS": "AUTO|IGNORE_EXISTING|NONE",
    "OVERVIEW_COUNT": _LEVEL,
    "OVERVIEW_COMPRESS": f"AUTO|{_COMPRESS}",
    "OVERVIEW_QUALITY": _PERCENT,
    "OVERVIEW_PREDICTOR": _PREDICTOR,
    "PREDICTOR": _PREDICTOR,
    "GEOTIFF_VERSION": _VERSION,
    "SPARSE_OK": _SWITCH,
    "MAX_Z_ERROR": _DECIMAL,
    "MAX_Z_ERROR_OVERVIEW": _DECIMAL,
}
_PLAIN_OPTIONS = {
    "COMPRESS": f"{_COMPRESS}|PACKBITS",
    "PREDICTOR": "1|2",
    "ZLEVEL": _LEVEL,
    "ZSTD_LEVEL": _LEVEL,
    "JPEG_QUALITY": _PERCENT,
    "WEBP_LEVEL": _PERCENT,
    "WEBP_LOSSLESS": _SWITCH,
    "NUM_THREADS": _THREADS,
    "TILED": _SWITCH,
    "BLOCKXSIZE": _SIDE,
    "BLOCKYSIZE": _SIDE,
    "BIGTIFF": _BIGTIFF,
    "INTERLEAVE": "BAND|PIXEL",
    "PHOTOMETRIC": "RGB|YCBCR",
    "SPARSE_OK": _SWITCH,
    "GEOTIFF_VERSION": _VERSION,
    "JPEGTABLESMODE": "[0-3]",
}


def cog_block(width: int, height: int) -> int:
    """Return the block side for a COG of this size: 512 unless a level is just as wide.

    rasterio takes a level whose blocks are as wide as itself for one in strips, and so
    rio-cogeo would call a sound COG invalid. Widths halve from level to level, so that no
    image has levels of both 512 and 384.
    """
    levels = [(-(-width >> level), -(-height >> level)) for level in range(30)]
    return next(block for block in BLOCKS if not any(w == block and h > BLOCK for w, h in levels))


def creation_options(profile: str, extra: Mapping[str, str], *, cog: bool) -> dict[str, str]:
    """Return GDAL's creation options for an output.

    Args:
        profile: One of `PROFILES`.
        extra: Options that the user adds or changes, names in any case.
        cog: Whether the output is a COG or a plain tiled GeoTIFF.

    Raises:
        UsageError: If the profile, the name of an option or its value is unknown.
    """
    if profile not in PROFILES:
        raise UsageError(f"profile '{profile}' is not one of {', '.join(PROFILES)}")
    known = _COG_OPTIONS if cog else _PLAIN_OPTIONS
    added = {name.upper(): value.upper() for name, value in extra.items()}
    unknown = sorted(added.keys() - known.keys())
    if unknown:
        driver = "COG" if cog else "GTiff"
        raise UsageError(
            f"creation option {unknown[0]} cannot be set for the {driver} driver; "
            f"these can: {', '.join(sorted(known))}"
        )
    for name, value in added.items():
        if not re.fullmatch(known[name], value):
            allowed = known[name].replace("|", ", ") if "[" not in known[name] else "a number"
            raise UsageError(f"creation option {name} cannot be '{value}', it takes {allowed}")
    common = {"BIGTIFF": "IF_SAFER", "NUM_THREADS": "ALL_CPUS"}
    if cog:
        return {**common, **PROFILES[profile], **added}
    tiled = {"TILED": "YES", "BLOCKXSIZE": str(BLOCK), "BLOCKYSIZE": str(BLOCK)}
    return {**common, **tiled, **_PLAIN[profile], **added}


def check_destination(path: Path, *, overwrite: bool) -> None:
    """Make sure that `path` can be written, before any work is done.

    Raises:
        OutputError: If it exists and may not be replaced, or its folder cannot be written.
    """
    refuse_undecodable(path, OutputError)
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give the name of a file in it")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: say --overwrite to replace it, or give another name")
    if not path.parent.is_dir():
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
            options: What `creation_options` returned.
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
        options: What `creation_options` returned.
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
            rasterio.shutil.copy(view, done, driver="COG" if cog else "GTiff", **settings)
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
