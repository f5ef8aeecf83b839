"""Renders that are killed, stopped or starved, and then go on."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

import maptile2sat
from maptile2sat.errors import DeviceError, OutputError, UnfinishedError
from maptile2sat.geo.grid import Window
from maptile2sat.models.device import memory_errors
from maptile2sat.models.generator import WholeTranslator
from maptile2sat.output.manifest import BlockRecord
from maptile2sat.paths import sample_map
from maptile2sat.rendering.blocks import BlockPlan
from maptile2sat.rendering.work import JOURNAL, Ledger, Partial, partial_folder
from tests.conftest import TileMap, TileServer, write_raster
from tests.faults.support import vrt
from tests.support_render import (
    Outcome,
    files_in,
    large_render,
    random_map,
    read_back,
    run_cli,
    tiny_bundle,
)

LONG = os.environ.get("MAPTILE2SAT_FAULTS") == "long"
KILLS = 20 if LONG else 3
CELLS = 24
SCRIPT = "import sys; sys.argv[0] = 'maptile2sat'; from maptile2sat.cli import process; process()"


def command(output: Path, *more: object) -> list[str]:
    arguments = ["render", sample_map(), "-o", output, "-m", tiny_bundle(), *more]
    return [sys.executable, "-c", SCRIPT, *map(str, arguments), "--precision", "integer", "-q"]


def resumed(output: Path, *more: object) -> dict[str, Any]:
    done = run_cli(
        *("render", sample_map(), "-o", output, "-m", tiny_bundle(), "--precision", "integer"),
        *("--resume", "--json", "-q", *more),
    )
    assert done.code == 0, done.err
    said: dict[str, Any] = json.loads(done.out)
    return said


def cells_noted(output: Path) -> int:
    """Return how many cells the journal of an unfinished render holds."""
    path = partial_folder(output) / JOURNAL
    return max(0, len(path.read_text().splitlines()) - 1) if path.exists() else 0


def assert_same_as_uninterrupted(output: Path) -> None:
    made, expected = read_back(output), large_render().raster
    np.testing.assert_array_equal(made.image, expected.image)
    np.testing.assert_array_equal(made.mask, expected.mask)


# killed


@pytest.mark.parametrize("moment", range(KILLS))
def test_killed_at_any_moment(tmp_path: Path, moment: int) -> None:
    """What the journal held at the kill is not done again, and the pixels are the same."""
    output = tmp_path / "out.tif"
    after = 1 + moment * (CELLS - 2) // max(1, KILLS - 1)
    running = subprocess.Popen(command(output), stderr=subprocess.DEVNULL)
    while running.poll() is None and cells_noted(output) < after:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.wait()
    noted = cells_noted(output)
    if output.exists():  # it was faster than the kill
        assert running.returncode == 0
        assert_same_as_uninterrupted(output)
        return
    assert noted >= after
    said = resumed(output)
    assert said["resumed_cells"] >= noted
    assert said["resumed_cells"] + said["cells"] + said["skipped_cells"] == CELLS
    assert_same_as_uninterrupted(output)
    assert files_in(tmp_path) == ["out.tif"]


def unfinished(folder: Path, cells: int = 9) -> Path:
    """Return the output of a render that broke off after some cells."""
    output = folder / "out.tif"
    calls = []
    real = WholeTranslator.start

    def stop(translator: WholeTranslator, packed: Any) -> Any:
        calls.append(packed)
        if len(calls) > cells:
            raise KeyboardInterrupt
        return real(translator, packed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WholeTranslator, "start", stop)
        with pytest.raises(KeyboardInterrupt):
            maptile2sat.render(sample_map(), output, model=str(tiny_bundle()), precision="integer")
    assert cells_noted(output) >= cells
    return output


def test_torn_journal(tmp_path: Path) -> None:
    """The machine lost power while a line was written: that cell is made again."""
    output = unfinished(tmp_path)
    journal = partial_folder(output) / JOURNAL
    journal.write_text(journal.read_text()[:-9])
    noted = cells_noted(output) - 1
    assert resumed(output)["resumed_cells"] == noted
    assert_same_as_uninterrupted(output)


@pytest.mark.slow
def test_preview_of_a_resumed_render_is_whole(tmp_path: Path) -> None:
    output = unfinished(tmp_path)
    resumed(output, "--preview", tmp_path / "resumed.png")
    settings = {"model": str(tiny_bundle()), "precision": "integer"}
    maptile2sat.render(
        sample_map(), tmp_path / "whole.tif", preview=tmp_path / "whole.png", **settings
    )
    assert (tmp_path / "resumed.png").read_bytes() == (tmp_path / "whole.png").read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"cell": 512}, "cells was "),
        ({"bbox": "24.94,60.166,24.942,60.167"}, "window was "),
        ({"missing": "mask"}, "missing was error, is mask"),
    ],
)
def test_another_render_is_not_gone_on_with(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    output = unfinished(tmp_path)
    before = files_in(tmp_path)
    settings = {"model": str(tiny_bundle()), "precision": "integer", "resume": True, **changes}
    with pytest.raises(UnfinishedError, match=words):
        maptile2sat.render(sample_map(), output, **settings)
    assert files_in(tmp_path) == before


def test_map_that_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    """A map that changed is not gone on with, given as a path or as an address of this machine."""
    drawn = tmp_path / "a map.mbtiles"
    shutil.copy(sample_map(), drawn)
    settings = {"model": str(tiny_bundle()), "precision": "integer"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maptile2sat.output.geotiff.write_geotiff", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            maptile2sat.render(drawn.as_uri(), tmp_path / "out.tif", **settings)
    state = drawn.stat()
    os.utime(drawn, (1, 1))
    for given in (drawn, drawn.as_uri()):
        with pytest.raises(UnfinishedError, match="source_file was"):
            maptile2sat.render(given, tmp_path / "out.tif", resume=True, **settings)
    os.utime(drawn, ns=(state.st_atime_ns, state.st_mtime_ns))
    made = maptile2sat.render(drawn, tmp_path / "out.tif", resume=True, **settings)
    assert (made.cells, made.resumed_cells > 1) == (0, True)


def test_picture_of_a_vrt_that_changed(tmp_path: Path) -> None:
    """A picture of a VRT that changed is not gone on with; statistics beside it do not count."""
    write_raster(tmp_path / "a.tif", np.full((3, 64, 64), 200, np.uint8))
    drawn = vrt(tmp_path / "map.vrt", "a.tif")
    settings = {"model": str(tiny_bundle()), "precision": "integer"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maptile2sat.output.geotiff.write_geotiff", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            maptile2sat.render(drawn, tmp_path / "out.tif", **settings)
    state = (tmp_path / "a.tif").stat()
    os.utime(tmp_path / "a.tif", (1, 1))
    with pytest.raises(UnfinishedError, match="source_file was"):
        maptile2sat.render(drawn, tmp_path / "out.tif", resume=True, **settings)
    os.utime(tmp_path / "a.tif", ns=(state.st_atime_ns, state.st_mtime_ns))
    (tmp_path / "map.vrt.aux.xml").write_text("<PAMDataset></PAMDataset>")
    made = maptile2sat.render(drawn, tmp_path / "out.tif", resume=True, **settings)
    assert (made.cells, made.resumed_cells) == (0, 1)


def _interrupted(*given: Any, **settings: Any) -> None:
    raise KeyboardInterrupt


def test_unfinished_work_is_neither_lost_nor_taken_unasked(tmp_path: Path) -> None:
    output = unfinished(tmp_path)
    settings = {"model": str(tiny_bundle()), "precision": "integer"}
    with pytest.raises(UnfinishedError, match="pass --resume to continue it, or --overwrite"):
        maptile2sat.render(sample_map(), output, **settings)
    assert cells_noted(output) >= 9
    made = maptile2sat.render(sample_map(), output, overwrite=True, **settings)
    assert made.resumed_cells == 0
    assert_same_as_uninterrupted(output)


def test_resume_of_nothing_is_a_render(tmp_path: Path) -> None:
    assert resumed(tmp_path / "out.tif")["resumed_cells"] == 0
    assert_same_as_uninterrupted(tmp_path / "out.tif")


@pytest.mark.parametrize("name", ["rgb.raw", "mask.raw"])
def test_pixels_that_were_deleted_are_made_again(name: str, tmp_path: Path) -> None:
    """As by somebody who was short of room: the journal alone is worth nothing."""
    output = unfinished(tmp_path, cells=3)
    (partial_folder(output) / name).unlink()
    assert resumed(output)["resumed_cells"] == 0
    assert_same_as_uninterrupted(output)


def test_folder_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    output = tmp_path / "out.tif"
    folder = partial_folder(output)
    (folder / "notes").mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    for words in ((), ("--overwrite",), ("--resume",)):
        done = run_cli("render", sample_map(), "-o", output, "-m", tiny_bundle(), *words)
        assert done.code == 1
        assert "holds something else than an unfinished render (notes)" in done.err
    assert (folder / "thesis.txt").read_text() == "years of work"
    assert not output.exists()


def test_two_renders_to_one_output(tmp_path: Path) -> None:
    output = tmp_path / "out.tif"
    with Partial(output, {}, resume=False, overwrite=False):
        done = run_cli("render", sample_map(), "-o", output, "-m", tiny_bundle(), "--overwrite")
        assert done.code == 1
        assert "error: another render is writing" in done.err
    assert files_in(tmp_path) == []


def test_folder_that_another_render_takes_first_stays_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking for the folder and making it, and as soon as it is let go."""
    output = tmp_path / "out.tif"
    folder, real = partial_folder(output), Path.mkdir
    theirs = FileLock(folder / "lock", timeout=0)

    def first(path: Path, *given: Any, **named: Any) -> None:
        real(path, *given, **named)
        if path == folder:
            monkeypatch.undo()
            theirs.acquire()
            (folder / "rgb.raw").write_bytes(b"theirs")

    monkeypatch.setattr(Path, "mkdir", first)
    with pytest.raises(UnfinishedError, match="another render is writing"):
        Partial(output, {}, resume=False, overwrite=False)
    assert (folder / "rgb.raw").read_bytes() == b"theirs"
    theirs.release()

    with Partial(output, {}, resume=False, overwrite=True) as work:
        release = work._lock.release

        def handed_on() -> None:
            release()
            folder.mkdir()
            (folder / "rgb.raw").write_bytes(b"theirs")

        monkeypatch.setattr(work._lock, "release", handed_on)
    monkeypatch.undo()
    assert (folder / "rgb.raw").read_bytes() == b"theirs"


