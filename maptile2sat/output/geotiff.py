"""Writing one GeoTIFF block by block in flat memory, then finishing it as a COG.

Blocks go into uncompressed temporary files beside the destination. At the end GDAL
compresses once, with overviews and a mask if anything is masked, and the result is renamed
to its place: there is the whole file or none.
"""

from __future__ import annotations

import re
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from affine import Affine
from PIL import Image
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.errors import CRSError, RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window as RasterWindow

from maptile2sat.errors import OutputError, UsageError, refuse_undecodable
from maptile2sat.gdal import ignore_missing_position
from maptile2sat.geo.crs import WEB_MERCATOR
from maptile2sat.geo.grid import Grid, Window
from maptile2sat.output import raw_blocks
from maptile2sat.output.raw_blocks import RawBlocks

# Whether a finished GeoTIFF is all there: GDAL passes over some writes that a disk refuses

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


# Creation options of GeoTIFFs: named profiles, and what else may be set

BLOCK = 512
"""Side of the blocks of a tiled GeoTIFF in pixels."""

OTHER_FORMATS = {
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".jp2", ".pdf", ".zip"),
    *(".vrt", ".img", ".nc", ".gpkg", ".json", ".geojson"),
}
"""Endings of names that would make a GeoTIFF look like something else."""

PROFILES: dict[str, dict[str, str]] = {
    "deflate": {"COMPRESS": "DEFLATE", "PREDICTOR": "YES", "LEVEL": "1"},
    "jpeg": {"COMPRESS": "JPEG", "QUALITY": "90"},
    "webp": {"COMPRESS": "WEBP", "QUALITY": "90"},
}
"""Lossless, small, smaller: COG creation options by the name that `--profile` takes.

Level 1 takes a third less time than GDAL's 6, for files that are 2 % larger.
"""

BYTES_PER_PIXEL = {"deflate": 3.0, "jpeg": 0.66, "webp": 0.47}
"""Measured on 747 x 1312 px of Helsinki, overviews included; what `--dry-run` reckons with."""

_PLAIN = {
    "deflate": {"COMPRESS": "DEFLATE", "PREDICTOR": "2", "ZLEVEL": "1"},
    "jpeg": {"COMPRESS": "JPEG", "JPEG_QUALITY": "90", "PHOTOMETRIC": "YCBCR"},
    "webp": {"COMPRESS": "WEBP", "WEBP_LEVEL": "90"},
}

_SWITCH = "YES|NO|TRUE|FALSE|ON|OFF"
_NUMBER = r"[0-9]{1,9}"
_DECIMAL = r"[0-9]{1,6}(\.[0-9]{1,9})?"
_COUNT = "[0-9]{1,2}"
_LEVEL = "[1-9]|1[0-9]|2[0-2]"
_DEFLATE_LEVEL = "[1-9]|1[0-2]"
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
    "OVERVIEW_COUNT": _COUNT,
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
    "ZLEVEL": _DEFLATE_LEVEL,
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

_FITTING = {
    "PREDICTOR": ("DEFLATE", "LZW", "ZSTD"),
    "LEVEL": ("DEFLATE",),
    "ZLEVEL": ("DEFLATE",),
    "QUALITY": ("JPEG", "WEBP"),
    "JPEG_QUALITY": ("JPEG",),
    "PHOTOMETRIC": ("JPEG",),
    "WEBP_LEVEL": ("WEBP",),
}
"""Compressions that options of a profile are for."""

_IN_WORDS = {
    **dict.fromkeys((_NUMBER, _DECIMAL, _COUNT), "a number"),
    _LEVEL: "1 to 22",
    _DEFLATE_LEVEL: "1 to 12",
    _PERCENT: "1 to 100",
    _VERSION: "AUTO, 1.0, 1.1",
    _THREADS: "ALL_CPUS, or a number",
    "[0-3]": "0 to 3",
}
"""What patterns of values mean."""


def creation_options(profile: str, extra: Mapping[str, str], *, cog: bool) -> dict[str, str]:
    """Return GDAL's creation options for an output.

    Args:
        profile: One of `PROFILES`.
        extra: Options that the user adds or changes, names in any case.
        cog: Whether the output is a COG or a plain tiled GeoTIFF.

    Raises:
        UsageError: If the profile, the name of an option or its value is unknown, or options do
            not go together.
    """
    if profile not in PROFILES:
        raise UsageError(f"profile '{profile}' is not one of {', '.join(PROFILES)}")
    known = _COG_OPTIONS if cog else _PLAIN_OPTIONS
    added = {name.upper(): value.upper() for name, value in extra.items()}
    unknown = sorted(added.keys() - known.keys())
    if unknown:
        raise UsageError(
            f"creation option {unknown[0]} cannot be set for the {driver_of(cog)} driver; "
            f"these can: {', '.join(sorted(known))}"
        )
    for name, value in added.items():
        if not re.fullmatch(known[name], value):
            allowed = _IN_WORDS.get(known[name], known[name].replace("|", ", "))
            raise UsageError(f"creation option {name} cannot be '{value}', it takes {allowed}")
    options = _merged(profile, added, cog=cog)
    if added:
        _try_out(options, cog=cog)
    return options


