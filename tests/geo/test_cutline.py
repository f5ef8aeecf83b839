"""Cutlines: which pixels stay, which cells are made, and what files are understood."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.features import rasterize
from rasterio.warp import transform, transform_geom

import maptile2sat
from maptile2sat.errors import UsageError
from maptile2sat.geo.crs import WGS84, parse_crs
from maptile2sat.geo.cutline import read_cutline
from maptile2sat.geo.grid import TILE, BBox, Grid, Window, mercator_grid, raster_grid
from maptile2sat.paths import sample_map
from maptile2sat.rendering.regrid import snapped_grid
from tests.conftest import TileMap, TileServer, write_raster
from tests.support_render import (
    Rendered,
    large_render,
    random_map,
    run_cli,
    tiny_bundle,
    tiny_render,
)

CORNERS = [[24.9381, 60.1662], [24.9452, 60.1655], [24.9490, 60.1701], [24.9429, 60.1733]]
HOLE = [[24.9421, 60.168], [24.9439, 60.168], [24.9441, 60.17], [24.942, 60.1701]]
AREA = {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in (CORNERS, HOLE)]}


def written(folder: Path, content: Any, name: str = "area.geojson") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def inside(grid: Grid, window: Window, area: dict[str, Any] = AREA) -> Any:
    """Return 255 where GDAL says that a pixel's centre is in the area."""
    shape = transform_geom(WGS84, grid.crs, area)
    return rasterize(
        [shape],
        out_shape=(window.height, window.width),
        transform=grid.transform(window),
        default_value=255,
        dtype="uint8",
    )


def test_pixels_whose_centre_is_inside(tmp_path: Path) -> None:
    made = tiny_render(sample_map(), tmp_path, cutline=written(tmp_path, AREA))
    grid = mercator_grid(16)
    west, north = made.raster.transform.c, made.raster.transform.f
    col, row = (round(value) for value in ~grid.affine @ (west, north))
    window = Window(col, row, made.result.width, made.result.height)
    right = inside(grid, window)
    assert (made.mask == right).mean() > 0.9999  # straight in degrees is not in metres
    whole = large_render()
    left, top = (round(value) for value in ~whole.raster.transform @ (west, north))
    there = whole.image[top : top + window.height, left : left + window.width]
    assert (made.image == there)[made.mask > 0].all()
    for end in (right[:2], right[-2:], right[:, :2], right[:, -2:]):  # no wider than the area
        assert end.any()
    far = made.image[:64, :64]  # the ground colour, where there is nothing of it near
    assert (far == far[0, 0]).all()


@pytest.mark.parametrize("crs", ["EPSG:25835", "EPSG:4326"])
def test_cut_on_the_grid_of_the_output(crs: str, tmp_path: Path) -> None:
    cutline = written(tmp_path, AREA)
    size = 1.3 if crs == "EPSG:25835" else 1.5e-5
    made = tiny_render(
        sample_map(), tmp_path, cutline=cutline, dst_crs=crs, resolution=size, profile="jpeg"
    )
    uncut = tiny_render(
        sample_map(), tmp_path, bbox="24.937,60.165,24.950,60.174", dst_crs=crs, resolution=size
    )
    grid = snapped_grid(parse_crs(crs), (size, size))
    at = made.raster.transform
    window = Window(round(at.c / size), -round(at.f / size), *made.mask.shape[::-1])
    assert (made.mask == inside(grid, window)).mean() > 0.9999
    assert uncut.mask.all()  # so nothing is masked but by the cutline


