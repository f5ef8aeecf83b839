"""Bad input through the command line: one clear line, exit 1 or 2, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maptile2sat.errors import OutputError, SourceError
from maptile2sat.models.bundle import open_bundle, save_integers
from maptile2sat.paths import sample_map
from maptile2sat.sources import SourceOptions, open_source
from tests.conftest import TileMap, TileServer, write_folder, write_raster
from tests.support_render import (
    Outcome,
    copy_of_tiny,
    files_in,
    impatient,
    random_map,
    run_cli,
    tiny_bundle,
    write_picture,
)

INSIDE = "24.940,60.166,24.942,60.167"


def assert_one_line(done: Outcome, words: str, code: int) -> None:
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert done.code == code
    assert done.out == ""


def refused(folder: Path, words: str, *arguments: object, code: int = 1, **named: object) -> None:
    """Render and expect a refusal that leaves the folder as it was.

    Args:
        folder: Where the output would go.
        words: Part of the message.
        *arguments: Options, and the source first unless it is an option.
        code: Exit code.
        **named: `output`: another output; `model`: another model; `precision`.
    """
    before = files_in(folder)
    output = named.get("output", folder / "out.tif")
    model = named.get("model", tiny_bundle())
    more = ("--precision", named["precision"]) if "precision" in named else ()
    done = run_cli("render", *arguments, "-o", output, "-m", model, *more)
    assert_one_line(done, words, code)
    assert files_in(folder) == before


# the map


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path, "there is no file", tmp_path / "none.mbtiles")
    refused(tmp_path, "there is no file", tmp_path / "none.tif")


@pytest.mark.parametrize("name", ["map.tif", "map.mbtiles", "map.pmtiles", "map.json", "map.osm"])
def test_file_that_is_something_else(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("this is a shopping list\n" * 100)
    refused(tmp_path, name, path)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "map.mbtiles"
    path.touch()
    refused(tmp_path, "map.mbtiles", path)


def test_picture_without_position(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "map.png", np.zeros((20, 30, 3), np.uint8))
    refused(tmp_path, "does not say where on Earth it lies", path)


def test_raster_without_crs(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "map.tif", np.zeros((3, 20, 20), np.uint8), crs=None)
    refused(tmp_path, "pass --src-crs", path)
    refused(tmp_path, "is not a CRS", path, "--src-crs", "EPSG:nonsense", code=2)


def test_sixteen_bit_raster(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "map.tif", np.zeros((3, 20, 20), np.uint16))
    refused(tmp_path, "uint16", path)


def test_zoom_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path, "zoom 12 is not in the source", sample_map(), "-z", 12)
    folder = write_folder(tmp_path / "tiles", TileMap.block(13, 4661, 2371, 2, 2))
    refused(tmp_path, "it has 13", folder, "-z", 14)


def test_zoom_out_of_range(tmp_path: Path, server: TileServer) -> None:
    url = server.url + "/{z}/{x}/{y}.png"
    for zoom in (31, -1):
        refused(tmp_path, f"zoom {zoom}", url, "--bbox", INSIDE, f"--zoom={zoom}")
    assert server.log == []


def test_empty_folder_of_tiles(tmp_path: Path) -> None:
    (tmp_path / "tiles").mkdir()
    refused(tmp_path, "holds no map tiles", tmp_path / "tiles")


def test_damaged_tile(tmp_path: Path) -> None:
    """Found in the middle of the work."""
    folder = write_folder(tmp_path / "tiles", TileMap.block(16, 37_307, 18_966, 3, 2))
    (folder / "16" / "37309" / "18967.png").write_bytes(b"\x89PNG but no more")
    refused(tmp_path, "16/37309/18967", folder)


def test_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by a stand-in, since an administrator may read anything."""
    folder = write_folder(tmp_path / "tiles", TileMap.block(16, 37_307, 18_966, 3, 2))
    real = os.scandir

    def closed(path: Path) -> object:
        if Path(path).name == "37308":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(SourceError, match=r"the folder .*37308 cannot be read: Permission denied"):
        open_source(folder, SourceOptions())


# the area


