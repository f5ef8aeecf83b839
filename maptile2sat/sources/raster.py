"""Any raster file that GDAL reads, on its own pixel grid."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree  # nosec B405 # nothing with entities is parsed

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterWindow

from maptile2sat.errors import Maptile2satError, SourceError, UsageError
from maptile2sat.gdal import ignore_missing_position
from maptile2sat.geo.crs import WEB_MERCATOR, can_lie, check_crs_text, parse_crs
from maptile2sat.geo.grid import Window, raster_grid
from maptile2sat.sources.base import Read, Source, SourceInfo, blank, drawn_in, style_in
from maptile2sat.sources.foreign_sqlite import START, check_geopackage
from maptile2sat.sources.geo_keys import check_geo_keys, check_remote_geo_keys
from maptile2sat.sources.handles import Pool
from maptile2sat.sources.options import SourceOptions
from maptile2sat.sources.redact import plain_text, safe_url
from maptile2sat.sources.side_files import foreign_side_file
from maptile2sat.sources.tiles import flatten
from maptile2sat.sources.warp import warp_to_zoom

# Which bands of a raster are its colours, and how they become red, green, blue, alpha

_FOREIGN = {
    ColorInterp.cyan,
    ColorInterp.magenta,
    ColorInterp.yellow,
    ColorInterp.black,
    ColorInterp.hue,
    ColorInterp.saturation,
    ColorInterp.lightness,
}
_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


@dataclass(frozen=True)
class Bands:
    """How to make colours of a raster's bands.

    Attributes:
        colours: Band numbers: one (grey or palette) or three (red, green, blue).
        alpha: Band number of the alpha band, if there is one.
        table: uint8 (256, 4): what the values of a single band look like.
        masked: Whether the raster says in another way (nodata, mask) where it has no data.
    """

    colours: tuple[int, ...]
    alpha: int | None
    table: npt.NDArray[np.uint8] | None
    masked: bool

    @property
    def plain(self) -> bool:
        """Whether the bands are the colours, with data everywhere."""
        return self.alpha is None and self.table is None and not self.masked


def find_bands(dataset: Any, name: str) -> Bands:
    """Look at a raster's bands.

    Raises:
        SourceError: If there are none, they are not 8 bits deep, or nothing says which are the
            colours.
    """
    kinds = list(dataset.colorinterp)
    if not kinds and (held := dataset.subdatasets):
        # an address may hold a key
        how = "" if "://" in held[0] else f", gdal_translate '{held[0]}' map.tif"
        raise SourceError(f"{name} holds {len(held)} rasters: take one out first{how}")
    if any(kind in _FOREIGN for kind in kinds):
        raise SourceError(f"{name} is not in red, green and blue: convert it to RGB first")
    alpha = kinds.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in kinds else None
    colours = _colours(kinds, alpha, name)
    deep = {dataset.dtypes[band - 1] for band in (*colours, *([alpha] if alpha else []))}
    if deep != {"uint8"}:
        raise SourceError(
            f"{name} has {', '.join(sorted(deep - {'uint8'}))} pixels, but maps have 8 bits per "
            f"colour: convert it first, gdal_translate -ot Byte -scale 0 65535 {name} bytes.tif "
            "(with the range that its values really have)"
        )
    table = _table(dataset, colours[0]) if len(colours) == 1 else None
    flags = dataset.mask_flag_enums[colours[0] - 1]
    masked = alpha is None and MaskFlags.all_valid not in flags
    return Bands(colours, alpha, table, masked)


def band_notice(dataset: Any, name: str) -> str:
    """Return what to say of a fourth band that may be anything, or an empty text.

    In aerial images it is near infrared, which would make holes of water if it were taken for
    alpha.
    """
    kinds = list(dataset.colorinterp)
    if len(kinds) != 4 or kinds[3] != ColorInterp.undefined or not set(_RGB) <= set(kinds):
        return ""
    return (
        f"band 4 of {name} does not say what it is and is left out; if it is alpha, make that "
        f"known first: gdal_translate -colorinterp_4 alpha {name} alpha.tif"
    )


def read_rgb(dataset: Any, bands: Bands, window: RasterWindow) -> npt.NDArray[np.uint8]:
    """Read a window of plain colours at full resolution as uint8 (height, width, 3)."""
    values = dataset.read(list(bands.colours), window=window)
    rgb = np.empty((*values.shape[1:], 3), np.uint8)
    for channel in range(3):
        rgb[..., channel] = values[channel if len(values) == 3 else 0]
    return rgb


def read_rgba(dataset: Any, bands: Bands, window: RasterWindow) -> npt.NDArray[np.uint8]:
    """Read a window at full resolution as uint8 (height, width, 4)."""
    values = dataset.read(list(bands.colours), window=window)
    if bands.table is not None:
        rgba: npt.NDArray[np.uint8] = bands.table[values[0]]
    else:
        rgba = np.full((*values.shape[1:], 4), 255, np.uint8)
        rgba[..., :3] = np.moveaxis(values, 0, -1) if len(values) == 3 else values[0][..., None]
    if bands.alpha is not None:
        rgba[..., 3] = np.minimum(rgba[..., 3], dataset.read(bands.alpha, window=window))
    elif bands.masked:
        rgba[..., 3] = np.minimum(rgba[..., 3], dataset.dataset_mask(window=window))
    return rgba


def _colours(kinds: list[ColorInterp], alpha: int | None, name: str) -> tuple[int, ...]:
    """Return the numbers of the bands that make the colour."""
    if all(kind in kinds for kind in _RGB):
        return tuple(kinds.index(kind) + 1 for kind in _RGB)
    others = [number for number in range(1, len(kinds) + 1) if number != alpha]
    if len(others) in (1, 3):
        return tuple(others)
    raise SourceError(
        f"{name} has {len(kinds)} bands and does not say which are red, green and blue: "
        "pick them first, "
        + (
            f"gdal_translate -b 1 -b 2 -b 3 {name} rgb.tif"
            if len(kinds) >= 3
            else f"gdal_translate -b 1 {name} grey.tif"
        )
    )


def _table(dataset: Any, band: int) -> npt.NDArray[np.uint8] | None:
    """Return what the values of a single band look like, unless they are plain grey."""
    inverted = (
        dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
    )  # GDAL's table says how
    if inverted or dataset.colorinterp[band - 1] == ColorInterp.palette:
        table = np.zeros((256, 4), np.uint8)
        for value, colour in dataset.colormap(band).items():
            if 0 <= value < 256:
                table[value] = colour
        return table
    bits = int(dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", 8))
    if bits >= 8:
        return None
    top = (1 << bits) - 1
    grey = (np.minimum(np.arange(256), top) * 255 + top // 2) // top
    return np.stack([grey, grey, grey, np.full(256, 255)], axis=-1).astype(np.uint8)


# Opening rasters with the drivers that read one file, and no other files or servers

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
            f"{safe_url(where)}: {error}, or if you trust it, pass --allow-vrt"
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
                "anywhere: if you trust it, pass --allow-vrt"
            ) from error
        name = where.partition("?")[0].lower()
        if name.endswith(_NAMING):
            raise SourceError(
                f"{safe_url(where)} is of a kind whose files may name others: copy it to a "
                "GeoTIFF, or if you trust it, pass --allow-vrt"
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
                "pass --allow-vrt"
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
                "files: if you trust it, pass --allow-vrt"
            )
        check_geo_keys(picture)
        try:
            DatasetReader(str(picture), driver=list(PLAIN_DRIVERS)).close()
        except (RasterioError, CPLE_BaseError) as error:
            raise SourceError(
                f"the VRT {path} names {picture.name}, which is missing or no plain picture: "
                "if you trust it, pass --allow-vrt"
            ) from error


def _check_srs(path: Path, text: str) -> None:
    try:
        check_crs_text(text)
    except UsageError as error:
        raise SourceError(
            f"the VRT {path}: {error}, or if you trust it, pass --allow-vrt"
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
            f"the VRT {path} reads what is not in its folder: if you trust it, pass --allow-vrt"
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


MAX_ASPECT = 1.25
"""Ratio of a ground pixel's sides from which on it counts as oblong."""

