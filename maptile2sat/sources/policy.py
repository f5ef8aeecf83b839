"""Servers that do not allow what this package does."""

from __future__ import annotations

from urllib.parse import urlsplit

from maptile2sat.errors import SourceError

_OSM_HOSTS = ("tile.openstreetmap.org", "tile.osm.org")

OSM_REFUSAL = (
    "tile.openstreetmap.org does not allow bulk downloads (its tile usage policy), so it is not "
    "used: take your own tile server, a licensed provider, an MBTiles file, or draw the map from "
    "an OpenStreetMap extract, maptile2sat draw EXTRACT.osm.pbf -o map.mbtiles"
)


def check_host(url: str) -> None:
    """Refuse servers that do not allow this use.

    Raises:
        SourceError: With the reason and the alternatives.
    """
    try:
        address = urlsplit(url)
        host, _ = (address.hostname or "").rstrip(".").lower(), address.port
    except ValueError as error:
        raise SourceError("the tile URL is not a valid address") from error
    if host in _OSM_HOSTS or host.endswith(tuple("." + name for name in _OSM_HOSTS)):
        raise SourceError(OSM_REFUSAL)