@pytest.mark.parametrize(
    ("bbox", "words"),
    [
        ("24.940,60.167,24.942,60.166", "south < north"),
        ("24.940,60.166,24.940,60.167", "has no area"),
        ("2.940,60.166,2.942,60.167", "is outside the map"),
        ("a,b,c,d", "is not a box: give four numbers"),
        ("24.940,60.166,24.942", "is not a box: give four numbers"),
        ("24.940,60.166,24.942,60.167,1", "is not a box"),
        ("24.940,60.166,24.942,nan", "is not a box"),
        ("24.940,60.166,24.942,inf", "is not a box"),
        ("", "is not a box"),
        ("24.940,-86,24.942,60.167", "beyond web mercator"),
        ("24.940,60.166,24.942,89", "beyond web mercator"),
        ("2776000,8438000,2777000,8439000", "-90 to 90 (for other coordinates pass --bbox-crs"),
    ],
)
def test_bad_box(bbox: str, words: str, tmp_path: Path) -> None:
    refused(tmp_path, words, sample_map(), "--bbox", bbox, code=2)


def test_four_loose_numbers_get_a_hint(tmp_path: Path) -> None:
    box = ("--bbox", "24.940", "60.166", "24.942", "60.167")
    refused(tmp_path, "give --bbox as one argument", sample_map(), *box, code=2)


def test_bad_box_crs(tmp_path: Path) -> None:
    options = ("--bbox", INSIDE, "--bbox-crs", "EPSG:what")
    refused(tmp_path, "'EPSG:what' is not a CRS", sample_map(), *options, code=2)


def test_box_outside_where_its_crs_makes_sense(tmp_path: Path) -> None:
    options = ("--bbox", "1e12,1e12,2e12,2e12", "--bbox-crs", "EPSG:32635")
    refused(tmp_path, "the box", sample_map(), *options, code=2)


def test_more_tiles_than_allowed(tmp_path: Path, server: TileServer) -> None:
    refused(tmp_path, "24 tiles, more than 5", sample_map(), "--max-tiles", 5, code=2)
    url = server.url + "/{z}/{x}/{y}.png"
    refused(tmp_path, "more than 20,000", url, "--bbox", "20,50,30,60", code=2)
    refused(tmp_path, "more than 20,000", url, code=2)
    assert server.log == []


def test_a_file_has_as_many_tiles_as_it_has(tmp_path: Path, monkeypatch: Any) -> None:
    """Nobody's server is asked, so that nobody need allow it."""
    monkeypatch.setattr("maptile2sat.rendering.job.DEFAULT_MAX_TILES", 5)
    done = run_cli("render", sample_map(), "-o", tmp_path / "out.tif", "-m", tiny_bundle())
    assert done.code == 0, done.err


def test_box_outside_the_sample_shows_three_commands(tmp_path: Path) -> None:
    """The only message of more than a line."""
    done = run_cli("render", "-o", tmp_path / "out.tif", "--bbox", "2.1,41.3,2.2,41.4")
    assert done.code == 2
    lines = [line for line in done.err.splitlines() if not line.startswith("no map given")]
    assert lines[0].startswith("error: no map given, and the box is outside the sample")
    assert len(lines) == 4
    assert all(line.startswith("  maptile2sat ") for line in lines[1:])
    assert all("--bbox 2.1,41.3,2.2,41.4" in line for line in lines[1:])
    assert files_in(tmp_path) == []


# the model


def test_unknown_model(tmp_path: Path) -> None:
    words = "no model 'mops': give a bundle's folder or one of: "
    refused(tmp_path, words, sample_map(), model="mops")


def test_folder_that_is_no_model(tmp_path: Path) -> None:
    refused(tmp_path, "is not a model bundle", sample_map(), model=tmp_path)


@pytest.mark.parametrize(
    ("name", "precision"), [("generator.weights.h5", "float32"), ("integers.h5", "auto")]
)
def test_damaged_weights(name: str, precision: str, tmp_path: Path) -> None:
    bundle = copy_of_tiny(tmp_path)
    path = bundle / name
    data = bytearray(path.read_bytes())
    data[-200] ^= 4
    path.write_bytes(data)
    refused(tmp_path, "is damaged", sample_map(), model=bundle, precision=precision)


