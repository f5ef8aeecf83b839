"""What a map, a rendered file or a model is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import RasterioError

from maptile2sat.errors import SourceError
from maptile2sat.geo.footprint import degrees_of
from maptile2sat.models.bundle import DESCRIPTION, Bundle, find_bundle, shipped_bundles
from maptile2sat.output.folder import faults_of, manifest_of
from maptile2sat.output.manifest import MANIFEST
from maptile2sat.output.store import FILE_ENDINGS, JOB, is_remote, open_store
from maptile2sat.sources import SourceOptions, located, open_source
from maptile2sat.sources.base import SourceInfo
from maptile2sat.sources.mbtiles import MBTiles
from maptile2sat.sources.pmtiles import FileBytes, PMTiles
from maptile2sat.sources.raster import open_dataset
from maptile2sat.sources.redact import safe_place


def inspect(
    thing: str,
    *,
    zoom: int | None = None,
    src_crs: str | None = None,
    headers: Mapping[str, str] | None = None,
    ca_bundle: Path | None = None,
    allow_vrt: bool = False,
) -> dict[str, Any]:
    """Return facts about a model (name or folder), a map, or a rendered file.

    Args:
        thing: A name or a path.
        zoom: Zoom to read a map at, as for a render.
        src_crs: CRS of a raster that does not state one.
        headers: More HTTP headers for the map's own server.
        ca_bundle: File of certificates (PEM) to trust instead of the usual ones.
        allow_vrt: Trust rasters that name other files or servers anywhere.

    Raises:
        Maptile2satError: If it is none of these.
    """
    shipped = {bundle.description.name for bundle in shipped_bundles()}
    if thing in shipped or _is_bundle(Path(thing)):
        return _model(find_bundle(thing))
    options = SourceOptions(
        zoom=zoom,
        src_crs=src_crs,
        headers=headers or {},
        ca_bundle=ca_bundle,
        allow_vrt=allow_vrt,
        native=True,
    )
    where = located(thing)
    with closing(open_source(where, options)) as source:
        info = source.info
    # there is no file with tags at the address of a tile server, and GDAL would ask for one
    return {**_map(info), **({} if info.remote and info.tiled else _render_tags(where, options))}


def _is_bundle(folder: Path) -> bool:
    try:
        return (folder / DESCRIPTION).is_file()
    except OSError:  # too long a name, or not for this user: who opens it as a map says so
        return False


def _model(bundle: Bundle) -> dict[str, Any]:
    about = dataclasses.asdict(bundle.description)
    about["architecture"] = {
        key: value for key, value in about["architecture"].items() if key != "palette"
    }
    about["palette"] = " ".join(f"#{bytes(colour).hex()}" for colour in about["palette"])
    return {"what": "model", "folder": str(bundle.folder), **about}


def _map(info: SourceInfo) -> dict[str, Any]:
    return {
        "what": "map",
        "name": info.name,
        "width": info.extent.width,
        "height": info.extent.height,
        "crs": info.grid.crs.to_string(),
        "zoom": info.grid.zoom,
        "bounds": list(info.grid.bounds(info.extent)),
        "bounds_degrees": list(degrees_of(info.grid, info.extent)),
        "metres_per_pixel": list(info.grid.metres_per_pixel(info.extent)),
        "attribution": info.attribution,
        "style": info.style,
    }


def _render_tags(thing: str, options: SourceOptions) -> dict[str, Any]:
    """Return our tags of a file that we rendered, and nothing for other files."""
    try:
        if thing.lower().endswith(".pmtiles"):
            tags = _pmtiles_metadata(Path(thing))
        elif thing.lower().endswith(".mbtiles"):
            with closing(MBTiles(Path(thing))) as tiles:
                tags = tiles.metadata
        else:
            with rasterio.Env(), open_dataset(thing, allow_vrt=options.allow_vrt) as dataset:
                tags = dataset.tags()
    except (SourceError, RasterioError, OSError):
        return {}
    if tags.get("SYNTHETIC") != "YES":
        return {}
    # names in small letters are the container's own, whose content the source has told
    ours = {key.lower(): value for key, value in sorted(tags.items()) if key.isupper()}
    return {"what": "render", **ours}


def _pmtiles_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a local PMTiles file, none for what is no file."""
    if not path.is_file():
        return {}
    with closing(PMTiles(FileBytes(path), str(path), remote=False)) as tiles:
        return tiles.metadata


# What the folder of a sharded render is, and whether it is whole


def is_folder(thing: str) -> bool:
    """Whether something is the folder of a sharded render, finished or not.

    Addresses may be, unless they are those of web servers, or of a file by their ending.

    Raises:
        OutputError: If the object store of an address cannot be read.
    """
    if not is_remote(thing):
        folder = Path(thing.removeprefix("file://"))
        try:
            return any((folder / name).is_file() for name in (MANIFEST, JOB))
        except OSError:  # too long a name, or not for this user: who opens it as a map says so
            return False
    if thing.startswith(("http://", "https://")) or thing.lower().endswith(FILE_ENDINGS):
        return False
    store = open_store(thing)
    return any(store.has(name) for name in (MANIFEST, JOB))


def inspect_folder(thing: str, *, verify: bool = False) -> dict[str, Any]:
    """Return facts about the folder of a sharded render.

    Args:
        thing: Its path, or its address in an object store.
        verify: Whether to compare the checksums of its files, which reads all of them; else only
            their sizes are compared.

    Returns:
        Facts by name; `faults` is a list of what is missing or changed, empty if nothing is.

    Raises:
        FolderError: If the render is not finished, or its manifest is damaged.
    """
    store = open_store(thing)
    manifest = manifest_of(store)
    grid, window = manifest.grid, manifest.window
    tags = {key.lower(): value for key, value in sorted(manifest.tags.items())}
    return {
        "what": "folder of a sharded render",
        "name": safe_place(thing),
        "width": window.width,
        "height": window.height,
        "crs": grid.crs.to_string(),
        "zoom": grid.zoom,
        "bounds": list(grid.bounds(window)),
        "bounds_degrees": list(degrees_of(grid, window)),
        "metres_per_pixel": list(grid.metres_per_pixel(window)),
        "blocks": len(manifest.blocks),
        "empty_blocks": sum(block.file is None for block in manifest.blocks),
        "bytes": manifest.size,
        "masked": manifest.masked,
        "created": manifest.created,
        **tags,
        "verified": "sizes and checksums" if verify else "sizes",
        "faults": faults_of(store, manifest, checksums=verify),
    }
