"""The map style that a file says it is drawn in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
