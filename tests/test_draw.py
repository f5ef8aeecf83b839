"""Drawing small OpenStreetMap files, laid out in pixels of zoom 16 so that results are known."""

from __future__ import annotations

import bz2
import gzip
import io
import math
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
import rasterio
from PIL import Image

from maptile2sat.errors import Maptile2satError, OutputError, SourceError, UsageError
from maptile2sat.geo.grid import BBox, Window, mercator_grid

pytest.importorskip("osmium")
pytest.importorskip("shapely")

import shapely

from maptile2sat.drawing import draw
from maptile2sat.osm import paint as laid_out
from maptile2sat.osm import read as reading
from maptile2sat.osm.paint import paint
from maptile2sat.osm.style import STYLES, rgb
from maptile2sat.sources import SourceOptions, open_source
from maptile2sat.sources import osm as drawing_source
from maptile2sat.sources.osm import ExtractSource, open_extract
from tests.support_dataset import run

ZOOM = 16
COL, ROW = 37111 * 256 + 77, 18987 * 256 + 141  # nothing is aligned or symmetric
WIDTH, HEIGHT = 300, 200
GROUND = rgb(STYLES["maps"].background)
PARK = rgb(STYLES["maps"].areas["park"].fill)
WATER = rgb(STYLES["maps"].areas["water"].fill)
STREET = rgb(STYLES["maps"].lines["street"].fill)
MOTORWAY = rgb(STYLES["maps"].lines["motorway"].fill)
PRIMARY = rgb(STYLES["maps"].lines["primary"].fill)

Point = tuple[float, float] | None


def lonlat(x: float, y: float) -> tuple[float, float]:
    """Return degrees of a pixel position relative to the test area."""
    side = 256 << ZOOM
    lon = (COL + x) / side * 360.0 - 180.0
    lat = math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * (ROW + y) / side))))
    return lon, lat


class Osm:
    """Builds an OSM XML file; a point `None` is a node that the extract lacks."""

    def __init__(self, *, bounds: bool = True, new: bool = False) -> None:
        self.nodes: dict[tuple[float, float], int] = {}
        self.ways: list[str] = []
        self.relations: list[str] = []
        self.bounds = bounds
        self.sign = -1 if new else 1

    def way(self, points: Sequence[Point], **tags: str) -> int:
        number = len(self.ways) + 1
        refs = "".join(f'<nd ref="{self._node(point)}"/>' for point in points)
        self.ways.append(f'<way id="{number}" version="1">{refs}{_tags(tags)}</way>')
        return number

    def rect(self, left: float, top: float, right: float, bottom: float, **tags: str) -> int:
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        return self.way(corners, **tags)

    def relation(self, members: Sequence[tuple[int, str]], **tags: str) -> None:
        number = len(self.relations) + 1
        parts = "".join(f'<member type="way" ref="{ref}" role="{role}"/>' for ref, role in members)
        body = parts + _tags({"type": "multipolygon", **tags})
        self.relations.append(f'<relation id="{number}" version="1">{body}</relation>')

    def write(self, path: Path, order: str = "nodes ways relations") -> Path:
        west, north = lonlat(0.3, 0.3)
        east, south = lonlat(WIDTH - 0.3, HEIGHT - 0.3)
        lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<osm version="0.6">']
        if self.bounds:
            lines.append(
                f'<bounds minlon="{west:.7f}" minlat="{south:.7f}" '
                f'maxlon="{east:.7f}" maxlat="{north:.7f}"/>'
            )
        nodes = [
            f'<node id="{number}" version="1" lon="{lon:.7f}" lat="{lat:.7f}"/>'
            for (lon, lat), number in ((lonlat(*at), number) for at, number in self.nodes.items())
        ]
        kinds = {"nodes": nodes, "ways": self.ways, "relations": self.relations}
        content = [line for kind in order.split() for line in kinds.get(kind, reversed(nodes))]
        path.write_text("\n".join([*lines, *content, "</osm>"]))
        return path

    def _node(self, point: Point) -> int:
        if point is None:
            return 999_999_999
        return self.nodes.setdefault(point, self.sign * (len(self.nodes) + 1))


def _tags(tags: dict[str, str]) -> str:
    return "".join(f"<tag k={quoteattr(k)} v={quoteattr(v)}/>" for k, v in tags.items())


def source_of(osm: Osm, folder: Path, style: str = "maps") -> ExtractSource:
    return open_extract(osm.write(folder / "map.osm"), zoom=ZOOM, style=style)


def picture(osm: Osm, folder: Path, style: str = "maps") -> np.ndarray:
    source = source_of(osm, folder, style)
    assert source.info.extent == Window(COL, ROW, WIDTH, HEIGHT)
    return source.read(source.info.extent).image


def nearer(image: np.ndarray, colour: tuple[int, int, int], other: tuple[int, int, int]):
    """Return where `image` is nearer to `colour` than to `other`."""
    pixels = image.astype(int)
    return np.abs(pixels - colour).sum(-1) < np.abs(pixels - other).sum(-1)


def at(image: np.ndarray, x: int, y: int) -> tuple[int, int, int]:
    return tuple(image[y, x].tolist())


def is_water(image: np.ndarray) -> np.ndarray:
    """Return where there is water, shaded near the shore or not."""
    return image[..., 2].astype(int) - image[..., 0] > 40


# Areas and output files


def test_park_covers_exactly_its_pixels_in_geotiff(tmp_path: Path) -> None:
    osm = Osm()
    osm.rect(60, 40, 110, 70, leisure="park")
    result = draw(osm.write(tmp_path / "map.osm"), tmp_path / "map.tif")
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[40:70, 60:110] = True
    with rasterio.open(tmp_path / "map.tif") as dataset:
        image = dataset.read().transpose(1, 2, 0)
        assert dataset.crs.to_epsg() == 3857
        assert dataset.transform == mercator_grid(ZOOM).transform(Window(COL, ROW, WIDTH, HEIGHT))
        assert dataset.tags()["TIFFTAG_COPYRIGHT"] == "© OpenStreetMap contributors"
        assert (dataset.dataset_mask() == 255).all()
        assert dataset.mask_flag_enums[0] == [rasterio.enums.MaskFlags.per_dataset]
    assert (nearer(image, PARK, GROUND) == expected).all()
    assert (image[41:69, 61:109] == PARK).all()
    assert at(image, 20, 20) == GROUND
    assert (result.width, result.height, result.zoom, result.style) == (WIDTH, HEIGHT, 16, "maps")
    assert result.warnings == []


