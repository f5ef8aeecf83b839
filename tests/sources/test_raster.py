"""Rasters of all kinds: what their pixels become, and which are refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp

from maptile2sat.errors import SourceError, UsageError
from maptile2sat.geo.grid import BBox, Window, mercator_grid
from maptile2sat.sources import Read, SourceOptions, open_source
from tests.conftest import pattern, write_raster

FILL = (200, 100, 50)


def _whole(path: Path, **options: Any) -> Read:
    source = open_source(path, SourceOptions(fill=FILL, **options))
    read = source.read(source.info.extent)
    source.close()
    return read


def _rgb(width: int = 70, height: int = 50) -> np.ndarray:
    return np.moveaxis(pattern(Window(1000, 2000, width, height)), -1, 0)


@pytest.mark.parametrize("size", [(1, 1), (255, 3), (257, 300), (1000, 3)])
def test_rgb_of_any_size(size: tuple[int, int], tmp_path: Path) -> None:
    bands = _rgb(*size)
    read = _whole(write_raster(tmp_path / "a.tif", bands))
    np.testing.assert_array_equal(np.moveaxis(read.image, -1, 0), bands)
    assert (read.mask == 255).all()


def test_windows_go_by_the_lattice_of_the_crs(tmp_path: Path) -> None:
    bands = _rgb()
    at = Affine(2.0, 0, 2_700_000.5, 0, -2.0, 8_400_000.25)
    whole = open_source(write_raster(tmp_path / "whole.tif", bands, at))
    crop = open_source(
        write_raster(tmp_path / "crop.tif", bands[:, 20:45, 11:31], at @ Affine.translation(11, 20))
    )
    window = crop.info.extent
    assert window == Window(whole.info.extent.col + 11, whole.info.extent.row + 20, 20, 25)
    np.testing.assert_array_equal(whole.read(window).image, crop.read(window).image)
    for part in (window, window.shifted(-3, 2)):
        ours, theirs = whole.info.grid.transform(part), crop.info.grid.transform(part)
        assert ours.almost_equals(theirs, 1e-9)
    assert whole.info.grid.transform(whole.info.extent) == at


def test_grey_becomes_three_equal_colours(tmp_path: Path) -> None:
    grey = _rgb()[:1]
    read = _whole(write_raster(tmp_path / "a.tif", grey))
    for band in range(3):
        np.testing.assert_array_equal(read.image[..., band], grey[0])


def test_one_bit_pictures_are_black_and_white(tmp_path: Path) -> None:
    bits = _rgb()[:1] % 2
    read = _whole(write_raster(tmp_path / "a.tif", bits, nbits=1))
    np.testing.assert_array_equal(read.image[..., 1], bits[0] * 255)


@pytest.mark.parametrize("nbits", [1, 4, 8])
def test_scans_whose_zero_is_white_are_not_turned_round(nbits: int, tmp_path: Path) -> None:
    top = (1 << nbits) - 1
    values = _rgb()[:1] & top
    path = write_raster(tmp_path / "a.tif", values, photometric="MINISWHITE", nbits=nbits)
    np.testing.assert_array_equal(_whole(path).image[..., 1], (top - values[0]) * (255 // top))


def test_alpha_is_laid_over_the_fill_or_masks(tmp_path: Path) -> None:
    alpha = np.array([[0, 1, 127, 128, 200, 255]], np.uint8)
    colour = np.full((3, 1, 6), 40, np.uint8)
    path = write_raster(tmp_path / "a.tif", np.concatenate([colour, alpha[None]]), alpha="yes")
    read = _whole(path)
    assert read.mask.tolist() == [[0, 0, 0, 255, 255, 255]]
    assert (read.image[0, :3] == 0).all()
    expected = [round((40 * a + f * (255 - a)) / 255) for a in (128,) for f in FILL]
    assert read.image[0, 3].tolist() == expected
    assert read.image[0, 5].tolist() == [40, 40, 40]


def test_grey_with_alpha(tmp_path: Path) -> None:
    values = np.array([[[10, 20, 30]], [[255, 0, 255]]], np.uint8)
    read = _whole(write_raster(tmp_path / "a.tif", values, alpha="yes"))
    assert read.mask.tolist() == [[255, 0, 255]]
    assert read.image.tolist() == [[[10] * 3, [0] * 3, [30] * 3]]


def test_palette_with_its_colours_and_alpha(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_raster(path, np.array([[[0, 1, 2, 3]]], np.uint8), photometric="palette")
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(
            1, {0: (234, 230, 222, 255), 1: (170, 211, 223, 255), 2: (9, 8, 7, 255)}
        )
    read = _whole(path)
    assert read.image[0, :3].tolist() == [[234, 230, 222], [170, 211, 223], [9, 8, 7]]
    png = tmp_path / "a.png"
    with rasterio.open(
        png,
        "w",
        driver="PNG",
        width=4,
        height=1,
        count=1,
        dtype="uint8",
        crs="EPSG:3857",
        transform=Affine(2.0, 0, 10, 0, -2.0, 10),
    ) as dataset:
        dataset.write(np.array([[0, 1, 2, 3]], np.uint8), 1)
        dataset.write_colormap(
            1, {0: (1, 2, 3, 255), 1: (4, 5, 6, 0), 2: (7, 8, 9, 255), 3: (9, 9, 9, 127)}
        )
    read = _whole(png)
    assert read.mask.tolist() == [[255, 0, 255, 0]]
    assert read.image[0, 2].tolist() == [7, 8, 9]


def test_nodata_and_masks_mask(tmp_path: Path) -> None:
    bands = _rgb()
    bands[:, 10:20, 5:9] = 0
    bands[0, 30, 30] = 0  # one band alone is no reason
    read = _whole(write_raster(tmp_path / "a.tif", bands, nodata=0))
    expected = np.full(bands.shape[1:], 255)
    expected[10:20, 5:9] = 0
    np.testing.assert_array_equal(read.mask, expected)


def test_rotated_rasters_have_their_own_grid(tmp_path: Path) -> None:
    bands = _rgb()
    at = Affine.translation(2_700_000, 8_400_000) @ Affine.rotation(30) @ Affine.scale(2, -2)
    source = open_source(write_raster(tmp_path / "a.tif", bands, at))
    assert source.info.extent == Window(0, 0, 70, 50)
    window = Window(11, 7, 20, 30)
    np.testing.assert_array_equal(
        np.moveaxis(source.read(window).image, -1, 0), bands[:, 7:37, 11:31]
    )
    assert source.info.grid.transform(window).almost_equals(at @ Affine.translation(11, 7))


def test_a_rotation_that_moves_no_pixel_is_none(tmp_path: Path) -> None:
    zoom = mercator_grid(16)
    place = Window(9_550_000, 4_855_000, 70, 50)
    noise = Affine(1, 1e-13, 0, -1e-13, 1, 0)
    source = open_source(write_raster(tmp_path / "a.tif", _rgb(), zoom.transform(place) @ noise))
    assert (source.info.grid, source.info.extent) == (zoom, place)
    at = Affine(2, 1e-12, 700_000, 1e-12, -2, 6_600_000)
    source = open_source(write_raster(tmp_path / "b.tif", _rgb(), at, "EPSG:2154"))
    assert source.info.extent == Window(350_000, -3_300_000, 70, 50)
    at = Affine(2, 1e-3, 700_000, 1e-3, -2, 6_600_000)
    source = open_source(write_raster(tmp_path / "c.tif", _rgb(), at, "EPSG:2154"))
    assert source.info.grid.transform(source.info.extent) == at


def test_a_world_in_degrees_continues_across_180(tmp_path: Path) -> None:
    bands = np.moveaxis(pattern(Window(0, 0, 360, 180)), -1, 0)
    path = write_raster(tmp_path / "a.tif", bands, Affine(1, 0, -180, 0, -1, 90), "EPSG:4326")
    source = open_source(path, SourceOptions(native=True))
    window = source.info.grid.window(BBox(170, -5, -165, 5))
    read = source.read(window)
    assert (window.width, window.height) == (25, 10)
    expected = np.concatenate([bands[:, 85:95, 350:], bands[:, 85:95, :15]], axis=2)
    np.testing.assert_array_equal(np.moveaxis(read.image, -1, 0), expected)


def test_bands_beyond_the_colours_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_raster(path, np.concatenate([_rgb(), _rgb()[:2] + 1]))
    with pytest.raises(SourceError, match=r"5 bands .* gdal_translate -b 1"):
        open_source(path)
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [
            ColorInterp.undefined,
            ColorInterp.blue,
            ColorInterp.green,
            ColorInterp.red,
            ColorInterp.undefined,
        ]
    read = _whole(path)
    np.testing.assert_array_equal(read.image[..., 0], (_rgb()[0] + 1))
    np.testing.assert_array_equal(read.image[..., 2], _rgb()[1])


def test_a_fourth_band_that_says_nothing_is_no_alpha(tmp_path: Path) -> None:
    """As near infrared in aerial images, which is dark over water."""
    bands = np.concatenate([_rgb(), np.full((1, 50, 70), 150, np.uint8)])
    bands[3, :, :30] = 20
    told: list[str] = []
    path = write_raster(tmp_path / "a.tif", bands, photometric="RGB", alpha="unspecified")
    read = _whole(path, warn=told.append)
    assert (read.mask == 255).all()
    np.testing.assert_array_equal(np.moveaxis(read.image, -1, 0), bands[:3])
    assert len(told) == 1
    assert "band 4 of" in told[0]
    assert "-colorinterp_4 alpha" in told[0]
    grey = write_raster(tmp_path / "b.tif", bands, photometric="MINISBLACK", alpha="unspecified")
    with pytest.raises(SourceError, match=r"4 bands and does not say which are red"):
        open_source(grey)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_more_than_8_bits_are_refused_with_the_remedy(dtype: str, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", _rgb().astype(dtype))
    with pytest.raises(SourceError, match=rf"{dtype} pixels.*gdal_translate -ot Byte -scale"):
        open_source(path)


def test_a_crs_is_never_guessed(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", _rgb(), crs=None)
    with pytest.raises(SourceError, match="--src-crs"):
        open_source(path)
    assert open_source(path, SourceOptions(src_crs="EPSG:2154")).info.grid.crs.to_epsg() == 2154
    with pytest.raises(UsageError, match="'EPSG:nonsense' is not a CRS"):
        open_source(path, SourceOptions(src_crs="EPSG:nonsense"))


def test_metres_are_no_degrees(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", _rgb(), crs=None)
    for options in (SourceOptions(src_crs="EPSG:4326"), SourceOptions(src_crs="EPSG:4326", zoom=9)):
        with pytest.raises(
            SourceError, match=r"nothing can lie, at 2.7e\+06,.* right CRS.*--src-crs"
        ):
            open_source(path, options)
    stated = write_raster(tmp_path / "b.tif", _rgb(), crs="EPSG:4326")
    with pytest.raises(SourceError, match=r"nothing can lie.*gdal_translate -a_srs"):
        open_source(stated)
    at = Affine(0.5, 0, -180.25, 0, -0.5, 90.25)  # centres of pixels on the poles
    world = write_raster(tmp_path / "c.tif", _rgb(721, 361), at, "EPSG:4326")
    assert open_source(world, SourceOptions(native=True)).info.grid.crs.is_geographic


@pytest.mark.filterwarnings("error")
def test_pictures_without_a_position_are_refused(tmp_path: Path) -> None:
    bare = tmp_path / "bare.png"
    bare.write_bytes(b"")
    from PIL import Image

    Image.new("RGB", (20, 20)).save(bare)
    with pytest.raises(SourceError, match="does not say where on Earth"):
        open_source(bare, SourceOptions(src_crs="EPSG:3857"))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_ground_control_points_alone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "gcps.tif"
    points = [
        GroundControlPoint(row, col, 24.9 + col / 1000, 60.1 - row / 1000)
        for row, col in ((0, 0), (0, 50), (40, 0), (40, 50))
    ]
    with rasterio.open(
        path, "w", driver="GTiff", count=3, width=50, height=40, dtype="uint8"
    ) as dataset:
        dataset.gcps = (points, rasterio.crs.CRS.from_epsg(4326))
        dataset.write(_rgb(50, 40))
    with pytest.raises(SourceError, match=r"ground control points.*gdalwarp"):
        open_source(path)


def test_oblong_ground_pixels_need_a_decision(tmp_path: Path) -> None:
    at = Affine(0.0001, 0, 24.9, 0, -0.0001, 60.2)
    path = write_raster(tmp_path / "a.tif", _rgb(), at, "EPSG:4326")
    with pytest.raises(SourceError, match=r"5\.\d+ x 11\.\d+ m .* -z ZOOM .* --native"):
        open_source(path)
    assert open_source(path, SourceOptions(native=True)).info.grid.crs.to_epsg() == 4326
    assert open_source(path, SourceOptions(zoom=14)).info.grid.zoom == 14


def test_what_is_no_raster_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a map")
    broken = write_raster(tmp_path / "broken.tif", _rgb(300, 300), compress="deflate")
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    with pytest.raises(SourceError, match="not a picture or map") as caught:
        open_source(text)
    assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match="cannot be read") as caught:
        _whole(broken)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_file_of_several_rasters_says_so(tmp_path: Path) -> None:
    path = tmp_path / "two.gpkg"
    for table in ("one", "zwei"):
        more = {"APPEND_SUBDATASET": "YES"} if path.exists() else {}
        write_raster(path, _rgb(), driver="GPKG", RASTER_TABLE=table, **more)
    with pytest.raises(SourceError, match=r"holds 2 rasters: .* 'GPKG:.*two\.gpkg:one' map\.tif"):
        open_source(path)


def test_unknown_resamplings_are_listed(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", _rgb())
    with pytest.raises(UsageError, match=r"'soft' is not known.*bilinear"):
        open_source(path, SourceOptions(zoom=15, resampling="soft"))


def test_a_name_longer_than_files_may_have_is_one_clear_error() -> None:
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source("x" * 5000 + ".tif")


def test_notes_beside_a_picture_are_read_if_they_are_plain(tmp_path: Path) -> None:
    """GDAL's own notes place a PNG; those that name files are left out, with a warning."""
    path = write_raster(tmp_path / "map.png", _rgb(), driver="PNG")
    notes = path.with_name("map.png.aux.xml")
    assert "<SRS" in notes.read_text()
    assert open_source(path).info.grid.crs == "EPSG:3857"
    grid = '<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">x.ovr</MDI></Metadata>'
    notes.write_text(notes.read_text().replace("</PAMDataset>", f"{grid}</PAMDataset>"))
    said: list[str] = []
    with pytest.raises(SourceError, match="does not say where on Earth"):
        open_source(path, SourceOptions(warn=said.append))
    assert said == [f"map.png.aux.xml is not read, as all beside {path}: it may read other files"]


