"""How a map source is to be opened."""

from __future__ import annotations

import logging
import math
import os
import ssl
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from maptile2sat._version import __version__
from maptile2sat.errors import UsageError
from maptile2sat.paths import cache_folder
from maptile2sat.sources.headers import check_headers
from maptile2sat.sources.hosts import CONNECTIONS, RATE, Hosts

if TYPE_CHECKING:
    from maptile2sat.sources.tiles import RepeatGuard

# Tiles that a server does not have: noted as they are masked, told at the end

SHOWN = 10
"""Most tiles that a message names."""

Tile = tuple[int, int]
"""Column and row."""


def tiles_as_json(tiles: Mapping[Tile, str]) -> list[list[Any]]:
    """Return the names of tiles as JSON can hold them, in order."""
    return [[*tile, name] for tile, name in sorted(tiles.items())]


def tiles_from_json(found: Any) -> dict[Tile, str]:
    """Return what `tiles_as_json` was given.

    Raises:
        ValueError: If it did not give this.
    """
    try:
        return {(int(column), int(row)): str(name) for column, row, name in found}
    except TypeError as error:
        raise ValueError(f"{found!r} is no list of tiles") from error


class MaskedTiles:
    """Takes note of masked tiles, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[Tile, str] = {}

    @property
    def places(self) -> list[str]:
        """Their names (z/x/y), sorted."""
        with self._lock:
            return sorted(self._places.values())

    def add(self, tiles: Mapping[Tile, str]) -> None:
        """Take note of tiles, by their names."""
        with self._lock:
            self._places.update(tiles)

    def among(self, columns: Collection[int], rows: Iterable[int]) -> dict[Tile, str]:
        """Return the names of those in some columns and rows."""
        with self._lock:
            if not self._places:
                return {}
            tiles = ((x, y) for y in rows for x in columns)
            return {tile: self._places[tile] for tile in tiles if tile in self._places}

    def notice(self, name: str) -> str | None:
        """Return which tiles of a map were not to be had, in one line; None if all were."""
        places = self.places
        if not places:
            return None
        shown = ", ".join(places[:SHOWN])
        more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
        what = "1 tile is" if len(places) == 1 else f"{len(places)} tiles are"
        return f"{what} missing in {name} and masked: {shown}{more}"


MAX_REPEATS = 4
"""Places from which on one picture is taken for an error picture, if nothing else is said."""

Missing = Literal["error", "mask"]
"""What a tile that a server does not have is: an error, or pixels without data."""

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

Gate = Callable[[Callable[[], bool]], Callable[[], None]]
"""Waits until a request may go out, or until what it is given says that nobody wants it any more;
returns what is to be called once it is answered."""

DEFAULT_USER_AGENT = f"maptile2sat/{__version__}"


@dataclass(frozen=True)
class SourceOptions:
    """How a map source is to be opened; the defaults suit most maps.

    Attributes:
        zoom: Zoom to read. Tile sources must have it; rasters of another grid are warped to it.
        default_zoom: Zoom that tile sources use when `zoom` is None (a model's training zoom);
            the nearest zoom that they have stands in for it.
        style: Map style in which OpenStreetMap extracts are drawn.
        src_crs: CRS of a raster that does not state one.
        missing: What a tile that a server does not have is. Holes of containers (MBTiles,
            PMTiles, folders) are pixels without data either way.
        resampling: Name of a rasterio resampling for warps. If None, `average` where pixels
            shrink (thin lines stay whole) and `bilinear` where they grow (no ringing beside
            flat colours).
        native: Accept rasters with clearly oblong ground pixels as they are.
        fill: Colour behind partly transparent pixels (a model's ground colour).
        tile_size: Pixels per side of a server's tiles, 256 or 512, if its template does not
            say. Containers are looked into.
        subdomains: Servers that `{s}` in a URL template stands for.
        headers: More HTTP headers, over those of `MAPTILE2SAT_HEADERS`; sent to the source's own
            host only, and never shown.
        user_agent: The User-Agent; None means `MAPTILE2SAT_USER_AGENT` or this package's name.
        cache_dir: Where downloads are cached; None means `MAPTILE2SAT_CACHE_DIR` or the
            user's cache folder.
        ca_bundle: File of certificates (PEM) of the authorities to trust; None means the usual.
        timeout: Seconds to wait for a server to connect (10 at most) and to go on sending.
        patience: Seconds after which the download of one tile is given up, all tries together.
            Pauses are not counted: those that the server asks for (60 s at most, before each
            try), those between tries (8 s at most) and those that the limits of a host make.
        retries: How often a failing download is tried again.
        max_connections: Downloads from one host at the same time.
        rate: Most requests a second to one host.
        hosts: What keeps these two, and the pauses that hosts ask for, if several sources do that
            together; then its own numbers count.
        gate: Lets requests through, if several processes keep the limits of a server together.
        allow_vrt: Trust rasters that name other files or servers anywhere (VRT, WMS and such).
        max_repeats: Number of places at which one picture that is neither of one colour nor a
            pattern is taken for an error picture; 0 switches this check off.
        repeats: What notices that, if somebody else wants to know of it; then `max_repeats` does
            not count.
        cache_bytes: Memory for decoded tiles.
        masked: Where masked tiles are noted, if somebody else wants to know of them; what is noted
            there by the time that the source is closed is told.
        warn: Told, from any thread, what the user should know; logged if not given.
    """

    zoom: int | None = None
    default_zoom: int | None = None
    style: str = "maps"
    src_crs: str | None = None
    missing: Missing = "error"
    resampling: str | None = None
    native: bool = False
    fill: Colour = (234, 230, 222)
    tile_size: int | None = None
    subdomains: tuple[str, ...] = ("a", "b", "c")
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    user_agent: str | None = None
    cache_dir: Path | None = None
    ca_bundle: Path | None = None
    timeout: float = 30.0
    patience: float = 90.0
    retries: int = 4
    max_connections: int = CONNECTIONS
    rate: float = RATE
    hosts: Hosts | None = field(default=None, repr=False, compare=False)
    gate: Gate | None = field(default=None, repr=False, compare=False)
    allow_vrt: bool = False
    max_repeats: int = MAX_REPEATS
    cache_bytes: int = 64 << 20
    repeats: RepeatGuard | None = field(default=None, repr=False, compare=False)
    masked: MaskedTiles | None = field(default=None, repr=False, compare=False)
    warn: Callable[[str], None] = field(
        default=logging.getLogger("maptile2sat").warning, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.missing not in ("error", "mask"):
            raise UsageError(f"missing '{self.missing}' is not known: say error or mask")
        if self.tile_size not in (None, 256, 512):
            raise UsageError(f"tiles of {self.tile_size} px are not supported: say 256 or 512")
        if self.max_connections < 1:
            raise UsageError("max_connections must be 1 or more")
        if not 0 < self.rate < math.inf:
            raise UsageError("rate must be above 0: the most requests a second to one host")
        check_headers(self.headers)
        if self.ca_bundle is not None:
            _check_certificates(self.ca_bundle)
        if not self.subdomains:
            raise UsageError("subdomains must name at least one server")

    @property
    def agent(self) -> str:
        """The User-Agent to send.

        Raises:
            UsageError: If HTTP cannot say it.
        """
        given = self.user_agent or os.environ.get("MAPTILE2SAT_USER_AGENT") or DEFAULT_USER_AGENT
        if not (given.isascii() and given.isprintable()):
            raise UsageError(
                f"the User-Agent {given!r} is not plain ASCII, which HTTP takes alone: change "
                "MAPTILE2SAT_USER_AGENT"
            )
        return given

    @property
    def cache_folder(self) -> Path:
        """The folder for cached downloads."""
        if self.cache_dir is not None:
            return Path(self.cache_dir)
        return cache_folder()


def _check_certificates(path: Path) -> None:
    """Refuse a file of certificates of which none can be used.

    Raises:
        UsageError: If it is missing or holds none.
    """
    try:
        ssl.create_default_context(cafile=str(path))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = "no certificate in PEM form" if isinstance(error, ssl.SSLError) else error.args[-1]
        raise UsageError(f"the certificates {path} cannot be used: {reason}") from error
