"""Outputs on another grid: in place to half a pixel, pure, masked, and as gdalwarp makes them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine
from rasterio.warp import transform as transform_points
from rio_cogeo import cog_validate

import maptile2sat
from maptile2sat.errors import UnfinishedError, UsageError
from maptile2sat.geo.crs import parse_crs
from maptile2sat.geo.grid import BBox, Grid, Window, mercator_grid
from maptile2sat.output.raw_blocks import RawBlocks
from maptile2sat.paths import sample_map
from maptile2sat.rendering.regrid import Target, needed_for, regrid, shrinkage, snapped_grid
from tests.conftest import pattern, write_raster
from tests.support_once import scratch
from tests.support_render import (
    large_render,
    read_back,
    run_cli,
    tiny_bundle,
    tiny_render,
)

Pixels = npt.NDArray[np.uint8]
FILL = (9, 8, 7)
BOX = "24.9402,60.1671,24.9451,60.1697"
HELSINKI = mercator_grid(17).window(BBox(24.94, 60.165, 24.944, 60.167))
FIJI = mercator_grid(14).window(BBox(179.97, -17.01, -179.97, -16.99))


def moved(
    grid: Grid, window: Window, target: Target, folder: Path, mask: Pixels | None = None, **how: Any
) -> tuple[Pixels, Pixels]:
    """Regrid the test pattern of a window."""
    (folder / "from").mkdir(parents=True)
    (folder / "to").mkdir()
    blocks, made = RawBlocks(folder / "from", window), RawBlocks(folder / "to", target.window)
    full = np.full((window.height, window.width), 255, np.uint8)
    blocks.write(window, pattern(window), full if mask is None else mask)
    settings = {"resampling": "nearest", "cut": None, "fill": FILL, **how}
    regrid(blocks, grid, made, target, **settings)
    pixels = made.read(target.window)
    assert made.masked == bool((pixels[1] == 0).any())
    blocks.close()
    made.close()
    return pixels


def expected(
    grid: Grid, window: Window, target: Target
) -> tuple[Pixels, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return the nearest pixels of the pattern, where there are any, and where it is not close.

    Found by PROJ from the middle of each new pixel, without any warping.
    """
    at = target.grid.transform(target.window)
    cols, rows = np.meshgrid(
        np.arange(target.window.width) + 0.5, np.arange(target.window.height) + 0.5
    )
    xs, ys = at @ (cols.ravel(), rows.ravel())
    there_x, there_y = map(np.array, transform_points(target.grid.crs, grid.crs, xs, ys))
    place = ~grid.transform(window) @ (there_x, there_y)
    col, row = (np.reshape(value, cols.shape) for value in place)
    if grid.wrap is not None:
        middle = window.width / 2
        col = (col - middle + grid.wrap / 2) % grid.wrap - grid.wrap / 2 + middle
    sure = (np.abs(col % 1 - 0.5) < 0.49) & (np.abs(row % 1 - 0.5) < 0.49)
    col, row = np.floor(col).astype(int), np.floor(row).astype(int)
    inside = (col >= 0) & (col < window.width) & (row >= 0) & (row < window.height)
    source = pattern(window)
    image = source[row.clip(0, window.height - 1), col.clip(0, window.width - 1)]
    return image, inside, sure


@pytest.mark.parametrize(
    ("zoom", "window", "crs", "size"),
    [
        (17, HELSINKI, "EPSG:25835", (0.6, 0.6)),
        (17, HELSINKI, "EPSG:4326", (1e-5, 5e-6)),
        (17, HELSINKI, "EPSG:3857", (0.9, 0.9)),
        (14, FIJI, "EPSG:32660", (9.3, 9.3)),
        (14, FIJI, "EPSG:3460", (9.3, 9.3)),
        (14, FIJI, "EPSG:4326", (1e-4, 1e-4)),
    ],
)
def test_pixels_are_in_their_place(
    zoom: int, window: Window, crs: str, size: tuple[float, float], tmp_path: Path
) -> None:
    """The last three cross 180 degrees."""
    grid = mercator_grid(zoom)
    west, south, east, north = grid.lonlat_bounds(window)
    wanted = snapped_grid(parse_crs(crs), size)
    west, east = (lon - 360 if lon > 180 else lon for lon in (west, east))
    target = Target(wanted, wanted.window(BBox(west, south, east, north)))
    assert target.window.width * target.window.height < 4 * window.width * window.height
    assert window.grown(60).contains(needed_for(target, grid, "nearest", window))
    image, mask = moved(grid, window, target, tmp_path)
    right, inside, sure = expected(grid, window, target)
    assert inside.mean() > 0.7
    assert (mask[sure] == np.where(inside, 255, 0)[sure]).all()
    assert (image[inside & sure] == right[inside & sure]).all()
    assert (image[mask == 0] == FILL).all()


