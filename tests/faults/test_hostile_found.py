"""What fuzzing and hostile servers have found, each kept as a test of its own."""

from __future__ import annotations

import base64
import contextlib
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from maptile2sat.errors import Maptile2satError, SourceError, UsageError
from maptile2sat.geo.crs import parse_crs
from maptile2sat.geo.grid import BBox, mercator_grid
from maptile2sat.models.bundle import find_bundle
from maptile2sat.sources import SourceOptions, open_source
from tests.conftest import TileMap, write_mbtiles, write_raster

LOCAL = (
    'LOCAL_CS["nowhere",LOCAL_DATUM["a",32767],UNIT["metre",1],AXIS["Easting",EAST],'
    'AXIS["Northing",NORTH]]'
)


@pytest.mark.parametrize(
    "text",
    [
        *("file://[", "http://[/{z}/{x}/{y}", "https://[x/map.tif", "s3://[", "~0", "\0"),
        *("http://h:99999/{z}/{x}/{y}.png", "http://h:x/{z}/{x}/{y}.png", "~nobody/{z}/{x}/{y}"),
        "x" * 9000,
    ],
)
def test_found_names(text: str) -> None:
    """Found: names and addresses that Python's own parsers raise over."""
    with pytest.raises(Maptile2satError) as caught:
        open_source(text, SourceOptions(zoom=1)).close()
    assert "\n" not in str(caught.value)


def test_found_long_model() -> None:
    """Found: the name of a model that is longer than names of files can be."""
    with pytest.raises(Maptile2satError, match="too long"):
        find_bundle("x" * 9000)


def test_found_text_that_is_none(tmp_path: Path) -> None:
    """Found: MBTiles with a text that is not UTF-8, in values and in the names of columns."""
    path = write_mbtiles(tmp_path / "map.mbtiles", TileMap.block(13, 1, 1, 1, 1))
    with closing(sqlite3.connect(path)) as file:
        file.execute("UPDATE metadata SET value = CAST(x'ff80' AS TEXT)")
        file.commit()
    with pytest.raises(SourceError):
        open_source(path)
    data = path.read_bytes()
    assert b"zoom_level" in data
    path.write_bytes(data.replace(b"zoom_level", b"zoom\x80level"))
    with pytest.raises(SourceError):
        open_source(path)


@pytest.mark.parametrize("zoom", [None, 12])
def test_found_crs_without_a_place(zoom: int | None, tmp_path: Path) -> None:
    """Found: a CRS of a building site, which has no place on Earth."""
    bands = np.zeros((3, 64, 64), np.uint8)
    path = write_raster(tmp_path / "a.tif", bands, crs=LOCAL)
    with pytest.raises(Maptile2satError):
        open_source(path, SourceOptions(zoom=zoom))


@pytest.mark.parametrize("value", [1e20, 1e300])
def test_found_coordinates_without_end(value: float, tmp_path: Path) -> None:
    """Found: coordinates over which PROJ never comes back, in boxes and rasters."""
    grid = mercator_grid(3)
    with pytest.raises(UsageError, match="no place on Earth"):
        grid.window(BBox(-value, -value, value, value), parse_crs("EPSG:32635"))
    transform = Affine(value, 0, 5, 0, -value, 5)
    path = write_raster(tmp_path / "a.tif", np.zeros((3, 64, 64), np.uint8), transform)
    with pytest.raises(SourceError):
        open_source(path)


@pytest.mark.parametrize("place", ["bounds minlat=':0'", "node id='1' lat=':0'"])
def test_found_extract_places(place: str, tmp_path: Path) -> None:
    """Found: an extract whose places are no numbers."""
    pytest.importorskip("osmium")
    path = tmp_path / "a.osm"
    first = place if place.startswith("bounds") else "bounds minlat='1'"
    node = place if place.startswith("node") else "node id='1' lat='1'"
    path.write_text(
        f"<osm version='0.6'><{first} minlon='1' maxlat='2' maxlon='2'/><{node} lon='1'/></osm>"
    )
    with pytest.raises(SourceError):
        open_source(path, SourceOptions(zoom=13))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "true"])
def test_found_numbers_of_tilejson(number: str, tmp_path: Path) -> None:
    """Found: TileJSON with zooms and bounds that are endless or no numbers."""
    path = tmp_path / "map.json"
    path.write_text(
        f'{{"tiles": ["http://h/{{z}}/{{x}}/{{y}}"], "minzoom": {number}, "maxzoom": {number}, '
        f'"bounds": [0, 0, {number}, 1], "tileSize": {number}}}'
    )
    with contextlib.suppress(Maptile2satError):
        open_source(path, SourceOptions(default_zoom=3)).close()


def test_found_keys_of_unknown_type(tmp_path: Path) -> None:
    """Found: a TIFF over whose keys rasterio raises an error that is none of its own."""
    packed = (
        "c-r&y)MDUZU|<krU|?isU<9%ffS3`=c3_|$aDtlI0L0EnY!^m^8dpZb<}|hNFt9<{>)V+b6o9lIBLf|QAVs<X3<m~G"
    )
    path = tmp_path / "a.tif"
    path.write_bytes(zlib.decompress(base64.b85decode(packed)))
    with pytest.raises(SourceError) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)
