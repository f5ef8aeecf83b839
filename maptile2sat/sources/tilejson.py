"""TileJSON 2 and 3: a small file that says where a map's tiles are."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from maptile2sat.errors import SourceError
from maptile2sat.geo.grid import MAX_ZOOM, BBox
from maptile2sat.sources.folder import open_folder
from maptile2sat.sources.http import HttpClient
from maptile2sat.sources.mbtiles import VECTOR_ADVICE
from maptile2sat.sources.options import SourceOptions
from maptile2sat.sources.redact import plain_text, safe_url
from maptile2sat.sources.tiles import TiledSource, open_tileset
from maptile2sat.sources.xyz import Template, UrlTiles, is_template

MAX_BYTES = 8 << 20
"""Size from which on a TileJSON file is not believed."""

_RASTER = re.compile(r"\.(png|jpe?g|webp|avif|gif)(\?|$)", re.I)

MAX_SERVERS = 64
"""Most addresses of the same tiles that are used."""


def open_tilejson(text: str, options: SourceOptions) -> TiledSource:
    """Open the map that a TileJSON file or URL describes.

    Raises:
        SourceError: If it is no TileJSON, or its tiles will not do.
    """
    name = safe_url(text)
    remote = "://" in text
    content = parse_tilejson(_download(text, name, options) if remote else _load(text), name)
    addresses = [_resolve(text, address, name) for address in content["tiles"][:MAX_SERVERS]]
    attribution = plain_text(str(content.get("attribution") or ""))
    if not all("://" in address for address in addresses):
        if remote:
            raise SourceError(f"{name} names tiles that are not on a server")
        return open_folder(_south(addresses[0], content), options, attribution=attribution)
    tms = content.get("scheme") == "tms"
    templates = [Template(address, options.subdomains, tms=tms) for address in addresses]
    tiles = UrlTiles(
        templates,
        options,
        name=name,
        attribution=attribution,
        zooms=range(_zoom(content, "minzoom", 0), _zoom(content, "maxzoom", MAX_ZOOM) + 1),
        bounds=_bounds(content),
        home=text if remote else None,
    )
    size, retina = content.get("tileSize"), templates[0].retina
    return open_tileset(
        tiles,
        options,
        retina=retina,
        tile_size=size if isinstance(size, int) and not retina else templates[0].tile_size,
    )


def parse_tilejson(data: bytes, name: str) -> dict[str, Any]:
    """Read a TileJSON file and check that it has raster tiles.

    Raises:
        SourceError: If it has not.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{name} is not TileJSON: it is no JSON text") from error
    tiles = content.get("tiles") if isinstance(content, dict) else None
    if (
        not isinstance(tiles, list)
        or not tiles
        or not all(isinstance(tile, str) and is_template(tile) for tile in tiles)
    ):
        raise SourceError(f"{name} is not TileJSON: it names no tiles with {{z}}, {{x}} and {{y}}")
    vector = content.get("vector_layers") or content.get("format") in ("pbf", "mvt")
    if vector and not all(map(_RASTER.search, tiles)):
        raise SourceError(f"{name} {VECTOR_ADVICE}")
    return content  # type: ignore[no-any-return]


def _download(url: str, name: str, options: SourceOptions) -> bytes:
    client = HttpClient(options, url)
    try:
        reply = client.get(url, name, limit=MAX_BYTES)
    finally:
        client.close()
    if reply is None:
        raise SourceError(f"{name}: the server has no such file (HTTP 404)")
    return reply.body


def _load(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise SourceError(f"{path} has more than {MAX_BYTES:,} bytes: that is no TileJSON")
    return data


def _resolve(base: str, address: str, name: str) -> str:
    """Return a tile address in full; relative ones start where the TileJSON is."""
    if "://" in base:
        full = urljoin(base, address)
    elif "://" in address:
        full = address
    else:
        full = str(Path(base).parent / address)
        if not Path(full).resolve().is_relative_to(Path(base).parent.resolve()):
            raise SourceError(f"{name} names tiles that are not in its folder: give their folder")
    if "://" in full and not full.startswith(("http://", "https://")):
        raise SourceError(f"{name} names tiles that are not on a web server")
    return full


def _south(template: str, content: dict[str, Any]) -> str:
    return template.replace("{y}", "{-y}") if content.get("scheme") == "tms" else template


def _zoom(content: dict[str, Any], key: str, default: int) -> int:
    value = content.get(key, default)
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,2}", value.strip()):
        value = int(value)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return default
    limited = min(max(value, 0), MAX_ZOOM)  # numbers may be endless
    return default if math.isnan(limited) else int(limited)


def _number(value: Any) -> Any:
    """Return the number that a text stands for; anything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _bounds(content: dict[str, Any]) -> BBox | None:
    bounds = content.get("bounds")
    if isinstance(bounds, str):
        bounds = bounds.split(",")
    if isinstance(bounds, list):
        bounds = [_number(value) for value in bounds]
    if not isinstance(bounds, list) or len(bounds) != 4:
        return None
    if not all(isinstance(value, (int, float)) and abs(value) <= 360 for value in bounds):
        return None
    return BBox(*(float(value) for value in bounds))
