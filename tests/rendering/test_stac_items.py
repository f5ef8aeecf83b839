"""`render --stac`: the STAC Item of one file, there together with it or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform_bounds
from shapely.geometry import shape

from maptile2sat.errors import OutputError
from maptile2sat.rendering.item import accompanied
from tests.conftest import TileMap, write_map_raster, write_raster
from tests.support_render import files_in, random_map, run_cli, tiny_bundle
from tests.support_stac import validate


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of 512 x 256 px with a hole."""
    tiles = TileMap(13, ((4661, 2371),), random_map)
    folder = tmp_path_factory.mktemp("map")
    return write_map_raster(folder / "map.tif", tiles, tiles.extent._replace(width=512))


def render(drawn: Path, output: Path, *arguments: object) -> Any:
    settings = ("-m", tiny_bundle(), "--precision", "integer")
    return run_cli("render", drawn, "-o", output, *settings, *arguments)


def checked(output: Path) -> dict[str, Any]:
    """Return the Item of an output, valid and of just this file."""
    item = validate(output.with_name(f"{output.stem}.stac.json"))
    asset, data = item["assets"]["image"], output.read_bytes()
    assert asset["href"] == output.name
    assert asset["file:size"] == len(data)
    assert asset["file:checksum"] == "1220" + hashlib.sha256(data).hexdigest()
    assert item["id"] == output.stem
    assert "collection" not in item
    return item


def test_it_describes_the_file(drawn: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.tif"
    result = render(drawn, output, "--stac")
    assert result.code == 0, result.err
    assert result.out.split() == [str(output), str(tmp_path / "out.stac.json")]
    item = checked(output)
    with rasterio.open(output) as dataset:
        assert item["properties"]["proj:shape"] == list(dataset.shape)
        assert Affine(*item["properties"]["proj:transform"]) == dataset.transform
        west, south, east, north = transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
    assert shape(item["geometry"]).bounds == pytest.approx((west, south, east, north), abs=1e-7)
    assert "cloud-optimized" in item["assets"]["image"]["type"]
    assert "masked" in item["properties"]["description"]
    assert files_in(tmp_path) == ["out.stac.json", "out.tif"]
    plain = render(drawn, tmp_path / "plain.tif")  # the imagery is the same with and without
    assert plain.code == 0
    assert (tmp_path / "plain.tif").read_bytes() == output.read_bytes()


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "code"),
    [
        ("plain.tif", ["--no-cog"], "image/tiff; application=geotiff", "EPSG:3857"),
        ("out.mbtiles", [], "application/vnd.mapbox-mbtiles", "EPSG:3857"),
        (
            "opaque.mbtiles",
            ["--tile-format", "jpeg"],
            "application/vnd.mapbox-mbtiles",
            "EPSG:3857",
        ),
        ("out.pmtiles", [], "application/vnd.pmtiles", "EPSG:3857"),
        (
            "moved.tif",
            ["--dst-crs", "EPSG:32635"],
            "image/tiff; application=geotiff; profile=cloud-optimized",
            "EPSG:32635",
        ),
    ],
)
def test_other_outputs(
    drawn: Path, tmp_path: Path, name: str, arguments: list[str], kind: str, code: str
) -> None:
    result = render(drawn, tmp_path / name, "--stac", *arguments)
    assert result.code == 0, result.err
    item = checked(tmp_path / name)
    assert item["assets"]["image"]["type"] == kind
    assert item["properties"]["proj:code"] == code
    assert ("masked" in item["properties"]["description"]) is ("jpeg" not in arguments)


def test_a_place_that_cannot_be_told_is_refused_before_the_work(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The map lies in a corner of the output's grid, whose middle is beyond the Earth."""
    crs = CRS.from_proj4("+proj=moll +lon_0=-150")
    with rasterio.open(drawn) as dataset:
        west, south, _, _ = transform_bounds(dataset.crs, crs, *dataset.bounds)
    at = Affine(50, 0, west - 1e3, 0, -50, south + 3e3)
    like = write_raster(tmp_path / "like.tif", np.zeros((3, 90, 20_000), np.uint8), at, crs)
    monkeypatch.setattr("maptile2sat.rendering.mosaic.make_mosaic", None)
    for more in ([], ["--dry-run"]):
        refused = render(drawn, tmp_path / "out.tif", "--stac", "--like", like, *more)
        assert refused.code == 2, refused.err
        assert "has no place in" in refused.err
    assert files_in(tmp_path) == ["like.tif"]


def test_an_item_in_the_way_is_refused_before_the_work(drawn: Path, tmp_path: Path) -> None:
    item = tmp_path / "out.stac.json"
    item.write_text("mine")
    refused = render(drawn, tmp_path / "out.tif", "--stac")
    assert refused.code == 1
    assert str(item) in refused.err
    assert files_in(tmp_path) == ["out.stac.json"]
    assert render(drawn, tmp_path / "out.tif").code == 0  # nobody asked for one
    assert item.read_text() == "mine"
    assert render(drawn, tmp_path / "out.tif", "--stac", "--overwrite").code == 0
    checked(tmp_path / "out.tif")


def test_without_pystac_nothing_is_done(drawn: Path, tmp_path: Path) -> None:
    with mock.patch.dict("sys.modules", {"pystac": None, "pystac.extensions.mlm": None}):
        refused = render(drawn, tmp_path / "out.tif", "--stac")
    assert refused.code == 1
    assert "maptile2sat[stac]" in refused.err
    assert files_in(tmp_path) == []


def test_both_or_neither(drawn: Path, tmp_path: Path) -> None:
    with mock.patch("maptile2sat.output.stac.item_json", side_effect=OSError(28, "No space left")):
        failed = render(drawn, tmp_path / "out.tif", "--stac")
    assert failed.code == 1
    assert "No space left" in failed.err
    assert not (tmp_path / "out.tif").exists()
    assert not (tmp_path / "out.stac.json").exists()
    resumed = render(drawn, tmp_path / "out.tif", "--stac", "--resume")
    assert resumed.code == 0, resumed.err
    checked(tmp_path / "out.tif")
    assert files_in(tmp_path) == ["out.stac.json", "out.tif"]


def test_an_item_that_cannot_be_put_in_place_takes_the_output_back(tmp_path: Path) -> None:
    output, item, folder = tmp_path / "out.tif", tmp_path / "out.stac.json", tmp_path / "work"
    folder.mkdir()
    (item / "in the way").mkdir(parents=True)
    with (
        mock.patch("maptile2sat.rendering.item._text", return_value="{}"),
        pytest.raises(OutputError),
        accompanied(output, item, folder, mock.Mock(), cog=True) as place,
    ):
        place.write_bytes(b"pixels")
    assert not output.exists()