# stopped


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_server(tmp_path: Path, server: TileServer) -> None:
    """Tiles under way would take a minute and a half to time out."""
    tile_map = TileMap(16, TileMap.block(16, 37_306, 18_964, 3, 6).tiles, random_map)
    url = server.serve(tile_map)
    stuck, over = threading.Event(), threading.Event()

    def answer(path: str, number: int) -> None:
        if "/18968" in path:
            stuck.set()
            over.wait(120)

    server.answer = answer  # type: ignore[assignment]
    box = ",".join(map(str, maptile2sat_box(tile_map)))
    arguments = ["render", url, "-o", tmp_path / "out.tif", "-m", tiny_bundle(), "--bbox", box]
    settings = {**os.environ, "MAPTILE2SAT_CACHE_DIR": str(tmp_path / "cache")}
    running = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments), "-q"],
        stderr=subprocess.PIPE,
        text=True,
        env=settings,
    )
    try:
        assert stuck.wait(60)
        while cells_noted(tmp_path / "out.tif") < 3:
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=20)[1]
    finally:
        over.set()
        running.kill()
    assert running.returncode == 130
    assert f"to go on: maptile2sat render '{url}' -o {tmp_path / 'out.tif'}" in said
    assert said.splitlines()[-1] == "error: interrupted"
    assert not (tmp_path / "out.tif").exists()


