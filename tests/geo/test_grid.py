"""Pixel grids: there and back, rounding, the way around the world."""

from __future__ import annotations

import math
from itertools import pairwise

import mercantile
import numpy as np
import pytest
from affine import Affine
from hypothesis import assume, given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import transform

from maptile2sat.errors import UsageError
from maptile2sat.geo.crs import HALF_WORLD, WGS84
from maptile2sat.geo.grid import TILE, BBox, Grid, Window, mercator_grid, parse_bbox, raster_grid

ZOOMS = st.integers(0, 22)
SHARES = st.floats(0, 1, exclude_max=True)
WINDOWS = st.builds(
    Window, st.integers(-900, 900), st.integers(-900, 900), st.integers(0, 500), st.integers(0, 500)
)


@st.composite
def world_windows(draw: st.DrawFn) -> tuple[int, Window]:
    """A zoom and a window inside its world."""
    zoom = draw(ZOOMS)
    side = TILE << zoom
    col, row = int(draw(SHARES) * side), int(draw(SHARES) * side)
    width = draw(st.integers(1, min(4000, side - col)))
    height = draw(st.integers(1, min(4000, side - row)))
    return zoom, Window(col, row, width, height)


@given(world_windows())
def test_windows_survive_degrees_and_metres(case: tuple[int, Window]) -> None:
    zoom, window = case
    grid = mercator_grid(zoom)
    assert grid.window(grid.lonlat_bounds(window)) == window
    assert grid.window(grid.bounds(window), grid.crs) == window


@given(ZOOMS, SHARES, SHARES)
def test_tiles_lie_where_mercantile_has_them(zoom: int, u: float, v: float) -> None:
    side = 1 << zoom
    x, y = int(u * side), int(v * side)
    bounds = mercator_grid(zoom).lonlat_bounds(Window(x * TILE, y * TILE, TILE, TILE))
    assert bounds == pytest.approx(mercantile.bounds(x, y, zoom), abs=1e-9)


@given(world_windows(), st.tuples(*[st.floats(0.01, 0.99)] * 4))
def test_windows_round_outward(case: tuple[int, Window], parts: tuple[float, ...]) -> None:
    zoom, window = case
    grid = mercator_grid(zoom)
    left, top, right, bottom = parts
    at = grid.transform(window)
    west, north = at @ (left, top)
    east, south = at @ (window.width - right, window.height - bottom)
    assume(west < east and south < north)
    assert grid.window(BBox(west, south, east, north), grid.crs) == window


def test_a_thousandth_of_a_pixel_does_not_count() -> None:
    grid = mercator_grid(10)
    window = Window(5000, 6000, 20, 30)
    size = grid.affine.a
    west, south, east, north = grid.bounds(window)
    near = BBox(
        west - 0.0009 * size, south - 0.0009 * size, east + 0.0009 * size, north + 0.0009 * size
    )
    assert grid.window(near, grid.crs) == window
    over = BBox(west - 0.002 * size, south, east, north + 0.002 * size)
    assert grid.window(over, grid.crs) == Window(4999, 5999, 21, 31)
    point = BBox(west, north - 1e-6, west + 1e-6, north)
    assert grid.window(point, grid.crs)[2:] == (1, 1)


def test_across_180_degrees_columns_go_on() -> None:
    grid = mercator_grid(8)
    window = grid.window(BBox(170, -10, -170, 10))
    side = TILE << 8
    assert window.col < side < window.right
    assert window.width == math.ceil(side * 20 / 360) + 1
    assert grid.lonlat_bounds(window).east > 180


