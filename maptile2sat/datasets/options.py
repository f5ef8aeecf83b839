"""What pairs to build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from maptile2sat.datasets.layout import MIN_SIDE, Side
from maptile2sat.datasets.workshop import Format
from maptile2sat.errors import UsageError
from maptile2sat.grid import BBox

LARGEST = 4096
"""Largest side of one half of a pair in pixels."""


@dataclass(frozen=True)
class BuildOptions:
    """What pairs to build.

    Attributes:
        zoom: Web mercator zoom on whose grid both sources are read.
        bbox: The area in degrees; by default where both sources may have data.
        count: Pairs wanted; by default all that fit.
        val_fraction: Part of them for validation.
        seed: Decides which squares are taken, and for what.
        size: Side of a half in pixels.
        map_side: Half that the map becomes.
        format: `png` keeps map colours exact; `jpeg` is quality 95 in full colour.
        style: Style in which OpenStreetMap extracts are drawn.
        keep_uniform: Keep pairs whose map or image is of one colour, such as open sea.
        src_crs: CRS of a raster that does not state one.
        tile_size: Side in pixels of a server's tiles, 256 or 512, if its template does not say;
            two sides if those of map and image differ.
        missing: What a tile that a server does not have is: `error` or `mask`.
        headers: More HTTP headers for the server of the map or the image, which must be one if both
            are on servers. Never shown or kept.
        map_headers: More of them for the map's server only.
        image_headers: More of them for the image's server only.
        ca_bundle: File of certificates (PEM) to trust instead of the usual ones.
        allow_vrt: Trust rasters that name other files or servers anywhere (VRT, WMS and such).
        allow_repeats: Take one picture at many places for map or photo, not for a server's excuse.
    """

    zoom: int = 16
    bbox: BBox | None = None
    count: int | None = None
    val_fraction: float = 0.1
    seed: int = 0
    size: int = 512
    map_side: Side = "right"
    format: Format = "png"
    style: str = "maps"
    keep_uniform: bool = False
    src_crs: str | None = None
    tile_size: int | tuple[int, int] | None = None
    missing: Literal["error", "mask"] = "error"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    map_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    image_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_bundle: Path | None = None
    allow_vrt: bool = False
    allow_repeats: bool = False

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            UsageError: If a value is out of its range.
        """
        checks = {
            f"size must be in {MIN_SIDE}..{LARGEST}": MIN_SIDE <= self.size <= LARGEST,
            "count must be 2 or more": self.count is None or self.count >= 2,
            "val_fraction must be in 0..0.5": 0.0 <= self.val_fraction <= 0.5,
            "seed must not be negative": self.seed >= 0,
            "map_side must be left or right": self.map_side in ("left", "right"),
            "format must be png or jpeg": self.format in ("png", "jpeg"),
        }
        for message, right in checks.items():
            if not right:
                raise UsageError(f"building pairs: {message}")