@pytest.mark.parametrize("style", ["maps", "osm"])
@pytest.mark.parametrize("suffix", [".mbtiles", ".tif"])
def test_a_drawn_map_knows_its_style(tmp_path: Path, suffix: str, style: str) -> None:
    """So that pairs cut from it, and models trained on those, are called after it."""
    osm = Osm()
    osm.rect(60, 40, 110, 70, leisure="park")
    path = tmp_path / f"map{suffix}"
    draw(osm.write(tmp_path / "town.osm"), path, style=style)
    for zoom in (None, ZOOM):
        with closing(open_source(path, SourceOptions(zoom=zoom))) as source:
            assert source.info.style == style


def test_mbtiles_has_the_same_pixels_and_all_metadata(tmp_path: Path) -> None:
    osm = Osm()
    osm.rect(60, 40, 110, 70, leisure="park")
    extract = osm.write(tmp_path / "town.osm")
    steps: list[tuple[int, int]] = []
    result = draw(
        extract, tmp_path / "map.mbtiles", progress=lambda *step: steps.append(step), style="maps"
    )
    draw(extract, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as dataset:
        expected = dataset.read().transpose(1, 2, 0)
    database = sqlite3.connect(tmp_path / "map.mbtiles")
    metadata = dict(database.execute("SELECT name, value FROM metadata"))
    assert metadata["attribution"] == "© OpenStreetMap contributors"
    assert metadata["maptile2sat:style"] == "maps"
    assert metadata["format"] == "png"
    assert metadata["type"] == "baselayer"
    assert metadata["minzoom"] == metadata["maxzoom"] == "16"
    assert {"name", "version", "description", "center"} <= set(metadata)
    west, south, east, north = map(float, metadata["bounds"].split(","))
    assert np.allclose((west, north), lonlat(0, 0), atol=1e-8)
    assert np.allclose((east, south), lonlat(WIDTH, HEIGHT), atol=1e-8)
    whole = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rows = database.execute("SELECT tile_column, tile_row, tile_data FROM tiles").fetchall()
    for column, stored, data in rows:
        row = (1 << ZOOM) - 1 - stored
        tile = Window(column * 256, row * 256, 256, 256)
        part = tile.intersection(Window(COL, ROW, WIDTH, HEIGHT))
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
        inside = pixels[part.slices(tile)]
        assert (inside[..., 3] == 255).all()
        assert (pixels[..., 3] == 255).sum() == inside[..., 3].size
        whole[part.slices(Window(COL, ROW, WIDTH, HEIGHT))] = inside[..., :3]
    assert (whole == expected).all()
    assert steps == [(n, result.tiles) for n in range(1, result.tiles + 1)]
    assert result.tiles == len(rows) == 4


def test_same_extract_gives_the_same_bytes(tmp_path: Path) -> None:
    osm = Osm()
    osm.rect(60, 40, 110, 70, leisure="park")
    extract = osm.write(tmp_path / "map.osm")
    for suffix in ("mbtiles", "tif"):
        for name in ("a", "b"):
            draw(extract, tmp_path / f"{name}.{suffix}")
        first, second = (tmp_path / f"{name}.{suffix}" for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()


def test_extent_is_that_of_the_nodes_without_a_box(tmp_path: Path) -> None:
    osm = Osm(bounds=False)
    osm.rect(60.4, 40.4, 110.6, 70.6, leisure="park")
    source = source_of(osm, tmp_path)
    assert source.info.extent == Window(COL + 60, ROW + 40, 51, 31)


def small_town(*, new: bool = False) -> Osm:
    """Return a map of a street, a lake and a park with a hole."""
    osm = Osm(new=new)
    osm.way([(20, 50), (150, 58), (280, 50)], highway="residential")
    osm.rect(20, 80, 100, 180, natural="water")
    outer, inner = osm.rect(120, 80, 280, 190), osm.rect(150, 100, 200, 150)
    osm.relation([(outer, "outer"), (inner, "inner")], leisure="park")
    return osm


@pytest.mark.parametrize(
    "order", ["ways relations nodes", "relations ways backwards", "backwards ways relations"]
)
@pytest.mark.parametrize("new", [False, True])
def test_order_and_ids_of_an_extract_do_not_matter(tmp_path: Path, order: str, new: bool) -> None:
    draw(small_town().write(tmp_path / "map.osm"), tmp_path / "usual.tif")
    with rasterio.open(tmp_path / "usual.tif") as dataset:
        expected = dataset.read()
    assert (expected[:, 120, 50] == WATER).all()
    extract = small_town(new=new).write(tmp_path / "other.osm", order)
    result = draw(extract, tmp_path / "other.tif")
    with rasterio.open(tmp_path / "other.tif") as dataset:
        assert (dataset.read() == expected).all()
    assert result.warnings == []


def test_an_extract_without_the_nodes_of_its_ways_is_refused(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([None, None], highway="residential")
    osm.rect(20, 80, 100, 180)  # has nodes, but nothing is to be drawn of it
    extract = osm.write(tmp_path / "map.osm")
    outcome = draw_in_process(extract, "-o", tmp_path / "map.tif")
    assert outcome.returncode == 1
    assert "a node of none of them" in outcome.stderr
    assert _files(tmp_path) == {"map.osm"}


@pytest.mark.parametrize("style", ["maps", "osm"])
def test_both_styles_draw_every_class(tmp_path: Path, style: str) -> None:
    osm = Osm()
    osm.rect(10, 10, 60, 60, landuse="forest")
    osm.rect(80, 10, 130, 60, natural="water")
    osm.rect(150, 10, 200, 60, building="yes")
    osm.way([(0, 120), (299, 120)], highway="residential")
    image = picture(osm, tmp_path, style)
    look = STYLES[style]
    assert at(image, 35, 35) == rgb(look.areas["wood"].fill)
    assert at(image, 105, 35) == rgb(look.areas["water"].fill)
    assert at(image, 175, 35) == rgb(look.areas["building"].fill)
    assert at(image, 175, 120) == rgb(look.lines["street"].fill)
    assert at(image, 250, 180) == rgb(look.background)


def test_small_area_lies_on_large_one(tmp_path: Path) -> None:
    osm = Osm()
    osm.rect(40, 40, 60, 60, leisure="pitch")
    osm.rect(10, 10, 110, 110, leisure="park")
    image = picture(osm, tmp_path)
    assert at(image, 50, 50) == rgb(STYLES["maps"].areas["pitch"].fill)
    assert at(image, 100, 100) == PARK


def test_neighbouring_areas_leave_no_gap(tmp_path: Path) -> None:
    osm = Osm()
    slanted = [(100.3, 10.2), (143.7, 151.9)]
    osm.way([(10, 10.2), slanted[0], slanted[1], (10, 151.9), (10, 10.2)], leisure="park")
    osm.way([slanted[0], (250, 10.2), (250, 151.9), slanted[1], slanted[0]], leisure="park")
    image = picture(osm, tmp_path)
    assert (image[12:150, 12:248] == PARK).all()


# Multipolygons


def test_hole_and_island_of_a_multipolygon(tmp_path: Path) -> None:
    osm = Osm()
    outer = osm.rect(20, 20, 180, 140)
    inner = osm.rect(50, 40, 150, 120)
    island = osm.rect(80, 60, 110, 90)
    osm.relation([(island, "outer"), (inner, "inner"), (outer, "outer")], leisure="park")
    image = picture(osm, tmp_path)
    assert at(image, 30, 80) == PARK
    assert at(image, 60, 50) == GROUND
    assert at(image, 95, 75) == PARK
    assert at(image, 200, 75) == GROUND


def test_ring_of_several_ways_in_any_direction(tmp_path: Path) -> None:
    osm = Osm()
    first = osm.way([(30, 30), (130, 30), (130, 90)])
    second = osm.way([(30, 30), (30, 90)])
    third = osm.way([(130, 90), (80, 110), (30, 90)])
    osm.relation([(first, "outer"), (second, ""), (third, "outer")], natural="water")
    image = picture(osm, tmp_path)
    assert is_water(image)[60, 80]
    assert is_water(image)[100, 80]
    assert not is_water(image)[20, 80]


def test_tags_on_the_outer_way_of_an_untagged_relation(tmp_path: Path) -> None:
    osm = Osm()
    outer = osm.rect(20, 20, 180, 140, leisure="park")
    inner = osm.rect(50, 40, 150, 120)
    osm.relation([(outer, "outer"), (inner, "inner")])
    image = picture(osm, tmp_path)
    assert at(image, 30, 80) == PARK
    assert at(image, 100, 80) == GROUND


def test_incomplete_multipolygon_is_closed_along_the_box(tmp_path: Path) -> None:
    osm = Osm()
    present = osm.way([(295, 30), (220, 30), (220, 110), (296, 110)])
    hole = osm.rect(240, 50, 260, 70)
    osm.relation([(present, "outer"), (4711, "outer"), (hole, "inner")], leisure="park")
    source = source_of(osm, tmp_path)
    image = source.read(source.info.extent).image
    assert source.warnings == []
    assert at(image, 299, 60) == PARK
    assert at(image, 230, 60) == PARK
    assert at(image, 250, 60) == GROUND
    assert at(image, 200, 60) == GROUND
    assert at(image, 299, 150) == GROUND


def test_closed_way_that_lacks_nodes_is_closed_around_a_corner(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(200, 195), (200, 100), (298, 100), None, None, (200, 195)], leisure="park")
    image = picture(osm, tmp_path)
    assert at(image, 298, 198) == PARK
    assert at(image, 205, 105) == PARK
    assert at(image, 190, 150) == GROUND
    assert at(image, 250, 90) == GROUND


def test_area_that_ends_far_inside_is_listed(tmp_path: Path) -> None:
    osm = Osm()
    half = osm.way([(150, 100), (160, 100), (160, 110)])
    osm.relation([(half, "outer"), (4711, "outer")], leisure="park")
    source = source_of(osm, tmp_path)
    assert len(source.warnings) == 1
    assert "relation 1 (park)" in source.warnings[0]
    assert (source.read(source.info.extent).image == GROUND).all()


@pytest.mark.parametrize("whole", [True, False])
def test_an_island_in_a_hole_stays_where_the_extract_cuts_the_area(
    tmp_path: Path, whole: bool
) -> None:
    osm = Osm()
    points = [(100, -50), (100, 150), (350, 150)]
    outer = osm.way([*points, (350, -50), (100, -50)] if whole else points)
    lake, island = osm.rect(150, 20, 290, 140), osm.rect(200, 50, 240, 90)
    osm.relation([(outer, "outer"), (island, "outer"), (lake, "inner")], landuse="forest")
    image = picture(osm, tmp_path)
    wood = rgb(STYLES["maps"].areas["wood"].fill)
    assert at(image, 120, 100) == wood
    assert at(image, 170, 100) == GROUND
    assert at(image, 220, 70) == wood
    assert at(image, 50, 100) == GROUND


def test_a_lake_larger_than_the_extract_leaves_a_cut_wood_around_it(tmp_path: Path) -> None:
    osm = Osm()
    outer = osm.way([(-20, 30), (330, 30)])
    lake = osm.rect(40, 60, 250, 5000)
    osm.relation([(outer, "outer"), (lake, "inner")], landuse="forest")
    image = picture(osm, tmp_path)
    wood = rgb(STYLES["maps"].areas["wood"].fill)
    assert at(image, 20, 100) == at(image, 280, 190) == wood
    assert at(image, 150, 100) == at(image, 150, 10) == GROUND


@pytest.mark.parametrize(("across", "doubt"), [(30, False), (60, False), (90, True), (250, False)])
def test_a_cut_near_the_middle_is_doubtful(tmp_path: Path, across: int, doubt: bool) -> None:
    osm = Osm()
    shore = osm.way([(across, 250), (across, -50)])
    osm.relation([(shore, "outer"), (998, "outer")], natural="water")
    result = draw(osm.write(tmp_path / "map.osm"), tmp_path / "map.tif")
    assert ["wrong side" in text for text in result.warnings] == [True] * doubt


def test_a_clearing_without_its_wood_is_listed(tmp_path: Path) -> None:
    osm = Osm()
    osm.relation([(997, "outer"), (osm.rect(100, 50, 200, 150), "inner")], landuse="forest")
    osm.relation([(996, "outer"), (osm.rect(400, 50, 500, 150), "inner")], landuse="forest")
    outcome = draw_in_process(osm.write(tmp_path / "map.osm"), "-o", tmp_path / "map.tif")
    assert outcome.returncode == 0
    assert "relation 1 (wood):" in outcome.stderr


SPIKE = [
    (100, 50),
    (200, 50),
    (200, 150),
    (150, 150),
    (170, 190),
    (150, 150),
    (100, 150),
    (100, 50),
]
FLAT = [(20, 20), (60, 60), (100, 100), (60, 60), (20, 20)]


@pytest.mark.parametrize("flaw", [SPIKE, FLAT, [*SPIKE, *FLAT, SPIKE[0]]])
@pytest.mark.parametrize("style", ["maps", "osm"])
def test_rings_with_spikes_are_drawn_without_them(
    tmp_path: Path, flaw: list[Point], style: str
) -> None:
    osm = Osm()
    outer, inner = osm.rect(10, 10, 290, 195), osm.way(flaw)
    osm.relation([(outer, "outer"), (inner, "inner")], landuse="forest")
    osm.relation([(999, "outer"), (inner, "inner")], landuse="forest")
    osm.relation([(osm.rect(120, 70, 130, 80), "outer"), (inner, "inner")], landuse="forest")
    osm.relation([(osm.way([(5, -9), (5, 220)]), "outer"), (inner, "inner")], natural="water")
    osm.way(flaw, natural="coastline")
    osm.way(flaw[::-1], leisure="park")
    image = picture(osm, tmp_path, style)
    assert at(image, 280, 180) != rgb(STYLES[style].background)


def test_rings_that_run_along_the_border_are_drawn(tmp_path: Path) -> None:
    osm = Osm()
    edge = [(10.0, HEIGHT + 0.0), (150.0, HEIGHT + 0.0)]
    osm.relation([(osm.way(edge), "outer"), (999, "outer")], landuse="forest")
    osm.relation([(osm.way(edge[::-1]), "outer"), (999, "outer")], landuse="forest")
    picture(osm, tmp_path)


@pytest.mark.parametrize("layer", ["inf", "-inf", "nan", "1e999", "9" * 400])
def test_a_layer_that_is_no_number_is_none(tmp_path: Path, layer: str) -> None:
    osm = Osm()
    osm.way([(20, 50), (280, 50)], highway="residential", layer=layer)
    assert at(picture(osm, tmp_path), 150, 50) == STREET


def test_geometry_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    osm = small_town()
    extract = osm.write(tmp_path / "map.osm")

    def fail(*_: object, **__: object) -> None:
        raise shapely.errors.GEOSException("TopologyException: side\nlocation conflict")

    for module, step in (
        (reading, "assemble"),
        (laid_out, "polygonal"),
        (drawing_source, "paint_tile"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(module, step, fail)
            with pytest.raises(
                SourceError, match=r"map\.osm holds shapes .*side location"
            ) as caught:
                draw(extract, tmp_path / "map.tif")
        assert "\n" not in str(caught.value)
    assert _files(tmp_path) == {"map.osm"}


# Sea


def test_sea_lies_right_of_the_coastline(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(100, 250), (100, 90), (120, -20)], natural="coastline")  # northwards
    water = is_water(picture(osm, tmp_path))
    assert water[5:195, 125:].all()
    assert not water[5:195, :95].any()


def test_reversed_coastline_has_the_sea_on_the_other_side(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(120, -20), (100, 90), (100, 250)], natural="coastline")
    water = is_water(picture(osm, tmp_path))
    assert water[5:195, :95].all()
    assert not water[5:195, 125:].any()


def test_open_coastline_is_led_to_the_nearest_side(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(None), (7, 130), (100, 120), (110, 9), None], natural="coastline")
    water = is_water(picture(osm, tmp_path))
    assert not water[2:115, 2:95].any()  # land is left of the way: the north-west
    assert water[135:198, :].all()
    assert water[:, 115:].all()
    assert not water[0, 108]


def test_coastlines_joined_from_ways_with_an_island(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(-5, 60), (150, 60)], natural="coastline")  # eastwards: the sea is south
    osm.way([(150, 60), (305, 70)], natural="coastline")
    island = [(100, 110), (100, 150), (160, 150), (160, 110), (100, 110)]  # ccw: land inside
    osm.way(island, natural="coastline")
    water = is_water(picture(osm, tmp_path))
    assert not water[:55].any()
    assert water[75:105].all()
    assert not water[112:148, 103:157].any()
    assert water[155:].all()