def test_cells_outside_are_not_made(tmp_path: Path) -> None:
    """A thin triangle over the sample map: few of its cells are generated."""
    thin = [[24.9335, 60.1634], [24.9345, 60.1634], [24.9498, 60.1742], [24.9335, 60.1634]]
    cutline = written(tmp_path, {"type": "Polygon", "coordinates": [thin]})
    settings: dict[str, Any] = {"model": str(tiny_bundle()), "cutline": cutline}
    planned = maptile2sat.plan(sample_map(), **settings)
    made = tiny_render(sample_map(), tmp_path, cutline=cutline)
    every = maptile2sat.plan(sample_map(), bbox="24.9335,60.1634,24.9498,60.1742", **settings)
    whole = maptile2sat.plan(
        sample_map(), bbox="24.9335,60.1634,24.9498,60.1742", model=str(tiny_bundle())
    )
    assert planned.cells == made.result.cells == every.cells
    assert planned.cells < whole.cells * 0.8
    assert planned.tiles <= whole.tiles
    assert (planned.width, planned.height) == made.mask.shape[::-1]


@pytest.mark.parametrize("missing", ["error", "mask"])
def test_only_what_cells_need_is_asked_of_a_server(
    server: TileServer, tmp_path: Path, missing: str
) -> None:
    """An area like a C around tiles that the server does not have, in the middle of the map too."""
    x, y = 37_300, 18_960
    block = TileMap.block(16, x - 1, y - 1, 8, 8)
    hole = {(x + col, y + row) for row in range(2, 4) for col in range(2, 7)}
    url = server.serve(TileMap(16, tuple(set(block.tiles) - hole), random_map))
    # in tiles, which cells are too: one row, one column, and one row
    ring = [(0.2, 0.2), (5.8, 0.2), (5.8, 0.8), (0.8, 0.8)]
    ring += [(0.8, 5.2), (5.8, 5.2), (5.8, 5.8), (0.2, 5.8)]
    at = mercator_grid(16).transform(Window(x * TILE, y * TILE, TILE, TILE))
    points = [list(at @ (col * TILE, row * TILE)) for col, row in ring]
    area = {"type": "Polygon", "coordinates": [[*points, points[0]]]}
    crs = {"type": "name", "properties": {"name": "EPSG:3857"}}
    cutline = written(tmp_path, {**area, "crs": crs})
    words = ["render", url, "-o", tmp_path / "out.tif", "-m", tiny_bundle(), "--cell", 256]
    done = run_cli(*words, "--cutline", cutline, "--missing", missing)
    assert done.code == 0, done.err
    assert "missing" not in done.err
    assert not {f"/16/{col}/{row}.png" for col, row in hole} & set(server.log)


def test_box_and_cutline_meet(tmp_path: Path) -> None:
    cutline = written(tmp_path, AREA)
    box = "24.940,60.167,24.943,60.169"
    both = tiny_render(sample_map(), tmp_path, cutline=cutline, bbox=box)
    boxed = tiny_render(sample_map(), tmp_path, bbox=box)
    assert both.raster.transform == boxed.raster.transform
    assert (both.image == boxed.image)[both.mask > 0].all()
    assert 0 < (both.mask > 0).mean() < 1
    done = run_cli(
        *("render", sample_map(), "-m", tiny_bundle(), "-o", tmp_path / "o.tif"),
        *("--cutline", cutline, "--bbox", "24.9335,60.164,24.9345,60.165"),
    )
    assert done.code == 2
    assert "holds no pixel of the area asked for" in done.err


@pytest.mark.skipif(shutil.which("gdalwarp") is None, reason="gdalwarp is not installed")
def test_as_gdalwarp_cuts(tmp_path: Path) -> None:
    cutline = written(tmp_path, {"type": "Feature", "properties": {}, "geometry": AREA})
    made = tiny_render(sample_map(), tmp_path, cutline=cutline)
    done = tmp_path / "gdal.tif"
    words = ["gdalwarp", "-q", "-cutline", cutline, "-crop_to_cutline", "-tap", "-dstalpha"]
    size = repr(made.raster.transform.a)
    native = large_render().result.output
    subprocess.run([*words, "-tr", size, size, native, done], check=True)
    with rasterio.open(done) as raster:
        alpha = raster.read(4)
        left, top = ~made.raster.transform @ (raster.transform.c, raster.transform.f)
        theirs = np.moveaxis(raster.read((1, 2, 3)), 0, -1)
    assert (left, top) == pytest.approx((0, 0), abs=1e-3)
    height, width = (min(sides) for sides in zip(alpha.shape, made.mask.shape, strict=True))
    same = alpha[:height, :width] == made.mask[:height, :width]
    assert same.mean() > 0.9999
    valid = made.mask[:height, :width] > 0
    assert (theirs[:height, :width] == made.image[:height, :width])[valid & same].all()