def maptile2sat_box(tile_map: TileMap) -> Any:
    from maptile2sat.geo.grid import mercator_grid

    return mercator_grid(tile_map.zoom).lonlat_bounds(tile_map.extent)


# starved


@pytest.mark.slow
def test_limit_on_file_sizes(tmp_path: Path) -> None:
    output = tmp_path / "out.tif"

    def starve() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run(
        command(output), capture_output=True, text=True, check=False, preexec_fn=starve
    )
    assert done.returncode == 1
    assert "out.tif cannot be written" in done.stderr
    assert files_in(tmp_path) == []


def test_full_disk_then_room_again(tmp_path: Path) -> None:
    """What was done before the disk was full is kept, and used when there is room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a small disk takes rights that are not there")
    try:
        done = run_cli(*command(disk / "out.tif")[3:])
        assert done.code == 1
        assert "out.tif cannot be written: No space left" in done.err
        assert done.err.endswith("what is done is kept: --resume goes on with it\n")
        noted = cells_noted(disk / "out.tif")
        assert noted > 0
        assert not (disk / "out.tif").exists()
        more = ["mount", "-o", "remount,size=64m", str(disk)]
        subprocess.run(more, check=True)
        assert resumed(disk / "out.tif")["resumed_cells"] == noted
        assert_same_as_uninterrupted(disk / "out.tif")
        assert files_in(disk) == ["out.tif"]
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_output_folder_deleted_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    real = WholeTranslator.start

    def delete(translator: WholeTranslator, packed: Any) -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        return real(translator, packed)

    monkeypatch.setattr(WholeTranslator, "start", delete)
    done = run_cli("render", sample_map(), "-o", folder / "out.tif", "-m", tiny_bundle(), "-qq")
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert "out.tif cannot be written: " in done.err
    assert files_in(tmp_path) == []


def test_memory_that_does_not_suffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    def fail(translator: WholeTranslator, packed: Any) -> Any:
        with memory_errors(tf):
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(WholeTranslator, "start", fail)
    with pytest.raises(DeviceError, match="pass a smaller --cell"):
        maptile2sat.render(sample_map(), tmp_path / "out.tif", model=str(tiny_bundle()))
    assert files_in(tmp_path) == []


def test_cache_that_cannot_be_written(
    tmp_path: Path, server: TileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("MAPTILE2SAT_CACHE_DIR", str(tmp_path / "cache"))
    tile_map = TileMap(16, TileMap.block(16, 37_306, 18_964, 2, 2).tiles, random_map)
    url = server.serve(tile_map)
    box = ",".join(map(str, maptile2sat_box(tile_map)))
    done: Outcome = run_cli(
        *("render", url, "-o", tmp_path / "out.tif", "-m", tiny_bundle(), "--bbox", box)
    )
    assert done.code == 0, done.err
    assert "warning: downloads are not cached" in done.err


def test_journal_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=r"out\.tif cannot be written: No space left"):
        maptile2sat.render(sample_map(), tmp_path / "out.tif", model=str(tiny_bundle()))
    assert files_in(tmp_path) == []


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file of this process grow further, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_disk_that_is_full_within_a_line_of_the_journal(tmp_path: Path) -> None:
    """One error, the lock is free, and what was noted before is taken up again."""
    output, made_from = tmp_path / "out.tif", {"seed": 1}

    def fill() -> int:
        with Partial(output, made_from, resume=True, overwrite=False) as partial:
            for name in ("rgb.raw", "mask.raw"):
                (partial.folder / name).touch()
            parts = [Window(256 * col, 0, 256, 256) for col in range(100)]
            done = sum(map(partial.done, parts))
            for part in parts[done:]:
                partial.add(part, masked=False)
        return done

    with files_of_at_most(300), pytest.raises(OutputError, match="cannot be written: File too"):
        fill()
    assert 1 <= fill() < 10


def test_no_room_for_the_list_of_blocks(tmp_path: Path) -> None:
    """What the client notes of a sharded render lies in a file without a name."""
    plan = BlockPlan(Window(0, 0, 256 * 1000, 256), 256)
    said = "list of blocks in the folder for temporary files cannot be written: File too large"

    def fill() -> None:
        with Ledger(plan) as ledger:
            for index in range(1000):
                name, part = plan.name(index), plan.part(index)
                ledger.add(index, BlockRecord(name, part, None, 0, "", masked=True))

    with files_of_at_most(20_000), pytest.raises(OutputError, match=said):
        fill()
