"""An OpenStreetMap extract as a map source: tiles are drawn when they are read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np

from maptile2sat.errors import SourceError
from maptile2sat.geo.grid import TILE, Window, mercator_grid
from maptile2sat.osm.geometry import shape_errors
from maptile2sat.osm.paint import Scene, paint_tile
from maptile2sat.osm.read import read_extract
from maptile2sat.osm.style import find_style
from maptile2sat.sources.base import Image, Read, SourceInfo, blank

ATTRIBUTION = "© OpenStreetMap contributors"

_CACHED_TILES = 64


def open_extract(path: Path, *, zoom: int, style: str = "maps") -> ExtractSource:
    """Open the OpenStreetMap extract `path` as a map.

    Args:
        path: An .osm.pbf or .osm file.
        zoom: Web mercator zoom to draw at.
        style: `maps` or `osm`.

    Raises:
        MissingExtraError: If osmium or shapely is not installed.
        SourceError: If the file is missing, not OpenStreetMap data, or empty.
        UsageError: If there is no such style or zoom.
    """
    return ExtractSource(Path(path), zoom=zoom, style=style)


class ExtractSource:
    """A map drawn from an OpenStreetMap extract; see `open_extract`.

    Attributes:
        warnings: What could not be drawn, and why.
    """

    def __init__(self, path: Path, *, zoom: int, style: str) -> None:
        look = find_style(style)
        grid = mercator_grid(zoom)
        extract = read_extract(path, grid)
        self.warnings: list[str] = extract.warnings
        self._info = SourceInfo(
            name=path.name,
            grid=grid,
            extent=extract.window,
            attribution=ATTRIBUTION,
            tiled=False,
            style=look.name,
            drawn=True,
        )
        with shape_errors(path.name):
            self._scene: Scene | None = Scene(extract, look, zoom)
        self._tiles: OrderedDict[tuple[int, int], Image] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def info(self) -> SourceInfo:
        """What the source is and covers."""
        return self._info

    def read(self, window: Window, needed: Window | None = None) -> Read:
        """Return the pixels of `window`; tiles are drawn whole, so it does not change them."""
        result = blank(window)
        for part, place in self._info.grid.pieces(window, self._info.extent):
            rows, cols = place.slices(window)
            result.mask[rows, cols] = 255
            self._copy(part, result.image[rows, cols])
        return result

    def prefetch(self, window: Window) -> None:
        """Do nothing: drawing waits for no network."""

    def close(self) -> None:
        """Forget the map."""
        with self._lock:
            self._scene = None
            self._tiles.clear()

    def _copy(self, part: Window, target: Image) -> None:
        for row in range(part.row // TILE, (part.bottom - 1) // TILE + 1):
            for column in range(part.col // TILE, (part.right - 1) // TILE + 1):
                tile = Window(column * TILE, row * TILE, TILE, TILE)
                common = tile.intersection(part)
                target[common.slices(part)] = self._tile(column, row)[common.slices(tile)]

    def _tile(self, column: int, row: int) -> Image:
        """Return a tile, drawn now or lately."""
        key = (column, row)
        with self._lock:
            scene = self._scene
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
        if scene is None:
            raise SourceError(f"{self._info.name} is closed")
        with shape_errors(self._info.name):
            tile = np.ascontiguousarray(paint_tile(scene, column, row))
        with self._lock:
            self._tiles[key] = tile
            while len(self._tiles) > _CACHED_TILES:
                self._tiles.popitem(last=False)
        return tile