def test_degrees_across_the_date_line(tmp_path: Path) -> None:
    size = 1e-4
    crs = parse_crs("EPSG:4326")
    grid = Grid(crs, Affine(size, 0, 0, 0, -size, 0), wrap=3_600_000)
    window = Window(1_799_800, 170_000, 420, 200)
    utm = snapped_grid(parse_crs("EPSG:32701"), (11.0, 11.0))
    target = Target(utm, utm.window(BBox(179.985, -17.018, -179.982, -17.003)))
    image, mask = moved(grid, window, target, tmp_path)
    right, inside, sure = expected(grid, window, target)
    assert inside.all()
    assert (mask == 255).all()
    assert (image[sure] == right[sure]).all()


@pytest.mark.parametrize(
    ("resampling", "size"), [("bilinear", 1.2), ("cubic", 0.8), ("average", 3.1), (None, 3.1)]
)
def test_parts_are_parts_of_the_whole(resampling: str | None, size: float, tmp_path: Path) -> None:
    grid, utm = mercator_grid(17), snapped_grid(parse_crs("EPSG:25835"), (size, size))
    whole = utm.window(grid.bounds(HELSINKI), grid.crs)
    place = (whole.col + whole.width // 3, whole.row + whole.height // 3)
    part = Window(*place, whole.width // 4, whole.height // 4)
    needed = needed_for(Target(utm, part), grid, resampling, HELSINKI)
    assert HELSINKI.contains(needed)
    every = moved(grid, HELSINKI, Target(utm, whole), tmp_path / "a", resampling=resampling)
    some = moved(grid, needed, Target(utm, part), tmp_path / "b", resampling=resampling)
    assert (some[0] == every[0][part.slices(whole)]).all()
    assert (some[1] == 255).all()


def test_the_default_is_that_of_the_place(tmp_path: Path) -> None:
    """Pixels of one size are smaller than the map's in the south, and larger in the north."""
    grid, utm = mercator_grid(10), snapped_grid(parse_crs("EPSG:25835"), (74.1, 74.1))
    drawn = grid.window(BBox(25.0, 60.5, 25.4, 61.5))
    whole = utm.window(BBox(25.1, 60.6, 25.3, 61.4))
    every = {
        method: moved(grid, drawn, Target(utm, whole), tmp_path / str(method), resampling=method)[0]
        for method in (None, "bilinear", "average")
    }
    north = whole._replace(height=whole.height // 4)
    south = north.shifted(0, whole.height - north.height)
    assert shrinkage(Target(utm, south), grid) < 1 < shrinkage(Target(utm, whole), grid)
    for part, method, other in ((south, "bilinear", "average"), (north, "average", "bilinear")):
        needed = needed_for(Target(utm, part), grid, None, drawn)
        assert drawn.contains(needed)
        alone = moved(grid, needed, Target(utm, part), tmp_path / f"of {method}", resampling=None)
        there = part.slices(whole)
        assert (alone[0] == every[None][there]).all()
        assert (alone[1] == 255).all()
        assert (every[None][there] == every[method][there]).all()
        assert (every[None][there] != every[other][there]).any()


@pytest.mark.parametrize("resampling", ["bilinear", "cubic", "lanczos", "average"])
def test_masked_pixels_do_not_bleed(resampling: str, tmp_path: Path) -> None:
    grid, utm = mercator_grid(17), snapped_grid(parse_crs("EPSG:25835"), (0.7, 0.7))
    window = Window(HELSINKI.col, HELSINKI.row, 200, 160)
    target = Target(utm, utm.window(grid.bounds(window), grid.crs))
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    blocks, made = RawBlocks(tmp_path / "from", window), RawBlocks(tmp_path / "to", target.window)
    image = np.full((160, 200, 3), 200, np.uint8)
    mask = np.full((160, 200), 255, np.uint8)
    mask[40:90, 50:120] = 0
    image[mask == 0] = 0
    blocks.write(window, image, mask)
    regrid(blocks, grid, made, target, resampling=resampling, cut=None, fill=(1, 1, 1))
    there, valid = made.read(target.window)
    assert 0.1 < (valid == 0).mean() < 0.5
    assert (there[valid > 0] == 200).all()
    assert (there[valid == 0] == 1).all()


@pytest.fixture(scope="module")
def warped() -> tuple[Any, Path]:
    """Return a render of a box on a grid of another CRS, as JPEG with a mask."""
    folder = scratch("regrid")
    made = tiny_render(
        sample_map(), folder, bbox=BOX, dst_crs="EPSG:25835", resolution=0.9, resampling="nearest"
    )
    return made, folder / "render-0.tif"


def test_snapped_and_whole(warped: tuple[Any, Path]) -> None:
    made, path = warped
    at, result = made.raster.transform, made.result
    assert (at.a, at.b, at.d, at.e) == (0.9, 0, 0, -0.9)
    assert at.c / 0.9 == pytest.approx(round(at.c / 0.9), abs=1e-6)
    assert at.f / 0.9 == pytest.approx(round(at.f / 0.9), abs=1e-6)
    assert (result.crs, made.raster.crs) == ("EPSG:25835", "EPSG:25835")
    assert (result.height, result.width) == made.mask.shape
    assert (made.mask == 255).all()  # the map goes on beside the box
    assert cog_validate(path)[0]
    with rasterio.open(path) as raster:
        assert tuple(raster.bounds) == pytest.approx(tuple(result.bounds))
        xs, ys = transform_points(
            "EPSG:4326", raster.crs, [24.9402, 24.9451] * 2, [60.1671, 60.1671, 60.1697, 60.1697]
        )
    assert 0 <= min(xs) - result.bounds.west < 9  # the box is turned by half a degree
    assert min(ys) >= result.bounds.south
    assert max(ys) <= result.bounds.north


def test_plan_says_what_comes(warped: tuple[Any, Path]) -> None:
    settings = {"bbox": BOX, "dst_crs": "EPSG:25835", "resolution": 0.9}
    planned = maptile2sat.plan(sample_map(), model=str(tiny_bundle()), **settings)
    result = warped[0].result
    assert (planned.width, planned.height) == (result.width, result.height)
    assert (planned.crs, planned.bounds) == (result.crs, result.bounds)
    assert (planned.cells, planned.tiles) == (result.cells, result.tiles)


@pytest.mark.skipif(shutil.which("gdalwarp") is None, reason="gdalwarp is not installed")
@pytest.mark.parametrize(
    ("name", "ours"), [("near", "nearest"), ("bilinear", "bilinear"), ("cubic", "cubic")]
)
def test_as_gdalwarp_does(name: str, ours: str, tmp_path: Path) -> None:
    """The whole sample map, warped by us on the way and by gdalwarp afterwards."""
    native = tmp_path / "native.tif"
    shutil.copy(large_render().result.output, native)
    made = tiny_render(
        sample_map(), tmp_path, dst_crs="EPSG:25835", resolution=1.1, resampling=ours
    )
    done = tmp_path / "gdal.tif"
    words = ["gdalwarp", "-q", "-t_srs", "EPSG:25835", "-tr", "1.1", "1.1", "-tap", "-et", "0"]
    subprocess.run([*words, "-r", name, "-dstalpha", native, done], check=True)
    with rasterio.open(done) as raster:
        theirs, alpha = np.moveaxis(raster.read((1, 2, 3)), 0, -1), raster.read(4)
        left, top = ~made.raster.transform @ (raster.transform.c, raster.transform.f)
    # it looks at fewer points of the border and may end a pixel earlier
    assert (left, top) == pytest.approx((round(left), round(top)), abs=1e-6)
    assert np.abs(np.subtract(alpha.shape, made.mask.shape)).max() <= 1
    there = Window(0, 0, *reversed(alpha.shape)).slices(Window(-round(left), -round(top), 1, 1))
    image, mask = made.image[there], made.mask[there]
    assert ((alpha > 127) != (mask > 0)).mean() < 1e-3
    off = np.abs(theirs.astype(int) - image)[(alpha == 255) & (mask > 0)]
    assert (off > 1).mean() < 1e-3


def test_grid_of_another_raster(tmp_path: Path) -> None:
    """Its grid, CRS and extent, also where they lie off all multiples."""
    at = Affine(1.3, 0, 385_700.4, 0, -1.7, 6_672_000.2)
    like = write_raster(tmp_path / "like.tif", np.zeros((1, 150, 180), np.uint8), at, "EPSG:25835")
    made = tiny_render(sample_map(), tmp_path, like=like)
    assert made.raster.transform.almost_equals(at)
    assert made.mask.shape == (150, 180)
    assert (made.mask == 255).all()
    whole = large_render()
    middle = np.array(at @ (90.5, 75.5))
    xs, ys = transform_points("EPSG:25835", whole.raster.crs, middle[:1], middle[1:])
    col, row = ~whole.raster.transform @ (xs[0], ys[0])
    near = whole.image[int(row) - 1 : int(row) + 2, int(col) - 1 : int(col) + 2].astype(int)
    assert (near.min((0, 1)) <= made.image[75, 90]).all()
    assert (made.image[75, 90] <= near.max((0, 1))).all()


def test_own_grid_is_not_resampled(tmp_path: Path) -> None:
    whole = large_render()
    at = whole.raster.transform @ Affine.translation(30, 41)
    like = write_raster(tmp_path / "like.tif", np.zeros((1, 90, 120), np.uint8), at, "EPSG:3857")
    made = tiny_render(sample_map(), tmp_path, like=like)
    assert (made.image == whole.image[41:131, 30:150]).all()
    size = whole.raster.transform.a
    same = tiny_render(sample_map(), tmp_path, bbox=BOX, dst_crs="EPSG:3857", resolution=size)
    plain = tiny_render(sample_map(), tmp_path, bbox=BOX)
    assert (same.image == plain.image).all()
    assert same.raster.transform == plain.raster.transform


def test_resumed_on_another_grid(tmp_path: Path) -> None:
    """What was generated lies on the map's grid, so it does for any output."""
    path = tmp_path / "out.tif"
    settings: dict[str, Any] = {"model": str(tiny_bundle()), "precision": "integer"}

    def stop(*given: Any, **how: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maptile2sat.output.geotiff.write_geotiff", stop)
        with pytest.raises(KeyboardInterrupt):
            maptile2sat.render(sample_map(), path, dst_crs="EPSG:25835", **settings)
    with pytest.raises(UnfinishedError, match="seed was 0"):
        maptile2sat.render(sample_map(), path, resume=True, seed=1, **settings)
    result = maptile2sat.render(sample_map(), path, resume=True, resolution=2, **settings)
    assert result.cells == 0
    assert result.resumed_cells > 1
    once = tiny_render(sample_map(), tmp_path, resolution=2)
    assert (read_back(path).image == once.image).all()
    assert not list(tmp_path.glob("*.partial"))


def test_lossy_profile_keeps_the_mask(tmp_path: Path) -> None:
    done = tiny_render(sample_map(), tmp_path, dst_crs="EPSG:3067", resolution=4, profile="jpeg")
    assert cog_validate(tmp_path / "render-0.tif")[0]
    assert 0 < (done.mask == 0).mean() < 0.4  # wedges beside the turned map
    assert (done.image[0, 0] > 180).all()  # the ground colour, not black


LOCAL = 'LOCAL_CS["x",UNIT["metre",1]]'


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("leave out --bbox and --dst-crs", ["--like", "x.tif", "--bbox", BOX, "--dst-crs", "4"]),
        ("x.tif, whose grid was asked for, cannot be opened", ["--like", "x.tif"]),
        ("'EPSG:1' is not a CRS", ["--dst-crs", "EPSG:1"]),
        (
            "GeoTIFF cannot be in the CRS",
            ["--dst-crs", "+proj=ob_tran +o_proj=longlat +o_lat_p=45"],
        ),
        ("would be a GeoTIFF, not .png", ["-o", "x.png"]),
        ("'a' is no resolution", ["--resolution", "a"]),
        ("must be above 0", ["--resolution", "0"]),
        ("must be above 0", ["--resolution", "1e-200"]),
        ("1e-08 to 1e+12 units", ["--dst-crs", "EPSG:4326", "--resolution", "1e20"]),
        ("has no place in", ["--dst-crs", "+proj=geos +h=35785831 +lon_0=-140"]),
        ("has no place in", ["--dst-crs", "+proj=gnom +lat_0=-60 +lon_0=-150"]),
        ("has no place in", ["--dst-crs", LOCAL]),
        ("times as wide as the map's, 16 is the most", ["--resolution", "100"]),
        ("give a smaller --bbox", ["--resolution", "1e-7"]),
        ("is for GeoTIFF, not for .mbtiles", ["--dst-crs", "EPSG:4326", "-o", "x.mbtiles"]),
    ],
)
def test_what_cannot_be(words: str, given: list[str], tmp_path: Path) -> None:
    output = [] if "-o" in given else ["-o", tmp_path / "out.tif"]
    done = run_cli("render", sample_map(), "-m", tiny_bundle(), *output, *given)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path: Path) -> None:
    done = run_cli(
        *("render", sample_map(), "-m", tiny_bundle(), "-o", tmp_path / "out.tif", "--bbox", BOX),
        *("--dst-crs", "EPSG:4326", "--resolution", "4e-5,2e-5", "--json"),
    )
    assert done.code == 0
    result = json.loads(done.out)
    assert (result["crs"], result["zooms"]) == ("EPSG:4326", None)
    assert read_back(tmp_path / "out.tif").transform.a == 4e-5
    size = maptile2sat.plan(sample_map(), model=str(tiny_bundle()), bbox=BOX, dst_crs="EPSG:25835")
    width = (size.bounds.east - size.bounds.west) / size.width
    assert width == pytest.approx(1.2)  # 1.1879 m on the ground, to two digits


def test_resampling_of_nothing_is_told(tmp_path: Path) -> None:
    settings = {"bbox": BOX, "model": str(tiny_bundle()), "resampling": "cubic"}
    plain = maptile2sat.plan(sample_map(), **settings)
    assert any("--resampling is not used" in text for text in plain.warnings)
    warped = maptile2sat.plan(sample_map(), resolution=2, **settings)
    assert not any("--resampling" in text for text in warped.warnings)


def test_grids_without_a_place_are_refused(tmp_path: Path) -> None:
    plain = write_raster(tmp_path / "p.tif", np.zeros((1, 9, 9), np.uint8), Affine.identity(), None)
    with pytest.raises(UsageError, match="has no CRS or no georeference"):
        maptile2sat.plan(sample_map(), model=str(tiny_bundle()), like=plain)


@pytest.mark.parametrize(
    ("words", "crs", "at"),
    [
        ("has no place in", LOCAL, "5,1,0,6,0,-1"),
        ("where nothing can lie", "EPSG:3857", "nan,1,0,8437000,0,-1"),
        ("where nothing can lie", "EPSG:3857", "1e25,1,0,1e25,0,-1"),
        ("where nothing can lie", "EPSG:3857", "2776000,0,0,8437000,0,-1"),
    ],
)
def test_grids_where_nothing_lies_are_refused(
    words: str, crs: str, at: str, tmp_path: Path
) -> None:
    like = tmp_path / "like.vrt"
    like.write_text(
        f'<VRTDataset rasterXSize="50" rasterYSize="50"><SRS>{crs}</SRS><GeoTransform>{at}'
        '</GeoTransform><VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
    )
    done = run_cli(
        *("render", sample_map(), "-m", tiny_bundle(), "-o", tmp_path / "out.tif"),
        *("--like", like, "--allow-vrt"),
    )
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert words in done.err


def test_corners_beyond_the_earth_do_not_matter() -> None:
    """The disc that a satellite sees does not fill its square."""
    grid = Grid(parse_crs("EPSG:4326"), Affine(1.0, 0, 0, 0, -1.0, 0), wrap=360)
    disc = snapped_grid(parse_crs("+proj=geos +h=35785831 +lon_0=10"), (1e5, 1e5))
    world = Window(-180, -90, 360, 180)
    needed = needed_for(Target(disc, Window(-60, -60, 120, 120)), grid, None, world)
    assert needed.contains(world)
