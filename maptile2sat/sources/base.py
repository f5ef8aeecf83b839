"""What every map source offers: one grid, and pixels of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from maptile2sat.geo.grid import TILE, Grid, Window

Image = npt.NDArray[np.uint8]
"""uint8 array of shape (height, width, 3), red green blue."""

Mask = npt.NDArray[np.uint8]
"""uint8 array of shape (height, width): 255 where there is a map, 0 where there is none."""


class Read(NamedTuple):
    """Pixels of a window of a source.

    Attributes:
        image: uint8 (height, width, 3); pixels without data are 0.
        mask: uint8 (height, width), 255 valid, 0 not.
    """

    image: Image
    mask: Mask


@dataclass(frozen=True)
class SourceInfo:
    """What a source says about itself.

    Attributes:
        name: How to show the source; never holds a key, user name or password.
        grid: Its pixel grid.
        extent: The pixels of the grid where it may have data.
        attribution: Who is to be named for the map; empty if not known.
        tiled: Whether reading fetches or decodes tiles (what `--max-tiles` counts).
        tile_side: Side in pixels of the grid of those tiles: 256, or 512.
        style: The map style (`maps`, `osm`) if the source knows it.
        drawn: Whether this program drew it, so that it has no labels.
        remote: Whether reading goes over a network.
        parts: Local files, beside that by which it is opened, that pixels come from: the pictures
            of a VRT, a mask.
    """

    name: str
    grid: Grid
    extent: Window
    attribution: str = ""
    tiled: bool = False
    tile_side: int = TILE
    style: str | None = None
    drawn: bool = False
    remote: bool = False
    parts: tuple[Path, ...] = ()


class Source(Protocol):
    """A map that can be read by pixel windows; safe to read from several threads."""

    @property
    def info(self) -> SourceInfo:
        """What the source is and covers."""

    def read(self, window: Window, needed: Window | None = None) -> Read:
        """Return the pixels of `window`, whatever part of it the source has.

        The same pixel has the same value in whatever window it is read. Columns of a grid
        that wraps may be any turn around the world.

        Args:
            window: The pixels to read.
            needed: The pixels that must be there, if not all: tiles of `window` that lie
                outside of it may be missing, as context that the source does not have.

        Raises:
            SourceError: If the map cannot be read.
            MissingTileError: If a tile inside the extent is missing and may not be.
        """

    def prefetch(self, window: Window) -> None:
        """Take the hint that `window` will be read soon; returns at once.

        Sources that wait for a network or decode tiles start to; for others it does nothing.
        Errors show up in the read.
        """

    def close(self) -> None:
        """Free files and connections; further reads fail."""


def blank(window: Window) -> Read:
    """Return pixels without data for `window`."""
    shape = (window.height, window.width)
    return Read(np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8))


def common(info: SourceInfo, window: Window) -> Window:
    """Return the hull, in the columns of `window`, of what a source may have of it.

    Across 180 degrees, where a source's columns end and begin, that is one window all the same.
    """
    places = [place for _, place in info.grid.pieces(window, info.extent)]
    if not places:
        return Window(window.col, window.row, 0, 0)
    left, top = min(place.col for place in places), min(place.row for place in places)
    right, bottom = max(place.right for place in places), max(place.bottom for place in places)
    return Window(left, top, right - left, bottom - top)


def tile_count(source: Source, window: Window) -> int:
    """Return how many tiles a read of a window fetches or decodes; 0 for untiled sources."""
    if not source.info.tiled:
        return 0
    columns, rows = columns_and_rows(source, window)
    return len(columns) * len(rows)


def tile_count_of_rows(source: Source, windows: Iterable[Window]) -> int:
    """Return how many tiles reads of many windows take, each tile once; 0 for untiled sources.

    Args:
        source: The source.
        windows: They begin at the same row as the one before or at a later one: only the rows of
            tiles that more windows may touch are kept in memory.
    """
    if not source.info.tiled:
        return 0
    count = 0
    touched: dict[int, set[int]] = {}
    for window in windows:
        columns, rows = columns_and_rows(source, window)
        for row in [row for row in touched if rows and row < rows.start]:
            count += len(touched.pop(row))
        for row in rows:
            touched.setdefault(row, set()).update(columns)
    return count + sum(map(len, touched.values()))


def takes_any(source: Source, window: Window, tiles: Iterable[tuple[int, int]]) -> bool:
    """Return whether a read of `window` takes any of some tiles, given by column and row."""
    columns, rows = columns_and_rows(source, window)
    return any(column in columns and row in rows for column, row in tiles)


def columns_and_rows(source: Source, window: Window) -> tuple[set[int], range]:
    """Return the columns and rows of tiles that a read of `window` takes."""
    info = source.info
    side = info.tile_side
    columns: set[int] = set()
    rows = range(0)
    for part, _ in info.grid.pieces(window, info.extent):
        columns.update(range(part.col // side, (part.right - 1) // side + 1))
        rows = range(part.row // side, (part.bottom - 1) // side + 1)
    if info.grid.wrap is not None:
        columns = {column % (info.grid.wrap // side) for column in columns}
    return columns, rows


# The map style that a file says it is drawn in

STYLES = ("maps", "osm")
"""Those that a file may say."""

STYLE_KEY = "maptile2sat:style"
"""Where `draw` says it in the metadata of tiles; others may say `style`."""

STYLE_TAG = "MAPTILE2SAT_STYLE"
"""Where `draw` says it in a GeoTIFF."""


def drawn_in(metadata: Mapping[str, Any]) -> bool:
    """Return whether `draw` says in metadata that it made the map, which then has no labels."""
    return any(metadata.get(key) in STYLES for key in (STYLE_KEY, STYLE_TAG))


def style_in(metadata: Mapping[str, Any]) -> str | None:
    """Return the style that metadata of tiles, or tags of a raster, name; None without."""
    said = (metadata.get(key) for key in (STYLE_KEY, STYLE_TAG, "style"))
    return next((style for style in said if style in STYLES), None)
