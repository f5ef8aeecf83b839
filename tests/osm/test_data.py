"""What files hold besides a map: deleted objects, older versions, remarks, places on ways."""

from __future__ import annotations

import gzip
import json
import re
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("osmium")
pytest.importorskip("shapely")

import osmium

from maptile2sat.drawing import draw
from maptile2sat.errors import SourceError
from maptile2sat.sources import SourceOptions, open_source
from maptile2sat.sources.osm import open_extract
from tests.test_draw import GROUND, PARK, WATER, ZOOM, Osm, at, draw_in_process, small_town

PARK_BOX, LAKE_BOX = (20, 20, 120, 120), (150, 20, 250, 120)
IN_PARK, IN_LAKE = (70, 70), (200, 70)


def park_and_lake() -> Osm:
    osm = Osm()
    osm.rect(*PARK_BOX, leisure="park")
    osm.rect(*LAKE_BOX, natural="water")
    return osm


def image_of(path: Path) -> np.ndarray:
    source = open_extract(path, zoom=ZOOM)
    return source.read(source.info.extent).image


def has(path: Path) -> tuple[bool, bool]:
    """Return whether park and lake are drawn."""
    image = image_of(path)
    park, lake = at(image, *IN_PARK), at(image, *IN_LAKE)
    assert park in (PARK, GROUND)
    assert lake in (WATER, GROUND)
    return park == PARK, lake == WATER


def edited(path: Path, *changes: tuple[str, str]) -> Path:
    text = path.read_text()
    for old, new in changes:
        assert re.search(old, text)
        text = re.sub(old, new, text)
    path.write_text(text)
    return path


# What does not exist any more


@pytest.mark.parametrize("mark", ['action="delete"', "action='delete' visible='true'"])
@pytest.mark.parametrize("new", [False, True])
def test_what_an_editor_deleted_is_not_drawn(tmp_path: Path, mark: str, new: bool) -> None:
    osm = park_and_lake()
    path = edited(osm.write(tmp_path / "map.osm"), ('<way id="1"', f'<way id="1" {mark}'))
    if new:
        edited(path, ('id="1"', 'id="-1"'), ('ref="1"', 'ref="-1"'))
    assert has(path) == (False, True)
    assert open_extract(path, zoom=ZOOM).warnings == []


def test_what_is_not_visible_says_nothing_of_the_extent(tmp_path: Path) -> None:
    osm = Osm(bounds=False)
    osm.rect(*PARK_BOX, leisure="park")
    whole = open_extract(osm.write(tmp_path / "map.osm"), zoom=ZOOM).info.extent
    far = '<node id="77" version="2" lon="3" lat="3" visible="{}"/></osm>'
    for visible in ("true", "false"):
        osm.write(tmp_path / "map.osm")
        path = edited(tmp_path / "map.osm", ("</osm>", far.format(visible)))
        assert (open_extract(path, zoom=4).info.extent.width > 5) == (visible == "true")
    assert open_extract(path, zoom=ZOOM).info.extent == whole


@pytest.mark.parametrize("mark", ['action="delete"', 'visible="false"'])
@pytest.mark.parametrize("kind", ["node", "way"])
def test_what_refers_to_the_deleted_goes_too_and_is_named(
    tmp_path: Path, mark: str, kind: str
) -> None:
    osm = park_and_lake()
    hole = osm.rect(50, 50, 60, 60)
    osm.relation([(osm.rect(*PARK_BOX), "outer"), (hole, "inner")], natural="wood")
    path = osm.write(tmp_path / "map.osm")
    number = "9" if kind == "node" else str(hole)  # the first of the hole
    edited(path, (f'<{kind} id="{number}"', f'<{kind} id="{number}" {mark}'))
    assert has(path) == (True, True)  # no wood over the park
    hanging = "way 3, relation 1" if kind == "node" else ": relation 1"
    assert [hanging in text for text in open_extract(path, zoom=ZOOM).warnings] == [True]


