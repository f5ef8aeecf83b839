"""Building pairs from two sources: places, gaps, skips, and stopping at any point."""

from __future__ import annotations

import dataclasses
import functools
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rasterio.warp import calculate_default_transform, reproject

from maptile2sat.datasets import BuildOptions, build, check
from maptile2sat.datasets.store import Cell, Lattice, choose
from maptile2sat.errors import (
    ErrorPictureError,
    OutputError,
    SourceError,
    TrainingError,
    UsageError,
)
from maptile2sat.geo.grid import TILE, BBox, Window, mercator_grid
from tests.conftest import TileMap, TileServer, encode, write_folder, write_raster
from tests.faults.support import answer, serving
from tests.support_dataset import run, town

ZOOM, SIZE = 16, 256
X, Y, ACROSS, DOWN = 19300, 24630, 8, 6  # New York
AREA = Window(X * TILE, Y * TILE, ACROSS * TILE, DOWN * TILE)
SEA, CLOUD, HOLE = (0, 0), (7, 5), (7, 0)
OPTIONS = BuildOptions(zoom=ZOOM, size=SIZE, val_fraction=0.1)


@functools.cache
def image() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The area from above: uniform sea in one tile, a cloud in another, no data in a third."""
    pixels = town(AREA)[1].copy()
    for (col, row), value in ((SEA, 60), (CLOUD, 240), (HOLE, 0)):
        part = Window(col * TILE, row * TILE, TILE, TILE)
        pixels[part.slices(Window(0, 0, AREA.width, AREA.height))] = value
    return pixels


@functools.cache
def drawn_tiles() -> TileMap:
    """The area as map tiles."""
    tiles = TileMap.block(ZOOM, X, Y, ACROSS, DOWN).tiles
    return TileMap(ZOOM, tiles, lambda window: town(window)[0])


@pytest.fixture(scope="module")
def ortho(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The imagery as a GeoTIFF on the grid of the zoom."""
    path = tmp_path_factory.mktemp("image") / "ortho.tif"
    transform = mercator_grid(ZOOM).transform(AREA)
    write_raster(path, np.moveaxis(image(), -1, 0), transform, nodata=0)
    return str(path)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The map as a folder of tiles."""
    return str(write_folder(tmp_path_factory.mktemp("map") / "tiles", drawn_tiles()))


@pytest.fixture(scope="module")
def whole(drawn: str, ortho: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set built without a stop."""
    out = tmp_path_factory.mktemp("whole") / "set"
    build(drawn, ortho, out, OPTIONS)
    return out


def serve(server: TileServer, drawn: str) -> str:
    """Offer the map's tiles; return the template."""
    for path in Path(drawn).rglob("*.png"):
        server.pages[f"/{path.relative_to(drawn)}"] = path.read_bytes()
    return server.url + "/{z}/{x}/{y}.png"


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def places(folder: Path) -> list[tuple[int, int]]:
    """Return column and row of each pair's first pixel."""
    parts = [path.stem.split("-") for path in folder.iterdir()]
    return [(int(col), int(row)) for _, col, row in parts]