def test_foreign_weights(tmp_path: Path) -> None:
    bundle = copy_of_tiny(tmp_path)
    path = bundle / "model.json"
    about = json.loads(path.read_text())
    about["architecture"]["width"] = 16
    path.write_text(json.dumps(about))
    refused(tmp_path, "of another network", sample_map(), model=bundle, precision="float32")


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("stem/kernel", lambda array: array[..., :-1], "arrays of stem do not fit"),
        ("block1_conv/kernel", lambda array: array[:, :, :-1], "layer block1_conv is of another"),
        ("block1_conv/kernel", lambda array: array + 64, "weights of block1_conv are above 63"),
        ("block1_conv/bias", lambda array: array + (1 << 23), "sums of block1_conv may reach"),
        ("block1_conv/shift", lambda array: array + 30, "shifts sums down by more than 10 bits"),
        ("trunk_norm/gains", lambda array: array[:-1], "is not a table of gains"),
        ("palette/palette", lambda array: array[:-1], "palette and look are of another"),
        ("look/weights", None, "the integers lack look/weights"),
    ],
)
def test_foreign_integers(name: str, change: Any, text: str, tmp_path: Path) -> None:
    bundle = open_bundle(copy_of_tiny(tmp_path))
    arrays = bundle.integers()
    old = arrays.pop(name)
    if change is not None:
        arrays[name] = change(old).astype(old.dtype)
    about = bundle.description.integers
    save_integers(bundle, arrays, **{key: about[key] for key in about if key != "sha256"})
    refused(tmp_path, text, sample_map(), model=bundle.folder)


# the output


def test_output_folder_is_missing(tmp_path: Path) -> None:
    output = tmp_path / "no" / "such" / "out.tif"
    refused(tmp_path, "does not exist: make it first", sample_map(), output=output)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody can write")
def test_output_folder_cannot_be_written(tmp_path: Path) -> None:
    refused(tmp_path, "the folder /proc cannot be written", sample_map(), output="/proc/out.tif")


