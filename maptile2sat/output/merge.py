"""From a folder of blocks to one GeoTIFF: the file that one machine would have written."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from maptile2sat.errors import FolderError, OutputError, UsageError
from maptile2sat.geo.grid import BBox
from maptile2sat.output import pyramid
from maptile2sat.output.folder import faults_of, is_sound, manifest_of
from maptile2sat.output.geotiff import (
    CACHE_BYTES,
    OTHER_FORMATS,
    GeoTiffWriter,
    check_destination,
    creation_options,
)
from maptile2sat.output.manifest import CHANGED, MANIFEST, BlockRecord, Manifest
from maptile2sat.output.store import BLOCKS, FolderStore, Store, open_store

READERS = 2
"""Blocks that are read and decoded at once, while another is written."""

NAMED = 3
"""Faults that an error names."""


class _Pixels(NamedTuple):
    block: BlockRecord
    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MergeResult:
    """What a merge made.

    Attributes:
        output: The file.
        width: Its columns.
        height: Its rows.
        crs: Its CRS.
        bounds: West, south, east, north in that CRS.
        blocks: Blocks that it was made of.
        empty_blocks: Of them, those without any map.
        bytes: Size of the file.
        seconds: Wall time.
    """

    output: Path
    width: int
    height: int
    crs: str
    bounds: BBox
    blocks: int
    empty_blocks: int
    bytes: int
    seconds: float


def merge(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    profile: str = "deflate",
    extra_options: Mapping[str, str] | None = None,
    cog: bool = True,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MergeResult:
    """Make one GeoTIFF of the folder of a sharded render, in flat memory.

    Pixels, mask and tags are those that one machine would have written. Every block is compared
    with its checksum as it is read. Beside the output, 4 bytes a pixel are needed while it runs,
    and a third more for the overviews of a COG.

    Args:
        folder: The folder of the render, or its address in an object store.
        output: The GeoTIFF to write.
        profile: `deflate` (lossless), `jpeg` or `webp`.
        extra_options: More GDAL creation options of the output.
        cog: Whether the output is a Cloud Optimized GeoTIFF.
        overwrite: Whether an existing output is replaced.
        progress: Called with (blocks done, all blocks).

    Raises:
        FolderError: If the folder is not whole; the message says what is wrong.
        OutputError: If the output cannot be written.
        UsageError: If profile or options are unknown, or the output is named like something else.
        MissingExtraError: If a package for the object store is missing.
    """
    start = time.perf_counter()
    store, path = open_store(os.fspath(folder)), Path(output)
    options = creation_options(profile, extra_options or {}, cog=cog)
    _check_output(path, store, overwrite=overwrite)
    manifest = manifest_of(store)
    if faults := faults_of(store, manifest, checksums=False):
        raise _not_whole(store, faults)
    total, empty = len(manifest.blocks), 0
    with (
        rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES),
        GeoTiffWriter(
            path, manifest.grid, manifest.window, manifest.tags, options, cog=cog
        ) as writer,
    ):
        for number, pixels in enumerate(_read_all(store, manifest), start=1):
            writer.write(pixels.block.window, pixels.image, pixels.mask)
            empty += pixels.block.file is None
            progress(number, total)
        writer.finish()
    return MergeResult(
        output=path,
        width=manifest.window.width,
        height=manifest.window.height,
        crs=manifest.grid.crs.to_string(),
        bounds=manifest.grid.bounds(manifest.window),
        blocks=total,
        empty_blocks=empty,
        bytes=path.stat().st_size,
        seconds=round(time.perf_counter() - start, 3),
    )


def _check_output(path: Path, store: Store, *, overwrite: bool) -> None:
    """Refuse an output that cannot be written, or is named like something else than a GeoTIFF.

    Raises:
        OutputError: If it cannot be written, or is a block of the folder.
        UsageError: If its name is not a GeoTIFF's.
    """
    kind = path.suffix.lower()
    if kind in OTHER_FORMATS or kind in pyramid.ENDINGS:
        raise UsageError(
            f"{path} would be a GeoTIFF, not {kind}: merge writes a GeoTIFF, give a name that ends "
            "in .tif"
        )
    check_destination(path, overwrite=overwrite)
    if isinstance(store, FolderStore) and path.resolve().parent == store.root.resolve() / BLOCKS:
        raise OutputError(f"{path} is among the blocks themselves: give another name")


def _not_whole(store: Store, faults: list[str]) -> FolderError:
    """Return the error that says what is wrong with a folder."""
    more = f" and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
    named = "; ".join(faults[:NAMED])
    # --resume takes what is there by its size: reading all of it would take hours
    delete = "delete what was changed, then " if any(CHANGED in text for text in faults) else ""
    return FolderError(
        f"{store.place} is not whole: {named}{more}: {delete}render it again with --resume"
    )


def _read_all(store: Store, manifest: Manifest) -> Iterator[_Pixels]:
    """Yield the pixels of every block, a few read ahead."""
    colour = _fill(store, manifest)
    waiting: deque[Future[_Pixels]] = deque()
    with ThreadPoolExecutor(READERS, "read") as pool:
        try:
            for block in manifest.blocks:
                waiting.append(pool.submit(_read, store, block, colour))
                if len(waiting) > READERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _fill(store: Store, manifest: Manifest) -> tuple[int, int, int]:
    """Return the colour of pixels without a block, which are masked."""
    found = manifest.job.get("fill", [0, 0, 0])
    sound = isinstance(found, list) and all(value in range(256) for value in found)
    if not sound or len(found) != 3:
        raise FolderError(f"{store.place}/{MANIFEST} cannot be used: job.fill is not a colour")
    red, green, blue = found
    return red, green, blue


def _read(store: Store, block: BlockRecord, colour: tuple[int, int, int]) -> _Pixels:
    """Return the pixels of a block, after checking that they are those of the manifest."""
    window = block.window
    shape = (window.height, window.width)
    if block.file is None:
        image = np.empty((*shape, 3), np.uint8)
        image[:] = colour
        return _Pixels(block, image, np.zeros(shape, np.uint8))
    data = store.read(block.file)
    if data is None or not is_sound(data, block.sha256):
        raise _not_whole(store, [f"{block.file} {CHANGED}"])
    try:
        with MemoryFile(data) as file, file.open(driver="GTiff") as dataset:
            if (dataset.count, *dataset.shape, dataset.dtypes[0]) != (3, *shape, "uint8"):
                raise FolderError(
                    f"{store.place}/{block.file} has {dataset.count} bands of {dataset.width} x "
                    f"{dataset.height} px, not 3 of {window.width} x {window.height}"
                )
            return _Pixels(block, np.moveaxis(dataset.read(), 0, -1), dataset.dataset_mask())
    except RasterioError as error:
        raise FolderError(f"{store.place}/{block.file} cannot be read: {error}") from error
