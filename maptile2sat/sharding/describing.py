"""All that makes a folder of blocks one thing that GIS programs open, written at the end."""

from __future__ import annotations

from pathlib import Path

from maptile2sat.sharding.manifest import Manifest, write_manifest
from maptile2sat.sharding.overview import OVERVIEW, OVERVIEW_MASK, overview_factor, write_overview
from maptile2sat.sharding.tile_index import INDEX, write_index
from maptile2sat.sharding.vrt import FLAT, MOSAIC, write_vrt


def describe(folder: Path, manifest: Manifest, *, overview: bool = True, flat: int = FLAT) -> None:
    """Write everything about a finished sharded render into its folder.

    `overview.tif` for large mosaics, `mosaic.vrt` (with `mosaic.gti.gpkg` for very large ones),
    and last of all `manifest.json`, each whole or not at all.
    All names in these are relative, so that the folder may be moved or uploaded as it is. Nothing
    is asked of the blocks' files except by the overview.

    Args:
        folder: The folder; made if missing.
        manifest: What was rendered.
        overview: Whether to make an overview, which reads the blocks' files; say False where
            they lie somewhere else.
        flat: Most blocks that the VRT names one by one.

    Raises:
        OutputError: If something cannot be written, or blocks cannot be read for the overview.
    """
    folder.mkdir(parents=True, exist_ok=True)
    factor = overview_factor(manifest) if overview else None
    indexed = len(manifest.blocks) > flat
    if factor is not None:
        _write_mosaic(folder, manifest, overview=False, flat=flat)
        write_overview(folder, folder / MOSAIC, manifest, factor)
    else:
        for name in (OVERVIEW, OVERVIEW_MASK):
            (folder / name).unlink(missing_ok=True)
    if not indexed:
        (folder / INDEX).unlink(missing_ok=True)
    _write_mosaic(folder, manifest, overview=factor is not None, flat=flat)
    write_manifest(folder, manifest)


def _write_mosaic(folder: Path, manifest: Manifest, *, overview: bool, flat: int) -> None:
    if len(manifest.blocks) > flat:
        write_index(folder, manifest, overview=overview)
    write_vrt(folder, manifest, overview=overview, flat=flat)
