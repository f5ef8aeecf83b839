"""HTTP headers that the user adds: where they go, and where they must not be seen."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maptile2sat.cli import main
from maptile2sat.datasets import BuildOptions, build
from maptile2sat.errors import SourceError, UsageError
from maptile2sat.geo.grid import Window
from maptile2sat.rendering import RenderOptions, render
from maptile2sat.sources import SourceOptions, open_source
from maptile2sat.sources.headers import parse_headers, without_headers
from tests.conftest import TileMap, TileServer, write_pmtiles
from tests.support_render import bbox_of, run_cli, tiny_bundle

SECRET = "s3cretS3cret42"
ZOOM = 16
HEADER = f"X-Api-Key: {SECRET}"


def _seen(server: TileServer, name: str = "X-Api-Key") -> list[str | None]:
    return [headers.get(name) for headers in server.headers]


@pytest.mark.parametrize("kind", ["tiles", "pmtiles", "tilejson"])
def test_headers_reach_every_request_to_the_maps_server(
    kind: str, full_map: TileMap, server: TileServer, quick: SourceOptions, tmp_path: Path
) -> None:
    where = server.serve(full_map)
    if kind == "pmtiles":
        server.pages["/m.pmtiles"] = write_pmtiles(tmp_path / "m.pmtiles", full_map).read_bytes()
        where = server.url + "/m.pmtiles"
    elif kind == "tilejson":
        server.pages["/t.json"] = json.dumps({"tiles": [where]}).encode()
        where = server.url + "/t.json"
    options = dataclasses.replace(quick, zoom=13, headers=parse_headers([HEADER], "--header"))
    source = open_source(where, options)
    source.read(full_map.extent)
    assert len(server.headers) >= 2
    assert set(_seen(server)) == {SECRET}


def test_the_environment_holds_headers_and_options_come_over_them(
    full_map: TileMap, server: TileServer, quick: SourceOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAPTILE2SAT_HEADERS", f"Referer: https://a.example/\n\nx-api-key: {SECRET}")
    options = dataclasses.replace(quick, headers={"referer": "https://b.example/"})
    open_source(server.serve(full_map), options).read(Window(*full_map.extent[:2], 9, 9))
    sent = {name.lower(): value for name, value in server.headers[0].items()}
    assert (sent["referer"], sent["x-api-key"]) == ("https://b.example/", SECRET)


@pytest.mark.parametrize("header", ["Authorization", "Referer", "X-Api-Key", "Cookie"])
def test_no_redirect_and_no_tilejson_takes_headers_to_another_host(
    header: str, full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    template = server.serve(full_map)
    other = server.url.replace("127.0.0.1", "localhost")
    server.pages["/t.json"] = json.dumps({"tiles": [template.replace(server.url, other)]}).encode()
    options = dataclasses.replace(quick, headers={header: SECRET}, cache_dir=None)
    inside = Window(*full_map.extent[:2], 9, 9)
    open_source(server.url + "/t.json", dataclasses.replace(options, zoom=13)).read(inside)
    assert _seen(server, header) == [SECRET, None]
    server.headers.clear()
    server.answer = lambda path, number: (
        (302, {"Location": other + path.partition("?")[0]}, b"") if "?" in path else None
    )
    next_to_it = inside.shifted(256, 0)  # of which nothing is kept
    open_source(template + "?a=1", options).read(next_to_it)
    assert _seen(server, header) == [SECRET, None]


def test_every_server_of_the_template_gets_them(
    full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    template = server.serve(full_map).replace("127.0.0.1", "{switch:127.0.0.1,localhost}")
    options = dataclasses.replace(quick, headers={"X-Api-Key": SECRET})
    open_source(template, options).read(full_map.extent)
    assert len({headers["Host"] for headers in server.headers}) == 2
    assert set(_seen(server)) == {SECRET}


def test_a_netrc_does_not_replace_what_the_user_gave(
    full_map: TileMap,
    server: TileServer,
    quick: SourceOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    options = dataclasses.replace(quick, headers={"authorization": f"Bearer {SECRET}"})
    open_source(server.serve(full_map), options).read(Window(*full_map.extent[:2], 9, 9))
    assert server.headers[0]["authorization"] == f"Bearer {SECRET}"


def test_what_was_kept_without_headers_is_not_given_with_them(
    full_map: TileMap, server: TileServer, quick: SourceOptions
) -> None:
    """A server may answer with a picture of a login, and status 200."""
    template, inside = server.serve(full_map), Window(*full_map.extent[:2], 9, 9)
    grey = full_map.tile(*full_map.tiles[1])
    server.answer = lambda path, number: (
        (200, {}, grey) if "X-Api-Key" not in server.headers[-1] else None
    )
    wrong = open_source(template, quick).read(inside)
    options = dataclasses.replace(quick, headers={"X-Api-Key": SECRET})
    right = open_source(template, options).read(inside)
    np.testing.assert_array_equal(right.image, full_map.read(inside)[0])
    assert (wrong.image != right.image).any()
    open_source(template, options).read(inside)
    assert len(server.log) == 2, "with the same headers it is kept"


@pytest.mark.parametrize(
    "line",
    [
        SECRET,
        f": {SECRET}",
        f"X Y: {SECRET}",
        f"X-Key: {SECRET}\r\nHost: evil",
        f"X-Key: {SECRET}\u2026",
        f"Host: {SECRET}",
        f"Range: {SECRET}",
    ],
)
def test_what_is_no_header_is_refused_and_not_shown(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_headers([line], "--header")
    assert SECRET not in str(caught.value)


def test_headers_of_python_are_checked_too() -> None:
    with pytest.raises(UsageError) as caught:
        SourceOptions(headers={"X": f"{SECRET}\r\nY: z"})
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(RenderOptions(headers={"X": SECRET}))
    assert SECRET not in repr(BuildOptions(headers={"X": SECRET}))


def _holds(folder: Path, text: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


@pytest.mark.slow
def test_a_render_keeps_no_header_and_resumes_with_another(
    server: TileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = TileMap.block(ZOOM, 37308, 18960, 3, 3)
    template = server.serve(world)
    monkeypatch.setenv("MAPTILE2SAT_CACHE_DIR", str(tmp_path / "cache"))
    inside = Window(37309 * 256 + 10, 18961 * 256 + 10, 40, 40)
    settings: dict[str, Any] = {"bbox": bbox_of(_grid(), inside), "model": str(tiny_bundle())}
    settings |= {"missing": "mask", "stac": False}

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(
            template,
            tmp_path / "out.tif",
            RenderOptions(headers={"X-Api-Key": SECRET}, **settings),
            progress=stop,
        )
    assert (tmp_path / "out.tif.partial").is_dir()
    assert _holds(tmp_path, SECRET.encode()) == []
    render(
        template,
        tmp_path / "out.tif",
        RenderOptions(headers={"X-Api-Key": SECRET[::-1]}, resume=True, **settings),
    )
    assert _holds(tmp_path, SECRET[::-1].encode()) == []
    assert _holds(tmp_path, SECRET.encode()) == []


def _grid() -> Any:
    from maptile2sat.geo.grid import mercator_grid

    return mercator_grid(ZOOM)


def test_pairs_take_headers_for_the_server_that_they_are_meant_for(
    server: TileServer, tmp_path: Path
) -> None:
    template = server.url + "/{z}/{x}/{y}.png"
    other = template.replace("127.0.0.1", "localhost")
    headers = {"X-Api-Key": SECRET}
    with pytest.raises(UsageError, match="--map-header or --image-header"):
        build(template, other, tmp_path / "set", BuildOptions(headers=headers))
    options = BuildOptions(map_headers=headers, bbox=bbox_of_few(), size=256)
    with pytest.raises(SourceError):  # there are no tiles
        build(template, other, tmp_path / "set", options)
    by_host = {(each["Host"].partition(":")[0], each.get("X-Api-Key")) for each in server.headers}
    assert by_host <= {("127.0.0.1", SECRET), ("localhost", None)}
    assert by_host
    assert _holds(tmp_path / "set", SECRET.encode()) == []


def bbox_of_few() -> Any:
    from maptile2sat.geo.grid import BBox

    return BBox(24.93, 60.16, 24.96, 60.18)


@pytest.mark.parametrize(
    "words", [["render", "-o", "x.tif"], ["info"], ["dataset", "build"], ["serve"]], ids=str
)
def test_every_command_that_opens_a_map_takes_headers(words: list[str]) -> None:
    assert "--header" in run_cli(*words, "--help").out


def test_info_sends_them_and_shows_none(server: TileServer) -> None:
    server.pages["/t.json"] = json.dumps({"tiles": [server.url + "/{z}/{x}/{y}.png"]}).encode()
    done = run_cli("info", server.url + "/t.json", "-z", "16", "--header", HEADER)
    assert done.code == 0, done.err
    assert _seen(server) == [SECRET]
    assert SECRET not in done.out + done.err


def test_a_header_in_pieces_is_not_repeated_in_the_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["maptile2sat", "info", "map.tif", "--header", "Authorization:", "Bearer", SECRET]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    said = capsys.readouterr().err
    assert SECRET not in said
    assert "as one argument" in said


def test_words_of_a_command_are_shown_without_headers() -> None:
    words = ["render", "--header", HEADER, f"--header={HEADER}", "--map-header", SECRET, "-o", "x"]
    hidden = "X-Api-Key: ***"
    assert without_headers(words) == [
        *("render", "--header", hidden, f"--header={hidden}", "--map-header", "***", "-o", "x")
    ]


def test_gdal_is_not_given_headers(server: TileServer, quick: SourceOptions) -> None:
    options = dataclasses.replace(quick, headers={"X-Api-Key": SECRET})
    with pytest.raises(SourceError, match="download the raster first"):
        open_source(server.url + "/map.tif", options)
    assert _seen(server) in ([], [SECRET])
    assert "MAPTILE2SAT_HEADERS" not in os.environ