def test_two_coasts_of_a_strait(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(-5, 60), (305, 70)], natural="coastline")
    osm.way([(305, 150), (-5, 140)], natural="coastline")
    water = is_water(picture(osm, tmp_path))
    assert not water[:55].any()
    assert water[75:135].all()
    assert not water[155:].any()


def test_contradicting_coastlines_draw_no_sea(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(-5, 60), (305, 70)], natural="coastline")
    osm.way([(-5, 140), (305, 150)], natural="coastline")
    result = draw(osm.write(tmp_path / "map.osm"), tmp_path / "map.tif")
    assert len(result.warnings) == 1
    assert "no sea" in result.warnings[0]
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert not is_water(dataset.read().transpose(1, 2, 0)).any()


def test_coastline_that_ends_inside_draws_no_sea(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(-5, 60), (150, 100)], natural="coastline")
    source = source_of(osm, tmp_path)
    assert "no sea" in source.warnings[0]
    assert not is_water(source.read(source.info.extent).image).any()


# Across 180 degrees

FIJI = """<?xml version="1.0"?><osm version="0.6">
<bounds minlon="{west}" minlat="-17.2" maxlon="{east}" maxlat="-16.2"/>
<node id="1" version="1" lon="179.5" lat="-16.5"/><node id="2" version="1" lon="180" lat="-16.5"/>
<node id="3" version="1" lon="-180" lat="-16.5"/><node id="4" version="1" lon="-179.2" lat="-16.5"/>
<way id="1" version="1"><nd ref="1"/><nd ref="2"/><tag k="highway" v="motorway"/></way>
<way id="2" version="1"><nd ref="3"/><nd ref="4"/><tag k="highway" v="motorway"/></way></osm>"""
FIJI_BOX = BBox(179.4, -17.2, -179.1, -16.2)
FIJI_WINDOW = mercator_grid(10).window(FIJI_BOX)


