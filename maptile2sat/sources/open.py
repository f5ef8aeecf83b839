"""Recognising what kind of map a path, URL or template stands for."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from maptile2sat.errors import SourceError, refuse_undecodable
from maptile2sat.osm.xml_notes import is_overpass_json
from maptile2sat.sources.base import Source
from maptile2sat.sources.contents import RASTER_ENDINGS, START_BYTES, kind_of
from maptile2sat.sources.folder import open_folder
from maptile2sat.sources.headers import environment_headers, merged
from maptile2sat.sources.http import HttpClient
from maptile2sat.sources.layers import from_layer
from maptile2sat.sources.mbtiles import open_mbtiles
from maptile2sat.sources.options import SourceOptions
from maptile2sat.sources.pmtiles import open_pmtiles
from maptile2sat.sources.raster import open_raster
from maptile2sat.sources.redact import keep_logs_safe, safe_url
from maptile2sat.sources.tilejson import open_tilejson
from maptile2sat.sources.xyz import is_template, open_xyz

EXTRACT_ENDINGS = (
    ".pbf",
    *(f"{kind}{packed}" for kind in (".osm", ".osh", ".osc") for packed in ("", ".bz2", ".gz")),
    ".osm.json",
)
"""What the names of OpenStreetMap data end in, also of that which is refused with a reason."""

EXTRACT_ZOOM = 16
"""Zoom at which extracts are drawn if nothing else says one."""

_WEB = ("http", "https")
_REMOTE_RASTERS = (*_WEB, "s3", "gs")


def open_source(text: str | os.PathLike[str], options: SourceOptions | None = None) -> Source:
    """Open a map source, whatever kind it is.

    Args:
        text: A raster file (local, https:// or s3://), `.mbtiles`, `.pmtiles` (local or URL), a
            tile URL template (`https://host/{z}/{x}/{y}.png`, also as QGIS and JOSM keep it), a
            folder of z/x/y tiles or a template of their paths, a TileJSON file or URL, or an
            OpenStreetMap extract (`.osm.pbf`, `.osm`).
        options: How to open it.

    Raises:
        SourceError: If it cannot be opened; the message says why and what to do.
    """
    options = options or SourceOptions()
    where = located(text)
    if given := environment_headers():
        options = replace(options, headers=merged(given, options.headers))
    keep_logs_safe()
    scheme, separator, _ = where.partition("://")
    if not separator:
        return _open_local(where, options)
    if scheme in _WEB:
        return _open_web(where, options)
    if scheme in _REMOTE_RASTERS:
        if where.lower().endswith((".pmtiles", ".json", ".mbtiles", *EXTRACT_ENDINGS)):
            raise SourceError(
                f"{safe_url(where)}: only rasters are read from object stores: give an https:// "
                "address of it (PMTiles, TileJSON), or download it first"
            )
        return open_raster(where, options)
    raise SourceError(
        f"{safe_url(where)}: addresses start with https://, http:// or s3://; "
        "for a local map give its path"
    )


def located(text: str | os.PathLike[str]) -> str:
    """Return the path of the map that a text stands for, or its address if it is elsewhere.

    The path is as any program takes it, without `file://`, `~` and blanks at its ends. It has no
    `://`, which addresses have.

    Raises:
        SourceError: If it is empty, no valid address, or not text.
    """
    where = os.fspath(text).strip()
    refuse_undecodable(where, SourceError)
    where = from_layer(where)
    if not where:
        raise SourceError("the map source is empty: give a file, a folder or a tile URL")
    scheme, separator, rest = where.partition("://")
    if separator:
        where = f"{scheme.lower()}://{rest}"
        try:
            path = urlsplit(where).path
        except ValueError as error:
            raise SourceError(f"{safe_url(where)} is not a valid address") from error
        if scheme.lower() != "file":
            return where
        where = unquote(path)
    with suppress(RuntimeError):  # a name such as ~nobody, of whom there is no home
        where = str(Path(where).expanduser())
    return where


def _open_web(where: str, options: SourceOptions) -> Source:
    """Open what an http(s) address stands for."""
    if is_template(where):
        return open_xyz(where, options)
    path = urlsplit(where).path.lower()
    if path.endswith(".json"):
        return open_tilejson(where, options)
    if path.endswith(".pmtiles"):
        return open_pmtiles(where, options)
    if path.endswith((".mbtiles", *EXTRACT_ENDINGS)):
        raise SourceError(f"{safe_url(where)}: download this file first and give its path")
    if "{" in where:
        raise SourceError(
            f"{safe_url(where)} is not a tile URL: it needs {{z}}, {{x}} and {{y}}, "
            "for example https://tiles.example.com/{z}/{x}/{y}.png"
        )
    if path.endswith(RASTER_ENDINGS):
        return open_raster(where, options)
    return _open_unnamed(where, options)


def _open_local(where: str, options: SourceOptions) -> Source:
    """Open what a path stands for."""
    if is_template(where):
        return open_folder(where, options)
    path = Path(where)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:  # a name longer than the file system takes, for example
        raise SourceError(f"{where[:100]} cannot be opened: {error.strerror or error}") from error
    if is_folder:
        return open_folder(where, options)
    if not is_file:
        raise SourceError(f"there is no file {where}")
    if opener := _BY_START.get(_kind(path)):
        return opener(where, options)
    name = path.name.lower()
    if name.endswith(".json") and is_overpass_json(path):
        return _open_extract(where, options)
    for endings, opener in _BY_NAME.items():
        if name.endswith(endings):
            return opener(where, options)
    return open_raster(where, options)


def _kind(path: Path) -> str:
    """Return what kind of map the first bytes of a file say it is; empty if they say nothing."""
    try:
        with path.open("rb") as file:
            return kind_of(file.read(START_BYTES))
    except OSError:  # who opens it says so
        return ""


def _open_unnamed(where: str, options: SourceOptions) -> Source:
    """Open what an address stands for whose name does not say it: its first bytes do.

    Raises:
        SourceError: If the server refuses.
    """
    name = safe_url(where)
    client = HttpClient(options, where, cache=False)
    try:
        with client.stream(where, name, {"Range": f"bytes=0-{START_BYTES - 1}"}) as answer:
            if answer.status_code >= 400:
                raise SourceError(f"{name}: the server answered HTTP {answer.status_code}")
            start = b""
            for block in answer.iter_content(START_BYTES):
                start += block
                if len(start) >= START_BYTES:
                    break
    except (RequestException, HTTPError) as error:
        raise SourceError(f"{name}: the answer broke off") from error
    finally:
        client.close()
    kind = kind_of(start)
    if kind == "mbtiles":
        raise SourceError(f"{name}: download this file first and give its path")
    return _BY_START.get(kind, open_raster)(where, options)


def _open_extract(where: str, options: SourceOptions) -> Source:
    """Open an OpenStreetMap extract, which is drawn as it is read."""
    from maptile2sat.sources.osm import open_extract

    zoom = options.zoom if options.zoom is not None else options.default_zoom
    zoom = EXTRACT_ZOOM if zoom is None else zoom
    source = open_extract(Path(where), zoom=zoom, style=options.style)
    for text in source.warnings:
        options.warn(text)
    return source


_BY_START: dict[str, Callable[[str, SourceOptions], Source]] = {
    "mbtiles": open_mbtiles,
    "pmtiles": open_pmtiles,
    "tilejson": open_tilejson,
    "raster": open_raster,
}
"""How maps are opened by what they begin with, whatever they are called."""

_BY_NAME: dict[str | tuple[str, ...], Callable[[str, SourceOptions], Source]] = {
    ".mbtiles": open_mbtiles,
    ".pmtiles": open_pmtiles,
    EXTRACT_ENDINGS: _open_extract,
    ".json": open_tilejson,
}
"""How local files are opened by the ends of their names; all others are rasters."""
