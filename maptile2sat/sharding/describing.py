"""All that makes a folder of blocks one thing that GIS programs open, written at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from maptile2sat import stac
from maptile2sat.sharding.manifest import MANIFEST, Manifest, sha256_of, write_manifest
from maptile2sat.sharding.overview import (
    OVERVIEW,
    OVERVIEW_MASK,
    overview_factor,
    write_overview,
)
from maptile2sat.sharding.replacing import write_whole
from maptile2sat.sharding.tile_index import INDEX, is_indexed, write_index
from maptile2sat.sharding.vrt import FLAT, MOSAIC, write_vrt

ITEM = "item.json"
COLLECTION = "collection.json"


def describe(
    folder: Path,
    manifest: Manifest,
    *,
    name: str | None = None,
    overview: bool = True,
    flat: int = FLAT,
) -> None:
    """Write everything about a finished sharded render into its folder.

    `overview.tif` for large mosaics, `mosaic.vrt` (with `mosaic.gti.gpkg` for very large ones),
    `item.json` and `collection.json`, and last of all `manifest.json`, each whole or not at all.
    All names in these are relative, so that the folder may be moved or uploaded as it is. Nothing
    is asked of the blocks' files except by the overview.

    Args:
        folder: The folder; made if missing.
        manifest: What was rendered.
        name: What STAC calls it; None for the folder's name.
        overview: Whether to make an overview, which reads the blocks' files; say False where
            they lie somewhere else.
        flat: Most blocks that the VRT names one by one.

    Raises:
        MissingExtraError: If pystac is not installed; `stac.check_pystac` says so early.
        OutputError: If something cannot be written, or blocks cannot be read for the overview.
    """
    stac.check_pystac()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # that of an earlier render: no longer whole
    factor = overview_factor(manifest) if overview else None
    if factor is not None:
        _write_mosaic(folder, manifest, overview=False, flat=flat)
        write_overview(folder, folder / MOSAIC, manifest, factor)
    else:
        for old in (OVERVIEW, OVERVIEW_MASK):
            (folder / old).unlink(missing_ok=True)
    if not is_indexed(manifest, flat):
        (folder / INDEX).unlink(missing_ok=True)
    _write_mosaic(folder, manifest, overview=factor is not None, flat=flat)
    _write_stac(folder, manifest, name or folder.resolve().name)
    write_manifest(folder, manifest)


def _write_mosaic(folder: Path, manifest: Manifest, *, overview: bool, flat: int) -> None:
    if is_indexed(manifest, flat):
        write_index(folder, manifest, overview=overview)
    write_vrt(folder, manifest, overview=overview, flat=flat)


def _write_stac(folder: Path, manifest: Manifest, name: str) -> None:
    """Write `item.json` and `collection.json`."""
    render = stac.Render(
        name=name,
        grid=manifest.grid,
        window=manifest.window,
        tags=manifest.tags,
        masked=manifest.masked,
        created=manifest.created,
        architecture=manifest.job.get("architecture", {}),
    )
    files = list(_files(folder, manifest))
    write_whole(folder / ITEM, [stac.item_json(render, files, in_collection=True)])
    write_whole(folder / COLLECTION, [stac.collection_json(render, files)])


def _files(folder: Path, manifest: Manifest) -> Iterator[stac.File]:
    """Yield what the Item names: not each block, of which there may be a million."""
    count = f"{len(manifest.blocks):,}"
    known = [
        stac.File("mosaic", MOSAIC, f"All {count} blocks as one layer", ["data", "visual"]),
        stac.File("index", INDEX, "Where each block lies", ["metadata"]),
        stac.File("overview", OVERVIEW, "The whole, much smaller", ["overview", "visual"]),
    ]
    for file in known:
        path = folder / file.href
        if path.exists():
            yield stac.File(
                file.key,
                file.href,
                file.title,
                file.roles,
                size=path.stat().st_size,
                sha256=sha256_of(path),
            )
    title = f"All {count} blocks with sizes and checksums"
    yield stac.File("manifest", MANIFEST, title, ["metadata"])
