"""What a server is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from maptile2sat.errors import UsageError
from maptile2sat.rendering import RenderOptions
from maptile2sat.sources import SourceOptions

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine reaches."""

RESERVED = ("source", "static", "healthz", "viewer.json")
"""First parts of paths that are no model's name."""

_PUBLIC = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+(/[A-Za-z0-9._~!$&'()*+,;=:%-]+)*/?")
_ORIGIN = re.compile(r"https?://[^/?#@\sA-Z]+")
"""What browsers call a page's origin: compared letter by letter, with no slash at its end."""


def _is_address(text: str) -> bool:
    """Whether a text is an address to which paths can be added."""
    if not _PUBLIC.fullmatch(text):
        return False
    try:
        address = urlsplit(text)
        return bool(address.hostname) and address.port != 0
    except ValueError:
        return False


@dataclass(frozen=True)
class ServeOptions:
    """Everything that decides what is served, and how, apart from the map.

    Attributes:
        models: Names of shipped models or folders of bundles; the first is shown first.
        render: How the map is read and generated; its `model` is not used.
        host: Address to listen at; anything but loopback lets other machines in.
        port: Port to listen at; 0 for any that is free.
        cache: Folder of the tiles made; None for the user's cache folder.
        cache_bytes: Most bytes of disk that it takes.
        queue: Cells that may wait to be generated before requests are turned away.
        cors: Origins whose pages may read tiles, such as `https://maps.example.com` or `*`.
        public_url: Address by which clients reach the server, that of a proxy in front of it, such
            as `https://maps.example.com/imagery`; TileJSON names it. None: the address that a
            client has used, if it is one of this machine.
        max_download: Most pixels of a GeoTIFF that the viewer offers.
    """

    models: tuple[str, ...] = ("maps",)
    render: RenderOptions = field(default_factory=lambda: RenderOptions(missing="mask"))
    host: str = "127.0.0.1"
    port: int = 8080
    cache: Path | None = None
    cache_bytes: int = 2 << 30
    queue: int = 64
    cors: tuple[str, ...] = ()
    public_url: str | None = None
    max_download: int = 4096 * 4096

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if not self.models:
            raise UsageError("a server needs at least one model")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port {self.port} is not in 0..65535")
        if self.queue < 1:
            raise UsageError("the queue must hold 1 cell or more")
        if self.cache_bytes < 0:
            raise UsageError("the cache's size must be 0 bytes or more")
        if self.public_url is not None and not _is_address(self.public_url):
            raise UsageError(
                f"'{self.public_url[:100]}' is no address by which a server is reached: say for "
                "example https://maps.example.com/imagery"
            )
        for origin in self.cors:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise UsageError(
                    f"'{origin}' is no origin, scheme and host in small letters and nothing after "
                    "them: say for example https://maps.example.com or *"
                )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in LOOPBACK

    @property
    def cache_folder(self) -> Path:
        """The folder of the tiles made."""
        return self.cache or SourceOptions().cache_folder / "tiles"