def history(path: Path, file_format: str = "") -> Path:
    """Write a history: a park that moved and was a lake once, and a lake that was deleted."""
    old, now = Osm(), park_and_lake()
    old.rect(150, 130, 250, 180, natural="water")
    plain = path.with_name("plain.osm")
    first = old.write(plain).read_text().replace('version="1"', 'version="1" visible="true"')
    bounds = re.search("<bounds[^>]*/>", first)
    assert bounds
    kinds = {
        kind: re.findall(f"<{kind}.*", first)
        + re.findall(
            f"<{kind}.*", now.write(plain).read_text().replace('version="1"', 'version="2"')
        )
        for kind in ("node", "way")
    }
    kinds["way"].append('<way id="2" version="3" visible="false"/>')
    lines = [line for kind in ("node", "way") for line in sorted(kinds[kind], key=_number)]
    plain.write_text(f'<osm version="0.6">{bounds[0]}{"".join(lines)}</osm>')
    if not file_format:
        return plain.rename(path)
    with osmium.SimpleWriter(
        osmium.io.File(str(path), file_format), header=osmium.FileProcessor(plain).header
    ) as writer:
        for item in osmium.FileProcessor(plain):
            writer.add(item)
    return path


def _number(line: str) -> int:
    found = re.search(r'id="(\d+)"', line)
    assert found
    return int(found[1])


@pytest.mark.parametrize(
    ("name", "file_format"),
    [("a.osh.pbf", "osh.pbf"), ("a.osh", ""), ("a.osm", ""), ("a.osh.gz", "osh.gz")],
)
def test_of_a_history_the_newest_version_is_drawn(
    tmp_path: Path, name: str, file_format: str
) -> None:
    path = history(tmp_path / name, file_format)
    image = image_of(path)
    assert at(image, *IN_PARK) == PARK
    assert at(image, *IN_LAKE) == GROUND  # deleted
    assert at(image, 200, 150) == GROUND  # where way 1 was
    with closing(open_source(path, SourceOptions(zoom=ZOOM))) as source:
        assert (source.read(source.info.extent).image == image).all()


CHANGE = '<osmChange version="0.6"><modify><node id="1" version="2" lon="24" lat="60"/></modify>'
DIFF = '<osm version="0.6"><action type="delete"><old><node id="1" lon="2" lat="3"/></old></action>'
OVERPASS = {"version": 0.6, "osm3s": {}, "elements": [{"type": "node", "id": 1, "lat": 1}]}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.osc", f"{CHANGE}</osmChange>".encode(), "holds changes.*osmium apply-changes"),
        ("a.osc.gz", gzip.compress(f"{CHANGE}</osmChange>".encode(), mtime=0), "holds changes"),
        ("a.osm", f"\ufeff{CHANGE}</osmChange>".encode(), "holds changes"),
        ("a.osm", f"<?xml version='1.0'?>{DIFF}</osm>".encode(), "holds changes"),
        ("a.osm", json.dumps(OVERPASS).encode(), r"is JSON.*\[out:xml\]"),
        ("a.json", json.dumps(OVERPASS, indent=1).encode(), r"is JSON.*\[out:xml\]"),
        ("a.OSC", f"{CHANGE}</osmChange>".encode(), "holds changes"),
        ("a.json", b'{"elements": [], "remark": "timed out"}', r"\[out:xml\].*itself: timed out"),
        ("a.osm.json", b" {}", r"is JSON.*\[out:xml\]"),
    ],
)
def test_changes_and_json_are_refused_with_the_same_words_by_all(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=says) as by_draw:
        draw(path, tmp_path / "out.tif")
    with pytest.raises(SourceError, match=says) as by_render:
        open_source(path, SourceOptions())
    assert str(by_draw.value) == str(by_render.value)


# What a file says of itself

REMARK = "<remark> runtime error: Query timed out in &quot;query&quot; at line 3\n after 25 seconds"


@pytest.mark.parametrize("place", ["end", "beginning"])
def test_a_remark_is_passed_on(tmp_path: Path, place: str) -> None:
    where = "</osm>" if place == "end" else "<node id=.1."
    path = edited(park_and_lake().write(tmp_path / "map.osm"), (where, f"{REMARK}</remark>\\g<0>"))
    (warning,) = open_extract(path, zoom=ZOOM).warnings
    assert 'runtime error: Query timed out in "query" at line 3 after 25 seconds' in warning
    assert has(path) == (True, True)
    heard: list[str] = []
    with closing(open_source(path, SourceOptions(zoom=ZOOM, warn=heard.append))):
        assert heard == [warning]