def test_kinds_of_geojson(tmp_path: Path) -> None:
    grid, two = mercator_grid(16), json.loads(json.dumps(AREA))
    shifted = [[[x + 0.02, y] for x, y in ring] for ring in two["coordinates"]]
    multi = {"type": "MultiPolygon", "coordinates": [AREA["coordinates"], shifted]}
    features = [{"type": "Feature", "geometry": thing} for thing in (None, multi)]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::25835"}}
    metres = {**transform_geom(WGS84, "EPSG:25835", multi), "crs": crs}
    stated = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}
    window = read_cutline(written(tmp_path, multi)).on(grid).window()
    mask = inside(grid, window, multi)
    assert mask.any()
    for content in (
        multi,
        {"type": "FeatureCollection", "features": features},
        {"type": "GeometryCollection", "geometries": [multi], "crs": stated},
        "\ufeff" + json.dumps(multi),
        metres,
    ):
        cut = read_cutline(written(tmp_path, content)).on(grid)
        assert cut.window() == window
        assert (cut.mask(window) == mask).mean() > 0.9999


def test_edges_bend_with_the_projection(tmp_path: Path) -> None:
    """An edge along a parallel is a curve in Lambert's projection."""
    box = [[-5, 50], [20, 50], [20, 55], [-5, 55], [-5, 50]]
    area = {"type": "Polygon", "coordinates": [box]}
    grid = snapped_grid(parse_crs("EPSG:3035"), (2000.0, 2000.0))
    cut = read_cutline(written(tmp_path, area)).on(grid)
    window = cut.window()
    cols, rows = np.meshgrid(np.arange(window.width) + 0.5, np.arange(window.height) + 0.5)
    xs, ys = grid.transform(window) @ (cols.ravel(), rows.ravel())
    lons, lats = (np.reshape(values, cols.shape) for values in transform(grid.crs, WGS84, xs, ys))
    right = (lons > -5) & (lons < 20) & (lats > 50) & (lats < 55)
    assert right.any()
    assert ((cut.mask(window) > 0) == right).mean() > 0.9995


@pytest.mark.parametrize("split", [True, False])
def test_across_the_date_line(split: bool, tmp_path: Path) -> None:
    """RFC 7946 cuts areas at 180 degrees; some programs go on counting."""

    def box(west: float, east: float) -> list[list[list[float]]]:
        return [[[west, -18], [east, -18], [east, -17], [west, -17], [west, -18]]]

    parts = [box(179.5, 180), box(-180, -179.2)] if split else [box(179.5, 180.8)]
    area = {"type": "MultiPolygon", "coordinates": parts}
    for grid in (mercator_grid(9), snapped_grid(WGS84, (0.01, 0.01))):
        cut = read_cutline(written(tmp_path, area)).on(grid)
        window = cut.window()
        bounds = grid.lonlat_bounds(window)
        assert bounds.west == pytest.approx(179.5, abs=0.01)
        assert bounds.east == pytest.approx(180.8, abs=0.01)
        assert cut.mask(window).mean() > 240
        around = grid.wrap or 0
        assert (cut.mask(window.shifted(-around, 0)) == cut.mask(window)).all()
        assert cut.window(window.shifted(around, 0).grown(9)) == window.shifted(around, 0)


BEYOND = {
    "degrees": (Affine(0.0007, 0, 179.9, 0, -0.0007, 0.0224), "EPSG:4326", (180.02, 180.06)),
    "metres": (Affine(77.0, 0, 20_026_003, 0, -77.0, 2477), "EPSG:3857", (180.02, 180.06)),
    "west": (Affine(0.0007, 0, -180.1, 0, -0.0007, 0.0224), "EPSG:4326", (-180.06, -180.02)),
}