def fiji(folder: Path, west: float, east: float) -> Path:
    path = folder / "fiji.osm"
    path.write_text(FIJI.format(west=west, east=east))
    return path


def check_fiji_road(image: np.ndarray) -> None:
    """Check that the road goes from 179.5 to -179.2 degrees without a gap."""
    assert image.shape == (FIJI_WINDOW.height, FIJI_WINDOW.width, 3)
    road = (image != GROUND).any(-1).any(0)
    left, right = ((lon / 360 + 0.5) * (256 << 10) - FIJI_WINDOW.col for lon in (179.5, 180.8))
    assert road[round(left) : round(right)].all()
    assert not road[: round(left) - 2].any()
    assert not road[round(right) + 2 :].any()


@pytest.mark.parametrize(
    ("header", "bbox"),
    [
        ((179.4, -179.1), None),
        ((179.4, -179.1), FIJI_BOX),
        ((179.4, -179.1), BBox(179.0, -17.2, 181.0, -16.2)),
    ],
)
def test_a_map_across_180_degrees_is_one(
    tmp_path: Path, header: tuple[float, float], bbox: BBox | None
) -> None:
    extract = fiji(tmp_path, *header)
    expected = mercator_grid(10).transform(FIJI_WINDOW)
    result = draw(extract, tmp_path / "map.tif", zoom=10, bbox=bbox)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        image = dataset.read().transpose(1, 2, 0)
        assert dataset.transform.almost_equals(expected)
        assert (dataset.dataset_mask() == 255).all()
    check_fiji_road(image)
    assert result.bounds.west == pytest.approx(179.4, abs=1e-3)
    assert result.bounds.east == pytest.approx(180.9, abs=1e-3)
    draw(extract, tmp_path / "map.mbtiles", zoom=10, bbox=bbox)
    with closing(open_source(str(tmp_path / "map.mbtiles"), SourceOptions())) as tiles:
        read = tiles.read(FIJI_WINDOW)
    assert (read.mask == 255).all()
    assert (read.image == image).all()