@given(
    extent=st.tuples(st.integers(-70000, 70000), st.integers(1, 65536)),
    wanted=st.tuples(st.integers(-200000, 200000), st.integers(1, 150000)),
)
def test_pieces_cover_each_column_that_is_there_once(
    extent: tuple[int, int], wanted: tuple[int, int]
) -> None:
    grid = mercator_grid(8)
    side = grid.wrap or 0
    have, want = Window(extent[0], 0, extent[1], 9), Window(wanted[0], 3, wanted[1], 99)
    covered: list[tuple[int, int]] = []
    for part, place in grid.pieces(want, have):
        assert have.contains(part)
        assert want.contains(place)
        assert (part.col - place.col) % side == 0
        assert part[1:] == (3, part.width, 6) == place[1:]
        covered.append((place.col, place.right))
    covered.sort()
    assert all(before[1] <= after[0] for before, after in pairwise(covered))
    columns = sum(end - start for start, end in covered)
    turns, rest = divmod(want.width, side)
    expected = turns * have.width + sum(
        max(
            0,
            min(want.col + rest, have.right + turn * side) - max(want.col, have.col + turn * side),
        )
        for turn in range(-8, 9)
    )
    assert columns == expected


@given(WINDOWS, WINDOWS)
def test_intersections(one: Window, two: Window) -> None:
    both = one.intersection(two)
    assert both[2:] == two.intersection(one)[2:]
    if not both.empty:
        assert one.contains(both)
        assert two.contains(both)
        rows, cols = both.slices(one)
        assert (rows.stop - rows.start, cols.stop - cols.start) == (both.height, both.width)
        assert one.col + cols.start == both.col


@given(world_windows())
def test_mercator_rasters_are_on_their_zooms_grid(case: tuple[int, Window]) -> None:
    zoom, window = case
    grid = mercator_grid(zoom)
    found, extent = raster_grid(grid.crs, grid.transform(window), window.width, window.height)
    assert found == grid
    assert extent == window
    written = Affine(*(float(f"{value:.15g}") for value in grid.transform(window)[:6]))
    assert raster_grid(grid.crs, written, window.width, window.height) == (grid, window)


@pytest.mark.parametrize(
    "change",
    [Affine.translation(0.01, 0), Affine.scale(1.0001), Affine.rotation(1), Affine.scale(1, -1)],
)
def test_rasters_near_a_zoom_are_not_on_its_grid(change: Affine) -> None:
    grid = mercator_grid(12)
    at = grid.transform(Window(5000, 6000, 100, 100)) @ change
    found, extent = raster_grid(grid.crs, at, 100, 100)
    assert found.zoom is None
    assert found.transform(extent).almost_equals(at, 1e-9)


@given(
    size=st.floats(0.01, 1000),
    origin=st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)),
    crop=st.tuples(st.integers(0, 5000), st.integers(0, 5000)),
)
def test_crops_of_one_raster_agree(
    size: float, origin: tuple[float, float], crop: tuple[int, int]
) -> None:
    crs = CRS.from_epsg(2154)
    at = Affine(size, 0, origin[0], 0, -size, origin[1])
    assume(all(abs(abs(value) / size % 1 - 0.5) > 0.01 for value in origin))
    whole, extent = raster_grid(crs, at, 9000, 9000)
    part, inside = raster_grid(crs, at @ Affine.translation(*crop), 10, 10)
    assert (inside.col - extent.col, inside.row - extent.row) == crop
    assert part.transform(inside).almost_equals(at @ Affine.translation(*crop), 1e-6)
    assert whole.window(whole.bounds(Window(7, 8, 9, 10)), crs) == Window(7, 8, 9, 10)


@given(st.integers(-(10**7), 10**7), st.integers(0, 5000), st.sampled_from([0.5, 1, 2, 0.1, 30]))
def test_crops_agree_if_the_origin_is_half_a_pixel_off(start: int, crop: int, size: float) -> None:
    crs = CRS.from_epsg(2154)
    at = Affine(size, 0, (start + 0.5) * size, 0, -size, (start + 0.5) * size)
    _, extent = raster_grid(crs, at, 9000, 9000)
    _, inside = raster_grid(crs, at @ Affine.translation(crop, crop), 10, 10)
    assert (inside.col - extent.col, inside.row - extent.row) == (crop, crop)


