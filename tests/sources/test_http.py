"""Tile servers that misbehave, and how politely they are asked."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from maptile2sat.errors import MissingTileError, SourceError, UsageError
from maptile2sat.geo.grid import TILE, Window
from maptile2sat.sources import SourceOptions, located, open_source
from maptile2sat.sources.http import check_host
from maptile2sat.sources.options import Missing
from maptile2sat.sources.redact import safe_url
from maptile2sat.sources.xyz import Template, is_template
from tests.conftest import TileMap, TileServer, encode, pattern, write_raster

SECRET = "Xy7marker0fASecretKey99"


def test_answers_are_kept_for_a_week_and_privately(
    full_map: TileMap, server: TileServer, tmp_path: Path
) -> None:
    options = SourceOptions(zoom=13, cache_dir=tmp_path / "cache")
    template = server.serve(full_map) + f"?key={SECRET}"
    first = open_source(template, options).read(full_map.extent)
    asked = len(server.log)
    again = open_source(template, options).read(full_map.extent)
    assert len(server.log) == asked == len(full_map.tiles)
    np.testing.assert_array_equal(first.image, again.image)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    for path in files:
        assert SECRET not in str(path)
        assert SECRET.encode() not in path.read_bytes()
        if path.suffix != ".lock":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "cache" / "http").stat().st_mode) == 0o700


def test_cache_headers_are_honoured(full_map: TileMap, server: TileServer) -> None:
    template = server.serve(full_map)
    server.answer = lambda path, number: (200, {"Cache-Control": "no-store"}, server.pages[path])
    window = Window(*full_map.extent[:2], 9, 9)
    for _ in range(2):
        open_source(template, SourceOptions(zoom=13)).read(window)
    assert len(server.log) == 2


def test_changed_tiles_are_asked_for_conditionally(full_map: TileMap, server: TileServer) -> None:
    template = server.serve(full_map)
    window = Window(*full_map.extent[:2], 9, 9)
    fresh = {"ETag": '"a"', "Cache-Control": "max-age=0"}
    server.answer = lambda path, number: (200, fresh, server.pages[path])
    first = open_source(template, SourceOptions(zoom=13)).read(window)
    server.answer = lambda path, number: (304, {**fresh, "Content-Length": "0"}, b"")
    second = open_source(template, SourceOptions(zoom=13)).read(window)
    assert server.headers[-1]["If-None-Match"] == '"a"'
    np.testing.assert_array_equal(first.image, second.image)


def test_the_user_agent_says_who_asks(
    full_map: TileMap, server: TileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = server.serve(full_map)
    window = Window(*full_map.extent[:2], 9, 9)
    open_source(template, SourceOptions(zoom=13)).read(window)
    assert server.headers[-1]["User-Agent"].startswith("maptile2sat/")
    monkeypatch.setenv("MAPTILE2SAT_USER_AGENT", "my-town/1 (me@example.com)")
    open_source(template, SourceOptions(zoom=13)).read(window.shifted(TILE, 0))
    assert server.headers[-1]["User-Agent"] == "my-town/1 (me@example.com)"


def test_a_user_agent_that_http_cannot_say(
    quick: SourceOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAPTILE2SAT_USER_AGENT", "Łukasz maps")
    with pytest.raises(UsageError, match="the User-Agent 'Łukasz maps' is not plain ASCII"):
        open_source("http://127.0.0.1:9/{z}/{x}/{y}.png", quick)


@pytest.mark.parametrize(
    ("url", "setting", "words"),
    [
        ("https://tiles..example.com/{z}/{x}/{y}.png", "", "is not valid HTTP"),
        ("https://127.0.0.1:9/{z}/{x}/{y}.png", "/gone.pem", "invalid path: /gone.pem"),
    ],
)
def test_what_no_request_can_be_made_of(
    url: str, setting: str, words: str, quick: SourceOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that is none, and certificates that the environment names and are not there."""
    if setting:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", setting)
    source = open_source(url, quick)
    with pytest.raises(SourceError, match=words):
        source.read(Window(0, 0, 256, 256))
    source.close()