BOUNDS = '<bounds minlon="{}" minlat="-17.2" maxlon="{}" maxlat="-16.2"/>'


@pytest.mark.parametrize("stated", [(), ((-180, 180),), ((-179.9, 179.9),)])
def test_nodes_on_both_sides_of_180_degrees_are_one_map(
    tmp_path: Path, stated: tuple[tuple[float, float], ...]
) -> None:
    """A box of the least and the greatest longitude would be all of the world."""
    head, south, north = "".join(BOUNDS.format(*ends) for ends in stated), -17.2, -16.2
    if not stated:  # then the nodes say how far it goes
        south, north = -17.0, -16.3
        head = f'<node id="8" version="1" lon="180" lat="{south}"/>'
        head += f'<node id="9" version="1" lon="-180" lat="{north}"/>'
    lines = FIJI.splitlines()
    extract = tmp_path / "fiji.osm"
    extract.write_text("\n".join([lines[0], head, *lines[2:]]))
    result = draw(extract, tmp_path / "map.tif", zoom=10)
    window = mercator_grid(10).window(BBox(179.5, south, -179.2, north))
    assert (result.width, result.height) == (window.width, window.height)
    assert result.bounds.west == pytest.approx(179.5, abs=2e-3)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert dataset.transform.almost_equals(mercator_grid(10).transform(window))
        assert (dataset.read() != np.array(GROUND)[:, None, None]).any(axis=(0, 1)).all()


@pytest.mark.parametrize(
    ("west", "east"), [(170, 180), (-180, -170), (-180, 180), (179.4, -179.1), (-180, -179.95)]
)
@pytest.mark.parametrize("kind", ["line", "area"])
def test_a_way_across_180_degrees_does_not_run_around_the_world(
    tmp_path: Path, west: float, east: float, kind: str
) -> None:
    """One way with nodes on both sides: its piece within the box, on each side that it has."""
    extract = tmp_path / "across.osm"
    places = [(179.8, -16.8), (-179.9, -16.8), (-179.9, -16.6), (179.8, -16.6), (0, -16.7)]
    nodes = "".join(
        f'<node id="{number}" version="1" lon="{lon}" lat="{lat}"/>'
        for number, (lon, lat) in enumerate(places, 1)
    )
    refs = "".join(f'<nd ref="{ref}"/>' for ref in (1, 2, 3, 4, 1)[: 2 if kind == "line" else 5])
    tags = _tags({"highway": "motorway"} if kind == "line" else {"leisure": "park"})
    extract.write_text(
        f'<osm version="0.6">{BOUNDS.format(west, east)}{nodes}<way id="1" version="1">{refs}'
        f"{tags}</way></osm>"
    )
    source = open_extract(extract, zoom=8)
    extent = source.info.extent
    drawn = (source.read(extent).image != GROUND).any(-1).any(0)
    lons = (extent.col + np.arange(extent.width) + 0.5) / (256 << 8) * 360 - 180
    inside = ((lons - 179.8) % 360) < 0.3
    surely = ((lons - 179.81) % 360) < 0.28
    near = ((lons - 179.77) % 360) < 0.36  # its width
    assert drawn[surely].all()
    assert inside.any()
    assert not drawn[~near].any()


# What a file says that it covers


def two_boxes(folder: Path, name: str, head: str) -> Path:
    """Write an extract of two parks, 0.1 degrees apart."""
    nodes = ways = ""
    for park, lon in enumerate((24.0, 24.2)):
        corners = [(lon, 60.0), (lon + 0.05, 60.0), (lon + 0.05, 60.05), (lon, 60.05)]
        for corner, (x, y) in enumerate(corners, 1):
            nodes += f'<node id="{park * 4 + corner}" version="1" lon="{x}" lat="{y}"/>'
        refs = "".join(f'<nd ref="{park * 4 + at}"/>' for at in (1, 2, 3, 4, 1))
        ways += f'<way id="{park + 1}" version="1">{refs}{_tags({"leisure": "park"})}</way>'
    text = f'<?xml version="1.0"?><osm version="0.6">{head}{nodes}{ways}</osm>'.encode()
    pack = {".gz": gzip.compress, ".bz2": bz2.compress}.get(Path(name).suffix, bytes)
    (folder / name).write_bytes(pack(text))
    return folder / name


BOXES = "".join(
    f'<bounds minlon="{west}" minlat="59.9" maxlon="{east}" maxlat="{north}"/>'
    for west, east, north in ((23.9, 24.1, 60.1), (24.15, 24.3, 60.2))
)


@pytest.mark.parametrize("name", ["map.osm", "map.osm.gz", "map.osm.bz2"])
def test_all_boxes_of_a_file_count(tmp_path: Path, name: str) -> None:
    """Editors write one for each area that was downloaded."""
    extract = two_boxes(tmp_path, name, "<!-- <bounds/> <node/> -->" + BOXES)
    source = open_extract(extract, zoom=10)
    assert source.info.extent == mercator_grid(10).window(BBox(23.9, 59.9, 24.3, 60.2))
    one = open_extract(two_boxes(tmp_path, name, BOXES[: BOXES.index("/>") + 2]), zoom=10)
    assert one.info.extent == mercator_grid(10).window(BBox(23.9, 59.9, 24.1, 60.1))


@pytest.mark.parametrize(
    "boxes", [((179.4, 180), (-180, -179.1)), ((179.4, 179.6), (179.6, -179.1))]
)
def test_boxes_on_both_sides_of_180_degrees_are_one(
    tmp_path: Path, boxes: tuple[tuple[float, float], ...]
) -> None:
    head = "".join(BOUNDS.format(*ends) for ends in boxes)
    lines = FIJI.splitlines()
    extract = tmp_path / "fiji.osm"
    extract.write_text("\n".join([lines[0], head, *lines[2:]]))
    source = open_extract(extract, zoom=10)
    assert source.info.extent == FIJI_WINDOW
    check_fiji_road(source.read(FIJI_WINDOW).image)