@pytest.mark.parametrize(
    ("raster", "words"),
    [
        *((raster, {}) for raster in BEYOND),
        *((raster, {"bbox": "179.9,-0.02,-179.9,0.02"}) for raster in BEYOND),
        ("degrees", {"dst_crs": "EPSG:3857"}),
        ("metres", {"dst_crs": "EPSG:4326"}),
        ("degrees", {"resolution": 0.001}),
    ],
)
def test_a_map_that_goes_on_across_180_degrees_is_cut_in_its_own_turn(
    raster: str, words: dict[str, Any], tmp_path: Path
) -> None:
    """Its pixels do not divide the circle, so that no column is the same place as another."""
    at, crs, (west, east) = BEYOND[raster]
    image = np.moveaxis(random_map(Window(0, 0, 280, 64)), -1, 0)
    source = write_raster(tmp_path / "map.tif", image, at, crs)

    def made(turn: float) -> Rendered:
        area = {"type": "Polygon", "coordinates": [_box(west + turn, -0.01, east + turn, 0.012)]}
        return tiny_render(source, tmp_path, cutline=written(tmp_path, area), **words)

    there, here = made(0), made(-360 if west > 0 else 360)
    assert here.raster.transform.almost_equals(there.raster.transform)
    assert (here.mask == there.mask).all()
    assert (here.mask > 0).mean() > 0.9
    assert (here.image == there.image).all()


def test_a_box_in_degrees_finds_what_a_map_in_metres_has_beyond_180_degrees(tmp_path: Path) -> None:
    at, crs, _ = BEYOND["metres"]
    image = np.moveaxis(random_map(Window(0, 0, 280, 64)), -1, 0)
    source = write_raster(tmp_path / "map.tif", image, at, crs)
    here = tiny_render(source, tmp_path, bbox="-179.98,-0.01,-179.94,0.012")
    there = tiny_render(source, tmp_path, bbox="180.02,-0.01,180.06,0.012")
    assert here.raster.transform.almost_equals(there.raster.transform)
    assert (here.mask == 255).all()
    assert (here.image == there.image).all()


@pytest.mark.parametrize("raster", ["degrees", "metres"])
def test_of_polygons_all_around_those_on_the_map_lie_in_its_turn(
    raster: str, tmp_path: Path
) -> None:
    at, crs, _ = BEYOND[raster]
    grid, extent = raster_grid(parse_crs(crs), at, 280, 64)
    parts = [[_box(lon, -0.01, lon + 0.02, 0.01)] for lon in (-179.98, 179.95, 0, -120)]
    area = {"type": "MultiPolygon", "coordinates": parts}
    cut = read_cutline(written(tmp_path, area)).on(grid)
    found = cut.window(towards=extent)
    for lon in (179.95, 180.02):
        box = grid.window(BBox(lon, -0.01, lon + 0.02, 0.01))
        assert found.contains(box)
        assert (cut.mask(box)[2:-2, 2:-2] == 255).all()
    elsewhere = extent.shifted(extent.width * 40, 0)  # none of them is there
    assert cut.window(towards=elsewhere) == cut.window()


def test_world_is_the_world(tmp_path: Path) -> None:
    ring = [[-180, -60], [180, -60], [180, 60], [-180, 60], [-180, -60]]
    cut = read_cutline(written(tmp_path, {"type": "Polygon", "coordinates": [ring]}))
    window = cut.on(mercator_grid(1)).window()
    assert (window.col, window.width) == (0, 512)
    assert cut.on(mercator_grid(1)).mask(window)[1:-1].all()


def _box(west: float, south: float, east: float, north: float) -> list[list[float]]:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


METRES = {"crs": {"type": "name", "properties": {"name": "EPSG:3857"}}}
EQUAL_EARTH = {"crs": {"type": "name", "properties": {"name": "EPSG:8857"}}}