def test_hostile_notes_do_not_cost_a_mask(tmp_path: Path) -> None:
    """Without its mask, what is no map would count as map: refused."""
    path = write_raster(tmp_path / "map.tif", _rgb())
    write_raster(tmp_path / "map.tif.msk", _rgb()[:1])
    open_source(path).close()
    notes = "<PAMDataset><SRS>+proj=longlat +nadgrids=/tmp/x</SRS></PAMDataset>"
    (tmp_path / "map.tif.aux.xml").write_text(notes)
    with pytest.raises(SourceError, match=r"map\.tif\.aux\.xml may read other files, .*the mask"):
        open_source(path)


@pytest.mark.parametrize("form", ["tif", "big.tif", "jp2"])
def test_crs_within_a_picture_that_names_a_grid(form: str, tmp_path: Path) -> None:
    """GeoTIFF keys may hold a CRS as text, and JPEG 2000 may hold a GeoTIFF."""
    path = tmp_path / f"map.{form}"
    crs = "+proj=merc +a=6378137 +b=6378137 +units=m +nadgrids=/tmp/grid-that-nobody-named"
    write_raster(path, _rgb(), crs=crs, GEOTIFF_KEYS_FLAVOR="ESRI_PE", BIGTIFF=form == "big.tif")
    if form == "jp2":
        kept = bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03") + path.read_bytes()
        box = (len(kept) + 8).to_bytes(4, "big") + b"uuid" + kept
        path.write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n" + box)
    with pytest.raises(SourceError, match="a CRS that names files"):
        open_source(path)