@pytest.mark.parametrize(
    "head",
    [
        BOXES + "<bounds minlon='170' minlat='2' maxlon='200' maxlat='3'/>",
        BOXES + f"<note>{'long ' * 300_000}</note>",
    ],
    ids=["nowhere", "too long"],
)
def test_without_boxes_to_trust_the_nodes_say(tmp_path: Path, head: str) -> None:
    source = open_extract(two_boxes(tmp_path, "map.osm", head), zoom=10)
    assert source.info.extent == mercator_grid(10).window(BBox(24.0, 60.0, 24.25, 60.05))


def test_a_wide_header_box_that_holds_its_nodes_is_believed(tmp_path: Path) -> None:
    extract = tmp_path / "wide.osm"
    text = FIJI.format(west=-150, east=150).replace("179.", "140.").replace("180", "145")
    between = '<node id="5" version="1" lon="0" lat="-16.5"/><node id="1"'
    extract.write_text(text.replace('<node id="1"', between))
    source = open_extract(extract, zoom=3)
    assert source.info.extent == mercator_grid(3).window(BBox(-150, -17.2, 150, -16.2))


def test_all_round_the_world_a_tile_cut_by_its_box_is_written_once(tmp_path: Path) -> None:
    extract = fiji(tmp_path, -180, 180)
    far = '<node id="9" version="1" lon="0" lat="-16.5"/><node id="1"'
    extract.write_text(extract.read_text().replace('<node id="1"', far))
    result = draw(extract, tmp_path / "map.mbtiles", zoom=2, bbox=BBox(10, -17, 9.9, -16))
    assert result.tiles == 4
    assert result.width >= 4 * 256


# Roads


def test_bridge_lies_over_the_more_important_road(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(150, 10), (150, 190)], highway="residential", bridge="yes", layer="1")
    osm.way([(10, 100), (290, 100)], highway="motorway")
    image = picture(osm, tmp_path)
    assert at(image, 150, 100) == STREET
    assert at(image, 100, 100) == MOTORWAY
    assert at(image, 145, 100) != MOTORWAY  # the casing of the bridge cuts the road below


def test_without_a_bridge_the_more_important_road_lies_on_top(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(10, 100), (290, 100)], highway="motorway")
    osm.way([(150, 10), (150, 190)], highway="residential")
    image = picture(osm, tmp_path)
    assert at(image, 150, 100) == MOTORWAY
    assert at(image, 150, 50) == STREET


def test_no_casing_crosses_a_junction(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(10, 100), (150, 100), (290, 100)], highway="residential")
    osm.way([(150, 100), (150, 190)], highway="residential")
    image = picture(osm, tmp_path)
    assert (image[100:180, 150] == STREET).all()
    assert (image[100, 20:280] == STREET).all()


def test_tunnel_is_lighter_and_below(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(10, 100), (290, 100)], highway="primary", tunnel="yes", layer="-1")
    osm.way([(150, 10), (150, 190)], highway="residential")
    osm.rect(200, 80, 240, 120, building="yes")
    image = picture(osm, tmp_path)
    tunnel = STYLES["maps"].lines["primary"].tunnel
    assert tunnel is not None
    assert at(image, 60, 100) == rgb(tunnel) != PRIMARY
    assert at(image, 150, 100) == STREET
    assert at(image, 220, 100) == rgb(STYLES["maps"].areas["building"].fill)


def test_higher_layer_of_two_bridges_is_on_top(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(150, 10), (150, 190)], highway="residential", bridge="yes", layer="2")
    osm.way([(10, 100), (290, 100)], highway="motorway", bridge="yes", layer="1")
    assert at(picture(osm, tmp_path), 150, 100) == STREET


def test_road_has_the_width_of_the_style(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(10, 100), (290, 100)], highway="residential")
    image = picture(osm, tmp_path)
    white = nearer(image, STREET, rgb("#d9d5ce"))[:, 150] & (image[:, 150, 0] > 245)
    assert abs(white.sum() - STYLES["maps"].lines["street"].width) <= 1.5


def test_road_is_not_drawn_across_missing_nodes(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(10, 100), (90, 100), None, (200, 100), (290, 100)], highway="residential")
    image = picture(osm, tmp_path)
    assert at(image, 50, 100) == STREET
    assert at(image, 145, 100) == GROUND
    assert at(image, 250, 100) == STREET


def test_road_cut_near_the_edge_goes_over_it(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(100, 100), (285, 100), None], highway="residential")
    osm.way([(100, 150), (285, 150)], highway="residential")  # ends there in truth
    image = picture(osm, tmp_path)
    assert at(image, 299, 100) == STREET
    assert at(image, 299, 150) == GROUND


def test_path_is_below_a_square(tmp_path: Path) -> None:
    osm = Osm()
    osm.rect(50, 50, 150, 150, highway="pedestrian", area="yes")
    osm.way([(20, 100.5), (180, 100.5)], highway="footway")
    image = picture(osm, tmp_path)
    assert at(image, 100, 100) == rgb(STYLES["maps"].areas["pedestrian"].fill)
    assert at(image, 170, 100) == rgb(STYLES["maps"].lines["path"].fill)