def _merged(profile: str, added: Mapping[str, str], *, cog: bool) -> dict[str, str]:
    """Return a profile's options and those added, less what another compression does not take."""
    chosen = PROFILES[profile] if cog else _PLAIN[profile]
    compression = added.get("COMPRESS", chosen["COMPRESS"])
    kept = {
        name: value
        for name, value in chosen.items()
        if name not in _FITTING or compression in _FITTING[name]
    }
    common = {"BIGTIFF": "IF_SAFER", "NUM_THREADS": "ALL_CPUS"}
    if cog:
        return {**common, **kept, **added}
    tiled = {"TILED": "YES", "BLOCKXSIZE": str(BLOCK), "BLOCKYSIZE": str(BLOCK)}
    return {**common, **tiled, **kept, **added}


def _try_out(options: Mapping[str, str], *, cog: bool) -> None:
    """Write a few pixels in memory: whether options go together is known to GDAL alone.

    Raises:
        UsageError: If they do not.
    """
    place = {"crs": WEB_MERCATOR, "transform": Affine(1.0, 0.0, 1.0, 0.0, -1.0, 1.0)}
    size = {"width": 16, "height": 16, "count": 3, "dtype": "uint8"}
    try:
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            MemoryFile() as given,
            MemoryFile(ext=".tif") as made,
        ):
            with given.open(driver="GTiff", **size, **place) as pixels:
                pixels.write(np.arange(768, dtype=np.uint8).reshape(3, 16, 16))
                pixels.write_mask(np.tri(16, dtype=bool))
            rasterio.shutil.copy(given.name, made.name, driver=driver_of(cog), **options)
            # some of what GDAL cannot write it says nothing of
            whole = is_whole(Path(made.name), cog=False, masked=True)
    except (RasterioError, CPLE_BaseError) as error:
        said = " ".join(str(error.__cause__ or error).split()).replace(made.name, "the file")
        raise UsageError(f"the creation options do not go together: {said}") from error
    if not whole:
        given_options = " ".join(f"{name}={value}" for name, value in options.items())
        raise UsageError(f"the creation options do not go together: {given_options}")


def driver_of(cog: bool) -> str:
    """Return the name of GDAL's driver."""
    return "COG" if cog else "GTiff"


# Smaller copies of a render for its overviews: each level half the one before

PART = 2048
"""Side in pixels of what is halved at once."""

Pixels = npt.NDArray[np.uint8]


def halved(image: Pixels, mask: Pixels) -> tuple[Pixels, Pixels]:
    """Return a picture at half its size: the mean of the valid pixels of each two by two.

    Args:
        image: uint8 (height, width, 3).
        mask: uint8 (height, width), 255 valid, 0 not.

    Returns:
        Image and mask of ceil(height / 2) x ceil(width / 2); a pixel is valid if any of its
        four is, and black if none is. Halves are rounded up.
    """
    if mask.all():
        small = np.asarray(Image.fromarray(image).reduce(2))
        return small, np.full(small.shape[:2], 255, np.uint8)
    height, width = mask.shape
    odd = ((0, height % 2), (0, width % 2))
    valid = np.pad(mask > 0, odd)
    colours = np.pad(image, (*odd, (0, 0))) * valid[..., np.newaxis]
    count = _sums(valid)
    rounded = _sums(colours) + (count // 2)[..., np.newaxis]
    small = (rounded // np.maximum(count, 1)[..., np.newaxis]).astype(np.uint8)
    return small, np.where(count > 0, 255, 0).astype(np.uint8)


def _sums(values: npt.NDArray[np.bool_] | Pixels) -> npt.NDArray[np.uint16]:
    """Return the sum of each two by two."""
    wide = values.astype(np.uint16)
    tall = wide[0::2] + wide[1::2]
    return np.asarray(tall[:, 0::2] + tall[:, 1::2], np.uint16)


def level_sizes(width: int, height: int, block: int) -> list[tuple[int, int]]:
    """Return (width, height) of the overviews of a COG: down to one that is a single block."""
    sizes: list[tuple[int, int]] = []
    while max(width, height) > block:
        width, height = -(-width // 2), -(-height // 2)
        sizes.append((width, height))
    return sizes


def make_overviews(blocks: RawBlocks, block: int) -> None:
    """Halve a render again and again, and have its VRT name what came out.

    Args:
        blocks: The render, open; the levels go into folders beside its files.
        block: Side in pixels of the COG's blocks.

    Raises:
        OSError: If the disk does not take them.
    """
    above = blocks
    blocks.overviews.clear()
    for number, (width, height) in enumerate(
        level_sizes(blocks.window.width, blocks.window.height, block), start=1
    ):
        folder = Path(blocks.folder, f"overview{number}")
        folder.mkdir(exist_ok=True)
        level = RawBlocks(folder, Window(0, 0, width, height))
        level.masked = blocks.masked
        _halve(above, level)
        blocks.overviews.append(level)
        above = level


def _halve(above: RawBlocks, level: RawBlocks) -> None:
    """Fill `level` from the one above it, part by part."""
    origin = above.window
    for part in _parts(level.window):
        wide = Window(
            origin.col + 2 * part.col, origin.row + 2 * part.row, 2 * part.width, 2 * part.height
        )
        level.write(part, *halved(*above.read(wide.intersection(origin))))


def _parts(window: Window) -> Iterator[Window]:
    for row in range(0, window.height, PART // 2):
        for col in range(0, window.width, PART // 2):
            yield Window(col, row, PART // 2, PART // 2).intersection(window)


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
        raise OutputError(f"{path} exists: pass --overwrite to replace it, or give another name")
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
