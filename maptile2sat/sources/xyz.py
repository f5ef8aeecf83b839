"""Map tiles from a server."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from maptile2sat.errors import MissingTileError
from maptile2sat.grid import MAX_ZOOM, BBox, Window
from maptile2sat.sources.http import HttpClient
from maptile2sat.sources.naming import safe_url
from maptile2sat.sources.options import SourceOptions
from maptile2sat.sources.policy import check_host
from maptile2sat.sources.template import Template
from maptile2sat.sources.tiled import TiledSource
from maptile2sat.sources.tileset import open_tileset, span_of_bounds

_MOVES = 4096
"""Redirected tiles of which is remembered where they came from."""


class UrlTiles:
    """The tiles behind URL templates; a `TileSet`.

    Args:
        templates: Addresses of the same tiles; each tile always comes from the same one.
        options: Network settings.
        name: How to show the source; the first template without secrets if not given.
        attribution: Whom to name.
        zooms: The zooms that the server has, if known.
        bounds: Where it has tiles, if known.
        home: The address that the user gave, for headers; the templates if not given.
    """

    remote = True
    style = None
    drawn = False

    def __init__(
        self,
        templates: Sequence[Template],
        options: SourceOptions,
        *,
        name: str | None = None,
        attribution: str = "",
        zooms: Sequence[int] = range(MAX_ZOOM + 1),
        bounds: BBox | None = None,
        home: str | None = None,
    ) -> None:
        for template in templates:
            for url in template.servers():
                check_host(url)
        self._templates = templates
        self._bounds = bounds
        homes = [home] if home else [url for each in templates for url in each.servers()]
        self._client = HttpClient(options, *homes)
        self._lock = threading.Lock()
        self._moved: OrderedDict[str, str] = OrderedDict()
        self.name = name or safe_url(templates[0].text)
        self.attribution = attribution
        self.zooms = zooms

    def span(self, zoom: int) -> Window:
        """Return the tiles of `zoom` that the server has, as far as known."""
        if self._bounds is None:
            return Window(0, 0, 1 << zoom, 1 << zoom)
        return span_of_bounds(self._bounds, zoom)

    def sample(self, zoom: int) -> bytes | None:
        """Return None: nothing is downloaded that is not needed."""

    def fetch(self, zoom: int, x: int, y: int) -> bytes | None:
        """Return a tile's bytes.

        Raises:
            MissingTileError: If the server does not have the tile.
            SourceError: If the server fails, which is never taken for a hole, refuses, or
                answers nonsense.
        """
        what = f"tile {zoom}/{x}/{y} of {self.name}"
        url = self._url(zoom, x, y)
        reply = self._client.get(url, what)
        if reply is None or not reply.body:
            raise MissingTileError(f"{what} is missing")
        if reply.url != url:
            self._note_move(url, reply.url)
        return reply.body

    def discard(self, zoom: int, x: int, y: int) -> None:
        """Delete the cached copies of a tile, also where a redirect has led to."""
        url = self._url(zoom, x, y)
        self._client.forget(url)
        with self._lock:
            there = self._moved.pop(url, None)
        if there is not None:
            self._client.forget(there)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _note_move(self, url: str, there: str) -> None:
        """Remember for a while where a tile came from in the end."""
        with self._lock:
            self._moved[url] = there
            while len(self._moved) > _MOVES:
                self._moved.popitem(last=False)

    def _url(self, zoom: int, x: int, y: int) -> str:
        return self._templates[(x + y) % len(self._templates)].fill(zoom, x, y)


def open_xyz(text: str, options: SourceOptions) -> TiledSource:
    """Open a tile URL template.

    Raises:
        SourceError: If the template or the zoom will not do.
    """
    template = Template(text, options.subdomains)
    tiles = UrlTiles([template], options, zooms=template.zooms)
    return open_tileset(tiles, options, retina=template.retina, tile_size=template.tile_size)
