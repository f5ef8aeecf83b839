"""Any raster file that GDAL reads, on its own pixel grid."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from maptile2sat.errors import Maptile2satError, SourceError, UsageError
from maptile2sat.grid import Window, raster_grid
from maptile2sat.position import can_lie
from maptile2sat.projection import WEB_MERCATOR, parse_crs
from maptile2sat.quiet import ignore_missing_position
from maptile2sat.source import Read, Source, SourceInfo, blank
from maptile2sat.sources.bands import Bands, band_notice, find_bands, read_rgb, read_rgba
from maptile2sat.sources.drivers import files_beside, open_dataset
from maptile2sat.sources.geo_keys import check_remote_geo_keys
from maptile2sat.sources.handles import Pool
from maptile2sat.sources.naming import plain_text, safe_url
from maptile2sat.sources.options import SourceOptions
from maptile2sat.sources.pixels import flatten
from maptile2sat.sources.side_files import foreign_side_file
from maptile2sat.sources.styles import drawn_in, style_in
from maptile2sat.sources.warped import warp_to_zoom

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
        raise SourceError(f"{name} does not name its CRS: say --src-crs, such as EPSG:3857")
    return parse_crs(options.src_crs)
