"""A finished file of which something is missing is found out, wherever that is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maptile2sat.geo.grid import Window, mercator_grid
from maptile2sat.output.geotiff import GeoTiffWriter, creation_options, is_whole

WINDOW = Window(0, 0, 1100, 1300)


def make(path: Path, profile: str, *, masked: bool, cog: bool = True) -> Path:
    options = creation_options(profile, {}, cog=cog)
    image = np.random.default_rng(0).integers(0, 256, (1300, 1100, 3)).astype(np.uint8)
    mask = np.full((1300, 1100), 255, np.uint8)
    if masked:
        mask[100:700, 200:900] = 0
    with GeoTiffWriter(path, mercator_grid(16), WINDOW, {}, options, cog=cog) as writer:
        writer.write(WINDOW, image, mask)
        writer.finish()
    return path


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("profile", ["deflate", "jpeg", "webp"])
def test_any_lost_end_of_a_block_is_found(tmp_path: Path, profile: str, masked: bool) -> None:
    path = make(tmp_path / "out.tif", profile, masked=masked)
    assert is_whole(path, cog=True, masked=masked)
    assert not is_whole(path, cog=True, masked=not masked)
    data = path.read_bytes()
    blocks = 9 + 4 + 1  # of the file's three levels
    found = 0
    for start in range(len(data) // 50, len(data), len(data) // 40):
        hurt = bytearray(data)
        hurt[start:] = bytes(len(data) - start)  # a disk that took nothing from here on
        path.write_bytes(hurt)
        found += not is_whole(path, cog=True, masked=masked)
    assert found >= 40 - 2 > blocks


def test_plain_files_are_decoded(tmp_path: Path) -> None:
    path = make(tmp_path / "out.tif", "deflate", masked=True, cog=False)
    assert is_whole(path, cog=False, masked=True)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    assert not is_whole(path, cog=False, masked=True)
