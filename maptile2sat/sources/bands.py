"""Which bands of a raster are its colours, and how they become red, green, blue, alpha."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window as RasterWindow

from maptile2sat.errors import SourceError

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