MAX_BLOCK_BYTES = 256 << 20
"""Most bytes of one block of a raster, all bands: GDAL unpacks blocks as a whole."""


class RasterSource:
    """A raster on its own grid, read in plain windows at full resolution.

    Args:
        where: Path or URL, as rasterio takes it.
        options: CRS, fill colour and network settings.

    Raises:
        SourceError: If it is not a georeferenced 8-bit picture.
    """

    def __init__(self, where: str, options: SourceOptions) -> None:
        self._where = where
        self._allow_vrt = options.allow_vrt
        self._remote = "://" in where
        self._fill = options.fill
        self._settings = _settings(options, remote=self._remote)
        self._name = safe_url(where)
        self._handles = Pool(self._open)
        ignore_missing_position()
        if not self._remote and not self._allow_vrt:
            found = foreign_side_file(Path(where))
            if found is not None:
                options.warn(
                    f"{found.name} is not read, as all beside {where}: it may read other files"
                )
        if where.startswith(("http://", "https://")) and not self._allow_vrt:
            check_remote_geo_keys(where, options)
        with self._lend() as dataset:
            _check_blocks(dataset, self._name)
            self._bands: Bands = find_bands(dataset, self._name)
            if text := band_notice(dataset, self._name):
                options.warn(text)
            crs = _crs(dataset, options, self._name)
            _check_position(dataset, crs, self._name)
            grid, extent = raster_grid(crs, dataset.transform, dataset.width, dataset.height)
            tags = dataset.tags()
            parts = () if self._remote else files_beside(Path(where))
        attribution = plain_text(str(tags.get("TIFFTAG_COPYRIGHT", "")))
        style = style_in(tags)
        self._info = SourceInfo(
            self._name,
            grid,
            extent,
            attribution,
            style=style,
            drawn=drawn_in(tags),
            remote=self._remote,
            parts=parts,
        )

    @property
    def info(self) -> SourceInfo:
        """What the source is and covers."""
        return self._info

    def read(self, window: Window, needed: Window | None = None) -> Read:
        """Return the pixels of `window`; see `Source.read`."""
        extent = self._info.extent
        pieces = list(self._info.grid.pieces(window, extent))
        if [wanted for _, wanted in pieces] == [window]:
            return self._read(pieces[0][0].shifted(-extent.col, -extent.row))
        result = blank(window)
        for part, wanted in pieces:
            read = self._read(part.shifted(-extent.col, -extent.row))
            there = wanted.slices(window)
            result.image[there], result.mask[there] = read
        return result

    def prefetch(self, window: Window) -> None:
        """Do nothing: GDAL reads when asked."""

    def close(self) -> None:
        """Close the file."""
        self._handles.close()

    def _read(self, part: Window) -> Read:
        """Read pixels counted from the file's corner."""
        window = RasterWindow(part.col, part.row, part.width, part.height)
        with self._lend() as dataset:
            if self._bands.plain:
                image = read_rgb(dataset, self._bands, window)
                return Read(image, np.full(image.shape[:2], 255, np.uint8))
            return flatten(read_rgba(dataset, self._bands, window), self._fill)

    @contextmanager
    def _lend(self) -> Iterator[Any]:
        """Lend a dataset; whatever GDAL says against it becomes one line."""
        try:
            with rasterio.Env(**self._settings), self._handles.lend() as dataset:
                yield dataset
        except (RasterioError, CPLE_BaseError) as error:  # some come as GDAL raises them
            raise SourceError(self._explain(error)) from error

    def _open(self) -> Any:
        return open_dataset(self._where, allow_vrt=self._allow_vrt)

    def _explain(self, error: Exception) -> str:
        """Say what is wrong with the file, without the URL that GDAL's message may hold."""
        text = str(error.__cause__ or error)
        code = re.search(r"(?:HTTP response code|response_code=)\D{0,3}(\d{3})", text)
        if code:
            return f"{self._name}: the server answered HTTP {code.group(1)}"
        if "not recognized as being in a supported file format" in text:
            return (
                f"{self._name} is not a picture or map that can be read: give a GeoTIFF or other "
                "raster, MBTiles, PMTiles, a tile URL template, or an OpenStreetMap extract"
            )
        if self._remote:
            return f"{self._name} cannot be read: check the address and the network"
        return f"{self._name} cannot be read: {' '.join(text.split())}"


