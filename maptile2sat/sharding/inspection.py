"""What the folder of a sharded render is, and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maptile2sat.footprint import degrees_of
from maptile2sat.sharding.manifest import MANIFEST
from maptile2sat.sharding.reading import faults_of, manifest_of
from maptile2sat.sharding.store import FILE_ENDINGS, JOB, is_remote, open_store
from maptile2sat.sources.naming import safe_place


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
