"""Map tiles from a server."""

from __future__ import annotations

import math
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from maptile2sat.errors import MissingTileError, SourceError
from maptile2sat.geo.grid import MAX_ZOOM, BBox, Window
from maptile2sat.sources.http import HttpClient, check_host
from maptile2sat.sources.options import SourceOptions
from maptile2sat.sources.redact import safe_url
from maptile2sat.sources.tiles import TiledSource, open_tileset, span_of_bounds

# Tile URL templates: `https://host/{z}/{x}/{y}.png` and its relatives

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_ENCODED = re.compile(r"%7B([\w:,.$!-]*)%7D", re.I)
_GDAL = re.compile(r"\$\{(\w+)\}")
_RANGE = re.compile(r"([a-z])-([a-z])|([0-9])-([0-9])")
_KNOWN = ("z", "x", "y", "-y", "q", "s", "r", "prefix")
_OTHER_NAMES = {
    **dict.fromkeys(("zoom", "level", "tilematrix", "$z"), "z"),
    **dict.fromkeys(("col", "column", "tilecol", "$x"), "x"),
    **dict.fromkeys(("row", "tilerow", "$y"), "y"),
    **dict.fromkeys(("quadkey", "$q"), "q"),
    **dict.fromkeys(("ratio", "retina"), "r"),
}
"""What other programs call the parts, in small letters."""

_ZOOMS = re.compile(r"[#&]zooms=(\d{1,2})-(\d{1,2})(?:&|$)")
_RATIO = re.compile(r"[#&]ratio=2(?:&|$)")
_MOST_SERVERS = 4096


def normalised(text: str) -> str:
    """Return a template with the parts as this package names them: `{z}`, `{x}`, `{y}` and so on.

    Programs write `{zoom}`, `{TileMatrix}`, `${z}` or `%7Bz%7D`, and OsmAnd `{0}/{1}/{2}`.
    """
    text = _GDAL.sub(r"{\1}", _ENCODED.sub(r"{\1}", text))
    names = set(_PLACEHOLDER.findall(text))
    numbered = {"0": "z", "1": "x", "2": "y"} if {"0", "1", "2"} <= names else {}

    def rename(match: re.Match[str]) -> str:
        name = match[1].strip()
        known = numbered.get(name) or _OTHER_NAMES.get(name.lower())
        if known is None and name.lower() in _KNOWN:
            known = name.lower()
        return f"{{{known or match[1]}}}"

    return _PLACEHOLDER.sub(rename, text)


def is_template(text: str) -> bool:
    """Whether `text` looks like a template of tiles."""
    text = normalised(text)
    return "{q}" in text or ("{x}" in text and "{z}" in text)


def quadkey(zoom: int, x: int, y: int) -> str:
    """Return the quadkey of a tile, empty for zoom 0."""
    return "".join(str((x >> bit & 1) + 2 * (y >> bit & 1)) for bit in range(zoom - 1, -1, -1))


@dataclass(frozen=True)
class Template:
    """A tile URL, or path, with placeholders.

    Attributes:
        text: The template: `{z}`, `{x}` and `{y}`, or `{-y}` (rows from the south), or `{q}`
            (quadkey); `{s}`, `{a-c}` or `{switch:a,b}` for servers; `{r}` stands for nothing.
            What other programs write is brought to this form, see `normalised`. After a `#` may
            stand what they know of the tiles: `zooms=0-18`, `ratio=2`.
        subdomains: What `{s}` stands for.
        tms: Whether `{y}` counts from the south.
    """

    text: str
    subdomains: Sequence[str] = ("a", "b", "c")
    tms: bool = False

    def __post_init__(self) -> None:
        """Check the placeholders."""
        object.__setattr__(self, "text", normalised(self.text))
        names = _PLACEHOLDER.findall(self.text)
        unknown = [name for name in names if name not in _KNOWN and not _servers(name)]
        if unknown:
            part = unknown[0] if re.fullmatch(r"[\w -]{1,24}", unknown[0]) else "..."
            raise SourceError(
                f"the tile URL {_safe(self.text)} has an unknown part {{{part}}}: "
                "known are {z} {x} {y} {-y} {q} {s} {r} and {a-c}; write out what stands for "
                "anything else, such as a style or a key"
            )
        if re.search(r"[{}]", _PLACEHOLDER.sub("", self.text)):
            raise SourceError(f"the tile URL {_safe(self.text)} has a brace that has no other half")
        if "q" not in names and not ({"z", "x"} <= set(names) and {"y", "-y"} & set(names)):
            raise SourceError(
                f"the tile URL {safe_url(self.text)} needs {{z}}, {{x}} and {{y}}, "
                "for example https://tiles.example.com/{z}/{x}/{y}.png"
            )

    @property
    def retina(self) -> bool:
        """Whether tiles have twice the pixels of their zoom."""
        return "@2x" in self.text or _RATIO.search(self.text) is not None

    @property
    def zooms(self) -> Sequence[int]:
        """The zooms that there are, as far as the template says it."""
        said = _ZOOMS.search(self.text)
        if said is None or not int(said[1]) <= int(said[2]):
            return range(MAX_ZOOM + 1)
        return range(int(said[1]), min(int(said[2]), MAX_ZOOM) + 1)

    def servers(self) -> list[str]:
        """Return an address at each of the servers that the template names."""
        counts = [
            len(self.subdomains) if name == "s" else len(_servers(name))
            for name in _PLACEHOLDER.findall(self.text)
        ]
        turns = min(math.lcm(*(count for count in counts if count)), _MOST_SERVERS)
        addresses = (self.fill(0, turn, 0) for turn in range(turns))
        try:
            return list({urlsplit(url).netloc: url for url in addresses}.values())
        except ValueError as error:
            raise SourceError("the tile URL is not a valid address") from error

    @property
    def tile_size(self) -> int | None:
        """Pixels per side of the tiles, if a part of the path says it."""
        return next((size for size in (256, 512) if f"/{size}/" in self.text), None)

    def fill(self, zoom: int, x: int, y: int) -> str:
        """Return the address of a tile; the same tile always has the same server."""
        south = (1 << zoom) - 1 - y

        def value(match: re.Match[str]) -> str:
            name = match.group(1)
            if name == "s":
                return self.subdomains[(x + y) % len(self.subdomains)]
            if servers := _servers(name):
                return servers[(x + y) % len(servers)]
            return {
                "z": str(zoom),
                "x": str(x),
                "y": str(south if self.tms else y),
                "-y": str(south),
                "q": quadkey(zoom, x, y),
                "r": "",
                "prefix": f"{x % 16:x}{y % 16:x}",
            }[name]

        text = self.text.partition("#")[0] if "://" in self.text else self.text
        return _PLACEHOLDER.sub(value, text)


def _safe(text: str) -> str:
    """Return a template that is no valid one, to be shown: its braces may hold anything."""
    return safe_url(re.sub(r"\{[^{}]*[^\w{}\s-][^{}]*\}", "{...}", text))


def _servers(name: str) -> list[str]:
    """Return the servers that `a-c`, `0-3` or `switch:a,b` stand for."""
    if name.startswith("switch:"):
        return [server for server in name[len("switch:") :].split(",") if server]
    match = _RANGE.fullmatch(name)
    if not match:
        return []
    first, last = (part for part in match.groups() if part)
    return [chr(code) for code in range(ord(first), ord(last) + 1)]


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