def test_rasters_whose_files_name_others_need_trust(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "map.img", _rgb(), driver="HFA")
    with pytest.raises(SourceError, match="--allow-vrt"):
        open_source(path)
    assert open_source(path, SourceOptions(allow_vrt=True)).info.extent.width == _rgb().shape[2]


def test_geopackages_of_plain_tables_are_read(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "map.gpkg", _rgb(), driver="GPKG")
    assert open_source(path).info.grid.crs == "EPSG:3857"


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE VIEW more AS SELECT 1", "holds more than tables"),
        ("CREATE VIRTUAL TABLE more USING fts5(text)", "holds more than tables"),
        ("CREATE TABLE more (a, b AS (zeroblob(a)))", "columns are computed"),
        ("DROP TABLE gpkg_contents", "no GeoPackage"),
        ("DROP TABLE gpkg_spatial_ref_sys", "damaged"),
        ("CREATE TRIGGER t AFTER INSERT ON gpkg_contents BEGIN SELECT 1; END", None),
    ],
)
def test_geopackages_that_are_programs(statement: str, reason: str | None, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "map.gpkg", _rgb(), driver="GPKG")
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
        database.commit()
    if reason is None:
        open_source(path).close()
        return
    with pytest.raises(SourceError, match=reason):
        open_source(path)


def test_schema_of_a_geopackage_that_lies_about_its_kinds(tmp_path: Path) -> None:
    """A view that calls itself a table is a view all the same."""
    path = write_raster(tmp_path / "map.gpkg", _rgb(), driver="GPKG")
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA writable_schema = ON")
        text = "CREATE VIEW more AS SELECT 1"
        database.execute("CREATE TABLE more (a)")
        database.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'more'", (text,))
        database.commit()
    with pytest.raises(SourceError, match=r"more than tables|damaged"):
        open_source(path)