def test_pairs_are_what_the_sources_show_at_their_place(
    drawn: str, ortho: str, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    result = build(drawn, ortho, out, OPTIONS)
    assert result.skipped == {"cloud": 1, "empty": 1, "uniform": 1}
    assert result.train + result.val + result.gap == ACROSS * DOWN - 3
    assert result.val == round(0.1 * (ACROSS * DOWN - 3))
    for split in ("train", "val"):
        for col, row in places(out / split):
            window = Window(col, row, SIZE, SIZE)
            whole = np.asarray(Image.open(out / split / f"{ZOOM}-{col}-{row}.png"))
            np.testing.assert_array_equal(whole[:, SIZE:], town(window)[0])
            np.testing.assert_array_equal(whole[:, :SIZE], image()[window.slices(AREA)])
    assert not (out / ".build").exists()
    report = check(out)
    assert report.usable
    assert report.alignment is not None
    assert report.alignment.fits
    assert report.scale.zoom == ZOOM


def test_train_and_val_lie_a_pair_apart(drawn: str, ortho: str, tmp_path: Path) -> None:
    for seed in range(2):
        out = tmp_path / str(seed)
        options = dataclasses.replace(OPTIONS, val_fraction=0.2, seed=seed, format="jpeg")
        build(drawn, ortho, out, options)
        for col, row in places(out / "val"):
            for other_col, other_row in places(out / "train"):
                distance = max(abs(col - other_col), abs(row - other_row))
                assert distance - SIZE >= SIZE
    assert places(tmp_path / "0/val") != places(tmp_path / "1/val")


def test_gaps_hold_on_any_lattice() -> None:
    random = np.random.default_rng(5)
    for seed in range(60):
        columns, rows = (int(n) for n in random.integers(2, 30, 2))
        lattice = Lattice(0, 0, columns, rows, 256)
        usable = random.random((columns, rows)) < 0.7
        count = None if seed % 2 else int(random.integers(2, 40))
        parts = choose(
            lattice,
            lambda cell, coming, usable=usable: bool(usable[cell.col, cell.row]),  # type: ignore[misc]
            count=count,
            val_fraction=0.15,
            seed=seed,
        )
        cells: list[Cell] = parts.train + parts.val + parts.gap
        assert len(set(cells)) == len(cells)
        assert all(usable[cell] for cell in cells)
        assert not lattice.around(parts.val) & set(parts.train)
        if count is None:
            assert len(cells) == usable.sum()
        else:
            assert len(parts.train) + len(parts.val) <= count


@pytest.mark.parametrize("count", [4 * 48, 1000])
def test_more_pairs_wanted_than_fit_are_parted_as_all_that_fit(
    drawn: str, ortho: str, whole: Path, tmp_path: Path, count: int
) -> None:
    options = dataclasses.replace(OPTIONS, count=count)
    result = build(drawn, ortho, tmp_path / "set", options)
    for split in ("train", "val"):
        assert places(tmp_path / "set" / split) == places(whole / split)
    assert any(f"of {count} pairs" in text for text in result.warnings)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_validation_is_a_part_of_what_is_usable(share: float) -> None:
    lattice = Lattice(0, 0, 12, 10, 256)
    usable = np.random.default_rng(3).random((12, 10)) < share

    def assess(cell: Cell, coming: object) -> bool:
        return bool(usable[cell])

    every = choose(lattice, assess, count=None, val_fraction=0.1, seed=1)
    for count in (20, 60, 100, 120, 500, 5000):
        parts = choose(lattice, assess, count=count, val_fraction=0.1, seed=1)
        assert len(parts.val) == round(0.1 * min(count, int(usable.sum())))
        assert len(parts.train) + len(parts.val) <= count
        if count > usable.sum():
            assert (parts.train, parts.val) == (every.train, every.val)


def test_the_gap_is_not_told_where_it_was_not_counted(
    drawn: str, ortho: str, tmp_path: Path
) -> None:
    base = ["dataset", "build", "--map", drawn, "--image", ortho, "--size", str(SIZE)]
    assert "left out between" in run(*base, "--out", tmp_path / "all").err
    outcome = run(*base, "--out", tmp_path / "few", "--count", "6")
    assert "5 train and 1 val pairs; skipped" in outcome.err
    outcome = run(*base, "--out", tmp_path / "few", "--count", "6", "--json")
    assert json.loads(outcome.out)["gap"] is None


def test_a_count_reads_no_more_than_it_needs(
    drawn: str, ortho: str, server: TileServer, tmp_path: Path
) -> None:
    template = serve(server, drawn) + "?key=SecretKey0123456789abcdef"
    options = BuildOptions(zoom=ZOOM, size=SIZE, count=6, format="jpeg", map_side="left")
    out = tmp_path / "set"
    result = build(template, ortho, out, options)
    assert (result.train, result.val) == (5, 1)
    assert len(server.log) < ACROSS * DOWN
    assert all(path.suffix == ".jpg" for path in (out / "train").iterdir())
    assert check(out).map_looks == "left"
    text = (out / "dataset.json").read_text()
    assert "SecretKey" not in text
    assert str(tmp_path) not in text


def test_the_image_may_be_in_another_crs(drawn: str, ortho: str, tmp_path: Path) -> None:
    grid = mercator_grid(ZOOM)
    bands = np.moveaxis(image(), -1, 0)
    transform, width, height = calculate_default_transform(
        grid.crs, "EPSG:32618", AREA.width, AREA.height, *grid.bounds(AREA)
    )
    warped = np.zeros((3, height, width), np.uint8)
    reproject(
        bands,
        warped,
        src_transform=grid.transform(AREA),
        src_crs=grid.crs,
        dst_transform=transform,
        dst_crs="EPSG:32618",
    )
    path = write_raster(tmp_path / "utm.tif", warped, transform, "EPSG:32618", nodata=0)
    out = tmp_path / "set"
    west, south, east, north = grid.lonlat_bounds(AREA.grown(-300))
    box = f"{west},{south},{east},{north}"
    outcome = run(
        "dataset", "build", "--map", drawn, "--image", path, "--bbox", box, "--out", out,
        "--size", "256", "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    report = check(out)
    assert report.alignment is not None
    assert report.alignment.fits


def test_an_extract_is_drawn_on_the_fly(tmp_path: Path) -> None:
    pytest.importorskip("osmium")
    pytest.importorskip("shapely")
    from tests.test_draw import COL, HEIGHT, ROW, WIDTH, Osm

    osm = Osm()
    for y in range(20, 200, 40):
        osm.way([(0.0, float(y)), (300.0, float(y))], highway="residential")
    extract = osm.write(tmp_path / "town.osm")
    window = Window(4 * COL, 4 * ROW, 4 * WIDTH, 4 * HEIGHT)
    bands = np.moveaxis(town(window)[1], -1, 0)
    ortho = write_raster(
        tmp_path / "o.tif", bands, mercator_grid(18).transform(window), nodata=None
    )
    result = build(str(extract), str(ortho), tmp_path / "set", BuildOptions(zoom=18, size=256))
    assert result.train > 0
    assert result.val > 0
    assert result.attribution == "© OpenStreetMap contributors"
    assert any("o.tif does not say who" in warning for warning in result.warnings)


class Stopped(BaseException):
    """Like a signal: caught by nothing."""


def test_a_stopped_build_ends_like_an_uninterrupted_one(
    drawn: str, ortho: str, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    for after in (1, 7, 20):

        def stop(done: int, total: int, after: int = after) -> None:
            if done >= after:
                raise Stopped

        with pytest.raises(Stopped):
            build(drawn, ortho, out, OPTIONS, progress=stop)
        assert not (out / "dataset.json").exists()
    with (out / ".build/journal.jsonl").open("a") as journal:
        journal.write('{"square": [3')  # killed while writing
    build(drawn, ortho, out, OPTIONS)
    assert content(out) == content(whole)
    (out / "dataset.json").unlink()  # stopped after moving some of the pairs
    with pytest.raises(OutputError, match="not empty"):
        build(drawn, ortho, out, OPTIONS)


def test_a_killed_build_goes_on(drawn: str, ortho: str, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = ["dataset", "build", "--map", drawn, "--image", ortho, "--out", str(out)]
    options = ["--zoom", str(ZOOM), "--size", str(SIZE), "-q"]
    code = "from maptile2sat.cli import main; main()"
    with subprocess.Popen([sys.executable, "-c", code, *command, *options]) as child:
        journal = out / ".build/journal.jsonl"
        while not journal.exists() and child.poll() is None:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
    assert run(*command, *options).code == 0
    assert content(out) == content(whole)


def test_other_arguments_are_refused_with_the_difference(
    drawn: str, ortho: str, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        raise Stopped

    out = tmp_path / "set"
    with pytest.raises(Stopped):
        build(drawn, ortho, out, OPTIONS, progress=stop)
    for _ in range(2):  # begun, then complete
        with pytest.raises(TrainingError, match=r"other arguments \(seed: 0 != 5\)"):
            build(drawn, ortho, out, BuildOptions(zoom=ZOOM, size=SIZE, seed=5))
        build(drawn, ortho, out, OPTIONS)
    before = content(out)
    assert build(drawn, ortho, out, OPTIONS).train > 0
    assert content(out) == before


def test_a_failing_server_stops_the_build_and_it_goes_on(
    drawn: str, ortho: str, server: TileServer, tmp_path: Path
) -> None:
    template = serve(server, drawn)
    server.answer = lambda path, number: (404, {}, b"") if number > 9 else None
    with pytest.raises(SourceError):
        build(template, ortho, tmp_path / "set", OPTIONS)
    server.answer = None
    assert build(template, ortho, tmp_path / "set", OPTIONS).train > 0
    with pytest.raises(UsageError, match="more than 5 tiles: say a larger --max-tiles"):
        build(template, ortho, tmp_path / "other", OPTIONS, max_tiles=5)
    assert build(template, ortho, tmp_path / "other", OPTIONS).train > 0


def test_two_sources_of_one_server_share_its_connections(tmp_path: Path) -> None:
    def slow(to: socket.socket, body: bytes) -> bool:
        time.sleep(0.05)
        return answer(to, "200 OK", body)

    area = BBox(*mercator_grid(ZOOM).lonlat_bounds(AREA))
    seen = dataclasses.replace(drawn_tiles(), picture=lambda window: town(window)[1])
    with serving(seen, choose=lambda path, number: slow) as server:
        photos = server.template.replace("/{z}", "/photos/{z}")
        options = BuildOptions(zoom=ZOOM, bbox=area, size=4 * TILE, val_fraction=0.0)
        assert build(server.template, photos, tmp_path / "set", options).train > 0
        assert server.most <= 8


def test_another_map_of_the_same_server_is_refused(
    drawn: str, ortho: str, server: TileServer, tmp_path: Path
) -> None:
    """Two maps may differ in nothing but what is hidden of addresses; a new key is no other map."""

    def stop(done: int, total: int) -> None:
        raise Stopped

    template, out = serve(server, drawn), tmp_path / "set"
    begun = out / ".build/arguments.json"
    with pytest.raises(Stopped):
        build(template + "?style=streets&key=first-secret", ortho, out, OPTIONS, progress=stop)
    with pytest.raises(TrainingError, match="built with other arguments") as refused:
        build(template + "?style=night&key=first-secret", ortho, out, OPTIONS)
    for text in (str(refused.value), begun.read_text()):
        assert not any(word in text for word in ("streets", "night", "secret"))
    with pytest.raises(Stopped):
        build(template + "?style=streets&key=next-secret", ortho, out, OPTIONS, progress=stop)
    before = json.loads(begun.read_text())
    del before["map"]["mark"]  # as an older version began it
    begun.write_text(json.dumps(before))
    assert build(template + "?style=streets&key=third", ortho, out, OPTIONS).train > 0


def test_addresses_of_this_machine_are_its_files(
    drawn: str, ortho: str, whole: Path, tmp_path: Path
) -> None:
    made = build(Path(drawn).as_uri(), f" {Path(ortho).as_uri()} ", whole, OPTIONS)
    assert made.train > 0
    other = tmp_path / Path(ortho).name
    other.write_bytes(Path(ortho).read_bytes() + b"longer")
    with pytest.raises(TrainingError, match="built with other arguments"):
        build(drawn, other.as_uri(), whole, OPTIONS)


def test_squares_with_error_pictures_are_read_again(
    drawn: str, ortho: str, whole: Path, server: TileServer, tmp_path: Path
) -> None:
    """Three come early, the one by which they are known as such late."""
    sorry = np.full((TILE, TILE, 3), 240, np.uint8)
    sorry[100:110, 40:90] = 20
    template = serve(server, drawn)
    first = set[str]()

    def answer(path: str, number: int) -> tuple[int, dict[str, str], bytes] | None:
        if len(first) < 3:
            first.add(path)
        return (200, {}, encode(sorry)) if path in first or number > 30 else None

    server.answer = answer
    out = tmp_path / "set"
    with pytest.raises(ErrorPictureError):
        build(template, ortho, out, OPTIONS)
    kept = len((out / ".build/journal.jsonl").read_text().splitlines())
    assert 10 < kept < 30
    server.answer = None
    judged: list[int] = []
    build(template, ortho, out, OPTIONS, progress=lambda done, total: judged.append(done))
    assert judged[0] == kept + 1
    for split in ("train", "val"):
        assert content(out / split) == content(whole / split)


def test_a_request_that_fails_before_it_reads_leaves_the_folder_free(
    drawn: str, ortho: str, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    right = {"--map": drawn, "--image": ortho, "--size": "256", "--bbox": None}
    for wrong in (
        {"--map": str(tmp_path / "nosuch.tif")},
        {"--image": str(tmp_path / "nosuch.tif")},
        {"--size": "2048"},
        {"--bbox": "24.9,60.1,24.95,60.15"},
    ):
        asked = {name: value for name, value in {**right, **wrong}.items() if value}
        words = [word for option in asked.items() for word in option]
        assert run("dataset", "build", *words, "--out", out).code in (1, 2)
        assert not out.exists()
    assert build(drawn, ortho, out, OPTIONS).train > 0


def test_impossible_requests_are_one_line(drawn: str, ortho: str, tmp_path: Path) -> None:
    base = ["dataset", "build", "--map", drawn, "--image", ortho, "--size", "256"]
    cases = {
        "covers": ["--bbox", "24.9,60.1,24.95,60.15"],
        "no room for two pairs": ["--bbox", "-73.96,40.74,-73.9599,40.7401"],
        "not a box": ["--bbox", "1,2,3"],
        "in 256..4096": ["--size", "9999"],
    }
    for number, (words, more) in enumerate(cases.items()):
        outcome = run(*base, "--out", tmp_path / str(number), *more)
        assert outcome.code == 2
        assert words in outcome.err
        assert outcome.err.count("\n") == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("")
    outcome = run(*base, "--out", tmp_path / "mine")
    assert (outcome.code, (tmp_path / "mine/file").exists()) == (1, True)
    said = {"kind": "fetched"}
    (tmp_path / "mine/dataset.json").write_text(json.dumps(said))
    assert "was not built here" in run(*base, "--out", tmp_path / "mine").err


@pytest.mark.parametrize("name", ["~nobodyhere/x.tif", "a" * 300 + ".tif"])
@pytest.mark.parametrize("half", ["--map", "--image"])
def test_sources_that_cannot_be_are_one_line(
    drawn: str, ortho: str, tmp_path: Path, name: str, half: str
) -> None:
    sources = {"--map": drawn, "--image": ortho, half: name}
    words = [word for source in sources.items() for word in source]
    outcome = run("dataset", "build", *words, "--size", "256", "--out", tmp_path / "set")
    assert outcome.code == 1
    assert outcome.err.startswith("error: ")
    assert name[:90] in outcome.err
    assert outcome.err.count("\n") == 1


def test_uniform_pairs_can_be_kept(drawn: str, ortho: str, tmp_path: Path) -> None:
    options = BuildOptions(zoom=ZOOM, size=SIZE, keep_uniform=True, val_fraction=0.0, format="jpeg")
    result = build(drawn, ortho, tmp_path / "set", options)
    assert result.skipped == {"cloud": 1, "empty": 1}
    assert (result.train, result.val) == (ACROSS * DOWN - 2, 0)
    assert any(text.startswith("no pairs are held out") for text in result.warnings)
