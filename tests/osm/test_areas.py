"""Areas of relations: what osmium assembles of the same members, and the tags of former years."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("osmium")
pytest.importorskip("shapely")

import osmium
import shapely

from maptile2sat.geo.grid import mercator_grid
from maptile2sat.osm.read import Extract, read_extract
from tests.test_draw import COL, ROW, ZOOM, Osm

SIDE = 256 << ZOOM

Ring = list[tuple[float, float]]


def ring(left: float, top: float, right: float, bottom: float) -> Ring:
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


OUTER, HOLE, ISLAND = ring(20, 20, 180, 140), ring(50, 40, 150, 120), ring(80, 60, 110, 90)
BESIDE = ring(200, 20, 280, 140)
IN_OUTER, IN_HOLE, IN_ISLAND, IN_BESIDE = (30, 80), (60, 50), (95, 75), (240, 80)


def read(osm: Osm, folder: Path) -> Extract:
    return read_extract(osm.write(folder / "map.osm"), mercator_grid(ZOOM))


def drawn(extract: Extract) -> dict[str, shapely.Geometry]:
    """Return what is covered of each class, in pixels relative to the test area."""
    found: dict[str, list] = {}
    for area in extract.areas:
        moved = shapely.transform(area.polygon, lambda points: points - (COL, ROW))
        found.setdefault(area.name, []).append(moved)
    return {name: shapely.union_all(parts) for name, parts in found.items()}


def covers(extract: Extract, name: str, *points: tuple[float, float]) -> list[bool]:
    area = drawn(extract).get(name, shapely.Polygon())
    return [area.contains(shapely.Point(point)) for point in points]


def assembled(path: Path) -> shapely.Geometry:
    """Return the areas of relations as osmium assembles them, in pixels."""
    parts = []
    for area in osmium.FileProcessor(str(path)).with_areas():
        if area.is_area() and not area.from_way():
            for outer in area.outer_rings():
                holes = [_pixels(inner) for inner in area.inner_rings(outer)]
                parts.append(shapely.Polygon(_pixels(outer), holes))
    return shapely.union_all(parts)


def _pixels(nodes: object) -> np.ndarray:
    degrees = np.array([(node.lon, node.lat) for node in nodes])
    y = 0.5 - np.arcsinh(np.tan(np.radians(degrees[:, 1]))) / (2 * np.pi)
    return np.column_stack([(degrees[:, 0] / 360 + 0.5) * SIDE - COL, y * SIDE - ROW])


def pieces(osm: Osm, points: Ring, cuts: int, chance: random.Random) -> list[int]:
    """Add a ring as up to `cuts` ways, in any direction."""
    ends = sorted({0, len(points) - 1, *chance.choices(range(1, len(points) - 1), k=cuts - 1)})
    parts = [points[a : b + 1] for a, b in pairwise(ends)]
    return [osm.way(part[:: chance.choice((1, -1))]) for part in parts]


RINGS = {
    "one": [OUTER],
    "nested": [OUTER, HOLE, ISLAND, ring(90, 65, 100, 80), BESIDE],
    "touching in a point": [OUTER, ring(180, 140, 280, 190)],
    "holes that share an edge": [OUTER, ring(50, 40, 100, 120), ring(100, 40, 150, 120)],
    "holes that touch in two points": [
        OUTER,
        [(40, 40), (70, 40), (70, 60), (100, 80), (70, 100), (40, 100), (40, 40)],
        [(100, 80), (120, 50), (70, 60), (95, 40), (130, 30), (140, 90), (100, 80)],
    ],
    "four around a point": [
        [(100, 80), (60, 70), (60, 40), (100, 80)],
        [(100, 80), (140, 70), (140, 40), (100, 80)],
        [(100, 80), (60, 90), (60, 130), (100, 80)],
        [(100, 80), (140, 90), (140, 130), (100, 80)],
    ],
    "a hole on the edge": [
        [*OUTER[:1], (100, 20), *OUTER[1:]],
        [(100, 20), (130, 60), (70, 60), (100, 20)],
    ],
    "a node twice": [[OUTER[0], *OUTER], HOLE],
}


@pytest.mark.parametrize("name", RINGS)
@pytest.mark.parametrize("kind", ["multipolygon", "boundary"])
@pytest.mark.parametrize("seed", range(6))
def test_areas_are_what_osmium_assembles_whatever_the_roles(
    tmp_path: Path, name: str, kind: str, seed: int
) -> None:
    chance = random.Random(f"{name}{seed}")
    osm = Osm()
    ways = [way for points in RINGS[name] for way in pieces(osm, points, 1 + seed % 3, chance)]
    roles = [["outer", "inner", "", "label"][: 2 + seed // 2], [""], ["inner"], ["outer"]]
    members = [(way, chance.choice(roles[seed % 4])) for way in ways]
    members += members[: seed % 2]  # one of them twice
    chance.shuffle(members)
    osm.relation(members, type=kind, natural="wood")
    extract = read(osm, tmp_path)
    expected = assembled(tmp_path / "map.osm")
    assert expected.area > 1000
    assert set(drawn(extract)) == {"wood"}
    assert drawn(extract)["wood"].symmetric_difference(expected).area < 1
    assert extract.warnings == []


@pytest.mark.parametrize("seed", range(20))
def test_random_areas_that_touch_anywhere_are_what_osmium_assembles(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    cells = [(x, y) for x in range(20, 140, 20) for y in range(20, 140, 20)]
    taken = chance.sample(cells, chance.randint(1, 30))
    area = shapely.union_all([shapely.box(x, y, x + 20, y + 20) for x, y in taken])
    osm = Osm()
    ways = []
    for part in shapely.get_parts(shapely.segmentize(area, 20.0)):
        for edge in (part.exterior, *part.interiors):
            corners = [(round(x), round(y)) for x, y in edge.coords]
            ways += pieces(osm, corners, chance.randint(1, 4), chance)
    roles = (["outer", "inner"], ["outer"], ["inner"], [""], ["", "outer", "inner"])[seed % 5]
    osm.relation([(way, chance.choice(roles)) for way in ways], natural="wood")
    extract = read(osm, tmp_path)
    expected = assembled(tmp_path / "map.osm")
    assert drawn(extract)["wood"].symmetric_difference(expected).area < 1
    assert extract.warnings == []


@pytest.mark.parametrize("roles", [("", "", ""), ("outer", "", "outer"), ("outer", "", "")])
def test_holes_without_a_role_stay_where_the_extract_cuts_the_area(
    tmp_path: Path, roles: tuple[str, str, str]
) -> None:
    osm = Osm()
    outer = osm.way([(100, -50), (100, 150), (350, 150)])
    lake, island = osm.rect(150, 20, 290, 140), osm.rect(200, 50, 240, 90)
    members = list(zip((outer, lake, island), roles, strict=True))
    if "outer" in roles[2]:  # an island that says so is one, whatever it lies in
        members.pop()
    osm.relation([*members, (4711, "outer")], landuse="forest")
    extract = read(osm, tmp_path)
    inside = covers(extract, "wood", (120, 100), (170, 100), (220, 70), (50, 100))
    assert inside == [True, False, len(members) == 3, False]


def test_rings_that_cross_keep_their_roles(tmp_path: Path) -> None:
    osm = Osm()
    members = [(osm.rect(20, 20, 120, 120), "outer"), (osm.rect(80, 80, 180, 180), "outer")]
    osm.relation(members, leisure="park")
    assert covers(read(osm, tmp_path), "park", (50, 50), (100, 100), (150, 150)) == [True] * 3


SAYS_NOTHING = [
    {},
    {"source": "survey"},
    {"source:geometry": "imagery", "note": "check", "fixme": "roles"},
    {"created_by": "editor", "attribution": "a town", "test:id": "911"},
]


@pytest.mark.parametrize("tags", SAYS_NOTHING)
@pytest.mark.parametrize("roles", [("outer", "inner"), ("", ""), ("outer", "outer")])
def test_tags_on_the_outer_way_count_if_the_relation_says_nothing(
    tmp_path: Path, tags: dict[str, str], roles: tuple[str, str]
) -> None:
    osm = Osm()
    outer, hole = osm.way(OUTER, leisure="park", source="a"), osm.way(HOLE)
    osm.relation([(outer, roles[0]), (hole, roles[1])], **tags)
    assert covers(read(osm, tmp_path), "park", IN_OUTER, IN_HOLE) == [True, False]


def test_outer_ways_share_what_counts(tmp_path: Path) -> None:
    osm = Osm()
    halves = [osm.way(OUTER[:3], natural="wood", note="east"), osm.way(OUTER[2:], natural="wood")]
    osm.relation([*((way, "outer") for way in halves), (osm.way(HOLE), "inner")])
    assert covers(read(osm, tmp_path), "wood", IN_OUTER, IN_HOLE) == [True, False]
    osm = Osm()
    halves = [osm.way(OUTER[:3], natural="wood"), osm.way(OUTER[2:])]
    osm.relation([(way, "outer") for way in halves])
    assert drawn(read(osm, tmp_path)) == {}


def test_outer_ways_that_differ_are_areas_of_their_own_around_the_holes(tmp_path: Path) -> None:
    osm = Osm()
    wood, water = osm.way(OUTER, natural="wood"), osm.way(BESIDE, natural="water")
    osm.relation([(wood, "outer"), (water, "outer"), (osm.way(HOLE), "inner")])
    extract = read(osm, tmp_path)
    assert covers(extract, "wood", IN_OUTER, IN_HOLE, IN_BESIDE) == [True, False, False]
    assert covers(extract, "water", IN_OUTER, IN_HOLE, IN_BESIDE) == [False, False, True]


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("inner", ["wood", "water"])
def test_a_hole_tagged_like_its_area_is_a_hole(tmp_path: Path, old: bool, inner: str) -> None:
    osm = Osm()
    outer = osm.way(OUTER, **({"natural": "wood"} if old else {}))
    hole = osm.way(HOLE, natural=inner, source="survey")
    osm.relation([(outer, "outer"), (hole, "inner")], **({} if old else {"natural": "wood"}))
    extract = read(osm, tmp_path)
    assert covers(extract, "wood", IN_OUTER, IN_HOLE) == [True, False]
    assert covers(extract, "water", IN_HOLE) == [inner == "water"]


def test_a_boundary_without_land_cover_paints_nothing(tmp_path: Path) -> None:
    osm = Osm()
    osm.relation([(osm.way(OUTER), "outer")], type="boundary", boundary="administrative")
    assert read(osm, tmp_path).areas == []


def test_a_ring_that_ends_in_another_node_of_the_same_place_is_closed(tmp_path: Path) -> None:
    osm = Osm()
    osm.way([*OUTER[:-1], None], leisure="park")
    text = osm.write(tmp_path / "map.osm").read_text()
    first = text[text.index('<node id="1"') :].split("/>")[0].replace('id="1"', 'id="999999999"')
    (tmp_path / "map.osm").write_text(text.replace("<way", f"{first}/><way", 1))
    extract = read_extract(tmp_path / "map.osm", mercator_grid(ZOOM))
    assert drawn(extract)["park"].area == pytest.approx(160 * 120, rel=1e-3)