@pytest.mark.parametrize(
    ("rings", "crs", "kept", "masked"),
    [
        ([_box(-180, -80, 180, 80), _box(100, -40, 150, -10)], {}, [0, -120], [120]),
        ([_box(-180, -80, 180, 80), _box(-150, -40, -100, -10)], {}, [0, 120], [-120]),
        ([_box(-20, -60, 175, 80), _box(165, -30, 170, 20)], {}, [0, 160], [167, -120]),
        ([_box(100, -60, 300, 80), _box(-80, -30, -70, 20)], {}, [-90, 120], [-75, 0]),
        ([_box(-16e6, -1e7, 16e6, 1e7)], METRES, [0, 140], [179, -179]),
        ([_box(-2e7, -1e7, 2e7, 1e7)], METRES, [0, 140, 179, -179], []),
        ([_box(-16e6, -1e6, 16e6, 1e6)], EQUAL_EARTH, [0], []),
    ],
)
@pytest.mark.parametrize("grid", [mercator_grid(2), snapped_grid(WGS84, (0.4, 0.4))])
def test_wide_polygons(
    grid: Grid, rings: Any, crs: Any, kept: list[int], masked: list[int], tmp_path: Path
) -> None:
    """Edges and holes of more than half the world: 20 degrees south, or on the equator."""
    area = {"type": "Polygon", "coordinates": rings, **crs}
    cut = read_cutline(written(tmp_path, area)).on(grid)
    lat = 0 if crs is EQUAL_EARTH else -20
    assert not cut.window().empty
    for lons, value in ((kept, 255), (masked, 0)):
        for lon in lons:
            pixel = grid.window(BBox(lon, lat, lon + 0.1, lat + 0.1))
            assert (cut.mask(pixel) == value).all(), lon


@pytest.mark.parametrize(
    ("words", "content"),
    [
        ("is not GeoJSON", "{"),
        ("is not GeoJSON", "[" * 100_000),
        ("has an object of type None", "[]"),
        ("has an object of type 'Curve'", {"type": "Curve"}),
        ("holds a LineString", {"type": "LineString", "coordinates": [[0, 1], [2, 3]]}),
        ("a list is missing or empty", {"type": "FeatureCollection"}),
        ("holds no polygon", {"type": "Feature", "geometry": None}),
        ("not two numbers", {"type": "Polygon", "coordinates": [[[0, "a"]]]}),
        ("not two numbers", {"type": "Polygon", "coordinates": [5]}),
        ("where nothing can lie", {"type": "Polygon", "coordinates": [_box(0, 0, 10**400, 1)]}),
        ("where nothing can lie", {"type": "Polygon", "coordinates": [_box(0, 0, 1e300, 1)]}),
        ("not closed", {"type": "Polygon", "coordinates": [CORNERS]}),
        ("'?' is not a CRS", {**AREA, "crs": "?"}),
    ],
)
def test_what_is_no_cutline(words: str, content: Any, tmp_path: Path) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UsageError) as caught:
        read_cutline(path)
    assert words in str(caught.value)


def test_cutlines_that_do_not_fit(tmp_path: Path) -> None:
    base = ("render", sample_map(), "-m", tiny_bundle(), "-o", tmp_path / "o.tif", "--cutline")
    metres = [[[x * 20_000, y * 100_000] for x, y in ring] for ring in AREA["coordinates"]]  # type: ignore[attr-defined]
    far = [[[x - 40, y] for x, y in ring] for ring in AREA["coordinates"]]  # type: ignore[attr-defined]
    for words, content in (
        ("cannot be read: No such file", None),
        ("GeoJSON is in degrees", {"type": "Polygon", "coordinates": metres}),
        ("the cutline is outside the map", {"type": "Polygon", "coordinates": far}),
    ):
        path = tmp_path / "no" if content is None else written(tmp_path, content)
        done = run_cli(*base, path)
        assert (done.code, words in done.err) == (2, True), done.err
