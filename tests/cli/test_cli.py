"""The command line: what it prints where, and what it does not load."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image

import maptile2sat
from maptile2sat import doctor
from maptile2sat.geo.grid import TILE, Window, mercator_grid
from maptile2sat.models.bundle import open_bundle, redescribe
from maptile2sat.models.integers.engine import Trial
from maptile2sat.paths import sample_map
from tests.conftest import TileMap, TileServer, write_mbtiles, write_raster
from tests.support_render import (
    FILL,
    Pixels,
    bbox_of,
    copy_of_tiny,
    files_in,
    large_render,
    random_map,
    read_back,
    run_cli,
    tiny_bundle,
)

INSIDE = "24.940,60.166,24.942,60.167"
PROCESS = "import sys; sys.argv[0] = 'm'; from maptile2sat.cli import process; process()"
COMMANDS = ["render", "draw", "models", "info", "doctor", "train", "export"]


def render(folder: Path, *arguments: object) -> Any:
    return run_cli(
        "render", sample_map(), "-o", folder / "out.tif", "-m", tiny_bundle(), *arguments
    )


LOADED = """
import sys
sys.argv = ["maptile2sat", *sys.argv[1:]]
from maptile2sat.cli import main
try:
    main()
except SystemExit as leaving:
    print("code", leaving.code)
