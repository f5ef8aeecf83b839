"""The manifest of a sharded render: written, read back, damaged, compared with the files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from affine import Affine
from rasterio.crs import CRS

from maptile2sat.errors import FolderError, OutputError, UsageError
from maptile2sat.geo.grid import Grid, Window, mercator_grid, raster_grid
from maptile2sat.output.manifest import (
    MANIFEST,
    BlockRecord,
    Manifest,
    block_file,
    block_name,
    check_files,
    read_manifest,
    write_manifest,
)
from maptile2sat.rendering.options import ShardOptions
from tests.support_render import run_cli

SIDE = 100


def manifest_of(folder: Path, grid: Grid | None = None) -> Manifest:
    """Write three files that stand for blocks, leave out a fourth, and describe them."""
    (folder / "blocks").mkdir()
    records = []
    for row, col in ((-1, 7), (-1, 8), (0, 7), (0, 8)):
        name = block_name(row, col)
        window = Window(col * SIDE, row * SIDE, SIDE, SIDE)
        if (row, col) == (0, 8):
            records.append(BlockRecord(name, window, None, 0, "", masked=True))
            continue
        data = f"pixels of {name}".encode()
        (folder / block_file(name)).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        records.append(BlockRecord(name, window, block_file(name), len(data), digest, masked=False))
    return Manifest(
        job={"source": "map of Жуковка.tif", "seed": 3, "window": [1, 2, 3, 4]},
        grid=grid or mercator_grid(16),
        window=Window(7 * SIDE, -SIDE, 2 * SIDE, 2 * SIDE),
        tags={"SYNTHETIC": "YES", "TIFFTAG_COPYRIGHT": "© somebody"},
        blocks=tuple(records),
        created="2026-01-02T03:04:05Z",
    )


@pytest.mark.parametrize(
    "grid",
    [
        mercator_grid(16),
        raster_grid(CRS.from_epsg(32635), Affine(0.3, 0, 1 / 3, 0, -0.3, 6.7e6), 10, 10)[0],
        Grid(CRS.from_epsg(4326), Affine(0.1, 0.01, 5, 0.02, -0.1, 7), 3, -4, wrap=3600),
    ],
    ids=["mercator", "utm", "rotated"],
)
def test_what_is_written_is_read(tmp_path: Path, grid: Grid) -> None:
    manifest = manifest_of(tmp_path, grid)
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert manifest.masked
    assert not list(tmp_path.glob("*.tmp"))


def test_two_runs_differ_by_their_time_alone(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    write_manifest(tmp_path, manifest)
    first = (tmp_path / MANIFEST).read_text().splitlines()
    write_manifest(tmp_path, dataclasses.replace(manifest, created="2027-01-02T03:04:05Z"))
    second = (tmp_path / MANIFEST).read_text().splitlines()
    differing = [(one, two) for one, two in zip(first, second, strict=True) if one != two]
    assert len(differing) == 1
    assert "created" in differing[0][0]


def test_names_of_blocks() -> None:
    assert block_name(12, 34) == "r000012_c000034"
    assert block_name(-1, 0) == "rm000001_c000000"
    assert block_file("r000012_c000034") == "blocks/r000012_c000034.tif"


def _set(path: str, value: Any) -> Any:
    """Return a function that sets a field deep inside."""

    def change(found: Any) -> None:
        *steps, last = [int(step) if step.isdigit() else step for step in path.split("/")]
        for step in steps:
            found = found[step]
        found[last] = value

    return change


def _drop(path: str) -> Any:
    def change(found: Any) -> None:
        *steps, last = [int(step) if step.isdigit() else step for step in path.split("/")]
        for step in steps:
            found = found[step]
        del found[last]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop("created"), "created is missing"),
        (_set("format", 2), "format is 2"),
        (_set("grid/crs", "EPSG:nonsense"), "grid.crs is not a CRS"),
        (_set("grid/affine", [0, 0, 0, 0, 0, 0]), "grid.affine has no inverse"),
        (_set("grid/affine", [1, 2, "x"]), "grid.affine is not six numbers"),
        (_set("window", [0, 0, -5, 5]), "window has no pixels"),
        (_set("tags/SEED", 5), "tags.SEED is not text"),
        (_set("tags/SEED", "\ud800"), "tags holds text that is not UTF-8"),
        (_set("tags/\ud800", "x"), "tags holds text that is not UTF-8"),
        (_set("job/source", ["\udfff"]), "job holds text that is not UTF-8"),
        (_set("created", "\ud800"), "created holds text that is not UTF-8"),
        (_set("window", [0, 0, 10**400, 5]), "window has too large a number"),
        (_set("window", [-(10**300), 0, 5, 5]), "window has too large a number"),
        (_set("grid/col0", 10**400), "grid.col0 is too large"),
        (_set("grid/wrap", 0), "grid.wrap is not in 1.."),
        (_set("grid/zoom", 99), "grid.zoom is not in 0..30"),
        (_set("grid/affine", [1e300, 0, 1e300, 0, -1e300, 0]), "grid.affine is not six numbers"),
        (_set("grid/affine", [10**400, 0, 0, 0, 1, 0]), "grid.affine is not six numbers"),
        (_set("grid/affine", [1e11, 0, 0, 0, -1e11, 0]), "where no place on Earth is"),
        (_set("blocks/1/size", 10**400), "block rm000001_c000008.size is too large"),
        (_set("blocks/3/window", [800, 0, 10**6, 10**6]), "more than blocks have (16384)"),
        (_set("blocks/1/name", "r٠٠٠٠٠٠_c٠٠٠٠٠٠"), "not a block's name"),
        (_set("blocks/1", 17), "blocks[1] is not an object"),
        (_drop("blocks/1/masked"), "blocks[1].masked is missing"),
        (_drop("blocks/1/file"), "blocks[1].file is missing"),
        (_set("blocks/1/size", True), "block rm000001_c000008.size is True"),
        (_set("blocks/1/window", [0, 0, 5]), "block rm000001_c000008.window is not four"),
        (_set("blocks/1/window", [800, -100, 500, 5]), "reaches beyond the window"),
        (_set("blocks/1/window", [800, -100, 50, 5]), "the window has 40000"),
        (_set("blocks/1/name", "../../x"), "not a block's name"),
        (_set("blocks/1/file", "../../secret.tif"), "file is '../../secret.tif'"),
        (_set("blocks/1/sha256", "abc"), "no sound sha256"),
        (_set("blocks/3/size", 7), "has no file, but a size"),
        (_set("blocks/1/more", 7), "fields of another version"),
        (_drop("blocks/1"), "the window has 40000"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: Any, said: str) -> None:
    write_manifest(tmp_path, manifest_of(tmp_path))
    path = tmp_path / MANIFEST
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    with pytest.raises(FolderError) as caught:
        read_manifest(tmp_path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_block_twice_is_refused(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    twice = (manifest.blocks[0], manifest.blocks[0], *manifest.blocks[2:])
    write_manifest(tmp_path, dataclasses.replace(manifest, blocks=twice))
    with pytest.raises(FolderError, match="twice"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 100_000])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(FolderError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_an_unfinished_folder_is_told_from_a_whole_one(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="not finished"):
        read_manifest(tmp_path)


def test_a_manifest_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    with pytest.raises(OutputError):
        write_manifest(tmp_path / "missing", manifest)
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(OutputError):
        write_manifest(tmp_path, manifest)
    assert not list(tmp_path.glob("*.tmp"))


def test_files_are_compared(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    assert check_files(tmp_path, manifest) == []
    one, two, three = (tmp_path / block_file(block.name) for block in manifest.blocks[:3])
    one.unlink()
    two.write_bytes(two.read_bytes() + b"more")
    data = bytearray(three.read_bytes())
    data[3] ^= 1
    three.write_bytes(data)
    quick = check_files(tmp_path, manifest, checksums=False)
    assert [fault.split()[0] for fault in quick] == [
        "blocks/rm000001_c000007.tif",
        "blocks/rm000001_c000008.tif",
    ]
    assert "missing" in quick[0]
    thorough = check_files(tmp_path, manifest)
    assert thorough[:2] == quick
    assert "blocks/r000000_c000007.tif was changed" in thorough[2]


def test_window_far_beyond_the_pole_is_shown(tmp_path: Path) -> None:
    """There are no degrees of it, which is no reason for a traceback."""
    made = manifest_of(tmp_path)
    write_manifest(tmp_path, made)
    path = tmp_path / MANIFEST
    found = json.loads(path.read_text())
    found["grid"]["affine"][5] = 1e11
    path.write_text(json.dumps(found))
    done = run_cli("info", tmp_path, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["bounds_degrees"][3] == pytest.approx(90.0)


@pytest.mark.parametrize(("block", "cell"), [(65, 256), (3, 8192), (10**9, 256)])
def test_blocks_that_could_not_be_read_are_not_made(block: int, cell: int) -> None:
    with pytest.raises(UsageError, match=f"pass --block {16384 // cell} or less"):
        ShardOptions("local", block).side(cell)
