"""Reading the folder of a sharded render, wherever it is."""

from __future__ import annotations

import hashlib

from maptile2sat.errors import FolderError
from maptile2sat.sharding.manifest import (
    CHANGED,
    MANIFEST,
    Manifest,
    check_files,
    parse_manifest,
    read_manifest,
)
from maptile2sat.sharding.object_store import ObjectStore
from maptile2sat.sharding.store import FolderStore, Store


def manifest_of(store: Store) -> Manifest:
    """Return the manifest of a render.

    Raises:
        FolderError: If there is none, or it cannot be used.
        OutputError: If the store cannot be read.
    """
    if isinstance(store, FolderStore):
        return read_manifest(store.root)
    data = store.read(MANIFEST)
    if data is None:
        raise FolderError(
            f"{store.place} has no {MANIFEST}: the render there is not finished, or it is "
            "something else"
        )
    return parse_manifest(data.decode("utf-8", "replace"), f"{store.place}/{MANIFEST}")


def faults_of(store: Store, manifest: Manifest, *, checksums: bool) -> list[str]:
    """Return what is wrong with the files of a render, a line for each; empty if nothing is.

    Args:
        store: Where it is.
        manifest: What it should hold.
        checksums: Whether to read every file; else only their sizes are compared.

    Raises:
        OutputError: If the store cannot be read.
    """
    if not isinstance(store, ObjectStore):
        assert isinstance(store, FolderStore)
        return check_files(store.root, manifest, checksums=checksums)
    sizes, faults = store.sizes(), []
    for block in manifest.blocks:
        if block.file is None:
            continue
        size = sizes.get(block.file)
        if size is None:
            faults.append(f"{block.file} is missing")
        elif size != block.size:
            faults.append(f"{block.file} has {size} bytes instead of {block.size}")
        elif checksums and not is_sound(store.read(block.file), block.sha256):
            faults.append(f"{block.file} {CHANGED}")
    return faults


def is_sound(data: bytes | None, sha256: str) -> bool:
    """Whether bytes are there and have a SHA-256."""
    return data is not None and hashlib.sha256(data).hexdigest() == sha256