def test_underground_things_are_not_drawn(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([(10, 50), (290, 50)], highway="service", tunnel="yes")
    osm.way([(10, 100), (290, 100)], railway="subway", tunnel="yes", layer="-2")
    osm.rect(20, 120, 90, 180, building="yes", layer="-1")
    osm.rect(120, 120, 190, 180, building="yes", location="underground")
    assert (picture(osm, tmp_path) == GROUND).all()


# Reading


def busy(folder: Path) -> ExtractSource:
    """Return a map with something everywhere, and water shaded along its shore."""
    osm = Osm()
    osm.way([(-20, 150), (130, 120), (320, 170)], natural="coastline")
    osm.rect(20, 20, 180, 110, leisure="park")
    for step in range(12):
        osm.rect(12 + 23 * step, 30 + 3 * step, 25 + 23 * step, 48 + 4 * step, building="yes")
        osm.way([(7 + 25 * step, 0), (31 * step, 199)], highway="residential")
    osm.way([(0, 77), (140, 95), (299, 60)], highway="primary")
    return source_of(osm, folder)


def test_a_pixel_is_the_same_in_any_window(tmp_path: Path) -> None:
    source = busy(tmp_path)
    extent = source.info.extent
    around = extent.grown(40)
    whole = source.read(around)
    random = np.random.default_rng(5)
    windows = []
    for _ in range(40):
        col, row = random.integers(-40, WIDTH), random.integers(-40, HEIGHT)
        width, height = random.integers(1, 120, 2)
        windows.append(Window(COL + int(col), ROW + int(row), int(width), int(height)))
    fresh = open_extract(tmp_path / "map.osm", zoom=ZOOM)
    with ThreadPoolExecutor(4) as pool:
        reads = list(pool.map(fresh.read, windows))
    for window, read in zip(windows, reads, strict=True):
        part = window.intersection(around)
        assert (read.image[part.slices(window)] == whole.image[part.slices(around)]).all()
        assert (read.mask[part.slices(window)] == whole.mask[part.slices(around)]).all()


def test_mask_is_the_extract(tmp_path: Path) -> None:
    source = busy(tmp_path)
    around = source.info.extent.grown(9)
    read = source.read(around)
    expected = np.zeros((HEIGHT + 18, WIDTH + 18), np.uint8)
    expected[9:-9, 9:-9] = 255
    assert (read.mask == expected).all()
    assert (read.image[expected == 0] == 0).all()


def test_no_seam_at_tile_borders(tmp_path: Path) -> None:
    source = busy(tmp_path)
    tiles = source.read(source.info.extent).image.astype(int)
    assert source._scene is not None
    once = paint(source._scene, source.info.extent).astype(int)  # one canvas, no tiles
    differs = np.abs(tiles - once).max(-1)
    assert (differs > 0).mean() < 1e-3
    assert differs.max() <= 255 / 16 + 1  # one of 16 samples


def test_closed_source_refuses(tmp_path: Path) -> None:
    source = busy(tmp_path)
    source.close()
    with pytest.raises(SourceError, match="closed"):
        source.read(source.info.extent)


@pytest.mark.parametrize("zoom", [12, 14, 18])
def test_other_zooms(tmp_path: Path, zoom: int) -> None:
    osm = Osm()
    osm.rect(0, 0, WIDTH, HEIGHT, leisure="park")
    osm.rect(128, 128, 192, 192, natural="water")
    source = open_extract(osm.write(tmp_path / "map.osm"), zoom=zoom)
    extent = source.info.extent
    scale = 2.0 ** (zoom - ZOOM)
    assert abs(extent.width - WIDTH * scale) <= 2
    image = source.read(extent).image
    x = math.floor((COL + 160) * scale) - extent.col
    y = math.floor((ROW + 160) * scale) - extent.row
    assert is_water(image)[y, x]


# Options and errors


def test_bbox_draws_the_same_pixels(tmp_path: Path) -> None:
    whole = busy(tmp_path).read(Window(COL, ROW, WIDTH, HEIGHT)).image
    west, north = lonlat(33.5, 21.5)
    east, south = lonlat(151.5, 130.5)
    result = draw(tmp_path / "map.osm", tmp_path / "part.tif", bbox=BBox(west, south, east, north))
    with rasterio.open(tmp_path / "part.tif") as dataset:
        part = dataset.read().transpose(1, 2, 0)
    assert (result.width, result.height) == (119, 110)
    assert (part == whole[21:131, 33:152]).all()


def test_bbox_is_cut_to_the_extract(tmp_path: Path) -> None:
    busy(tmp_path)
    west, north = lonlat(-100, -100)
    east, south = lonlat(50.5, 60.5)
    result = draw(
        tmp_path / "map.osm", tmp_path / "part.mbtiles", bbox=BBox(west, south, east, north)
    )
    assert (result.width, result.height) == (51, 61)
    assert np.allclose((result.bounds.west, result.bounds.north), lonlat(0, 0))


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("output", "options", "error", "says"),
    [
        ("map.png", {}, UsageError, "must end in .mbtiles or .tif"),
        ("map", {}, UsageError, "must end in"),
        ("map.tif", {"style": "watercolour"}, UsageError, "choose maps or osm"),
        ("map.tif", {"zoom": 31}, UsageError, "zoom 31"),
        ("map.tif", {"bbox": BBox(1.0, 2.0, 1.1, 2.1)}, UsageError, "outside"),
        ("map.mbtiles", {"bbox": BBox(1.0, 2.0, 1.1, 2.1)}, UsageError, "outside"),
        ("map.tif", {"bbox": BBox(1.0, 3.0, 1.1, 2.1)}, UsageError, "no area"),
        ("missing/map.tif", {}, OutputError, "does not exist"),
        ("there.tif", {}, OutputError, "--overwrite"),
        ("there.mbtiles", {}, OutputError, "--overwrite"),
    ],
)
def test_bad_requests_leave_nothing(
    tmp_path: Path, output: str, options: dict, error: type[Maptile2satError], says: str
) -> None:
    osm = Osm()
    osm.rect(60, 40, 110, 70, leisure="park")
    extract = osm.write(tmp_path / "map.osm")
    for name in ("there.tif", "there.mbtiles"):
        (tmp_path / name).write_text("mine")
    before = _files(tmp_path)
    with pytest.raises(error, match=says) as caught:
        draw(extract, tmp_path / output, **options)
    assert "\n" not in str(caught.value)
    assert _files(tmp_path) == before
    assert (tmp_path / "there.tif").read_text() == "mine"


@pytest.mark.parametrize("suffix", ["tif", "mbtiles"])
def test_overwrite_replaces(tmp_path: Path, suffix: str) -> None:
    osm = Osm()
    osm.rect(60, 40, 110, 70, leisure="park")
    output = tmp_path / f"map.{suffix}"
    output.write_text("old")
    draw(osm.write(tmp_path / "map.osm"), output, overwrite=True)
    assert output.stat().st_size > 1000
    assert _files(tmp_path) == {"map.osm", output.name}


NODES = b'<?xml version="1.0"?><osm version="0.6">%s</osm>'


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("map.osm", b"this is no XML", "cannot be read"),
        ("map.osm", b"<html><body>404</body></html>", "cannot be read"),
        ("map.osm", b'<?xml version="1.0"?><osm version="0.6"></osm>', "no OpenStreetMap nodes"),
        ("map.osm", NODES % b"<node id='1' lon='24' lat='60'/>", "longitude 24 and latitude 60;"),
        (
            "map.osm",
            NODES % b"<node id='1' lon='24' lat='60'/><node id='2' lon='25' lat='60'/>",
            r"covers no area: all of its nodes \(2\) lie at latitude 60; take an extract",
        ),
        (
            "map.osm",
            NODES % b"<node id='1' lon='180' lat='60'/><node id='2' lon='-180' lat='61'/>",
            "lie at longitude 180;",
        ),
        (
            "map.osm",
            NODES % b"<node id='1' lon='24' lat='86'/><node id='2' lon='25' lat='88'/>",
            "between the latitudes 86 and 88, beyond the end of web mercator at 85.0511",
        ),
        (
            "map.osm",
            NODES % b"<bounds minlon='1' minlat='-89' maxlon='2' maxlat='-86'/><node id='1'/>",
            "between the latitudes -89 and -86",
        ),
        ("map.osm.pbf", b"\x00\x00\x00\x0d garbage" * 50, "cannot be read"),
        ("map.osm.pbf", b"", "cannot be read|no OpenStreetMap nodes"),
        ("map.jpg", b"\xff\xd8\xff\xe0", "cannot be read"),
        (None, b"", "does not exist"),
    ],
)
@pytest.mark.parametrize("suffix", ["tif", "mbtiles"])
def test_bad_extracts_leave_nothing(
    tmp_path: Path, name: str | None, content: bytes, says: str, suffix: str
) -> None:
    extract = tmp_path / (name or "missing.osm.pbf")
    if name:
        extract.write_bytes(content)
    before = _files(tmp_path)
    with pytest.raises(SourceError, match=says) as caught:
        draw(extract, tmp_path / f"out.{suffix}")
    assert "\n" not in str(caught.value)
    assert _files(tmp_path) == before


