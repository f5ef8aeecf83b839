"""Keys of tile services, planted wherever they can be given, looked for in all that is left."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from maptile2sat.errors import SourceError
from maptile2sat.geo.grid import Window, mercator_grid
from maptile2sat.sources import SourceOptions, open_source
from tests.conftest import TileMap
from tests.faults.support import answer, raw, serving
from tests.support_render import bbox_of, impatient, run_cli, tiny_bundle

KEY = "k3yM4rkerOfTheTileService0099"
PASSWORD = "pa55wordMark3rOfTheTileServ1ce"
HEADER = "h3aderMark3rOfTheTileService77"
MAP = TileMap.block(13, 4661, 2371, 2, 2)
BOX = bbox_of(mercator_grid(13), MAP.extent)


def assert_nowhere(*texts: str) -> None:
    for text in texts:
        for marker in (KEY, PASSWORD, HEADER):
            assert marker not in text
            assert marker.lower() not in text.lower()


def assert_in_no_file(folder: Path) -> int:
    """Look through all files; return how many there are."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        assert_nowhere(str(path.relative_to(folder)))
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # of a request that was still ending, renamed or deleted since
            continue
        for marker in (KEY, PASSWORD, HEADER):
            assert marker.encode() not in data, path
            assert marker.encode("utf-16-le") not in data, path
    return len(files)


def assert_private(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".lock":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def planted(template: str, how: str) -> str:
    if how == "query":
        return f"{template}?token={KEY}&z={{z}}"
    if how == "user and password":
        return template.replace("://", f"://{KEY}:{PASSWORD}@")
    return template.replace("/{z}", f"/{KEY}/{{z}}")


@pytest.mark.parametrize("trouble", ["none", "refused", "broken", "cut", "busy", "moved"])
@pytest.mark.parametrize("how", ["query", "user and password", "path"])
def test_render_with_a_key(
    how: str, trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: object
) -> None:
    """A key in the address is in no message, log, JSON, tag, journal, cache or file name."""
    monkeypatch.setenv("MAPTILE2SAT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    caplog.set_level("DEBUG")  # type: ignore[attr-defined]
    troubles = {
        "none": lambda to, body: answer(to, "200 OK", body, "Set-Cookie: a=b", 'ETag: "x"'),
        "refused": lambda to, body: answer(to, "403 No", b""),
        "broken": lambda to, body: raw(to, b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nx"),
        "cut": lambda to, body: raw(to, b"HTTP/1.1 200 OK\r\nContent-"),
        "busy": lambda to, body: answer(to, "503 No", b""),
        "moved": lambda to, body: answer(to, "302 Oh", b"", f"Location: ftp://u:{KEY}@h/{KEY}"),
    }
    with serving(MAP, choose=lambda path, number: troubles[trouble]) as server, impatient():
        url = planted(server.template, how)
        said = run_cli(
            *("render", url, "-o", "out.tif", "--bbox", BOX, "-z", 13, "-m", tiny_bundle()),
            *("--precision", "integer", "-vv", "--json", "--preview", "out.png"),
        )
        assert (said.code == 0) == (trouble == "none"), said.err
        sent = b"".join(server.headers)
        assert KEY.encode() in sent or b"Authorization: Basic" in sent
    assert_nowhere(said.out, said.err, caplog.text)  # type: ignore[attr-defined]
    assert assert_in_no_file(tmp_path) >= (6 if trouble == "none" else 0)
    assert_private(tmp_path / "cache" / "http")


@pytest.mark.parametrize("status", ["200 OK", "500 Oh", "401 No", "302 Oh"])
def test_headers_with_a_key(status: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A key in a header is in no message, log or file of the cache."""
    caplog.set_level("DEBUG")
    options = SourceOptions(
        zoom=13,
        retries=0,
        cache_dir=tmp_path,
        headers={"Authorization": f"Bearer {HEADER}", "X-Key": KEY},
    )
    assert_nowhere(repr(options))
    behave = lambda to, body: answer(to, status, body, "Vary: X-Key", "Location: ftp://h/")  # noqa: E731
    with serving(MAP, choose=lambda path, number: behave) as server:
        source = open_source(server.template, options)
        try:
            source.read(Window(*MAP.extent[:2], 9, 9))
        except SourceError as error:
            assert_nowhere(str(error), repr(error))
        source.close()
        assert HEADER.encode() in b"".join(server.headers)
    assert_nowhere(caplog.text)
    assert_in_no_file(tmp_path)


def test_headers_do_not_follow_into_the_clear() -> None:
    """A redirect from https to http, or to another port, does not take the headers along."""
    from maptile2sat.sources.http import HttpClient

    client = HttpClient(SourceOptions(), "https://u:p@Host.example/1")
    assert client._at_home("https://host.example:443/2")
    assert not client._at_home("http://host.example/2")
    assert not client._at_home("https://host.example:444/2")
    assert not client._at_home("https://host.example.org/2")
    assert HttpClient(SourceOptions(), "http://host.example/1")._at_home("https://host.example/2")
