"""`merge` makes of a folder of blocks the file that one machine writes, or nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

import maptile2sat
from maptile2sat.output.folder import describe
from maptile2sat.output.manifest import block_file, read_manifest, write_manifest
from tests.support_folder import cut_folder, whole_render
from tests.support_render import files_in, read_back, run_cli

SIDE = 256


@pytest.fixture(params=[True, False], ids=["masked", "all valid"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    whole = whole_render(masked=request.param).result.output
    path = tmp_path / "OUT"
    describe(path, cut_folder(whole, path, SIDE))
    return path


@pytest.fixture
def one(tmp_path: Path) -> Path:
    path = tmp_path / "OUT"
    describe(path, cut_folder(whole_render().result.output, path, SIDE))
    return path


def test_it_is_byte_for_byte_what_one_machine_writes(folder: Path, tmp_path: Path) -> None:
    masked = read_manifest(folder).masked
    result = run_cli("merge", folder, "-o", tmp_path / "one.tif", "--json")
    assert result.code == 0, result.err
    whole = whole_render(masked=masked).result.output
    assert (tmp_path / "one.tif").read_bytes() == whole.read_bytes()
    said = json.loads(result.out)
    assert (said["width"], said["height"], said["blocks"]) == (1024, 768, 12)
    assert said["empty_blocks"] == (2 if masked else 0)
    assert said["bytes"] == whole.stat().st_size
    assert files_in(tmp_path) == files_in(tmp_path)  # nothing temporary
    assert not [name for name in files_in(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("side", [128, 512, 4096])
def test_blocks_of_any_size(tmp_path: Path, side: int) -> None:
    path = tmp_path / "OUT"
    describe(path, cut_folder(whole_render().result.output, path, side))
    maptile2sat.merge(path, tmp_path / "one.tif")
    assert (tmp_path / "one.tif").read_bytes() == whole_render().result.output.read_bytes()


def test_profiles_and_options(one: Path, tmp_path: Path) -> None:
    small, plain = tmp_path / "small.tif", tmp_path / "plain.tif"
    assert run_cli("merge", one, "-o", small, "--profile", "jpeg", "--co", "quality=80").code == 0
    assert run_cli("merge", one, "-o", plain, "--no-cog").code == 0
    assert cog_validate(small)[0]
    with rasterio.open(small) as dataset:
        assert dataset.compression.name == "jpeg"
        assert dataset.tags()["SYNTHETIC"] == "YES"
    np.testing.assert_array_equal(read_back(small).mask, whole_render().mask)
    np.testing.assert_array_equal(read_back(plain).image, whole_render().image)
    with rasterio.open(plain) as dataset:
        assert not dataset.overviews(1)
    assert run_cli("merge", one, "-o", small, "--co", "NOPE=1", "--overwrite").code == 2


def test_what_is_there_stays_unless_told(one: Path, tmp_path: Path) -> None:
    output = tmp_path / "one.tif"
    output.write_text("mine")
    refused = run_cli("merge", one, "-o", output)
    assert refused.code == 1
    assert "--overwrite" in refused.err
    assert output.read_text() == "mine"
    assert run_cli("merge", one, "-o", output, "--overwrite").code == 0
    assert output.read_bytes() == whole_render().result.output.read_bytes()
    block = next((one / "blocks").iterdir())
    among = run_cli("merge", one, "-o", block, "--overwrite")
    assert among.code == 1
    assert "among the blocks" in among.err


@pytest.mark.parametrize(
    "name", ["town.mbtiles", "town.pmtiles", "town.PNG", "town.vrt", "town.json", "town.zip"]
)
def test_names_of_other_formats_are_refused_before_the_work(tmp_path: Path, name: str) -> None:
    done = run_cli("merge", tmp_path / "none", "-o", tmp_path / name)
    assert done.code == 2
    assert "merge writes a GeoTIFF, give a name that ends in .tif" in done.err
    assert files_in(tmp_path) == []


def _block(folder: Path) -> Path:
    return sorted((folder / "blocks").iterdir())[4]


def _remove(folder: Path) -> None:
    _block(folder).unlink()


def _lengthen(folder: Path) -> None:
    _block(folder).write_bytes(_block(folder).read_bytes() + b" ")


def _alter(folder: Path) -> None:
    data = bytearray(_block(folder).read_bytes())
    data[len(data) // 2] ^= 1
    _block(folder).write_bytes(data)


def _swap(folder: Path) -> None:
    """Put a picture of another shape in place, with the checksum that belongs to it."""
    manifest = read_manifest(folder)
    data = whole_render().result.output.read_bytes()
    name = _block(folder).stem
    (folder / block_file(name)).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    blocks = tuple(
        dataclasses.replace(block, size=len(data), sha256=digest) if block.name == name else block
        for block in manifest.blocks
    )
    write_manifest(folder, dataclasses.replace(manifest, blocks=blocks))


def _replace_by_text(folder: Path) -> None:
    """Put a VRT in place that reads another file, with the checksum that belongs to it."""
    manifest, name = read_manifest(folder), _block(folder).stem
    data = (folder / "mosaic.vrt").read_bytes()
    (folder / block_file(name)).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    blocks = tuple(
        dataclasses.replace(block, size=len(data), sha256=digest) if block.name == name else block
        for block in manifest.blocks
    )
    write_manifest(folder, dataclasses.replace(manifest, blocks=blocks))


def _discolour(folder: Path) -> None:
    manifest = read_manifest(folder)
    job = {**manifest.job, "fill": ["red", 0, 0]}
    write_manifest(folder, dataclasses.replace(manifest, job=job))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_remove, "is missing"),
        (_lengthen, "bytes instead of"),
        (
            _alter,
            "was changed: its SHA-256 is another: delete what was changed, then render it again",
        ),
        (_swap, "1024 x 768 px, not 3 of 256 x 256"),
        (_replace_by_text, "cannot be read"),
        (_discolour, "job.fill is not a colour"),
        (lambda folder: (folder / "manifest.json").unlink(), "not finished"),
    ],
)
def test_a_folder_that_is_not_whole_makes_nothing(
    one: Path, tmp_path: Path, damage: Callable[[Path], Any], said: str
) -> None:
    name = _block(one).name
    damage(one)
    result = run_cli("merge", one, "-o", tmp_path / "one.tif")
    assert result.code == 1
    assert said in result.err
    assert name in result.err or "manifest.json" in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert files_in(tmp_path) == ["OUT", *(f"OUT/{name}" for name in files_in(one))]


def test_no_folder_at_all(tmp_path: Path) -> None:
    result = run_cli("merge", tmp_path / "none", "-o", tmp_path / "one.tif")
    assert result.code == 1
    assert "manifest.json" in result.err


def _upload(folder: Path, address: str) -> str:
    """Put a folder into an object store."""
    files = fsspec.filesystem("memory")
    for name in files_in(folder):
        if (folder / name).is_file():
            files.pipe_file(f"/{address.partition('://')[2]}/{name}", (folder / name).read_bytes())
    return address


def test_from_an_object_store(one: Path, tmp_path: Path) -> None:
    address = _upload(one, f"memory://{tmp_path.name}/OUT")
    facts = json.loads(run_cli("info", address, "--verify", "--json").out)
    assert (facts["blocks"], facts["faults"]) == (12, [])
    assert run_cli("merge", address, "-o", tmp_path / "one.tif").code == 0
    assert (tmp_path / "one.tif").read_bytes() == whole_render().result.output.read_bytes()
    name = block_file(_block(one).stem)
    files = fsspec.filesystem("memory")
    path = f"/{tmp_path.name}/OUT/{name}"
    data = files.cat_file(path)
    files.pipe_file(path, data[:-1] + b" ")
    altered = run_cli("merge", address, "-o", tmp_path / "two.tif")
    assert (altered.code, "was changed" in altered.err) == (1, True)
    assert run_cli("info", address).code == 0
    assert run_cli("info", address, "--verify").code == 1
    files.pipe_file(path, data[:-1])
    assert "bytes instead of" in run_cli("merge", address, "-o", tmp_path / "two.tif").err
    files.rm(path)
    assert "is missing" in run_cli("merge", address, "-o", tmp_path / "two.tif").err
    files.rm(f"/{tmp_path.name}/OUT/manifest.json")
    assert "not finished" in run_cli("merge", address, "-o", tmp_path / "two.tif").err
    assert not (tmp_path / "two.tif").exists()


@pytest.mark.usefixtures("usual_garbage")
def test_memory_does_not_grow_with_the_area(tmp_path: Path) -> None:
    def peak(side: int, name: str) -> int:
        path = tmp_path / name
        describe(path, cut_folder(whole_render(masked=False).result.output, path, side))
        held: list[int] = []
        tracemalloc.start()
        try:
            maptile2sat.merge(
                path,
                tmp_path / f"{name}.tif",
                progress=lambda done, total: held.append(tracemalloc.get_traced_memory()[0]),
            )
        finally:
            tracemalloc.stop()
        return max(held)

    whole = 1024 * 768 * 3
    assert peak(128, "small") < whole / 2  # pixels in memory are those of a few blocks
    assert peak(1024, "large") > whole  # so that the measure can fail


def test_info_says_what_it_is_and_what_is_wrong(one: Path) -> None:
    facts = json.loads(run_cli("info", one, "--json").out)
    assert facts["what"] == "folder of a sharded render"
    assert (facts["width"], facts["height"]) == (1024, 768)
    assert facts["blocks"] == 12
    assert facts["empty_blocks"] == 2
    assert facts["model"] == "tiny"
    assert facts["faults"] == []
    assert run_cli("info", one, "--verify").code == 0
    _alter(one)
    assert run_cli("info", one).code == 0  # sizes are as they were
    altered = run_cli("info", one, "--verify")
    assert altered.code == 1
    assert "was changed" in altered.out
    _remove(one)
    missing = run_cli("info", one)
    assert missing.code == 1
    assert "is missing" in missing.out
    assert run_cli("info", one / "mosaic.vrt", "--verify").code == 2
    (one / "manifest.json").unlink()
    (one / "job.json").write_text("{}")
    unfinished = run_cli("info", one)
    assert unfinished.code == 1
    assert "not finished" in unfinished.err
