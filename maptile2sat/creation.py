"""Creation options of GeoTIFFs: named profiles, and what else may be set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from maptile2sat.errors import UsageError
from maptile2sat.projection import WEB_MERCATOR
from maptile2sat.wholeness import is_whole

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
