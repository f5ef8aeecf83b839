"""The parts of drawing by themselves: tags, the box, chains of ways, coastlines, styles."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("shapely")

from maptile2sat.errors import UsageError
from maptile2sat.osm.geometry import AmbiguousCoastError, Box, assemble, join, present_parts, sea
from maptile2sat.osm.read import LineClass, area_class, line_class
from maptile2sat.osm.style import STYLES, find_style, rgb

BOX = Box(0.0, 0.0, 100.0, 60.0)


def line(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, float)


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({"leisure": "park"}, "park"),
        ({"building": "yes", "leisure": "park"}, "building"),
        ({"building": "no", "landuse": "forest"}, "wood"),
        ({"building": "yes", "layer": "-1"}, None),
        ({"highway": "pedestrian"}, None),
        ({"highway": "pedestrian", "area": "yes"}, "pedestrian"),
        ({"highway": "residential"}, None),
        ({"natural": "water", "tunnel": "yes"}, None),
        ({"amenity": "parking", "parking": "underground"}, None),
        ({"amenity": "parking"}, "parking"),
        ({"leisure": "park", "area": "no"}, None),
        ({"boundary": "administrative"}, None),
        ({"leisure": "nature_reserve", "natural": "wood"}, "wood"),
        ({"waterway": "riverbank"}, "water"),
    ],
)
def test_area_classes(tags: dict[str, str], name: str | None) -> None:
    assert area_class(tags) == name


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"highway": "residential"}, LineClass("street")),
        ({"highway": "motorway_link"}, LineClass("link")),
        ({"highway": "primary", "bridge": "viaduct"}, LineClass("primary", bridge=True, layer=1)),
        ({"highway": "primary", "tunnel": "yes"}, LineClass("primary", tunnel=True, layer=-1)),
        ({"highway": "primary", "layer": "odd"}, LineClass("primary")),
        (
            {"highway": "service", "tunnel": "building_passage"},
            LineClass("service", sheltered=True),
        ),
        ({"highway": "service", "service": "driveway"}, LineClass("aisle")),
        ({"highway": "footway", "footway": "sidewalk"}, None),
        ({"highway": "service", "tunnel": "yes"}, None),
        ({"waterway": "river"}, LineClass("river")),
        ({"waterway": "stream", "tunnel": "culvert"}, None),
        ({"highway": "proposed"}, None),
        ({"railway": "tram"}, None),
        ({"railway": "rail"}, LineClass("rail")),
        ({"highway": "footway", "indoor": "yes"}, None),
    ],
)
def test_line_classes(tags: dict[str, str], expected: LineClass | None) -> None:
    assert line_class(tags) == expected


def test_every_class_of_the_tags_has_a_look_in_some_style() -> None:
    for style in STYLES.values():
        for area in style.areas.values():
            assert len(rgb(area.fill)) == 3
        assert style.palette[0] == style.background
        assert list(style.rank) == list(style.lines)
    assert set(STYLES["maps"].lines) == set(STYLES["osm"].lines)
    assert set(STYLES["maps"].areas) <= set(STYLES["osm"].areas)


def test_unknown_style() -> None:
    with pytest.raises(UsageError, match="maps or osm"):
        find_style("other")


def test_clip_keeps_direction_and_cuts_exactly_on_the_border() -> None:
    pieces = BOX.clip(line((-50, 30), (50, 30), (50, 90), (20, 90), (20, 10)))
    assert len(pieces) == 2
    assert pieces[0].tolist() == [[0, 30], [50, 30], [50, 60]]
    assert pieces[1].tolist() == [[20, 60], [20, 10]]
    assert BOX.clip(line((-5, -5), (-5, 70))) == []


def test_positions_run_counter_clockwise_from_the_south_west() -> None:
    places = [(0, 60), (40, 60), (100, 60), (100, 20), (100, 0), (30, 0), (0, 0), (0, 30)]
    positions = [BOX.position(np.array(place, float)) for place in places]
    assert positions == sorted(positions)
    assert positions[0] == 0
    assert BOX.corners_between(positions[1], positions[3]).tolist() == [[100, 60]]
    assert BOX.corners_between(positions[7], positions[1]).tolist() == [[0, 60]]
    assert len(BOX.corners_between(positions[3], positions[1])) == 3


def test_extended_leads_ends_to_the_nearest_side() -> None:
    extended = BOX.extended(line((3, 30), (50, 30), (60, 58)))
    assert extended is not None
    assert extended.tolist() == [[0, 30], [3, 30], [50, 30], [60, 58], [60, 60]]
    assert BOX.extended(line((3, 30), (50, 30))) is None


def test_present_parts() -> None:
    gap = (np.nan, np.nan)
    parts = present_parts(line((0, 0), (1, 0), gap, (2, 0), gap, gap, (3, 0), (4, 0), (5, 0)))
    assert [part[:, 0].tolist() for part in parts] == [[0, 1], [3, 4, 5]]


def test_join_directed_and_not() -> None:
    parts = [line((2, 0), (3, 0)), line((0, 0), (1, 0)), line((2, 0), (1, 0))]
    (whole,) = join(parts, directed=False)
    assert sorted(whole[:, 0].tolist()) == [0, 1, 2, 3]
    assert len(join(parts, directed=True)) == 3
    (forward,) = join([parts[0], line((1, 0), (2, 0)), parts[1]], directed=True)
    assert forward[:, 0].tolist() == [0, 1, 2, 3]


def test_cut_ring_takes_the_smaller_side_or_that_of_its_holes() -> None:
    cut = [line((100, 20), (70, 20), (70, 40), (100, 40))]
    area, sure = assemble(cut, [], BOX)
    assert sure
    assert area.area == pytest.approx(30 * 20)
    hole = line((10, 10), (20, 10), (20, 20), (10, 20), (10, 10))
    area, sure = assemble(cut, [hole], BOX)
    assert sure
    assert area.area == pytest.approx(100 * 60 - 30 * 20 - 100)


def test_two_cuts_make_a_band() -> None:
    cuts = [line((0, 20), (100, 20)), line((100, 35), (0, 35))]
    area, sure = assemble(cuts, [], BOX)
    assert sure
    assert area.area == pytest.approx(100 * 15)


def test_members_wholly_outside_draw_nothing() -> None:
    area, sure = assemble([line((200, 20), (300, 20), (300, 40))], [], BOX)
    assert area is None
    assert sure


def test_sea_around_an_island_and_within_a_basin() -> None:
    island = line((40, 20), (40, 40), (60, 40), (60, 20), (40, 20))  # y down: ccw on the map
    around = sea([island], BOX)
    assert around is not None
    assert around.area == pytest.approx(6000 - 400)
    within = sea([island[::-1]], BOX)
    assert within is not None
    assert within.area == pytest.approx(400)


def test_sea_that_fills_the_box_or_is_not_there() -> None:
    assert sea([], BOX) is None
    assert sea([line((-50, -50), (-50, -20))], BOX) is None
    ring = line((-50, -50), (-50, 150), (150, 150), (150, -50), (-50, -50))
    assert sea([ring], BOX) is None  # an island that holds the box
    full = sea([ring[::-1]], BOX)
    assert full is not None
    assert full.area == pytest.approx(6000)


def test_crossing_coastlines_are_ambiguous() -> None:
    with pytest.raises(AmbiguousCoastError):
        sea([line((0, 20), (100, 40)), line((100, 20), (0, 40))], BOX)