@pytest.mark.parametrize("status", [404, 410])
def test_missing_tiles_are_errors_or_masked(
    status: int, full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    template = server.serve(full_map)
    x, y = full_map.tiles[1]
    bad = f"/13/{x}/{y}.png"
    server.answer = lambda path, number: (status, {}, b"") if path == bad else None
    with pytest.raises(MissingTileError, match=rf"tile 13/{x}/{y} of http://127"):
        open_source(template, quick).read(full_map.extent)
    told: list[str] = []
    source = open_source(template, dataclasses.replace(quick, missing="mask", warn=told.append))
    read = source.read(full_map.extent)
    hole = Window(x * TILE, y * TILE, TILE, TILE).slices(full_map.extent)
    expected = np.full(read.mask.shape, 255)
    expected[hole] = 0
    np.testing.assert_array_equal(read.mask, expected)
    assert source.loader.failed == [f"13/{x}/{y}"]  # type: ignore[attr-defined]
    assert told == []
    source.close()
    assert told == [f"1 tile is missing in {template} and masked: 13/{x}/{y}"]


@pytest.mark.parametrize("missing", ["error", "mask"])
@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_failing_server_is_never_taken_for_holes(
    status: int, missing: Missing, full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    template = server.serve(full_map)
    x, y = full_map.tiles[1]
    bad = f"/13/{x}/{y}.png"
    server.answer = lambda path, number: (status, {}, b"") if path == bad else None
    source = open_source(template, dataclasses.replace(quick, missing=missing))
    with pytest.raises(SourceError, match=rf"tile 13/{x}/{y} of http://127.*keeps"):
        source.read(full_map.extent)


def test_passing_trouble_is_retried(
    full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    template = server.serve(full_map)
    seen: set[str] = set()

    def busy_once(path: str, number: int) -> tuple[int, dict[str, str], bytes] | None:
        if path in seen:
            return None
        seen.add(path)
        return 429, {"Retry-After": "1"}, b"slow down"

    server.answer = busy_once
    start = time.monotonic()
    assert open_source(template, quick).read(full_map.extent).mask.all()
    assert time.monotonic() - start > 0.9


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_stops_everything(
    status: int, full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    options = dataclasses.replace(quick, missing="mask", max_connections=1)
    template = server.serve(full_map)
    server.answer = lambda path, number: (status, {}, b"") if number == 2 else None
    source = open_source(template, options)
    for _ in range(2):
        with pytest.raises(SourceError, match=f"refuses with HTTP {status}"):
            source.read(full_map.extent)
    assert len(server.log) == 2


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"<html>Please log in</html>", "an HTML page"),
        (b'{"message": "quota"}', "a JSON text"),
        (encode(pattern(Window(0, 0, TILE, TILE)))[:900], "damaged"),
        (encode(pattern(Window(0, 0, 100, 100))), "100x100 px"),
    ],
)
def test_what_is_no_tile_is_an_error_and_not_kept(
    body: bytes, what: str, full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    template = server.serve(full_map)
    window = Window(*full_map.extent[:2], 9, 9)
    server.answer = lambda path, number: (200, {}, body)
    options = dataclasses.replace(quick, missing="mask")
    with pytest.raises(SourceError, match=what):
        open_source(template, options).read(window)
    server.answer = None
    assert open_source(template, options).read(window).mask.all()


def test_redirected_nonsense_is_not_kept_either(
    full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    template = server.serve(full_map, ".moved")
    x, y = full_map.tiles[0]
    window = Window(*full_map.extent[:2], 9, 9)
    server.pages[f"/13/{x}/{y}.png"] = b"<html>"
    source = open_source(server.url + "/{z}/{x}/{y}.png", quick)

    def move(path: str, number: int) -> tuple[int, dict[str, str], bytes] | None:
        return (302, {"Location": path + "?to"}, b"") if path.endswith(".png") else None

    server.answer = move
    with pytest.raises(SourceError, match="HTML"):
        source.read(window)
    server.pages[f"/13/{x}/{y}.png"] = server.pages[f"/13/{x}/{y}.moved"]
    assert source.read(window).mask.all()
    assert template.endswith(".moved")


@pytest.mark.parametrize("moved", [False, True])
def test_no_copy_of_an_error_picture_is_kept(
    moved: bool, full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    """The first of them are not known for what they are; they must not be map in the next run."""
    template = server.serve(full_map)
    sorry = np.full((TILE, TILE, 3), 240, np.uint8)
    sorry[100:110, 40:90] = 20
    body = encode(sorry)

    def refuse(path: str, number: int) -> tuple[int, dict[str, str], bytes]:
        if moved and "?" not in path:
            return 302, {"Location": path + "?over=quota"}, b""
        return 200, {}, body

    server.answer = refuse
    others = set(threading.enumerate())  # those of sources that other tests have left open
    first = open_source(template, quick)
    with pytest.raises(SourceError, match="one and the same picture at"):
        first.read(full_map.extent)
    first.close()
    for thread in set(threading.enumerate()) - others:  # which a run waits for in its end
        if thread.name.startswith("maptile2sat-tiles"):
            thread.join(30)
    if moved:  # to where the copies would lie
        server.answer = lambda path, number: (
            None if "?" in path else (302, {"Location": path + "?over=quota"}, b"")
        )
    else:
        server.answer = None
    read = open_source(template, quick).read(full_map.extent)
    np.testing.assert_array_equal(read.image, full_map.read(full_map.extent)[0])


def test_answers_that_stall_or_break_off(
    full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    template = server.serve(full_map)
    window = Window(*full_map.extent[:2], 9, 9)
    options = dataclasses.replace(quick, timeout=0.3, retries=0, missing="mask")
    given_up = threading.Event()

    def stall(path: str, number: int) -> None:
        given_up.wait(30)

    server.answer = stall
    with pytest.raises(SourceError, match="does not answer in time"):
        open_source(template, options).read(window)
    given_up.set()
    options = dataclasses.replace(options, timeout=20.0)
    server.answer = lambda path, number: (
        200,
        {"Content-Length": "99999", "Connection": "close"},
        server.pages[path],
    )
    with pytest.raises(SourceError, match="broke off"):
        open_source(template, options).read(window)
    server.answer = None
    assert open_source(template, options).read(window).mask.all()


def test_endless_answers_are_cut_short(
    full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    template = server.serve(full_map)
    server.answer = lambda path, number: (200, {}, bytes(17 << 20))
    with pytest.raises(SourceError, match="too many"):
        open_source(template, quick).read(Window(*full_map.extent[:2], 9, 9))


def test_no_server_at_all(quick: SourceOptions) -> None:
    source = open_source("http://127.0.0.1:9/{z}/{x}/{y}.png", quick)
    with pytest.raises(SourceError, match=r"tile 13/1/1 .* cannot be reached"):
        source.read(Window(TILE, TILE, 9, 9))


@pytest.mark.parametrize(
    "url",
    [
        "https://tile.openstreetmap.org/{z}/{x}/{y}.png",
        "https://{s}.tile.openstreetmap.org/{z}/{x}/{y}.png",
        "http://{a-c}.Tile.OpenStreetMap.org./{z}/{x}/{y}.png",
        "https://me@tile.openstreetmap.org:443/{z}/{x}/{y}.png",
    ],
)
def test_openstreetmaps_own_server_is_refused(url: str) -> None:
    with pytest.raises(SourceError, match=r"does not allow bulk .*MBTiles.*maptile2sat draw"):
        open_source(url, SourceOptions(zoom=13))
    check_host("https://tile.openstreetmap.org.example.com/1/1/1.png")
    check_host("https://tile.openstreetmap.fr/1/1/1.png")


def test_nor_is_it_used_through_tilejson_or_redirects(
    full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    server.pages["/map.json"] = (
        b'{"tilejson": "3.0.0", "tiles": ["https://a.tile.openstreetmap.org/{z}/{x}/{y}.png"]}'
    )
    with pytest.raises(SourceError, match="does not allow bulk"):
        open_source(f"{server.url}/map.json", quick)
    template = server.serve(full_map)
    target = {"Location": "https://tile.openstreetmap.org/1/1/1.png"}
    server.answer = lambda path, number: (302, target, b"")
    with pytest.raises(SourceError, match="does not allow bulk"):
        open_source(template, quick).read(full_map.extent)


def test_redirects_leave_the_web_nowhere(
    full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    template = server.serve(full_map)
    server.answer = lambda path, number: (302, {"Location": "file:///etc/passwd"}, b"")
    with pytest.raises(SourceError, match="not HTTP"):
        open_source(template, quick).read(full_map.extent)
    server.answer = lambda path, number: (302, {"Location": path}, b"")
    with pytest.raises(SourceError, match="in circles"):
        open_source(template, quick).read(full_map.extent)


def test_headers_go_to_the_sources_own_host_only(
    full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    template = server.serve(full_map)
    options = dataclasses.replace(quick, headers={"Authorization": f"Bearer {SECRET}"})
    assert SECRET not in repr(options)
    other = server.url.replace("127.0.0.1", "localhost")

    def move(path: str, number: int) -> tuple[int, dict[str, str], bytes] | None:
        return (302, {"Location": other + path}, b"") if number == 1 else None

    server.answer = move
    open_source(template, options).read(Window(*full_map.extent[:2], 9, 9))
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    assert "Authorization" not in server.headers[1]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            f"https://me:{SECRET}@tiles.example.com/{{z}}/{{x}}/{{y}}.png?key={SECRET}&l={{z}}",
            "https://tiles.example.com/{z}/{x}/{y}.png?key=***&l={z}",
        ),
        (
            f"https://tiles.example.com/{SECRET}/{{z}}/{{x}}/{{y}}@2x.png",
            "https://tiles.example.com/***/{z}/{x}/{y}@2x.png",
        ),
        (
            f"https://tiles.example.com/v1;token={SECRET}/{{z}}/{{x}}/{{y}}.png#{SECRET}",
            "https://tiles.example.com/v1;token=***/{z}/{x}/{y}.png",
        ),
        (
            f"s3://bucket/a/S2A_20230101T100031_long.tif?{SECRET}",
            "s3://bucket/a/S2A_20230101T100031_long.tif?***",
        ),
        ("https://tiles.example.com/styles/street/{z}/{x}/{y}.png",) * 2,
        ("/data/map.tif", "/data/map.tif"),
    ],
)
def test_names_hold_no_secrets(url: str, shown: str) -> None:
    assert safe_url(url) == shown


def test_errors_hold_no_secrets(
    server: TileServer, quick: SourceOptions, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    query = f"?key={SECRET}"
    for where in (
        f"http://127.0.0.1:9/{{z}}/{{x}}/{{y}}.png{query}",
        f"http://u:{SECRET}@127.0.0.1:9/{{z}}/{{x}}/{{y}}.png",
        f"{server.url}/{{z}}/{{x}}/{{y}}.png{query}",
        f"{server.url}/{{z}}/{{x}}/{{foo}}.png{query}",
        f"{server.url}/map.json{query}",
        f"{server.url}/map.pmtiles{query}",
        f"{server.url}/map.tif{query}",
        f"http://127.0.0.1:9/map.tif{query}",
        f"ftp://{server.url}/map.tif{query}",
        f"http://[bad/{{z}}/{{x}}/{{y}}.png{query}",
    ):
        with pytest.raises(SourceError) as caught:
            open_source(where, quick).read(Window(0, 0, 9, 9))
        assert SECRET not in str(caught.value)
        assert "\n" not in str(caught.value)
    assert SECRET not in caplog.text


def test_remote_rasters_say_what_the_server_said(server: TileServer, quick: SourceOptions) -> None:
    with pytest.raises(SourceError, match=r"/map\.tif: the server answered HTTP 404"):
        open_source(f"{server.url}/map.tif", quick)


def info(address: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Look at a map in a process of its own: GDAL keeps this one's server from answering."""
    code = "import sys; from maptile2sat.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "info", address, "--json"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_a_raster_of_another_object_store(server: TileServer, name: str, tmp_path: Path) -> None:
    """The variable that names it to other programs does so for maps too."""
    bands = np.moveaxis(pattern(Window(0, 0, 90, 70)), -1, 0)
    server.pages["/bucket/map.tif"] = write_raster(tmp_path / "map.tif", bands).read_bytes()
    keys = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    done = info("s3://bucket/map.tif", **keys, **{name: server.url})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["name"], found["width"], found["height"]) == ("s3://bucket/map.tif", 90, 70)


def test_a_crs_that_names_a_file_is_refused_of_a_server_too(
    server: TileServer, tmp_path: Path, quick: SourceOptions
) -> None:
    crs = "+proj=merc +a=6378137 +b=6378137 +units=m +nadgrids=/tmp/grid"
    bands = np.zeros((3, 70, 90), np.uint8)
    path = write_raster(tmp_path / "a.tif", bands, crs=crs, GEOTIFF_KEYS_FLAVOR="ESRI_PE")
    server.pages["/a.tif"] = path.read_bytes()
    with pytest.raises(SourceError, match=r"/a\.tif has a CRS that names files"):
        open_source(f"{server.url}/a.tif", quick)


def test_geopackages_of_a_server_are_refused_without_its_key(
    server: TileServer, tmp_path: Path
) -> None:
    """Their tables cannot be looked at first; the message does not hold the address's secret."""
    path = write_raster(tmp_path / "one.gpkg", np.zeros((3, 70, 90), np.uint8), driver="GPKG")
    server.pages["/one.gpkg"] = path.read_bytes()
    done = info(f"{server.url}/one.gpkg?token={SECRET}")
    assert done.returncode == 1
    assert "download this GeoPackage first" in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize("ending", ["pmtiles", "mbtiles", "json", "osm.pbf"])
def test_object_stores_have_rasters_only(ending: str, quick: SourceOptions) -> None:
    with pytest.raises(SourceError, match="only rasters are read from object stores"):
        open_source(f"s3://bucket/map.{ending}", quick)


def test_templates_fill_their_parts() -> None:
    template = Template("https://{s}.x.org/{a-b}{switch:7,8}/{q}/{z}/{x}/{y}/{-y}{r}.png")
    assert template.fill(3, 5, 2) == "https://b.x.org/b8/121/3/5/2/5.png"
    assert template.fill(0, 0, 0) == "https://a.x.org/a7//0/0/0/0.png"
    assert Template("{z}/{x}/{y}", tms=True).fill(3, 5, 2) == "3/5/5"
    assert Template("https://x/512/{z}/{x}/{y}").tile_size == 512
    with pytest.raises(SourceError, match=r"unknown part \{foo\}"):
        Template("https://x/{z}/{x}/{y}/{foo}")
    with pytest.raises(SourceError, match=r"needs \{z\}, \{x\} and \{y\}"):
        Template("https://x/{z}/{x}")


def test_a_cache_that_cannot_be_written_is_no_obstacle(
    full_map: TileMap, server: TileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    options = SourceOptions(zoom=13, cache_dir=tmp_path / "file")
    assert open_source(server.serve(full_map), options).read(full_map.extent).mask.all()
    assert "not cached" in caplog.text


def test_length_that_is_no_number(
    full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    """A superscript is a digit to Python, and no number."""
    template = server.serve(full_map)
    x, y = full_map.tiles[0]
    body = full_map.tile(x, y)
    server.answer = lambda path, number: (
        (200, {"Content-Length": "²", "Connection": "close"}, body)
        if f"/{x}/{y}." in path
        else None
    )
    source = open_source(template, dataclasses.replace(quick, tile_size=256))
    with pytest.raises(SourceError, match="a length that is no number"):
        source.read(full_map.extent)
    source.close()


TILE_3_5_2 = "https://h.example/3/5/2.png"


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("https://h.example/{zoom}/{x}/{y}.png", TILE_3_5_2),
        ("https://h.example/{level}/{col}/{row}.png", TILE_3_5_2),
        ("https://h.example/{TileMatrix}/{TileCol}/{TileRow}.png", TILE_3_5_2),
        ("https://h.example/{Z}/{X}/{Y}.png", TILE_3_5_2),
        ("https://h.example/{ z }/{ x }/{ y }.png", TILE_3_5_2),
        ("https://h.example/${z}/${x}/${y}.png", TILE_3_5_2),
        ("https://h.example/{$z}/{$x}/{$y}.png", TILE_3_5_2),
        ("https://h.example/{0}/{1}/{2}.png", TILE_3_5_2),
        ("https://h.example/%7Bz%7D/%7bx%7d/%7By%7D.png", TILE_3_5_2),
        ("https://h.example/$%7Bz%7D/$%7Bx%7D/$%7By%7D.png", TILE_3_5_2),
        ("tms[22]:https://h.example/{zoom}/{x}/{y}.png", TILE_3_5_2),
        ("tms[3,22]:https://h.example/{zoom}/{x}/{-y}.png", "https://h.example/3/5/5.png"),
        ("tms:https://{switch:h}.example/{zoom}/{x}/{y}.png", TILE_3_5_2),
        ("type=xyz&url=https://h.example/%7Bz%7D/%7Bx%7D/%7By%7D.png&zmax=19&zmin=0", TILE_3_5_2),
        (
            "crs=EPSG:3857&format&type=xyz&url=https://h.example/{z}/{x}/{y}.png?a=1&b=2&zmax=19",
            f"{TILE_3_5_2}?a=1&b=2",
        ),
        ("https://h.example/{quadkey}.png", "https://h.example/121.png"),
        ("https://h.example/{prefix}/{z}/{x}/{y}{ratio}.png", "https://h.example/52/3/5/2.png"),
    ],
)
def test_templates_as_other_programs_write_them(text: str, filled: str) -> None:
    where = located(text)
    assert is_template(where)
    assert Template(where).fill(3, 5, 2) == filled


def test_layers_of_josm_and_qgis_say_their_zooms(
    full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    template = server.serve(full_map)
    layers = [
        f"tms[2,13]:{template}",
        f"type=xyz&zmin=2&zmax=13&url={template.replace('{', '%7B').replace('}', '%7D')}",
    ]
    for layer in layers:
        source = open_source(layer, dataclasses.replace(quick, default_zoom=16))
        assert source.info.grid.zoom == 13
        assert source.info.name == template
        read = source.read(full_map.extent)
        np.testing.assert_array_equal(read.image, full_map.read(full_map.extent)[0])
        with pytest.raises(SourceError, match="zoom 14 is not"):
            open_source(layer, dataclasses.replace(quick, zoom=14))
    assert not any("#" in path or "%" in path for path in server.log)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("wms[22]:https://h.example/{width}/{bbox}", "'wms:' layers"),
        ("type=wms&url=https://h.example/", "of the type wms"),
        ("crs=EPSG:3857&layers=a&url=https://h.example/", "of the type wms"),
        (
            "type=xyz&url=https://h.example/{z}/{x}/{y}.png&http-header:referer=sEcrEt",
            "--header 'NAME: VALUE'",
        ),
        ("https://h.example/{Style}/{z}/{x}/{y}.png", r"unknown part \{Style\}"),
        ("https://h.example/{z}/{x}/{y}.png?k={header(A,sEcrEt)}", r"unknown part \{...\}"),
        ("https://h.example/{z}/{x}/{y}}.png", "no other half"),
        ("https://h.example/${zoom}/${bbox}.png", "needs {z}, {x} and {y}"),
    ],
)
def test_templates_that_are_none_are_not_taken_literally(text: str, match: str) -> None:
    with pytest.raises(SourceError, match=match) as caught:
        open_source(text)
    assert "sEcrEt" not in str(caught.value)