def open_raster(where: str, options: SourceOptions) -> Source:
    """Open a raster: on its own grid, or on that of the zoom asked for.

    Raises:
        SourceError: If it cannot be used as a map.
    """
    if options.headers and where.startswith(("http://", "https://")):
        raise SourceError(
            f"{safe_url(where)}: GDAL would send HTTP headers on to wherever the server redirects: "
            "download the raster first, or leave the headers out (--header, MAPTILE2SAT_HEADERS)"
        )
    raster = RasterSource(where, options)
    try:
        _check_place(raster.info)
        if options.zoom is not None and raster.info.grid.zoom != options.zoom:
            return warp_to_zoom(raster, options.zoom, options)
        if not options.native:
            check_aspect(raster.info)
    except Maptile2satError:
        raster.close()
        raise
    return raster


def _check_place(info: SourceInfo) -> None:
    """Refuse a CRS that has no place on Earth, such as that of a building site.

    Raises:
        SourceError: If the raster has such.
    """
    try:
        info.grid.metres_per_pixel(info.extent)
    except UsageError as error:
        raise SourceError(
            f"{info.name} has no place on Earth ({error}): assign the right CRS first, "
            f"gdal_translate -a_srs EPSG:... {info.name} placed.tif"
        ) from error


def check_aspect(info: SourceInfo) -> None:
    """Refuse ground pixels that are clearly longer than wide, or the other way round.

    Raises:
        SourceError: If they are; the message names the remedies.
    """
    across, down = info.grid.metres_per_pixel(info.extent)
    if max(across, down) > MAX_ASPECT * min(across, down):
        raise SourceError(
            f"the pixels of {info.name} are {across:.3g} x {down:.3g} m on the ground, and models "
            "know only square ones: say -z ZOOM to warp the map to web mercator, or --native"
        )


