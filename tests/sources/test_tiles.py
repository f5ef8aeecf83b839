"""Tiles: transparency, sizes, repeats, the way around the world, damage."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maptile2sat.errors import SourceError
from maptile2sat.geo.grid import TILE, BBox, Window, mercator_grid
from maptile2sat.sources import SourceOptions, open_source
from maptile2sat.sources.tiles import Decoder, show_zooms, span_of_bounds, span_of_tiles
from tests.conftest import (
    TileMap,
    TileServer,
    encode,
    pattern,
    write_folder,
    write_mbtiles,
    write_pmtiles,
)
from tests.support_render import read_back, run_cli, tiny_bundle

FILL = (200, 100, 50)


def _folder(root: Path, zoom: int, pictures: dict[tuple[int, int], np.ndarray], end: str) -> str:
    for (x, y), pixels in pictures.items():
        path = root / str(zoom) / str(x) / f"{y}{end}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(pixels))
    return str(root) + "/{z}/{x}/{y}" + end


def test_transparency_is_laid_over_the_fill_or_masks(tmp_path: Path) -> None:
    pixels = np.full((TILE, TILE, 4), 90, np.uint8)
    pixels[..., 3] = np.arange(TILE)[None, :]
    where = _folder(tmp_path, 3, {(2, 5): pixels}, ".png")
    read = open_source(where, SourceOptions(fill=FILL)).read(Window(512, 1280, TILE, 1))
    assert read.mask[0].tolist() == [0] * 128 + [255] * 128
    assert not read.image[0, :128].any()
    for alpha in (128, 180, 255):
        expected = [(90 * alpha + part * (255 - alpha) + 127) // 255 for part in FILL]
        assert read.image[0, alpha].tolist() == expected


@pytest.mark.parametrize("mode", ["P", "L", "LA", "1", "CMYK", "transparent palette"])
def test_pictures_of_all_kinds(mode: str) -> None:
    picture = Image.fromarray(pattern(Window(0, 0, TILE, TILE)))
    keep: dict[str, int] = {}
    if mode == "transparent palette":
        picture = picture.quantize(7)
        keep["transparency"] = 3
    else:
        picture = picture.convert(mode)
    out = io.BytesIO()
    picture.save(out, "JPEG" if mode == "CMYK" else "PNG", **keep)
    read = Decoder(TILE, False, FILL).decode(out.getvalue(), "3/2/1")
    expected = np.asarray(Image.open(out).convert("RGBA"))
    np.testing.assert_array_equal(read.mask, expected[..., 3])
    valid = read.mask == 255
    np.testing.assert_array_equal(read.image[valid], expected[..., :3][valid])
    assert valid.mean() > 0.5


def test_large_tiles_are_the_grid_of_the_next_zoom(tmp_path: Path) -> None:
    pixels = pattern(Window(2 * 512, 5 * 512, 512, 512))
    root = _folder(tmp_path / "big", 3, {(2, 5): pixels}, ".png").split("/{")[0]
    whole = Window(2 * 512, 5 * 512, 512, 512)
    source = open_source(root)
    assert source.info.grid.zoom == 4
    assert source.info.extent == whole
    assert source.info.tile_side == 512
    np.testing.assert_array_equal(source.read(whole).image, pixels)
    window = Window(1100, 2700, 77, 300)
    np.testing.assert_array_equal(source.read(window).image, pattern(window))
    assert open_source(root, SourceOptions(zoom=4)).info.grid.zoom == 4
    with pytest.raises(SourceError, match=r"zoom 3 is not in the source .*it has 4\)"):
        open_source(root, SourceOptions(zoom=3))


def test_retina_tiles_are_averaged(tmp_path: Path) -> None:
    pixels = pattern(Window(0, 0, 512, 512))
    where = _folder(tmp_path, 3, {(2, 5): pixels}, "@2x.png")
    source = open_source(where)
    assert source.info.grid.zoom == 3
    read = source.read(Window(512, 1280, TILE, TILE))
    blocks = pixels.astype(float).reshape(TILE, 2, TILE, 2, 3).mean(axis=(1, 3))
    assert np.abs(read.image - blocks).max() <= 0.5


def test_retina_tiles_of_512_px(server: TileServer) -> None:
    """Pictures of 1,024 px: four tiles of the next zoom, each pixel a mean of four."""
    pixels = pattern(Window(0, 0, 1024, 1024))
    means = pixels.astype(float).reshape(512, 2, 512, 2, 3).mean(axis=(1, 3))
    for place, size in (("/3/2/5@2x.png", 512), ("/512/3/2/5@2x.png", None)):
        server.pages[place] = encode(pixels)
        template = server.url + place.replace("3/2/5", "{z}/{x}/{y}")
        with closing(open_source(template, SourceOptions(zoom=4, tile_size=size))) as source:
            read = source.read(Window(2 * 512, 5 * 512, 512, 512))
        assert np.abs(read.image - means).max() <= 0.5
    with (
        closing(open_source(server.url + "/{z}/{x}/{y}@2x.png", SourceOptions(zoom=3))) as source,
        pytest.raises(SourceError, match=r"1024x1024 px, not 256x256: pass --tile-size 512"),
    ):
        source.read(Window(512, 1280, 9, 9))


def test_a_server_whose_tiles_are_larger_than_said(server: TileServer, tmp_path: Path) -> None:
    pixels = pattern(Window(2 * 512, 5 * 512, 512, 512))
    server.pages["/3/2/5.png"] = encode(pixels)
    template = server.url + "/{z}/{x}/{y}.png"
    with pytest.raises(SourceError, match=r"512x512 px, not 256x256: pass --tile-size 512"):
        open_source(template, SourceOptions(zoom=3)).read(Window(512, 1280, 9, 9))
    source = open_source(template, SourceOptions(zoom=4, tile_size=512))
    window = Window(1100, 2700, 77, 300)
    np.testing.assert_array_equal(source.read(window).image, pattern(window))


def test_sizes_are_checked_before_decoding() -> None:
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "PNG")
    data = bomb.getvalue()[:400]  # the pixels are not even there
    with pytest.raises(SourceError, match="tile 3/2/1 is 9000x9000 px"):
        Decoder(TILE, False, FILL).decode(data, "3/2/1")
    with pytest.raises(SourceError, match="bytes: that is not a map tile"):
        Decoder(TILE, False, FILL).decode(bytes(17 << 20), "3/2/1")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>Sorry", "HTML page"),
        (b"\n<html><body>", "HTML page"),
        (b"<?xml version='1.0'?><Error/>", "XML text"),
        (b'{"error": "quota"}', "JSON text"),
        (b"\x1f\x8b\x08\x00", "vector tile"),
        (b"what", "something else"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, what: str) -> None:
    with pytest.raises(SourceError, match=what):
        Decoder(TILE, False, FILL).decode(data, "3/2/1")


def test_16_bit_tiles_are_refused() -> None:
    deep = io.BytesIO()
    Image.fromarray(np.full((TILE, TILE), 999, np.uint16)).save(deep, "PNG")
    with pytest.raises(SourceError, match="only 8 bits"):
        Decoder(TILE, False, FILL).decode(deep.getvalue(), "3/2/1")


SOUND = {
    kind: encode(pattern(Window(0, 0, TILE, TILE)), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF")
}


@given(
    kind=st.sampled_from(sorted(SOUND)),
    end=st.integers(0, 3000),
    changes=st.lists(st.tuples(st.integers(0, 2999), st.integers(0, 255)), max_size=6),
    cut=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_damaged_pictures_are_errors_or_pixels(
    kind: str, end: int, changes: list[tuple[int, int]], cut: bool
) -> None:
    data = bytearray(SOUND[kind])
    for place, value in changes:
        data[place % len(data)] = value
    damaged = bytes(data[:end] if cut else data)
    with contextlib.suppress(SourceError):
        read = Decoder(TILE, False, FILL).decode(damaged, "3/2/1")
        assert read.image.shape == (TILE, TILE, 3)


def _text_tile(_: Window) -> np.ndarray:
    sorry = np.full((TILE, TILE, 3), 240, np.uint8)
    sorry[100:110, 40:90] = 20
    return sorry


def _hatched(window: Window) -> np.ndarray:
    cols, rows = np.meshgrid(np.arange(window.width), np.arange(window.height))
    return np.repeat(((cols + rows) % 32 < 16)[..., None], 3, axis=2).astype(np.uint8) * 60


def test_one_picture_at_many_places_is_an_error_picture(tmp_path: Path) -> None:
    block = TileMap.block(13, 4661, 2371, 3, 2)
    sorry = dataclasses.replace(block, picture=_text_tile)
    path = write_mbtiles(tmp_path / "sorry.mbtiles", sorry)
    with pytest.raises(SourceError, match=r"the same picture at [4-6] places \(such as 13/466"):
        open_source(path).read(sorry.extent)
    allowed = open_source(path, SourceOptions(max_repeats=0))
    assert allowed.read(sorry.extent).mask.all()
    few = dataclasses.replace(sorry, tiles=sorry.tiles[:3])
    assert open_source(write_mbtiles(tmp_path / "few.mbtiles", few)).read(few.extent).mask.any()


def test_a_map_that_repeats_is_rendered_when_asked(tmp_path: Path) -> None:
    block = TileMap.block(16, 37_307, 18_966, 2, 2)
    path = write_mbtiles(tmp_path / "map.mbtiles", dataclasses.replace(block, picture=_text_tile))
    words = ("render", path, "-o", tmp_path / "out.tif", "-m", tiny_bundle())
    refused = run_cli(*words)
    assert refused.code == 1
    assert "if it is map, pass --allow-repeats" in refused.err
    done = run_cli(*words, "--allow-repeats")
    assert done.code == 0, done.err
    assert (read_back(tmp_path / "out.tif").mask == 255).all()


def test_pairs_of_a_map_that_repeats(tmp_path: Path) -> None:
    block = TileMap.block(16, 37_307, 18_966, 6, 4)
    path = write_mbtiles(tmp_path / "map.mbtiles", dataclasses.replace(block, picture=_text_tile))
    photo = write_mbtiles(tmp_path / "photo.mbtiles", block)
    words = [
        *("dataset", "build", "--map", path, "--image", photo, "--out", tmp_path / "pairs"),
        *("--count", "4", "--size", "256", "--val-fraction", "0.25", "--keep-uniform"),
    ]
    refused = run_cli(*words)
    assert refused.code == 1
    assert "pass --allow-repeats" in refused.err
    done = run_cli(*words, "--allow-repeats")
    assert done.code == 0, done.err
    assert list((tmp_path / "pairs" / "train").iterdir())


def _wooded(period: int) -> Callable[[Window], np.ndarray]:
    """Return tiles of a wood whose trees stand in a pattern of that many pixels."""
    ground = np.full((period, period, 3), (173, 209, 158), np.uint8)
    steps = np.random.default_rng(period).integers(0, 22, (period // 32, period // 32, 2))
    for (row, col), (down, right) in zip(
        np.ndindex(steps.shape[:2]), steps.reshape(-1, 2), strict=True
    ):
        top, left = 32 * row + down, 32 * col + right
        ground[top : top + 10, left + 4 : left + 6] = (107, 141, 94)
        ground[top + 2, left : left + 10] = (140, 175, 126)

    def picture(window: Window) -> np.ndarray:
        rows, cols = window.row % period, window.col % period
        return ground[rows : rows + TILE, cols : cols + TILE]

    return picture


@pytest.mark.parametrize("period", [TILE, 2 * TILE])
def test_woods_in_a_pattern_as_large_as_a_tile_may_repeat(period: int, tmp_path: Path) -> None:
    block = TileMap.block(13, 4661, 2371, 6, 6)
    woods = dataclasses.replace(block, picture=_wooded(period))
    source = open_source(write_mbtiles(tmp_path / "woods.mbtiles", woods))
    assert source.read(woods.extent).mask.all()


@pytest.mark.parametrize("picture", [_hatched, lambda w: np.full((TILE, TILE, 3), 200, np.uint8)])
def test_sea_and_hatching_may_repeat(picture: object, tmp_path: Path) -> None:
    block = TileMap.block(13, 4661, 2371, 3, 2)
    plain = dataclasses.replace(block, picture=picture)
    source = open_source(write_folder(tmp_path, plain))
    assert source.read(plain.extent).mask.all()


@pytest.mark.parametrize("kind", ["mbtiles", "folder", "http"])
def test_around_the_world(kind: str, tmp_path: Path, server: TileServer) -> None:
    zoom, side = 4, 16
    world = TileMap(zoom, tuple((x, y) for x in (0, 1, side - 1) for y in (6, 7)))
    if kind == "mbtiles":
        where = str(write_mbtiles(tmp_path / "map.mbtiles", world))
    elif kind == "folder":
        where = str(write_folder(tmp_path / "tiles", world))
    else:
        where = server.serve(world)
    source = open_source(where, SourceOptions(zoom=zoom, missing="mask"))
    turn = side * TILE
    if kind != "http":
        assert source.info.extent == Window((side - 1) * TILE, 6 * TILE, 3 * TILE, 2 * TILE)
    window = source.info.grid.window(BBox(170.0, -5.0, -160.0, 25.0))
    assert window.col < turn < window.right
    for shift in (-turn, 0, turn):
        read = source.read(window.shifted(shift, 0))
        for column in range(0, window.width, 37):
            source_column = (window.col + column) % turn
            image, mask = world.read(Window(source_column, window.row, 1, window.height))
            np.testing.assert_array_equal(read.image[:, column], image[:, 0])
            np.testing.assert_array_equal(read.mask[:, column], mask[:, 0])
    twice = source.read(Window(0, 7 * TILE, 2 * turn, 1))
    np.testing.assert_array_equal(twice.image[:, :turn], twice.image[:, turn:])


def test_above_and_below_the_world_there_is_nothing(server: TileServer) -> None:
    world = TileMap.block(0, 0, 0, 1, 1)
    source = open_source(server.serve(world), SourceOptions(zoom=0))
    read = source.read(Window(-3, -10, 9, 20))
    assert not read.mask[:10].any()
    assert read.mask[10:].all()
    assert len(server.log) == 1
    assert not source.read(Window(0, 256, 9, 9)).mask.any()


def test_zooms_are_chosen_and_explained(
    full_map: TileMap, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_mbtiles(tmp_path / "map.mbtiles", full_map)
    with pytest.raises(SourceError, match=r"zoom 18 is not in the source .*\(it has 13\)"):
        open_source(path, SourceOptions(zoom=18))
    with caplog.at_level(logging.WARNING):
        assert open_source(path, SourceOptions(default_zoom=16)).info.grid.zoom == 13
    assert "no zoom 16 (it has 13): using 13" in caplog.text
    with pytest.raises(SourceError, match="pass --zoom"):
        open_source("https://tiles.example.com/{z}/{x}/{y}.png")
    assert show_zooms([3, 5, 10, 11, 12]) == "3, 5, 10-12"
    assert show_zooms(range(17)) == "0-16"


def test_prefetched_tiles_are_not_loaded_again(full_map: TileMap, server: TileServer) -> None:
    source = open_source(server.serve(full_map), SourceOptions(zoom=13))
    source.prefetch(full_map.extent)
    image = source.read(full_map.extent).image
    np.testing.assert_array_equal(image, full_map.read(full_map.extent)[0])
    source.read(full_map.extent)
    assert sorted(server.log) == sorted(set(server.log))
    assert len(server.log) == len(full_map.tiles)
    source.close()


def test_a_failed_tile_is_tried_again_by_the_next_read(
    full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    source = open_source(server.serve(full_map), quick)
    window = Window(*full_map.extent[:2], 9, 9)
    server.answer = lambda path, number: (404, {}, b"")
    with pytest.raises(SourceError):
        source.read(window)
    server.answer = None
    assert source.read(window).mask.all()
    source.close()


def test_attribution_is_plain_text(full_map: TileMap, tmp_path: Path) -> None:
    path = write_mbtiles(
        tmp_path / "map.mbtiles",
        full_map,
        attribution='<a href="https://x.example/">&copy;  OSM</a>\ncontributors',
        extra={"style": "osm"},
    )
    info = open_source(path).info
    assert info.attribution == "© OSM contributors"
    assert info.style == "osm"
    assert open_source(write_pmtiles(tmp_path / "map.pmtiles", full_map)).info.attribution == (
        "© test"
    )


def test_attribution_holds_nothing_that_cannot_be_written(
    full_map: TileMap, tmp_path: Path
) -> None:
    """Half of a UTF-16 pair, which JSON may hold, is no text; a terminal would obey the other."""
    said = json.dumps({"attribution": "x \ud800 \x1b[31m& \N{EARTH GLOBE EUROPE-AFRICA} y"})
    folder = write_folder(tmp_path / "tiles", full_map)
    (folder / "metadata.json").write_text(said)
    about = {**json.loads(said), "tiles": [f"{folder}/{{z}}/{{x}}/{{y}}.png"]}
    (tmp_path / "map.json").write_text(json.dumps(about))
    for path in (folder, tmp_path / "map.json"):
        source = open_source(path)
        assert source.info.attribution == "x [31m& \N{EARTH GLOBE EUROPE-AFRICA} y"
        source.close()


@given(
    zoom=st.integers(0, 18),
    where=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4),
    noise=st.floats(-1e-7, 1e-7),
)
def test_rounded_bounds_of_tiles_stay_their_bounds(
    zoom: int, where: tuple[float, ...], noise: float
) -> None:
    side = 1 << zoom
    (x0, x1), (y0, y1) = (sorted(int(part * side) for part in where[i::2]) for i in (0, 1))
    span = Window(x0, y0, x1 + 1 - x0, y1 + 1 - y0)
    bounds = mercator_grid(zoom).lonlat_bounds(Window(*(value * TILE for value in span)))
    rounded = BBox(*(round(value + noise, 7) for value in bounds))
    assert span_of_bounds(rounded, zoom) == span


def test_spans_of_tiles() -> None:
    assert span_of_tiles([5, 3, 9], (2, 4), 6) == Window(3, 2, 7, 3)
    assert span_of_tiles([0, 1, 62, 63], (2, 2), 6) == Window(62, 2, 4, 1)
    assert span_of_tiles(range(64), (0, 63), 6) == Window(0, 0, 64, 64)
    assert span_of_tiles([7], (0, 0), 6) == Window(7, 0, 1, 1)
    assert span_of_bounds(BBox(170, -10, -170, 10), 6) == Window(62, 30, 4, 4)
    assert span_of_bounds(BBox(0, 0, 0, 0), 6) == Window(0, 0, 64, 64)
    assert span_of_bounds(BBox(-180, -90, 180, 90), 6) == Window(0, 0, 64, 64)