def test_output_is_a_folder(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder", sample_map(), "--overwrite", output=tmp_path)


def test_output_exists(tmp_path: Path) -> None:
    path = tmp_path / "out.tif"
    path.write_bytes(b"mine")
    refused(tmp_path, "pass --overwrite", sample_map())
    assert path.read_bytes() == b"mine"


def test_output_is_the_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --overwrite the map itself would be lost."""
    words = "is the map itself"
    path, link, named = (tmp_path / name for name in ("a map.tif", "link.tif", "map.png"))
    write_raster(path, np.full((3, 20, 20), 230, np.uint8))
    link.symlink_to(path)
    before = path.read_bytes()
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in (path, path.as_uri(), f"FILE://{path}", "~/a map.tif", f" {path} "):
        for output in (path, link):
            refused(tmp_path, words, given, "--overwrite", code=2, output=output)
    refused(tmp_path, words, path.as_uri(), "--overwrite", "--dry-run", code=2, output=path)
    assert path.read_bytes() == before
    path.rename(named)  # what is in it counts
    refused(tmp_path, words, named.as_uri(), "--overwrite", "--preview", named, code=2)
    assert named.read_bytes() == before


def test_the_map_from_the_environment_is_not_overwritten_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "map.tif"
    write_raster(path, np.full((3, 20, 20), 230, np.uint8))
    before = path.read_bytes()
    monkeypatch.setenv("MAPTILE2SAT_SOURCE", str(path))
    refused(tmp_path, "is the map itself", "--overwrite", code=2, output=path)
    assert path.read_bytes() == before


def test_long_address_is_no_file_name(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/" + "a" * 5_000 + "/{z}/{x}/{y}.png"
    with impatient():
        refused(tmp_path, "cannot be reached", url, "--bbox", INSIDE)


def test_preview_is_checked_first(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"mine")
    refused(tmp_path, "pass --overwrite", sample_map(), "--preview", tmp_path / "p.png")
    nowhere = tmp_path / "no" / "p.png"
    refused(tmp_path, "does not exist", sample_map(), "--preview", nowhere)
    same = tmp_path / "same.png"
    same.symlink_to(tmp_path / "out.tif")
    refused(tmp_path, "both the output and the preview", sample_map(), "--preview", same, code=2)
    for name in ("p.jpg", "p"):
        words = f"{name} is a PNG: give a name that ends in .png"
        refused(tmp_path, words, sample_map(), "--preview", tmp_path / name, code=2)


def test_output_that_fails_leaves_no_preview(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **settings: Any) -> None:
        raise OutputError("no")

    monkeypatch.setattr("maptile2sat.output.geotiff.write_geotiff", fail)
    done = run_cli(
        *("render", sample_map(), "-o", tmp_path / "out.tif", "-m", tiny_bundle()),
        *("--bbox", INSIDE, "--preview", tmp_path / "p.png", "-qq"),
    )
    said = "error: no; what is done is kept: --resume goes on with it\n"
    assert (done.code, done.err) == (1, said)
    assert not [name for name in files_in(tmp_path) if "partial" not in name]


def test_names_that_are_not_text(tmp_path: Path) -> None:
    """File names are bytes; libraries underneath want UTF-8."""
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/m\xff.tif")
    words = r"m\udcff.tif is not UTF-8: rename it first"
    refused(tmp_path, words, strange)
    refused(tmp_path, words, sample_map(), output=strange)
    refused(tmp_path, words, sample_map(), model=strange)


def test_libraries_say_nothing_of_their_own(tmp_path: Path) -> None:
    """PROJ has a message of its own for a CRS that it does not know."""
    command = ["render", str(sample_map()), "-o", str(tmp_path / "out.tif"), "--bbox", INSIDE]
    script = "import sys; sys.argv[0] = 'maptile2sat'; from maptile2sat.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, *command, "--bbox-crs", "EPSG:99999999"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: 'EPSG:99999999' is not a CRS: say for example EPSG:3857"
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seed", "-1"], "seed -1 is not in 0"),
        (["--seed", str(1 << 32)], "is not in 0"),
        (["--seed", "lucky"], "Invalid value for '--seed'"),
        (["--cell", "300"], "cell 300 is not a multiple of 256"),
        (["--cell", "0"], "cell 0 is not"),
        (["--cell", "-256"], "cell -256 is not"),
        (["--cell", "1048576"], "cell 1048576 is not"),
        (["--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["--precision", "int8"], "'int8' is not one of"),
        (["--device", "tpu"], "device 'tpu' is not one of"),
        (["--device", "gpu:x"], "device 'gpu:x' is not one of"),
        (["--device", "cpu:1"], "device 'cpu:1' is not one of"),
        (["--profile", "png"], "'png' is not one of"),
        (["--missing", "ignore"], "'ignore' is not one of"),
        (["--co", "COMPRES=LZW"], "creation option COMPRES cannot be set"),
        (["--co", "COMPRESS=RAR"], "creation option COMPRESS cannot be 'RAR'"),
        (["--co", "COMPRESS"], "say NAME=VALUE"),
        (["--max-tiles", "0"], "Invalid value for '--max-tiles'"),
        (["--resampling", "magic"], "resampling 'magic' is not known"),
        (["--resampling", "sum"], "resampling 'sum' is not known: say one of nearest, "),
        (["--resampling", "gauss"], "resampling 'gauss' is not known"),
        (["--tile-size", "100"], "100"),
        (["--no-such-option"], "--no-such-option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options(options: list[str], words: str, tmp_path: Path) -> None:
    refused(tmp_path, words, sample_map(), "--bbox", INSIDE, *options, code=2)


def test_gpu_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path, "TensorFlow sees", sample_map(), "--device", "gpu:7")


def test_output_is_needed() -> None:
    done = run_cli("render", sample_map())
    assert_one_line(done, "--output", 2)


# servers

Answer = tuple[int, dict[str, str], bytes]


def answers(status: int, body: bytes = b"", **headers: str) -> Callable[[str, int], Answer]:
    return lambda path, number: (status, headers, body)


HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (answers(404), "is missing (pass --missing mask to go on without)"),
        (answers(403), "refuses with HTTP 403"),
        (answers(401), "refuses with HTTP 401"),
        (answers(500), "HTTP 500"),
        (answers(503), "HTTP 503"),
        (answers(418), "HTTP 418"),
        (answers(200, HTML), "127.0.0.1"),
        (answers(200, b""), "is missing"),
        (answers(200, b"\x89PNG\r\n\x1a\nbroken"), "127.0.0.1"),
    ],
    ids=["404", "403", "401", "500", "503", "418", "html", "empty", "broken"],
)
def test_server_answers_nonsense(
    answer: Any, words: str, server: TileServer, tmp_path: Path
) -> None:
    server.answer = answer
    url = server.url + "/{z}/{x}/{y}.png?key=secret123"
    with impatient():
        refused(tmp_path, words, url, "--bbox", INSIDE)
    assert server.log


def test_server_fails_in_the_middle(server: TileServer, tmp_path: Path) -> None:
    """Some cells are written already."""
    tile_map = TileMap(16, TileMap.block(16, 37_306, 18_964, 6, 10).tiles, random_map)
    url = server.serve(tile_map)
    del server.pages["/16/37308/18971.png"]
    arguments = ("-o", tmp_path / "out.tif", "-m", tiny_bundle())
    with impatient():
        done = run_cli("render", url, *arguments, "--bbox", "24.939,60.1645,24.944,60.1790")
    assert_one_line(done, "tile 16/37308/18971", 1)
    assert done.err.endswith("; what is done is kept: --resume goes on with it\n")
    assert not [name for name in files_in(tmp_path) if "partial" not in name]
    assert len(server.log) > 10


def test_work_on_another_map_of_the_server_is_not_gone_on_with(
    server: TileServer, tmp_path: Path
) -> None:
    """Two maps may differ in nothing but what is hidden of addresses; a new key is no other map."""
    tile_map = TileMap(16, TileMap.block(16, 37_306, 18_964, 6, 10).tiles, random_map)
    url = server.serve(tile_map)
    missing = server.pages.pop("/16/37308/18971.png")
    more = ("-m", tiny_bundle(), "--bbox", "24.939,60.1645,24.944,60.1790", "--resume")
    arguments = ("-o", tmp_path / "out.tif", *more)
    with impatient():
        done = run_cli("render", url + "?style=dark&key=first-secret", *arguments)
    assert done.code == 1
    server.pages["/16/37308/18971.png"] = missing
    other = run_cli("render", url + "?style=light&key=first-secret", *arguments)
    assert_one_line(other, "source_address was", 1)
    again = run_cli("render", url + "?style=dark&key=next-secret", *arguments)
    assert again.code == 0
    assert "done before" in again.err
    for said in (done, other, again):
        assert "secret" not in said.out + said.err


def test_server_does_not_answer(server: TileServer, tmp_path: Path) -> None:
    over = threading.Event()

    def wait(path: str, number: int) -> None:
        over.wait(30)

    server.answer = wait  # type: ignore[assignment]
    url = server.url + "/{z}/{x}/{y}.png"
    try:
        with impatient(timeout=0.2):
            refused(tmp_path, "does not answer in time", url, "--bbox", INSIDE)
    finally:
        over.set()


def test_no_server_there(server: TileServer, tmp_path: Path) -> None:
    with impatient():
        url = "http://127.0.0.1:9/{z}/{x}/{y}.png"
        refused(tmp_path, "cannot be reached", url, "--bbox", INSIDE)


def test_openstreetmap_is_refused(tmp_path: Path) -> None:
    url = "https://tile.openstreetmap.org/{z}/{x}/{y}.png"
    refused(tmp_path, "openstreetmap.org", url, "--bbox", INSIDE)


def test_keys_stay_out_of_messages_and_files(server: TileServer, tmp_path: Path) -> None:
    tile_map = TileMap(16, TileMap.block(16, 37_305, 18_964, 8, 12).tiles, random_map)
    url = server.serve(tile_map) + "?key=secret123"
    output, preview = tmp_path / "out.tif", tmp_path / "p.png"
    options = ("-o", output, "-m", tiny_bundle(), "--bbox", INSIDE, "--preview", preview)
    done = run_cli("render", url, *options, "-vv", "--json")
    assert done.code == 0
    assert server.log[0].endswith("?key=secret123")
    for said in (done.out, done.err):
        assert "secret123" not in said
    for path in (output, preview):
        assert b"secret123" not in path.read_bytes()


# in a process of its own


def process(*arguments: object) -> Outcome:
    # set by this process when it loaded TensorFlow
    environment = {key: v for key, v in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", "from maptile2sat.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_process_exits_1(tmp_path: Path) -> None:
    done = process("render", tmp_path / "none.tif", "-o", tmp_path / "out.tif")
    assert_one_line(done, "there is no file", 1)
    assert files_in(tmp_path) == []


def test_process_exits_2(tmp_path: Path) -> None:
    done = process("render", sample_map(), "-o", tmp_path / "out.tif", "--bbox", "1,2,1,1")
    assert_one_line(done, "has no area", 2)
    assert files_in(tmp_path) == []


@pytest.mark.slow
def test_process_stops_after_tensorflow_started(tmp_path: Path) -> None:
    """What TensorFlow prints while it loads does not reach the user either."""
    bundle = copy_of_tiny(tmp_path)
    path = bundle / "generator.weights.h5"
    path.write_bytes(path.read_bytes()[:-1])
    before = files_in(tmp_path)
    done = process("render", sample_map(), "-o", tmp_path / "out.tif", "-m", bundle)
    assert_one_line(done, "is damaged", 1)
    assert files_in(tmp_path) == before