def test_ground_size_of_pixels() -> None:
    grid = mercator_grid(16)
    across, down = grid.metres_per_pixel(grid.window(BBox(24.93, 60.16, 24.95, 60.17)))
    expected = 2 * HALF_WORLD / (TILE << 16) * math.cos(math.radians(60.165))
    assert across == pytest.approx(expected, rel=1e-3)
    assert down == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "24.9,60.1,25,60.2",
        "24.9 60.1 25 60.2",
        " [24.9, 60.1, 25.0, 60.2] ",
        "(24.9,60.1, 25 60.2)",
    ],
)
def test_boxes_are_read(text: str) -> None:
    assert parse_bbox(text) == BBox(24.9, 60.1, 25.0, 60.2)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1,2,3,nan", "1,2,inf,4"])
def test_what_is_no_box(text: str) -> None:
    with pytest.raises(UsageError, match=r"not a box: give four numbers .*--bbox west,south"):
        parse_bbox(text)


@given(st.text(max_size=30))
def test_any_text_is_a_box_or_a_usage_error(text: str) -> None:
    try:
        box = parse_bbox(text)
    except UsageError:
        return
    assert all(math.isfinite(value) for value in box)


@pytest.mark.parametrize(
    ("box", "match"),
    [
        (BBox(24, 61, 25, 60), "no area"),
        (BBox(24, 60, 24, 61), "no area"),
        (BBox(2_700_000, 8_400_000, 2_700_100, 8_400_100), "not in degrees"),
        (BBox(24, 60, 25, 86), "beyond web mercator"),
        (BBox(-200, 60, 200, 61), "wider than the world"),
    ],
)
def test_impossible_boxes(box: BBox, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        mercator_grid(10).window(box)


def test_impossible_zooms() -> None:
    for zoom in (-1, 31):
        with pytest.raises(UsageError, match=r"not in 0\.\.30"):
            mercator_grid(zoom)


@pytest.mark.parametrize(
    ("crs", "box"),
    [
        ("EPSG:25832", BBox(6.1, 47.3, 14.9, 55.1)),
        ("EPSG:3035", BBox(-5, 42, 8.3, 51)),
        ("EPSG:2154", BBox(-4.8, 42.3, 8.2, 51)),
    ],
)
def test_no_sliver_is_lost_where_edges_bend(crs: str, box: BBox) -> None:
    """Parallels are curves in other CRSs, and so are the edges of those in web mercator."""
    grid = Grid(CRS.from_user_input(crs), Affine(2.0, 0, 0, 0, -2.0, 0))
    window = grid.window(box)
    part = np.linspace(0, 1, 100_001)
    lons, lats = box.west + part * (box.east - box.west), box.south + part * (box.north - box.south)
    for xs, ys in ((lons, box.south), (lons, box.north), (box.west, lats), (box.east, lats)):
        there = transform(WGS84, grid.crs, *np.broadcast_arrays(xs, ys))
        cols, rows = ~grid.affine @ tuple(np.array(value) for value in there)
        assert window.col <= cols.min() + 0.01
        assert window.row <= rows.min() + 0.01
        assert cols.max() - 0.01 <= window.right
        assert rows.max() - 0.01 <= window.bottom
    zoom = mercator_grid(16)
    needed = zoom.window(grid.bounds(window), grid.crs)
    row = np.arange(0, window.width, 7) + 0.5
    for line in (0.0, window.height):
        xs, ys = grid.transform(window) @ (row, np.full_like(row, line))
        places = transform(grid.crs, zoom.crs, xs, ys)
        rows = (~zoom.affine @ tuple(np.array(value) for value in places))[1]
        assert needed.row <= rows.min() + 0.01
        assert rows.max() - 0.01 <= needed.bottom


def test_degrees_of_a_window_across_180_go_on() -> None:
    grid = Grid(CRS.from_epsg(32660), Affine(100.0, 0, 0, 0, -100.0, 0))
    window = grid.window(BBox(179.5, -18, -179.5, -17))
    west, south, east, north = grid.lonlat_bounds(window)
    assert (west, east) == pytest.approx((179.5, 180.5), abs=0.05)
    assert (south, north) == pytest.approx((-18, -17), abs=0.05)
