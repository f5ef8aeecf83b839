"""Renders whose pixels are known: the same hashes on every machine that runs this.

`MAPTILE2SAT_GOLDEN=write pytest tests/test_golden.py` writes them anew, after a change that is
meant to change pixels.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

import maptile2sat
from maptile2sat.geo.grid import TILE, Window, mercator_grid
from maptile2sat.paths import sample_map
from maptile2sat.sources import SourceOptions, open_source
from tests.conftest import TileMap, write_folder, write_mbtiles, write_pmtiles
from tests.support_render import bbox_of, random_map, read_back, scratch
from tests.support_serve import running

KNOWN = Path(__file__).with_name("golden.json")
ZOOM = 16
GRID = mercator_grid(ZOOM)
SAMPLE = Window(37_307 * TILE, 18_966 * TILE, 4 * TILE, 6 * TILE)
MAP = TileMap(16, TileMap.block(16, 37_306, 18_964, 3, 2).tiles, random_map)
RING = [[24.9405, 60.1690], [24.9462, 60.1697], [24.9450, 60.1668], [24.9412, 60.1672]]


def inside(col: int, row: int, width: int, height: int) -> str:
    """Return a box of the sample map, in pixels from its corner."""
    return bbox_of(GRID, Window(SAMPLE.col + col, SAMPLE.row + row, width, height))


@functools.cache
def made(kind: str) -> Any:
    """Return the map of random patches in a container."""
    folder = scratch(kind)
    match kind:
        case "mbtiles":
            return write_mbtiles(folder / "map.mbtiles", MAP)
        case "pmtiles":
            return write_pmtiles(folder / "map.pmtiles", MAP)
        case "folder":
            return write_folder(folder / "tiles", MAP)
    return as_raster(folder / "map.tif", 4 if kind == "alpha" else 3)


def as_raster(path: Path, bands: int) -> Path:
    """Write the map as a GeoTIFF; with four bands its alpha has a hole."""
    image, mask = MAP.read(MAP.extent)
    if bands == 4:
        mask[40:140, 60:230] = 0
        image = np.dstack([image, mask])
    settings = {"driver": "GTiff", "count": bands, "dtype": "uint8", "crs": GRID.crs}
    size = {"width": MAP.extent.width, "height": MAP.extent.height}
    with rasterio.open(path, "w", transform=GRID.transform(MAP.extent), **settings, **size) as out:
        out.write(np.moveaxis(image, -1, 0))
    return path


def cutline(folder: Path) -> Path:
    path = folder / "cut.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [[*RING, RING[0]]]}))
    return path


BOXES = {
    "tile": (256, 512, 256, 256),
    "pixel": (301, 607, 1, 1),
    "odd": (77, 133, 141, 141),
    "wide": (3, 700, 700, 9),
    "tall": (411, 2, 13, 640),
    "edge": (880, 1430, 90, 70),
    "across cells": (500, 400, 520, 300),
}

RENDERS: dict[str, tuple[Any, dict[str, Any]]] = {
    **{
        f"sample {name}, {model}": (None, {"bbox": inside(*box), "model": model})
        for name, box in BOXES.items()
        for model in ("maps", "osm")
    },
    **{
        f"{kind}, {model}": (kind, {"model": model})
        for kind in ("mbtiles", "pmtiles", "folder", "raster", "alpha")
        for model in ("maps", "osm")
    },
    "seed": (None, {"bbox": inside(*BOXES["tile"]), "seed": 4_000_000_000}),
    "labels taken off": (None, {"bbox": inside(*BOXES["tile"]), "labels": "yes"}),
    "labels kept": ("raster", {"labels": "no"}),
    "small cells": (None, {"bbox": inside(*BOXES["across cells"]), "cell": 256}),
    "TensorFlow": (None, {"bbox": inside(*BOXES["odd"]), "engine": "tensorflow"}),
    "UTM": (None, {"bbox": inside(100, 100, 200, 150), "dst_crs": "EPSG:32635"}),
    "resolution": (None, {"bbox": inside(100, 100, 200, 150), "resolution": 3.0}),
    "cutline": (None, {"cutline": cutline}),
    "lower zoom": ("raster", {"zoom": 15}),
    "plain GeoTIFF": (None, {"bbox": inside(*BOXES["odd"]), "cog": False}),
}

SAME = {
    "small cells": "sample across cells, maps",
    "TensorFlow": "sample odd, maps",
    "plain GeoTIFF": "sample odd, maps",
    "labels taken off": None,
    **{
        f"{kind}, {model}": f"mbtiles, {model}"
        for kind in ("pmtiles", "folder", "raster")
        for model in ("maps", "osm")
    },
}
"""Renders whose pixels are those of another."""


def known() -> dict[str, str]:
    return dict(json.loads(KNOWN.read_text())) if KNOWN.exists() else {}


def check(name: str, *arrays: Any) -> None:
    """Compare the hash of pixels with the one that is known."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((array.shape, str(array.dtype))).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    found = digest.hexdigest()[:24]
    if os.environ.get("MAPTILE2SAT_GOLDEN") == "write":
        KNOWN.write_text(json.dumps({**known(), name: found}, indent=1, sort_keys=True) + "\n")
    assert known().get(name) == found


