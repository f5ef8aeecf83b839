"""Maps and outputs that hold a pole: nothing of the border tells how far they reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine

import maptile2sat
from maptile2sat.errors import SourceError
from maptile2sat.geo.crs import MAX_LATITUDE, WGS84, parse_crs
from maptile2sat.geo.grid import BBox, Grid, Window, mercator_grid
from maptile2sat.rendering.regrid import (
    Target,
    default_resolution,
    needed_for,
    shrinkage,
    snapped_grid,
)
from maptile2sat.sources import SourceOptions, open_source
from tests.conftest import pattern, write_raster
from tests.rendering.test_regrid import expected, moved
from tests.support_render import tiny_bundle

SOUTH = parse_crs("EPSG:3031")
DEGREES = Grid(WGS84, Affine(0.25, 0, 0, 0, -0.25, 0), wrap=1440)
WORLD = Window(-720, -360, 1440, 720)


def polar_map(folder: Path, west: float = -2e6, north: float = 2e6) -> Path:
    """Write a map of 4000 km around the south pole, pixels of 10 km."""
    at = Affine(1e4, 0, west, 0, -1e4, north)
    bands = np.moveaxis(pattern(Window(3, 5, 400, 400)), -1, 0)
    return write_raster(folder / "polar.tif", np.ascontiguousarray(bands), at, "EPSG:3031")


@pytest.mark.parametrize("moved_by", [(0, 0), (50, -150)])
def test_a_box_around_a_pole_goes_all_around(moved_by: tuple[int, int]) -> None:
    grid = snapped_grid(SOUTH, (1e4, 1e4))
    window = Window(-200, -200, 400, 400).shifted(*moved_by)
    west, south, east, north = grid.lonlat_bounds(window)
    assert (west, south, east) == (-180, -90, 180)
    assert -65 < north < -50
    world = mercator_grid(4)
    found = world.window(grid.bounds(window), SOUTH)
    assert (found.col, found.width, found.bottom) == (0, 4096, 4096)
    degrees = DEGREES.window(grid.bounds(window), SOUTH)
    assert (degrees.col, degrees.width, degrees.bottom) == (-720, 1440, 360)


def test_a_box_beside_a_pole_does_not() -> None:
    grid = snapped_grid(SOUTH, (1e4, 1e4))
    west, south, east, north = grid.lonlat_bounds(Window(1, -200, 200, 199))
    assert -1 < west < 1
    assert 89 < east < 91
    assert -90 < south < -89.8
    assert -65 < north < -63


def test_pixels_at_a_pole_are_square(tmp_path: Path) -> None:
    path = polar_map(tmp_path)
    source = open_source(path)
    across, down = source.info.grid.metres_per_pixel(source.info.extent)
    assert across == pytest.approx(down, rel=1e-3)
    assert across == pytest.approx(1e4, rel=0.05)
    planned = maptile2sat.plan(path, model=str(tiny_bundle()))
    assert (planned.width, planned.height) == (400, 400)


def test_a_polar_map_on_a_zoom_is_whole(tmp_path: Path) -> None:
    path = polar_map(tmp_path)
    source = open_source(path, SourceOptions(zoom=4))
    extent = source.info.extent
    assert (extent.col, extent.width, extent.bottom) == (0, 4096, 4096)
    for lon in (-170, -80, 5, 100, 179):
        window = source.info.grid.window(BBox(lon, -80, lon + 1, -75))
        assert source.read(window).mask.all()
    planned = maptile2sat.plan(path, model=str(tiny_bundle()), bbox="0,-80,40,-75", zoom=4)
    assert planned.width == 456


@pytest.mark.parametrize(("west", "north"), [(-2e6, 2e6), (-1.5e6, 2.5e6)])
def test_a_polar_map_in_degrees_is_whole(west: float, north: float, tmp_path: Path) -> None:
    path = polar_map(tmp_path, west, north)
    settings = {"model": str(tiny_bundle()), "dst_crs": "EPSG:4326"}
    for size in (None, 0.2):
        bounds = maptile2sat.plan(path, resolution=size, **settings).bounds
        assert (bounds.west, bounds.east) == pytest.approx((-180, 180), abs=0.6)
        assert bounds.south == pytest.approx(-90, abs=0.6)
    grid = snapped_grid(SOUTH, (1e4, 1e4))
    assert 0.1 < default_resolution(grid, Window(-200, -200, 400, 400), WGS84) < 1


def test_rows_beside_a_pole_are_made(tmp_path: Path) -> None:
    """The middle of the last tiles lies beyond the pole."""
    grid, window = snapped_grid(SOUTH, (1e4, 1e4)), Window(-200, -200, 400, 400)
    degrees = snapped_grid(WGS84, (0.3, 0.3))
    target = Target(degrees, Window(-600, 240, 1200, 60))
    mask = moved(grid, window, target, tmp_path)[1]
    assert mask[:-1].all()


@pytest.mark.parametrize("place", [(-100, -100), (-60, -100), (3, -90)])
@pytest.mark.parametrize(("grid", "world"), [(DEGREES, WORLD), (mercator_grid(1), None)])
def test_an_output_at_a_pole_is_whole(
    place: tuple[int, int], grid: Grid, world: Window | None, tmp_path: Path
) -> None:
    """The pole in the middle, off the middle, and outside."""
    world = world or Window(0, 0, 512, 512)
    target = Target(snapped_grid(parse_crs("EPSG:3413"), (4e4, 4e4)), Window(*place, 160, 160))
    needed = needed_for(target, grid, "nearest", world)
    parts = [part for _, part in grid.pieces(needed, world)]
    assert shrinkage(target, grid) < 16
    assert sum(part.width for part in parts) >= (grid.wrap or 0) or place[0] > 0
    window = world.intersection(needed) if place[0] > 0 else world
    image, mask = moved(grid, window, target, tmp_path)
    right, inside, sure = expected(grid, window, target)
    assert inside.mean() > 0.5
    assert (mask[sure] == np.where(inside, 255, 0)[sure]).mean() > 0.999
    off = np.abs(image[inside & sure][:, :2].astype(int) - right[inside & sure][:, :2])
    assert (off.max(axis=1) == 0).mean() > 0.95  # the rest are neighbours, a few hundredths away


def test_the_default_at_a_pole_leaves_no_hole(tmp_path: Path) -> None:
    """Columns shrink there, rows do not."""
    target = Target(snapped_grid(parse_crs("EPSG:3413"), (2e4, 2e4)), Window(-50, -50, 100, 100))
    assert moved(DEGREES, WORLD, target, tmp_path, resampling=None)[1].all()


def test_what_lies_beyond_web_mercator_is_refused(tmp_path: Path) -> None:
    at = Affine(1e4, 0, -2e5, 0, -1e4, 2e5)
    path = write_raster(tmp_path / "a.tif", np.zeros((3, 40, 40), np.uint8), at, "EPSG:3031")
    with pytest.raises(SourceError, match=f"ends at {MAX_LATITUDE:.2f} degrees"):
        open_source(path, SourceOptions(zoom=4))
