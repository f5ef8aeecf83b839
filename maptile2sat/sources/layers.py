"""Map layers as other programs write them down: QGIS's data sources, JOSM's imagery addresses."""

from __future__ import annotations

import re
from urllib.parse import unquote

from maptile2sat.errors import SourceError

_JOSM = re.compile(
    r"(?P<kind>[a-z_]{2,20})(?:\[(?:(?P<low>\d{1,2}),)?(?P<high>\d{1,2})\])?:(?P<url>https?://.*)",
    re.I | re.S,
)
_QGIS = re.compile(r"(?:[\w:.-]+(?:=[^&]*)?&)*url=", re.I)
_QGIS_KEYS = frozenset(
    (
        *("type", "url", "zmin", "zmax", "crs", "format", "tilepixelratio", "interpretation"),
        *("http-header", "referer", "authcfg", "username", "password", "styles", "layers"),
    )
)
_PRIVATE = ("http-header", "referer", "authcfg", "username", "password")


def from_layer(text: str) -> str:
    """Return the address that a layer of QGIS or JOSM stands for; any other text as it is.

    What the layer says of zooms follows the address after a `#`, as `Template` takes it.

    Raises:
        SourceError: If it is a layer of another kind than map tiles, or needs to say who asks.
    """
    if match := _JOSM.fullmatch(text):
        if match["kind"].lower() != "tms":
            raise SourceError(
                f"'{match['kind'].lower()}:' layers are not supported: give the address of map "
                "tiles, with {z}, {x} and {y}"
            )
        low, high = match["low"] or "0", match["high"]
        return _with_notes(match["url"], [f"zooms={low}-{high}"] if high else [])
    if _QGIS.match(text) and "://" not in text.partition("url=")[0]:
        return _of_qgis(text)
    return text


def _of_qgis(text: str) -> str:
    """Return the address of a QGIS layer."""
    said: dict[str, str] = {}
    last = ""
    for item in text.split("&"):
        name, equals, value = item.partition("=")
        key = name.lower().partition(":")[0]
        if last == "url" and key not in _QGIS_KEYS:  # a part of an address that is not encoded
            said["url"] += f"&{item}"
            continue
        last, said[key] = key, value if equals else ""
    kind, url = said.get("type", "wms").lower(), unquote(said["url"])
    if kind == "mbtiles":
        return url
    if kind != "xyz":
        raise SourceError(
            f"this is a QGIS layer of the type {kind[:20]}: only those of the type xyz are read; "
            "give the address of map tiles, with {z}, {x} and {y}"
        )
    if given := [key for key in _PRIVATE if said.get(key)]:
        raise SourceError(
            f"this QGIS layer says who asks ({', '.join(given)}), which is not taken from there: "
            "leave it out, and give what the server needs by --header 'NAME: VALUE'"
        )
    low, high = said.get("zmin", ""), said.get("zmax", "")
    notes = []
    if re.fullmatch(r"\d{1,2}", high):
        notes.append(f"zooms={low if re.fullmatch(r'[0-9]{1,2}', low) else 0}-{high}")
    if said.get("tilepixelratio") == "2":
        notes.append("ratio=2")
    return _with_notes(url, notes)


def _with_notes(url: str, notes: list[str]) -> str:
    return url.partition("#")[0] + ("#" + "&".join(notes) if notes else "")
