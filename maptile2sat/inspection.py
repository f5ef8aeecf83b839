"""What a map, a rendered file or a model is."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import RasterioError

from maptile2sat.bundle import DESCRIPTION, Bundle, find_bundle, shipped_bundles
from maptile2sat.sources import SourceOptions, open_source


def inspect(thing: str, *, allow_vrt: bool = False) -> dict[str, Any]:
    """Return facts about a model (name or folder), a map, or a rendered GeoTIFF.

    Args:
        thing: A name or a path.
        allow_vrt: Trust rasters that name other files or servers anywhere.

    Raises:
        Maptile2satError: If it is none of these.
    """
    shipped = {bundle.description.name for bundle in shipped_bundles()}
    if thing in shipped or (Path(thing) / DESCRIPTION).is_file():
        return _model(find_bundle(thing))
    return {**_source(thing, allow_vrt), **_render_tags(thing)}


def _model(bundle: Bundle) -> dict[str, Any]:
    about = dataclasses.asdict(bundle.description)
    about["architecture"] = {
        key: value for key, value in about["architecture"].items() if key != "palette"
    }
    about["palette"] = " ".join(f"#{bytes(colour).hex()}" for colour in about["palette"])
    return {"what": "model", "folder": str(bundle.folder), **about}


def _source(thing: str, allow_vrt: bool) -> dict[str, Any]:
    with closing(open_source(thing, SourceOptions(native=True, allow_vrt=allow_vrt))) as source:
        info = source.info
        return {
            "what": "map",
            "name": info.name,
            "width": info.extent.width,
            "height": info.extent.height,
            "crs": info.grid.crs.to_string(),
            "zoom": info.grid.zoom,
            "bounds": list(info.grid.bounds(info.extent)),
            "bounds_degrees": list(info.grid.lonlat_bounds(info.extent)),
            "metres_per_pixel": list(info.grid.metres_per_pixel(info.extent)),
            "attribution": info.attribution,
            "style": info.style,
        }


def _render_tags(thing: str) -> dict[str, Any]:
    """Return our tags of a GeoTIFF that we rendered, and nothing for other files."""
    try:
        with rasterio.open(thing) as dataset:
            tags = dataset.tags()
    except (RasterioError, OSError):
        return {}
    if tags.get("SYNTHETIC") != "YES":
        return {}
    return {"what": "render", **{key.lower(): value for key, value in sorted(tags.items())}}