heavy = ["tensorflow", "keras", "rasterio", "numpy", "osmium", "PIL", "requests"]
print("loaded", *[name for name in heavy if name in sys.modules])
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["render", "--help"], ["train", "--help"], ["--version"], []], ids=str
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=True
    )
    *said, code, loaded = done.stdout.splitlines()
    assert loaded == "loaded"
    assert code in ("code 0", "code 2")
    assert said
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [["info", str(sample_map())], ["models"]], ids=str)
def test_light_commands_do_not_load_tensorflow(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=True
    )
    assert "code 0" in done.stdout
    assert "tensorflow" not in done.stdout.splitlines()[-1]


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, maptile2sat; print('numpy' in sys.modules, 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_help_names_every_command() -> None:
    done = run_cli("--help")
    assert done.code == 0
    for command in COMMANDS:
        assert command in done.out
        assert run_cli(command, "--help").code == 0


def test_help_of_render_names_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    said = run_cli("render", "--help").out
    options = """--output --bbox --bbox-crs --zoom --model --batch-size --cell --precision
    --device --seed --profile --co --no-cog --src-crs --preview --stac --missing --dry-run
    --max-tiles --overwrite --json --verbose --quiet"""
    for option in options.split():
        assert option in said


def test_version() -> None:
    done = run_cli("--version")
    assert (done.code, done.out, done.err) == (0, f"maptile2sat {maptile2sat.__version__}\n", "")


def test_unknown_command() -> None:
    done = run_cli("rendr")
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "rendr" in done.err


def test_public_names() -> None:
    for name in maptile2sat.__all__:
        assert getattr(maptile2sat, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'rendr'"):
        maptile2sat.rendr  # noqa: B018


# render


def test_results_go_to_stdout_and_the_rest_to_stderr(tmp_path: Path) -> None:
    done = render(tmp_path, "--bbox", INSIDE)
    assert done.code == 0
    assert done.out == f"{tmp_path / 'out.tif'}\n"
    assert "px, EPSG:3857" in done.err
    assert "tiny 1.2.3" in done.err
    assert files_in(tmp_path) == ["out.tif"]


def test_quiet(tmp_path: Path) -> None:
    done = render(tmp_path, "--bbox", INSIDE, "-qq")
    assert (done.code, done.out, done.err) == (0, f"{tmp_path / 'out.tif'}\n", "")
    once = render(tmp_path, "--bbox", INSIDE, "-q", "--overwrite")
    assert "px, EPSG:3857" not in once.err


def test_json_of_render(tmp_path: Path) -> None:
    preview = tmp_path / "p.png"
    done = render(tmp_path, "--bbox", INSIDE, "--json", "--seed", "7", "--preview", preview)
    assert done.code == 0
    said = json.loads(done.out)
    back = read_back(tmp_path / "out.tif")
    needed = """output width height crs bounds cells tiles seconds generator_seconds
    useful_megapixels_per_second peak_rss_mb model seed"""
    assert set(needed.split()) <= set(said)
    assert said["output"] == str(tmp_path / "out.tif")
    assert said["preview"] == str(preview)
    assert (said["height"], said["width"]) == back.image.shape[:2]
    west, south, east, north = said["bounds"]
    assert (west, north) == pytest.approx((back.transform.c, back.transform.f), abs=1e-6)
    assert (east, south) == pytest.approx(
        back.transform @ (said["width"], said["height"]), abs=1e-6
    )
    assert said["crs"] == "EPSG:3857"
    assert said["seed"] == 7
    assert said["model"].startswith("tiny 1.2.3 (")
    assert said["cells"] >= 1
    assert said["tiles"] >= 1
    assert 0 < said["generator_seconds"] <= said["seconds"]
    assert said["useful_megapixels_per_second"] >= 0
    assert said["peak_rss_mb"] > 10
    assert not done.out.startswith(" ")


def test_options_reach_the_file(tmp_path: Path) -> None:
    options = ["--bbox", INSIDE, "--seed", "3", "--precision", "integer", "--cell", "512"]
    done = render(tmp_path, *options, "--profile", "webp", "--no-cog", "--co", "TILED=NO")
    assert done.code == 0, done.err
    back = read_back(tmp_path / "out.tif")
    assert back.tags["SEED"] == "3"
    assert back.tags["PRECISION"] == "integer"
    assert "whole numbers 1" in back.tags["NUMERICS"]
    assert back.profile["compress"] == "webp"
    assert not back.profile["tiled"]


def test_a_fresh_process_makes_the_same_pixels(tmp_path: Path) -> None:
    code = "from maptile2sat.cli import main; main()"
    options = ["--bbox", INSIDE, "-m", tiny_bundle(), "--precision", "integer", "-qq"]
    arguments = ["render", sample_map(), "-o", tmp_path / "out.tif", *options]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{tmp_path / 'out.tif'}\n"
    back = read_back(tmp_path / "out.tif")
    large = large_render().raster
    col, row = (round(v) for v in ~large.transform @ (back.transform.c, back.transform.f))
    height, width = back.image.shape[:2]
    np.testing.assert_array_equal(back.image, large.image[row : row + height, col : col + width])


def test_overwrite(tmp_path: Path) -> None:
    (tmp_path / "out.tif").write_bytes(b"old")
    assert render(tmp_path, "--bbox", INSIDE, "--overwrite").code == 0
    assert read_back(tmp_path / "out.tif").image.size > 0


@pytest.mark.parametrize("as_json", [False, True])
def test_dry_run_writes_nothing(as_json: bool, tmp_path: Path) -> None:
    done = render(tmp_path, "--dry-run", *(["--json"] if as_json else []))
    assert done.code == 0
    assert files_in(tmp_path) == []
    if as_json:
        said = json.loads(done.out)
        assert (said["width"], said["height"]) == (1024, 1536)
        assert (said["cells"], said["tiles"]) == (24, 24)
        assert said["seconds"] > 0
        assert said["temporary_bytes"] > said["output_bytes"] > 100_000
    else:
        for words in ("1024 x 1536 px", "24 to read", "cells", "time", "file", "disk"):
            assert words in done.out


def test_dry_run_counts_the_halo(tmp_path: Path) -> None:
    """A box of one tile reads the eight around it too."""
    inner = Window(37_308 * TILE + 3, 18_969 * TILE + 3, 250, 250)
    box = bbox_of(mercator_grid(16), inner)
    said = json.loads(render(tmp_path, "--dry-run", "--json", "--bbox", box).out)
    assert (said["cells"], said["tiles"]) == (1, 9)


def test_without_source_it_takes_the_sample(tmp_path: Path) -> None:
    arguments = ("render", "-o", tmp_path / "out.tif", "-m", tiny_bundle(), "--bbox", INSIDE)
    done = run_cli(*arguments)
    assert done.code == 0
    assert "rendering the sample map" in done.err
    assert done.out == f"{tmp_path / 'out.tif'}\n"
    assert read_back(tmp_path / "out.tif").tags["SOURCE"].endswith("helsinki.mbtiles")


@pytest.mark.parametrize(
    ("style", "name"),
    [("maps", "helsinki.mbtiles"), ("osm", "helsinki-osm.mbtiles"), ("own", "helsinki.mbtiles")],
)
def test_the_sample_is_of_the_models_style(style: str, name: str, tmp_path: Path) -> None:
    model = redescribe(open_bundle(copy_of_tiny(tmp_path)), style=style).folder
    done = run_cli("render", "-o", tmp_path / "out.tif", "-m", model, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["source"].endswith(f"/{name}")


def test_source_and_model_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile_map = TileMap(16, TileMap.block(16, 30_000, 20_000, 1, 1).tiles, random_map)
    source = write_mbtiles(tmp_path / "mine.mbtiles", tile_map)
    monkeypatch.setenv("MAPTILE2SAT_SOURCE", str(source))
    monkeypatch.setenv("MAPTILE2SAT_MODEL", str(tiny_bundle()))
    done = run_cli("render", "-o", tmp_path / "out.tif", "--json")
    assert done.code == 0, done.err
    assert "sample map" not in done.err
    said = json.loads(done.out)
    assert said["source"].endswith("mine.mbtiles")
    assert said["model"].startswith("tiny")
    chosen = run_cli("render", sample_map(), "-o", tmp_path / "b.tif", "--bbox", INSIDE, "--json")
    assert json.loads(chosen.out)["source"].endswith("helsinki.mbtiles")


def test_warnings_go_to_stderr(tmp_path: Path) -> None:
    strange: Pixels = np.zeros((256, 256, 3), np.uint8) + np.array([250, 0, 250], np.uint8)
    assert tuple(strange[0, 0]) != FILL
    tile_map = TileMap(16, ((37_307, 18_966),), lambda window: strange)
    source = write_mbtiles(tmp_path / "map.mbtiles", tile_map)
    arguments = ("render", source, "-o", tmp_path / "out.tif", "-m", tiny_bundle(), "--overwrite")
    done = run_cli(*arguments)
    assert done.err.startswith("warning: only 0% of the map's pixels")
    assert done.out == f"{tmp_path / 'out.tif'}\n"
    assert "warning" in run_cli(*arguments, "-q").err
    assert run_cli(*arguments, "-qq").err == ""
    assert json.loads(run_cli(*arguments, "--json").out)["warnings"]


@pytest.mark.parametrize(("style", "other"), [("maps", "osm"), ("osm", "maps")])
def test_the_model_of_another_style_is_named(tmp_path: Path, style: str, other: str) -> None:
    small = ("--cell", 256)  # a dry run renders cells to see how long they take
    arguments = ("render", sample_map(style), "-o", tmp_path / "out.tif", "--dry-run", *small, "-m")
    assert "warning" not in run_cli(*arguments, style).err
    assert f"the model '{style}' fits better (-m)" in run_cli(*arguments, other).err


def test_warnings_come_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is told after an hour that the wrong model was at work has lost the hour."""
    from maptile2sat.rendering import mosaic

    told: list[str] = []
    monkeypatch.setattr(mosaic, "make_mosaic", lambda *given, **named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        maptile2sat.render(
            sample_map(), tmp_path / "out.tif", model=str(tiny_bundle()), warn=told.append
        )
    assert told
    assert "have colours of the style 'maps'" in told[0]


def test_options_that_do_nothing_are_named(tmp_path: Path) -> None:
    raster = write_raster(tmp_path / "map.tif", np.full((3, 20, 20), 230, np.uint8))
    options = ("--tile-size", 512, "--src-crs", "EPSG:2154", "--dry-run")
    said = run_cli("render", raster, "-o", tmp_path / "out.tif", "-m", tiny_bundle(), *options).err
    assert "--src-crs is not used: " in said
    assert "--tile-size is not used: " in said
    assert "--src-crs is not used: " in render(tmp_path, *options[2:]).err


def test_dry_run_checks_the_output(tmp_path: Path) -> None:
    (tmp_path / "out.tif").write_bytes(b"mine")
    done = render(tmp_path, "--dry-run")
    assert (done.code, done.out) == (1, "")
    assert "pass --overwrite" in done.err


def test_dry_run_fetches_no_tile(tmp_path: Path, server: TileServer) -> None:
    url = server.url + "/{z}/{x}/{y}.png"
    done = run_cli(
        *("render", url, "-o", tmp_path / "out.tif", "-m", tiny_bundle()),
        *("--bbox", INSIDE, "--dry-run"),
    )
    assert done.code == 0, done.err
    assert server.log == []


@pytest.mark.slow
def test_nothing_else_is_said(tmp_path: Path) -> None:
    """No library has a word to say when all is well."""
    command = ["render", "-o", str(tmp_path / "out.tif"), "--bbox", INSIDE, "--profile", "jpeg"]
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, *command, "--cell", "256"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stderr.splitlines()) == 2, done.stderr
    first, second = done.stderr.splitlines()
    assert first.startswith("no map given")
    assert " cell" in second
    assert done.stdout == f"{tmp_path / 'out.tif'}\n"


@pytest.mark.slow
@pytest.mark.parametrize("closed", [(2,), (1, 2)])
def test_closed_streams(closed: tuple[int, ...], tmp_path: Path) -> None:
    """What would go to stderr does not turn up on stdout, nor in the output."""

    def close() -> None:
        for number in closed:
            os.close(number)

    command = ["render", "-o", str(tmp_path / "out.tif"), "-m", str(tiny_bundle())]
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, *command, "--bbox", INSIDE],
        stdout=subprocess.PIPE,
        preexec_fn=close,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.decode() == ("" if 1 in closed else f"{tmp_path / 'out.tif'}\n")
    assert read_back(tmp_path / "out.tif").image.size > 0


@pytest.mark.parametrize("words", [["models"], ["models", "--json"], ["--help"]], ids=str)
@pytest.mark.parametrize("full", [False, True], ids=["nobody reads", "full disk"])
def test_a_result_that_cannot_be_written(words: list[str], full: bool) -> None:
    """As after `| head`, which is no trouble worth a word, and on a full disk."""
    if full and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full on this system")
    if full:
        out = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, *words],
        stdout=out,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        check=False,
    )
    os.close(out)
    said = "error: the result cannot be written: No space left on device\n" if full else ""
    assert (done.returncode, done.stderr) == (1, said)


def test_preview_of_the_command_line(tmp_path: Path) -> None:
    preview = tmp_path / "p.png"
    done = render(tmp_path, "--bbox", INSIDE, "--preview", preview)
    assert done.out.splitlines() == [str(tmp_path / "out.tif"), str(preview)]
    with Image.open(preview) as picture:
        assert picture.size[0] > 2 * read_back(tmp_path / "out.tif").image.shape[1]


TERMINATE = """
import os, signal, sys
from maptile2sat.cli import main
from maptile2sat.models.generator import WholeTranslator

real = WholeTranslator.start
calls = []

def start(*given):
    calls.append(given)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGTERM)
    return real(*given)

WholeTranslator.start = start
sys.argv = ["maptile2sat", *sys.argv[1:]]
main()
"""


def test_termination_leaves_no_output(tmp_path: Path) -> None:
    command = ["render", str(sample_map()), "-o", str(tmp_path / "out.tif"), "-m", tiny_bundle()]
    done = subprocess.run(
        [sys.executable, "-c", TERMINATE, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 143
    assert done.stderr.splitlines()[-1] == "error: terminated"
    assert f"-o {tmp_path / 'out.tif'}" in done.stderr
    assert "--resume" in done.stderr
    assert [name for name in files_in(tmp_path) if "partial" not in name] == []
    assert (tmp_path / "out.tif.partial").is_dir()


def test_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of the work leaves what there is, and says how to go on."""
    from maptile2sat.models.generator import WholeTranslator

    calls = []

    def stop(*arguments: Any) -> list[Pixels]:
        calls.append(arguments)
        if len(calls) < 3:
            return [np.zeros((256, 256, 3), np.uint8)]
        raise KeyboardInterrupt

    monkeypatch.setattr(WholeTranslator, "start", stop)
    done = render(tmp_path)
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[-1] == "error: interrupted"
    assert [name for name in files_in(tmp_path) if "partial" not in name] == []
    assert (tmp_path / "out.tif.partial").is_dir()


# the other commands


def test_models() -> None:
    done = run_cli("models")
    assert done.code == 0
    assert "maps" in done.out
    listed = json.loads(run_cli("models", "--json").out)
    maps = next(model for model in listed if model["name"] == "maps")
    for key in ("style", "zoom", "licence", "metrics", "metres_per_pixel", "version"):
        assert key in maps


def test_info_on_a_map() -> None:
    facts = json.loads(run_cli("info", sample_map(), "--json").out)
    assert facts["what"] == "map"
    assert (facts["width"], facts["height"], facts["zoom"]) == (1024, 1536, 16)
    assert facts["attribution"] == "© OpenStreetMap contributors"
    west, south, east, north = facts["bounds_degrees"]
    assert west < 24.94 < east
    assert south < 60.17 < north
    done = run_cli("info", sample_map())
    assert done.code == 0
    assert "EPSG:3857" in done.out


def test_info_takes_what_its_messages_ask_for(tmp_path: Path, server: TileServer) -> None:
    path = write_raster(
        tmp_path / "map.tif",
        np.zeros((3, 60, 60), np.uint8),
        crs=None,
        transform=rasterio.Affine(2.0, 0, 385_000, 0, -2.0, 6_672_000),
    )
    template = server.url + "/{z}/{x}/{y}.png"
    for thing, asked, value, name in (
        (path, "--src-crs", "EPSG:3067", "crs"),
        (template, "--zoom", "16", "zoom"),
    ):
        refused = run_cli("info", thing)
        assert refused.code == 1
        assert f"pass {asked}" in refused.err
        facts = json.loads(run_cli("info", thing, asked, value, "--json").out)
        assert str(facts[name]) == value


def test_info_asks_a_tile_server_for_nothing_in_vain(server: TileServer) -> None:
    """There is no picture called {z}/{x}/{y}.png: GDAL would ask for it."""
    done = run_cli("info", server.url + "/{z}/{x}/{y}.png", "--zoom", "16")
    assert done.code == 0, done.err
    assert server.log == []


def test_info_on_a_render(tmp_path: Path) -> None:
    path = shutil.copy(large_render().result.output, tmp_path / "a render.tif")
    for thing in (path, path.as_uri()):
        facts = json.loads(run_cli("info", thing, "--json").out)
        assert facts["what"] == "render"
        assert facts["model"] == "tiny"
        assert facts["synthetic"] == "YES"
        assert facts["seed"] == "0"


def test_info_on_a_model() -> None:
    for thing in ("maps", tiny_bundle()):
        facts = json.loads(run_cli("info", thing, "--json").out)
        assert facts["what"] == "model"
        assert facts["kind"] == "local"
        assert len(facts["weights_sha256"]) == 64


def test_info_on_nothing(tmp_path: Path) -> None:
    done = run_cli("info", tmp_path / "none")
    assert done.code == 1
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_info_on_names_that_cannot_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that is closed is a stand-in, since an administrator may look into any."""
    real = os.stat

    def closed(path: Any, *given: Any, **named: Any) -> os.stat_result:
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *given, **named)

    monkeypatch.setattr(os, "stat", closed)
    for thing, why in (
        (tmp_path / ("n" * 300), "File name too long"),
        (tmp_path / "closed" / "map.tif", "Permission denied"),
    ):
        done = run_cli("info", thing)
        assert done.code == 1
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1
        assert why in done.err


@pytest.fixture
def quick_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one engine pass at once; `test_doctor_names_the_engine` tries all of them."""
    passed = [Trial("OpenVINO, 8-bit kernels", 0.125)]
    monkeypatch.setattr("maptile2sat.models.integers.engine.trials", lambda model: passed)


@pytest.mark.usefixtures("quick_doctor")
def test_doctor() -> None:
    done = run_cli("doctor")
    assert done.code == 0, done.out
    findings = json.loads(run_cli("doctor", "--json").out)
    names = {finding["name"] for finding in findings}
    assert {"Python", "TensorFlow", "GPU", "GDAL", "models", "cache"} <= names
    assert all(finding["good"] for finding in findings)
    for name in names:
        assert name in done.out


@pytest.mark.usefixtures("quick_doctor")
def test_doctor_names_extras_of_which_a_part_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The viewer's Leaflet is such a part: `serve` will not start without it."""
    found = doctor.find_spec
    monkeypatch.setattr(
        doctor, "find_spec", lambda name: None if name == "xstatic" else found(name)
    )
    done = run_cli("doctor")
    assert done.code == 0, done.out
    assert "without serve" in done.out


@pytest.mark.usefixtures("quick_doctor")
def test_doctor_finds_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("MAPTILE2SAT_CACHE_DIR", str(blocked / "cache"))
    done = run_cli("doctor")
    assert done.code == 1
    assert "BAD  cache" in done.out
    assert "set MAPTILE2SAT_CACHE_DIR" in done.out


@pytest.mark.usefixtures("quick_doctor")
def test_doctor_counts_a_cache_that_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server throws old tiles away at any moment: also between finding and measuring one."""
    (tmp_path / "kept").write_bytes(bytes(2_000_000))
    (tmp_path / "gone").write_bytes(bytes(1_000_000))
    look = Path.is_file

    def look_and_lose(self: Path) -> bool:
        found = look(self)
        if self == tmp_path / "gone":
            self.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "is_file", look_and_lose)
    monkeypatch.setenv("MAPTILE2SAT_CACHE_DIR", str(tmp_path))
    done = run_cli("doctor")
    assert done.code == 0, done.out
    assert "ok   cache" in done.out


@pytest.mark.parametrize(
    ("package", "broken", "finding"),
    [
        ("tensorflow", "ImportError('libcudart.so.12: cannot open')", "TensorFlow"),
        ("tensorflow", "TypeError('Descriptors cannot be created directly.')", "TensorFlow"),
        ("rasterio", "ImportError('libgdal.so.34: cannot open')", "GDAL"),
    ],
)
def test_packages_that_cannot_be_loaded(
    package: str, broken: str, finding: str, tmp_path: Path
) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(f"raise {broken}")
    said = broken.split("'")[1]
    done = with_packages_of(tmp_path, "doctor")
    assert (done.returncode, done.stderr) == (1, "")
    assert f"BAD  {finding}" in done.stdout
    assert said in done.stdout
    assert "pip install" in done.stdout
    assert "ok   Python" in done.stdout
    if package == "tensorflow":
        out = tmp_path / "out.tif"
        words = ("render", str(sample_map()), "-o", str(out), "-m", "maps")
        done = with_packages_of(tmp_path, *words, "--engine", "tensorflow")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(
            f"error: TensorFlow cannot be loaded ({said}"
        )
        assert "Traceback" not in done.stderr
        assert not out.exists()


def with_packages_of(folder: Path, *arguments: str) -> Any:
    """Run the command line where packages of a folder come before the installed ones."""
    first = os.pathsep.join([str(folder), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, "-c", PROCESS, *arguments],
        env={**os.environ, "PYTHONPATH": first},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1.5h", 5400), (" 2m ", 120)]
)
def test_durations(text: str, seconds: float) -> None:
    from maptile2sat.cli.common import parse_duration

    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "1d", "-5m", "5 m 3", "1e3"])
def test_what_is_no_duration(text: str) -> None:
    from maptile2sat.cli.common import parse_duration
    from maptile2sat.errors import UsageError

    with pytest.raises(UsageError, match="length of time"):
        parse_duration(text)


def test_a_block_of_many_colours_is_no_warning(tmp_path: Path) -> None:
    block = "24.933472,60.172257,24.944458,60.177721"
    where = ("render", sample_map("osm"), "-o", tmp_path / "out.tif")
    arguments = (*where, "--dry-run", "--cell", 256, "-m")
    assert "warning" not in run_cli(*arguments, "osm", "--bbox", block).err
    assert "'osm' fits better" in run_cli(*arguments, "maps", "--bbox", block).err