def test_a_remark_says_why_there_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "map.osm"
    path.write_text(f'<osm version="0.6"><note>terms</note>{REMARK}\x7f</remark></osm>')
    outcome = draw_in_process(path, "-o", tmp_path / "map.tif")
    assert outcome.returncode == 1
    assert "after 25 seconds; it may be incomplete: ask for it again" in outcome.stderr
    assert "\x7f" not in outcome.stderr


def test_a_page_in_place_of_data_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "map.osm"
    path.write_text(
        '<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x">\n<html><head><title>OSM3S</title></head>'
        "<body><p>Terms</p><p><b>Error</b>: runtime error: open64: 0 &lt;busy&gt;</p></body>"
    )
    with pytest.raises(SourceError, match="runtime error: open64: 0 <busy>': ask for it again"):
        open_extract(path, zoom=ZOOM)


# Places on ways


def town_with_places(path: Path, kind: str) -> Path:
    """Write the town with places on its ways and without the nodes."""
    small_town().write(path)
    text = path.read_text()
    nodes = dict(re.findall(r'<node id="(\d+)" version="1" (.*?)/>', text))
    text = re.sub(r"<node.*\n", "", text)
    text = re.sub(r'<nd ref="(\d+)"/>', lambda nd: f"{nd[0][:-2]} {nodes[nd[1]]}/>", text)
    text = text.replace("<nd", '<bounds minlat="1" minlon="1" maxlat="2" maxlon="2"/><nd', 1)
    if kind == "no box":
        text = re.sub("<bounds[^>]*/>", "", text)
    if kind == "members":
        for number, refs in re.findall(r'<way id="(\d+)" version="1">(<nd.*?)</way>', text):
            if "<tag" not in refs:
                text = text.replace(f'<way id="{number}" version="1">{refs}</way>\n', "")
            places = re.sub(r' ref="\d+"', "", re.sub("<(?!nd).*?>", "", refs))
            member = re.compile(f'(<member type="way" ref="{number}" role="[a-z]*")/>')
            text = member.sub(f"\\1>{places}</member>", text)
        assert "<member" in text
        assert "</member>" in text
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", ["ways", "members", "pbf"])
def test_places_on_ways_draw_what_nodes_draw(tmp_path: Path, kind: str) -> None:
    nodes = small_town().write(tmp_path / "nodes.osm")
    path = town_with_places(tmp_path / "places.osm", kind)
    if kind == "pbf":
        target = tmp_path / "places.osm.pbf"
        options = osmium.io.File(str(target), "pbf,locations_on_ways=true")
        with osmium.SimpleWriter(options, header=osmium.FileProcessor(path).header) as writer:
            for item in osmium.FileProcessor(path):
                writer.add(item)
        path = target
    source = open_extract(path, zoom=ZOOM)
    assert source.warnings == []
    image = source.read(source.info.extent).image
    assert (image == image_of(nodes)).all()
    assert at(image, 50, 120) == WATER


def test_places_on_ways_say_how_far_a_map_goes(tmp_path: Path) -> None:
    osm = small_town()
    osm.bounds = False
    nodes = open_extract(osm.write(tmp_path / "nodes.osm"), zoom=ZOOM).info.extent
    path = town_with_places(tmp_path / "places.osm", "no box")
    assert open_extract(path, zoom=ZOOM).info.extent == nodes


def test_nodes_without_a_place_are_missing(tmp_path: Path) -> None:
    """Overpass leaves out what is outside of its box."""
    path = town_with_places(tmp_path / "places.osm", "members")
    member = re.search(r"<member.*?</member>", path.read_text())
    assert member
    cut = re.sub("<nd[^>]*/>", "<nd/>", member[0], count=1)
    path.write_text(path.read_text().replace(member[0], cut))
    open_extract(path, zoom=ZOOM)