@pytest.mark.parametrize("name", RENDERS)
def test_render(name: str, tmp_path: Path) -> None:
    source, options = RENDERS[name]
    options = {key: value(tmp_path) if callable(value) else value for key, value in options.items()}
    given = sample_map() if source is None else made(source)
    maptile2sat.render(given, tmp_path / "out.tif", **options)
    raster = read_back(tmp_path / "out.tif")
    assert raster.image[raster.mask > 0].std() > 3 or raster.image.size < 100
    check(name, raster.image, raster.mask)


def test_renders_that_must_be_equal() -> None:
    hashes = known()
    assert {hashes[one] == hashes[other] for one, other in SAME.items() if other} == {True}
    assert len({hashes[name] for name in RENDERS}) == len(RENDERS) - sum(map(bool, SAME.values()))


@pytest.mark.parametrize("ending", ["mbtiles", "pmtiles"])
def test_pyramid(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{ending}"
    maptile2sat.render(sample_map(), path, bbox=inside(200, 300, 400, 300), min_zoom=14)
    for zoom in (16, 15, 14):
        source = open_source(path, SourceOptions(zoom=zoom))
        check(f"pyramid {zoom}", *source.read(source.info.extent))
        source.close()


def test_dask(tmp_path: Path) -> None:
    box = inside(300, 200, 600, 500)
    two = maptile2sat.ShardOptions("local:2", 1)
    maptile2sat.render_sharded(sample_map(), tmp_path / "blocks", two, bbox=box, cell=256)
    maptile2sat.merge(tmp_path / "blocks", tmp_path / "out.tif")
    raster = read_back(tmp_path / "out.tif")
    check("dask", raster.image, raster.mask)
    maptile2sat.render(sample_map(), tmp_path / "one.tif", bbox=box)
    np.testing.assert_array_equal(raster.image, read_back(tmp_path / "one.tif").image)


def test_served_tiles(tmp_path: Path) -> None:
    with running(None, tmp_path / "cache", models=("maps",)) as server:
        for zoom, col, row in ((16, 37_308, 18_968), (15, 18_654, 9_484), (17, 74_617, 37_937)):
            check(f"served {zoom}", server.tile("maps", zoom, col, row))
        tile = server.tile("maps", 16, 37_308, 18_968)
    path = tmp_path / "out.tif"
    window = Window(37_308 * TILE, 18_968 * TILE, TILE, TILE)
    maptile2sat.render(sample_map(), path, bbox=bbox_of(GRID, window))
    np.testing.assert_array_equal(tile[..., :3], read_back(path).image)