def _settings(options: SourceOptions, *, remote: bool) -> dict[str, Any]:
    """Return GDAL's settings for reading."""
    if not remote:
        return {}
    settings = {
        **_store_settings(),
        "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",  # no listing, but masks beside the file
        "GDAL_PAM_ENABLED": "YES" if options.allow_vrt else "NO",  # notes may name any file
        "GDAL_HTTP_USERAGENT": options.agent,
        "GDAL_HTTP_CONNECTTIMEOUT": str(options.timeout),
        "GDAL_HTTP_LOW_SPEED_TIME": str(options.timeout),
        "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
        "GDAL_HTTP_TIMEOUT": str(options.patience),  # of one request in all
        "GDAL_HTTP_MAX_RETRY": "3",
        "GDAL_HTTP_RETRY_DELAY": "1",
    }
    if options.ca_bundle is not None:
        settings["CURL_CA_BUNDLE"] = str(options.ca_bundle)
    return settings


def _store_settings() -> dict[str, str]:
    """Return where GDAL finds a store that is not Amazon's: where others find it too."""
    address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not address or "AWS_S3_ENDPOINT" in os.environ:  # GDAL's own word for it
        return {}
    scheme, _, place = address.rpartition("://")
    return {
        "AWS_S3_ENDPOINT": place.rstrip("/"),
        "AWS_HTTPS": "NO" if scheme == "http" else "YES",
        "AWS_VIRTUAL_HOSTING": "FALSE",
    }


def _check_blocks(dataset: Any, name: str) -> None:
    """Refuse blocks that take a lot of memory, which a small file can ask for.

    Raises:
        SourceError: If there are such.
    """
    largest = max((rows * columns for rows, columns in dataset.block_shapes), default=0)
    if largest * dataset.count > MAX_BLOCK_BYTES:
        rows, columns = dataset.block_shapes[0]
        raise SourceError(
            f"{name} is packed in blocks of {columns}x{rows} px, which take too much memory: "
            f"gdal_translate -co TILED=YES -co COMPRESS=DEFLATE {name} tiled.tif"
        )


def _check_position(dataset: Any, crs: CRS, name: str) -> None:
    """Refuse a position that is no position: not numbers, no area, pixels as large as the world.

    Raises:
        SourceError: If it is such.
    """
    if not can_lie(crs, dataset.transform, dataset.width, dataset.height):
        if crs.is_geographic and can_lie(WEB_MERCATOR, dataset.transform, *dataset.shape[::-1]):
            remedy = (
                "--src-crs" if not dataset.crs else f"gdal_translate -a_srs EPSG:... {name} b.tif"
            )
            raise SourceError(
                f"{name} says that it lies where nothing can lie, at {dataset.transform.c:g},"
                f"{dataset.transform.f:g} degrees: give it the right CRS first, {remedy}"
            )
        raise SourceError(
            f"{name} says that it lies where nothing can lie: give it a position first, "
            f"gdal_translate -a_ullr WEST NORTH EAST SOUTH {name} placed.tif"
        )


def _crs(dataset: Any, options: SourceOptions, name: str) -> CRS:
    """Return the CRS, once it is sure that the raster says where it lies."""
    if dataset.transform.is_identity:
        if dataset.gcps[0]:
            raise SourceError(
                f"{name} has only ground control points: warp it first, "
                f"gdalwarp -r bilinear {name} warped.tif"
            )
        raise SourceError(
            f"{name} does not say where on Earth it lies: give it a position first, "
            f"gdal_translate -a_srs EPSG:... -a_ullr WEST NORTH EAST SOUTH {name} placed.tif"
        )
    if dataset.crs:
        if options.src_crs is not None:
            options.warn(f"--src-crs is not used: {name} names its own CRS, {dataset.crs}")
        return dataset.crs
    if options.src_crs is None:
        raise SourceError(f"{name} does not name its CRS: pass --src-crs, such as EPSG:3857")
    return parse_crs(options.src_crs)