def draw_in_process(
    *arguments: str | Path, limit: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `maptile2sat draw`; files may not become larger than `limit` bytes, as on a full disk."""
    import resource

    def fill_disk() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code = "from maptile2sat.cli import process; process()"
    return subprocess.run(
        [sys.executable, "-c", code, "draw", *arguments],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=fill_disk,
    )


def chequered() -> Osm:
    """Return a map that does not compress well."""
    random = np.random.default_rng(1)
    osm = Osm()
    for left, top in random.uniform(0, (WIDTH, HEIGHT), (400, 2)).tolist():
        osm.rect(left, top, left + 9, top + 7, building="yes")
    return osm


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_full_disk_keeps_the_old_geotiff(tmp_path: Path) -> None:
    extract, output = chequered().write(tmp_path / "map.osm"), tmp_path / "map.tif"
    draw(extract, output)
    before, size = output.read_bytes(), output.stat().st_size
    for limit in (size // 4, size // 2, size - 100):
        outcome = draw_in_process(extract, "-o", output, "--overwrite", limit=limit)
        assert outcome.returncode == 1, limit
        assert "disk" in outcome.stderr
        assert "Traceback" not in outcome.stderr
        assert output.read_bytes() == before
        assert _files(tmp_path) == {"map.osm", "map.tif"}


@pytest.mark.usefixtures("usual_garbage")
def test_a_map_of_any_size_begins_at_once_and_in_little_memory(tmp_path: Path) -> None:
    extract = small_town().write(tmp_path / "map.osm")
    totals: list[int] = []

    def interrupt(done: int, total: int) -> None:
        totals.append(total)
        raise KeyboardInterrupt

    tracemalloc.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            draw(extract, tmp_path / "map.mbtiles", zoom=25, progress=interrupt)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    across, down = WIDTH << (25 - ZOOM), HEIGHT << (25 - ZOOM)
    assert totals[0] > across // 256 * (down // 256) * 0.98
    assert peak < 15 << 20


@pytest.mark.parametrize(
    "command",
    [
        ("draw", "map.osm", "-o"),
        ("dataset", "build", "--map", "map.osm", "--image", "map.osm", "--out"),
    ],
)
def test_a_box_that_is_not_in_degrees_gets_no_advice_that_cannot_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    small_town().write(tmp_path / "map.osm")
    monkeypatch.chdir(tmp_path)
    outcome = run(*command, "out.tif", "--bbox", "500,1,501,2")
    assert outcome.code == 2
    assert "not in degrees" in outcome.err
    assert "--bbox-crs" not in outcome.err


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_full_disk_keeps_the_old_mbtiles(tmp_path: Path) -> None:
    extract, output = small_town().write(tmp_path / "map.osm"), tmp_path / "map.mbtiles"
    output.write_text("old")
    # tiles are committed by the hundred, before they fill the cache
    asked = ["--overwrite", "-z", "21", "-q"]
    outcome = draw_in_process(extract, "-o", output, *asked, limit=200 << 10)
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("error: cannot write")
    assert outcome.stderr.count("\n") == 1
    assert output.read_text() == "old"
    assert _files(tmp_path) == {"map.osm", "map.mbtiles"}


@pytest.mark.skipif(sys.platform == "win32", reason="names are text there")
@pytest.mark.parametrize(
    ("extract", "output", "says"),
    [
        ("map.osm", "a" * 240 + ".tif", "shorter name"),
        ("map.osm", "a" * 240 + ".mbtiles", "shorter name"),
        ("map.osm", "a" * 300 + ".tif", "shorter name"),
        ("map.osm", "a" * 300 + "/map.tif", "shorter name"),
        ("a" * 300 + ".osm", "map.tif", "too long"),
        ("map.osm", "b\udcffd.tif", "not UTF-8"),
        ("map.osm", "b\udcffd.mbtiles", "not UTF-8"),
        ("b\udcffd.osm", "map.tif", "not UTF-8"),
        ("b\udcffd.osm", "map.mbtiles", "not UTF-8"),
    ],
)
def test_names_that_cannot_be_are_one_line(
    tmp_path: Path, extract: str, output: str, says: str
) -> None:
    small_town().write(tmp_path / "map.osm")
    if "\udcff" in extract:
        (tmp_path / "map.osm").rename(tmp_path / extract)
    before = _files(tmp_path)
    outcome = draw_in_process(tmp_path / extract, "-o", tmp_path / output)
    assert outcome.returncode == 1
    assert says in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert _files(tmp_path) == before


@pytest.mark.parametrize("suffix", ["tif", "mbtiles"])
def test_an_interrupted_drawing_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    osm = Osm()
    osm.rect(60, 40, 110, 70, leisure="park")
    extract = osm.write(tmp_path / "map.osm")

    def interrupt(done: int, total: int) -> None:
        if done == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(extract, tmp_path / f"out.{suffix}", progress=interrupt)
    assert _files(tmp_path) == {"map.osm"}


def test_a_half_downloaded_pbf_is_an_error(tmp_path: Path) -> None:
    import osmium

    whole = tmp_path / "map.osm.pbf"
    writer = osmium.SimpleWriter(str(whole))
    for number in range(1, 4000):
        place = lonlat(number % 250, number % 173)
        writer.add_node(osmium.osm.mutable.Node(id=number, location=place, version=1))
    writer.close()
    assert open_extract(whole, zoom=ZOOM).info.extent.width >= 249
    cut = tmp_path / "cut.osm.pbf"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(SourceError, match="cannot be read"):
        open_extract(cut, zoom=ZOOM)
