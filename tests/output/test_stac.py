"""STAC of renders: valid by its own schemas, true to the pixels, right across 180 degrees."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pystac
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform, transform_geom
from shapely.geometry import Point, box, shape

from maptile2sat.errors import MissingExtraError, UsageError
from maptile2sat.geo.footprint import footprint
from maptile2sat.geo.grid import BBox, Grid, Window, mercator_grid, raster_grid
from maptile2sat.output import stac
from maptile2sat.output.folder import describe
from tests.support_folder import CREATED, cut_folder, whole_render
from tests.support_stac import validate

TAGS = {
    "SYNTHETIC": "YES",
    "TIFFTAG_COPYRIGHT": "© somebody; model by nobody",
    "MODEL": "3d моя",
    "MODEL_VERSION": "1",
    "MODEL_SHA256": "ab" * 32,
    "SEED": "7",
    "PRECISION": "float32",
    "NUMERICS": "tensorflow 2.21.0; cpu; float32; cell 256",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stac") / "Жуковка 16"
    describe(path, cut_folder(whole_render().result.output, path, 256))
    return path


def test_a_folder_has_a_valid_item_and_collection(folder: Path) -> None:
    item, collection = validate(folder / "item.json"), validate(folder / "collection.json")
    assert item["id"] == "Жуковка 16"
    assert item["collection"] == collection["id"]
    assert item["properties"]["datetime"] == CREATED
    with rasterio.open(folder / "mosaic.vrt") as dataset:
        properties = item["properties"]
        assert properties["proj:code"] == "EPSG:3857" == dataset.crs.to_string()
        assert properties["proj:shape"] == list(dataset.shape)
        assert Affine(*properties["proj:transform"]) == dataset.transform
        assert properties["proj:bbox"] == pytest.approx(list(dataset.bounds))
        place = box(*dataset.bounds)
        there = shape(transform_geom(dataset.crs, "EPSG:4326", place.__geo_interface__))
        kinds = [band["data_type"] for band in item["assets"]["mosaic"]["raster:bands"]]
        assert kinds == list(dataset.dtypes)
    assert shape(item["geometry"]).symmetric_difference(there).area < 1e-9
    assert item["bbox"] == pytest.approx(there.bounds)
    assert collection["extent"]["spatial"]["bbox"] == [item["bbox"]]


def test_what_it_names_is_there(folder: Path) -> None:
    item = json.loads((folder / "item.json").read_text())
    for key, asset in item["assets"].items():
        if key == "model":
            assert asset["href"].startswith("ni:///sha-256;")
            continue
        data = (folder / asset["href"]).read_bytes()
        if key != "manifest":  # which is written after it
            assert asset["file:size"] == len(data)
            assert asset["file:checksum"] == "1220" + hashlib.sha256(data).hexdigest()
    for name in ("item.json", "collection.json"):
        links = json.loads((folder / name).read_text())["links"]
        assert links
        assert all((folder / link["href"]).is_file() for link in links)


def test_programs_find_the_item_by_its_collection(folder: Path) -> None:
    collection = pystac.Collection.from_file(str(folder / "collection.json"))
    (item,) = collection.get_items()
    mosaic = item.make_asset_hrefs_absolute().assets["mosaic"]
    with rasterio.open(mosaic.href) as dataset:
        assert dataset.count == 3


def test_nobody_can_take_it_for_a_photo(folder: Path) -> None:
    for name in ("item.json", "collection.json"):
        found = json.loads((folder / name).read_text())
        texts = found["properties"] if name == "item.json" else found
        assert texts["title"].startswith("SYNTHETIC")
        assert texts["description"].startswith("SYNTHETIC")
        assert "synthetic" in texts["keywords"]
        assert texts["maptile2sat:synthetic"] is True
        assert "model by nobody" in texts["attribution"]
        names = [provider["name"] for provider in texts["providers"]]
        assert "model by nobody" in names


def item_of(tmp_path: Path, grid: Grid, window: Window, **changes: Any) -> dict[str, Any]:
    """Write and check the Item of a render that is not there."""
    fields = {"name": "there", "tags": TAGS, "masked": True, "created": CREATED, **changes}
    render = stac.Render(grid=grid, window=window, **fields)
    file = stac.File("image", "there.tif", "Imagery", ["data"], size=5, sha256="cd" * 32)
    path = tmp_path / "there.stac.json"
    path.write_text(stac.item_json(render, [file]), encoding="utf-8")
    return validate(path)


def test_across_180_degrees(tmp_path: Path) -> None:
    grid = mercator_grid(10)
    item = item_of(tmp_path, grid, grid.window(BBox(178, -18, -179, -16)))
    west, _, east, _ = item["bbox"]
    assert west == pytest.approx(178, abs=0.01)
    assert east == pytest.approx(-179, abs=0.01)
    parts = shape(item["geometry"])
    assert parts.is_valid
    assert parts.geom_type == "MultiPolygon"
    left, right = sorted(parts.geoms, key=lambda part: part.bounds[0])
    assert left.bounds == pytest.approx((-180, -18, -179, -16), abs=0.01)
    assert right.bounds == pytest.approx((178, -18, 180, -16), abs=0.01)
    assert all(part.exterior.is_ccw for part in parts.geoms)


def test_a_crs_without_a_code(tmp_path: Path) -> None:
    crs = CRS.from_proj4("+proj=laea +lat_0=61 +lon_0=25 +ellps=GRS80")
    grid, window = raster_grid(crs, Affine(10, 0, 5e4, 0, -10, 7e4), 300, 200)
    properties = item_of(tmp_path, grid, window)["properties"]
    assert properties["proj:code"] is None
    assert CRS.from_wkt(properties["proj:wkt2"]) == crs
    assert properties["gsd"] == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize("name", ["", "3d", "моя", "_x_", "a b", "-"])
def test_any_name_of_a_model_will_do(tmp_path: Path, name: str) -> None:
    grid, window = mercator_grid(16), Window(5, 5, 5, 5)
    item_of(tmp_path, grid, window, tags={**TAGS, "MODEL": name})


def _bounds(grid: Grid, window: Window) -> tuple[BBox, Any]:
    place = footprint(grid, window)
    return place.bbox, shape(place.geometry)


@pytest.mark.parametrize(
    ("code", "transform", "size", "inside", "outside"),
    [
        (32635, Affine(100, 0, 3e5, 0, -100, 6.7e6), 500, (23.8, 60.2), (23.8, 61)),
        (32701, Affine(1000, 0, 1e5, 0, -1000, 8.2e6), 300, (179.9, -18), (175, -18)),
        (4326, Affine(0.01, 0, 179, 0, -0.01, 5), 200, (-179.5, 4), (178.5, 4)),
        (3413, Affine(1e4, 0, -1e6, 0, -1e4, 1e6), 200, (10, 89), (10, 60)),
        (3031, Affine(1e4, 0, -1e6, 0, -1e4, 1e6), 200, (10, -89), (10, 60)),
    ],
    ids=["utm", "utm over 180", "degrees over 180", "north pole", "south pole"],
)
def test_where_other_grids_lie(
    code: int, transform: Affine, size: int, inside: Any, outside: Any
) -> None:
    grid, window = raster_grid(CRS.from_epsg(code), transform, size, size)
    bbox, place = _bounds(grid, window)
    assert place.is_valid
    assert place.contains(shape({"type": "Point", "coordinates": inside}))
    assert not place.intersects(shape({"type": "Point", "coordinates": outside}))
    west, south, east, north = place.bounds
    assert (bbox.south, bbox.north) == pytest.approx((south, north))
    assert west >= -180
    assert east <= 180
    assert (bbox.west > bbox.east) == (place.geom_type == "MultiPolygon")


@pytest.mark.parametrize("side", [1, 2, 3])
def test_where_a_few_pixels_lie(side: int) -> None:
    grid, window = mercator_grid(16), Window(37_309 * 256, 18_969 * 256, side, side)
    bbox, place = _bounds(grid, window)
    assert place.bounds == pytest.approx(bbox)
    assert place.area == pytest.approx((bbox.east - bbox.west) * (bbox.north - bbox.south))
    assert place.area > 0


def test_pixels_whose_centres_are_the_poles() -> None:
    at = Affine(0.25, 0, -180.125, 0, -0.25, 90.125)
    grid, window = raster_grid(CRS.from_epsg(4326), at, 1440, 721)
    bbox, place = _bounds(grid, window)
    assert (bbox.south, bbox.north) == (-90, 90)
    assert (place.bounds[1], place.bounds[3]) == (-90, 90)
    top, place = _bounds(grid, window._replace(width=400, height=4))
    assert (top.south, top.north) == (89.125, 90)
    assert place.bounds[3] == 90


def on_earth(proj: str, west: float, south: float, east: float, north: float) -> Any:
    """Return box and geometry of a raster that reaches beyond the Earth."""
    size = 200
    at = Affine((east - west) / size, 0, west, 0, (south - north) / size, north)
    return _bounds(*raster_grid(CRS.from_proj4(proj), at, size, size))


@pytest.mark.parametrize("proj", ["+proj=moll", "+proj=moll +lon_0=150", "+proj=robin"])
def test_maps_of_the_world_whose_corners_are_nowhere(proj: str) -> None:
    bbox, place = on_earth(proj, -18_050_000, -9_030_000, 18_050_000, 9_030_000)
    assert bbox == pytest.approx((-180, -90, 180, 90), abs=0.5)
    assert place.is_valid
    assert place.bounds == pytest.approx((-180, -90, 180, 90), abs=0.5)


@pytest.mark.parametrize("middle", [0.0, 140.7])
def test_a_disc_seen_from_far_above(middle: float) -> None:
    """None of its outline is on Earth; seen from 36,000 km the Earth ends 81.3 degrees away."""
    side = 5_500_000
    bbox, place = on_earth(f"+proj=geos +h=35785831 +lon_0={middle}", -side, -side, side, side)
    assert place.is_valid
    assert (bbox.south, bbox.north) == pytest.approx((-81, 81), abs=1)
    assert bbox.west == pytest.approx(middle - 81, abs=1)
    assert bbox.east == pytest.approx((middle + 81 + 180) % 360 - 180, abs=1)
    inside = [(middle, 0), (middle - 60, 30), (middle + 30, -60), (min(180, middle + 75), 0)]
    assert all(place.covers(Point(at)) for at in inside)
    beyond = [(middle - 70, 70), (middle - 70, -70), (middle - 100, 0)]
    assert not any(place.covers(Point(at)) for at in beyond)


def test_a_disc_with_a_pole_inside() -> None:
    bbox, place = on_earth("+proj=ortho +lat_0=60", -6.4e6, -6.4e6, 6.4e6, 6.4e6)
    assert bbox == pytest.approx((-180, -30, 180, 90), abs=1)
    assert place.is_valid


def test_a_corner_that_is_nowhere() -> None:
    proj, (west, south, east, north) = "+proj=moll", (-14e6, 3e6, -4e6, 9e6)
    bbox, place = on_earth(proj, west, south, east, north)
    assert place.is_valid
    assert bbox.west == pytest.approx(-180, abs=0.1)
    assert bbox.south == pytest.approx(24.55, abs=0.01)
    for lon, lat in [(-160, 60), (-100, 40), (-60, 30)]:
        xs, ys = transform("EPSG:4326", CRS.from_proj4(proj), [lon], [lat])
        assert west < xs[0] < east
        assert south < ys[0] < north
        assert place.covers(Point(lon, lat))


def test_what_is_nowhere_at_its_middle_is_refused_before_the_work() -> None:
    grid, window = raster_grid(
        CRS.from_proj4("+proj=moll"), Affine(1e4, 0, -18e6, 0, -1e4, 9e6), 200, 200
    )
    for _ in range(30):  # GDAL says so twenty times only
        with pytest.raises(UsageError, match="has no place in"):
            stac.check_place(grid, window)


def test_the_whole_world_and_its_edges() -> None:
    grid = mercator_grid(2)
    world, place = _bounds(grid, Window(0, 0, 1024, 1024))
    assert (world.west, world.east) == (-180, 180)
    assert place.geom_type == "Polygon"
    east_half, place = _bounds(grid, Window(512, 0, 512, 1024))
    assert (east_half.west, east_half.east) == (0, 180)
    assert place.geom_type == "Polygon"
    beyond, place = _bounds(grid, Window(1024, 0, 512, 1024))  # once around
    assert (beyond.west, beyond.east) == (-180, 0)
    assert place.bounds[:1] == (-180,)


def test_without_pystac_the_extra_is_named() -> None:
    with (
        mock.patch.dict("sys.modules", {"pystac": None, "pystac.extensions.mlm": None}),
        pytest.raises(MissingExtraError, match=r"maptile2sat\[stac\]"),
    ):
        stac.check_pystac()
