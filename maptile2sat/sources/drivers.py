"""Opening rasters with the drivers that read one file, and no other files or servers.

GDAL has drivers whose files are only instructions to read something else: any file of the user, an
address in the local network. A map that somebody has sent must not be able to do that.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree  # nosec B405 # nothing with entities is parsed

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.io import DatasetReader

from maptile2sat.errors import SourceError, UsageError
from maptile2sat.projection import check_crs_text
from maptile2sat.sources.foreign_sqlite import START, check_geopackage
from maptile2sat.sources.geo_keys import check_geo_keys
from maptile2sat.sources.naming import safe_url
from maptile2sat.sources.side_files import foreign_side_file

PLAIN_DRIVERS = (
    *("GTiff", "COG", "PNG", "JPEG", "JPEGXL", "WEBP", "AVIF", "HEIF", "GIF", "BIGGIF", "BMP"),
    *("JP2OpenJPEG", "JP2KAK", "JP2ECW", "ECW", "NITF", "PNM", "TGA"),
    *("SGI", "BSB", "CALS"),
)
"""GDAL's drivers for pictures that lie in one file.

Files of HFA, PAux and RST name others, in any folder; those of GPKG and MBTiles are programs;
ENVI, EHdr, RMF and MrSID may hold any CRS.
"""

_NAMING = (".img", ".ige", ".aux", ".bil", ".bip", ".bsq", ".hdr", ".rst", ".rsw", ".mtw", ".sid")
"""How the names of files end that only other drivers read."""

MAX_VRT_BYTES = 16 << 20
"""Most bytes that a VRT may have."""

MAX_VRT_SOURCES = 100_000
"""Most sources that a VRT may name."""

_VRT = re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<VRTDataset\b", re.S)
_POINTER = re.compile(rb"\s*(<\?xml[^>]*>\s*)?<[A-Za-z]")
_PLAIN_ELEMENTS = frozenset(
    (
        *("VRTDataset", "SRS", "GeoTransform", "Metadata", "MDI", "Description", "OverviewList"),
        *("VRTRasterBand", "ColorInterp", "NoDataValue", "HideNoDataValue", "ColorTable", "Entry"),
        *("SimpleSource", "ComplexSource", "SourceFilename", "SourceBand", "SourceProperties"),
        *("SrcRect", "DstRect", "NODATA", "UseMaskBand", "MaskBand", "BlockXSize", "BlockYSize"),
        *("UnitType", "Offset", "Scale", "ScaleOffset", "ScaleRatio", "CategoryNames", "Category"),
    )
)
"""What VRTs of `gdalbuildvrt` and `gdal_translate` consist of; no code, no raw files."""


def open_dataset(where: str, *, allow_vrt: bool) -> Any:
    """Open a raster for reading; call it inside a `rasterio.Env`.

    Args:
        where: Path or URL.
        allow_vrt: Let GDAL use all its drivers, those that read elsewhere included.

    Raises:
        SourceError: If the file wants to read what it may not.
        RasterioError: If it cannot be opened.
    """
    if allow_vrt:
        return DatasetReader(where)
    dataset = _open_plain(where) if "://" in where else _open_local(Path(where))
    try:
        for crs in (dataset.crs, dataset.gcps[1]):
            if crs:
                check_crs_text(crs.wkt)
    except UsageError as error:
        dataset.close()
        raise SourceError(
            f"{safe_url(where)}: {error}, or if you trust it, say --allow-vrt"
        ) from error
    return dataset


def _open_local(path: Path) -> Any:
    start = _start(path)
    if start.startswith(START):
        check_geopackage(path)
    settings = {}
    if foreign_side_file(path) is not None:
        settings["GDAL_DISABLE_READDIR_ON_OPEN"] = "EMPTY_DIR"  # as if it lay there alone
    with rasterio.Env(**settings):
        if start.startswith(START):
            return DatasetReader(str(path), driver=["GPKG"])
        if _VRT.match(start):
            check_vrt(path)
            return DatasetReader(str(path), driver=["VRT"])
        check_geo_keys(path)
        return _open_plain(str(path))


def _open_plain(where: str) -> Any:
    try:
        return DatasetReader(where, driver=list(PLAIN_DRIVERS))
    except RasterioIOError as error:
        if where.lower().endswith(".vrt") or (
            "://" not in where and _points_elsewhere(Path(where))
        ):
            raise SourceError(
                f"{safe_url(where)} is no picture but says where to read one, which may be "
                "anywhere: if you trust it, say --allow-vrt"
            ) from error
        name = where.partition("?")[0].lower()
        if name.endswith(_NAMING):
            raise SourceError(
                f"{safe_url(where)} is of a kind whose files may name others: copy it to a "
                "GeoTIFF, or if you trust it, say --allow-vrt"
            ) from error
        if name.endswith(".gpkg"):
            raise SourceError(
                f"{safe_url(where)}: download this GeoPackage first and give its path"
            ) from error
        raise


def check_vrt(path: Path) -> None:
    """Make sure that a VRT only puts together pictures of its own folder.

    Raises:
        SourceError: If it reaches further, or cannot be read.
    """
    folder = path.resolve().parent
    pictures: set[Path] = set()
    for element in _elements(path):
        kind = element.tag
        if kind not in _PLAIN_ELEMENTS or "subClass" in element.attrib:
            raise SourceError(
                f"the VRT {path} does more than put pictures together ({kind}): if you trust it, "
                "say --allow-vrt"
            )
        if kind == "SourceFilename":
            pictures.add(_inside(path, folder, element))
            if len(pictures) > MAX_VRT_SOURCES:
                raise SourceError(f"the VRT {path} names more than {MAX_VRT_SOURCES:,} pictures")
        if kind == "SRS" and (element.text or "").strip():
            _check_srs(path, element.text or "")
    for picture in pictures:
        if (found := foreign_side_file(picture)) is not None:
            raise SourceError(
                f"the VRT {path} names {picture.name}, beside which {found.name} may read other "
                "files: if you trust it, say --allow-vrt"
            )
        check_geo_keys(picture)
        try:
            DatasetReader(str(picture), driver=list(PLAIN_DRIVERS)).close()
        except (RasterioError, CPLE_BaseError) as error:
            raise SourceError(
                f"the VRT {path} names {picture.name}, which is missing or no plain picture: "
                "if you trust it, say --allow-vrt"
            ) from error


def _check_srs(path: Path, text: str) -> None:
    try:
        check_crs_text(text)
    except UsageError as error:
        raise SourceError(
            f"the VRT {path}: {error}, or if you trust it, say --allow-vrt"
        ) from error


def files_beside(path: Path) -> tuple[Path, ...]:
    """Return the other files of this machine that a raster's pixels come from.

    Those are the pictures of a VRT, also of one in another, and masks. GDAL's own list is not asked
    for: it opens what notes beside a picture name, on servers too.
    """
    seen = {path}
    _gather(path, seen)
    masks = (each.with_name(f"{each.name}.msk") for each in tuple(seen))
    return tuple(sorted((seen | {mask for mask in masks if _there(mask)}) - {path}))


def _gather(path: Path, seen: set[Path]) -> None:
    """Add to `seen` the files that a VRT names, as far as they are there."""
    if not _is_vrt(path):
        return
    folder = path.resolve().parent  # as GDAL, of what a link leads to
    with suppress(SourceError):  # what is no plain XML; it is trusted, or it was refused before
        for element in _elements(path):
            if element.tag != "SourceFilename":
                continue
            name = element.text or ""
            picture = folder / name if element.get("relativeToVRT") == "1" else Path(name)
            if picture not in seen and _there(picture):
                seen.add(picture)
                _gather(picture, seen)


def _there(path: Path) -> bool:
    with suppress(OSError, ValueError):  # names that are too long, folders that are closed
        return path.is_file()
    return False


def _elements(path: Path) -> list[ElementTree.Element]:
    """Return the elements of a VRT, which has none of XML's tricks."""
    with path.open("rb") as file:
        data = file.read(MAX_VRT_BYTES + 1)
    if len(data) > MAX_VRT_BYTES:
        raise SourceError(f"the VRT {path} has more than {MAX_VRT_BYTES:,} bytes: not read")
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise SourceError(f"the VRT {path} defines entities: not read")
    try:
        return list(ElementTree.fromstring(data).iter())  # nosec B314 # no entities, see above
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise SourceError(f"the VRT {path} is not XML: {error}") from error


def _inside(path: Path, folder: Path, element: ElementTree.Element) -> Path:
    """Return the file that a `SourceFilename` names, once it is sure to lie in `folder`."""
    name, relative = element.text or "", element.get("relativeToVRT", "0")
    base = folder if relative == "1" else Path()
    try:
        picture = (base / name).resolve()
        # nothing that GDAL may take for another name than Python does
        plain = name == name.strip() and len(element) == 0 and relative in {"0", "1"}
        plain = plain and picture.is_file()
    except (OSError, ValueError, RuntimeError):  # RuntimeError: links in a circle
        plain = False
    if not plain or not picture.is_relative_to(folder):
        raise SourceError(
            f"the VRT {path} reads what is not in its folder: if you trust it, say --allow-vrt"
        )
    return picture


def _is_vrt(path: Path) -> bool:
    return _VRT.match(_start(path)) is not None


def _points_elsewhere(path: Path) -> bool:
    """Whether a file that is no picture looks like one of instructions."""
    return (
        path.suffix.lower() in {".vrt", ".xml", ".wms"} or _POINTER.match(_start(path)) is not None
    )


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError:
        return b""
