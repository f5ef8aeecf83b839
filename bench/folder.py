"""Measure what describes a folder of blocks: time and size of VRT or index, and of the manifest.

python bench/folder.py 1000 10000 100000 1000000 [--plain]

No pixels are needed: GDAL opens blocks only when it is asked for them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rasterio

from maptile2sat.geo.grid import Window, mercator_grid
from maptile2sat.output.folder import FLAT, write_index, write_vrt
from maptile2sat.output.manifest import (
    BlockRecord,
    Manifest,
    block_file,
    block_name,
    read_manifest,
    write_manifest,
)

SIDE = 4096
TAGS = {"SYNTHETIC": "YES", "MODEL": "none", "MODEL_SHA256": "0" * 64}


def manifest_of(count: int) -> Manifest:
    """Return the manifest of a square of about `count` blocks."""
    across = round(count**0.5)
    places = [(row, col) for row in range(across) for col in range(across)]
    blocks = tuple(
        BlockRecord(
            block_name(row, col),
            Window(col * SIDE, row * SIDE, SIDE, SIDE),
            block_file(block_name(row, col)),
            12_345_678,
            f"{row * across + col:064x}",
            masked=(row + col) % 50 == 0,
        )
        for row, col in places
    )
    window = Window(0, 0, across * SIDE, across * SIDE)
    return Manifest({}, mercator_grid(22), window, TAGS, blocks, "2026-01-01T00:00:00Z")


def peak_mb() -> int:
    """Return the largest memory of this process so far (Linux: `getrusage` has the parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) >> 10


def measure(count: int, folder: Path, *, flat: int) -> None:
    """Write everything, and say what it took; then open it in a process of its own."""
    manifest = manifest_of(count)
    start = time.perf_counter()
    write_manifest(folder, manifest)
    print(f"{len(manifest.blocks):,} blocks: manifest {time.perf_counter() - start:.1f} s", end="")
    start = time.perf_counter()
    if count > flat:
        write_index(folder, manifest, overview=False)
    write_vrt(folder, manifest, overview=False, flat=flat)
    print(f", mosaic {time.perf_counter() - start:.1f} s", end="")
    for path in sorted(folder.iterdir()):
        print(f", {path.name} {path.stat().st_size / 1e6:.1f} MB", end="")
    print(flush=True)
    for what in ("open", "read"):
        subprocess.run([sys.executable, __file__, f"--{what}", str(folder)], check=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--plain", action="store_true", help="plain VRTs, however many blocks")
    parser.add_argument("--open", type=Path)
    parser.add_argument("--read", type=Path)
    given = parser.parse_args()
    before, start = peak_mb(), time.perf_counter()
    if given.open is not None:
        rasterio.open(given.open / "mosaic.vrt").close()
    if given.read is not None:
        read_manifest(given.read)
    if given.open is not None or given.read is not None:
        what = "opening the mosaic" if given.open is not None else "reading the manifest"
        print(f"  {what}: {time.perf_counter() - start:.3f} s, {peak_mb() - before} MB")
        return
    for count in given.counts:
        with tempfile.TemporaryDirectory() as folder:
            measure(count, Path(folder), flat=sys.maxsize if given.plain else FLAT)


if __name__ == "__main__":
    main()
