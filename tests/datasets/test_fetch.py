"""Fetching a public set from a server on the loopback that breaks off, lies, or is hostile."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from maptile2sat.datasets import fetch
from maptile2sat.datasets.fetch import unpack
from maptile2sat.errors import Maptile2satError, SourceError, TrainingError, UsageError
from maptile2sat.sources import SourceOptions
from tests.conftest import TileServer
from tests.support_dataset import run

PATH = "/maps.tar.gz"
QUICK = SourceOptions(timeout=2.0, retries=0)


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 4)).save(out, "JPEG")
    return out.getvalue()


def member(name: str, content: bytes = b"", **changes: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in changes.items():
        setattr(info, key, value)
    return info, content


def pack(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def whole(train: int = 1096, val: int = 1098) -> bytes:
    content = picture()
    folders = [member("maps", type=tarfile.DIRTYPE), member("maps/train", type=tarfile.DIRTYPE)]
    extras = [member("maps/._train", b"x"), member("maps/train/._1.jpg", b"x")]
    pairs = [member(f"maps/train/{i + 1}.jpg", content) for i in range(train)]
    pairs += [member(f"maps/val/{i + 1}.jpg", content) for i in range(val)]
    return pack(*folders, *extras, *pairs)


@pytest.fixture(scope="module")
def archive() -> bytes:
    return whole()


class Site:
    """A server of one file that knows ranges and validators, and breaks off when told to."""

    def __init__(self, server: TileServer, body: bytes, etag: str = '"v1"') -> None:
        self.server, self.body, self.etag = server, body, etag
        self.breaks: list[int] = []
        self.ranges = True
        server.answer = self.answer

    @property
    def url(self) -> str:
        return self.server.url + PATH

    def answer(self, path: str, number: int) -> tuple[int, dict[str, str], bytes]:
        asked = self.server.headers[-1]
        start, status = 0, 200
        headers = {"Connection": "close", **({"ETag": self.etag} if self.etag else {})}
        if self.ranges and asked.get("If-Range", self.etag) == self.etag and "Range" in asked:
            start, status = int(asked["Range"].removeprefix("bytes=").rstrip("-")), 206
            size = len(self.body)
            if start >= size:
                return 416, {"Content-Range": f"bytes */{size}"}, b""
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        rest = self.body[start:]
        headers["Content-Length"] = str(len(rest))
        stop = self.breaks.pop(0) if self.breaks else len(rest)
        return status, headers, rest[:stop]


@pytest.fixture
def site(server: TileServer, archive: bytes) -> Site:
    return Site(server, archive)


def test_a_download_that_breaks_off_is_gone_on_with(site: Site, tmp_path: Path) -> None:
    site.breaks = [5000, 3000]
    result = fetch("maps", tmp_path, url=site.url, options=QUICK)
    assert [headers.get("Range") for headers in site.server.headers] == [
        None,
        "bytes=5000-",
        "bytes=8000-",
    ]
    assert site.server.headers[1]["If-Range"] == '"v1"'
    assert site.server.headers[0]["User-Agent"].startswith("maptile2sat/")
    assert result.downloaded == len(site.body)
    assert (result.train, result.val) == (1096, 1098)
    assert len(list((tmp_path / "maps/train").iterdir())) == 1096
    assert len(list((tmp_path / "maps/val").iterdir())) == 1098
    assert (tmp_path / "maps/val/1098.jpg").read_bytes() == picture()
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]
    said = json.loads((tmp_path / "maps/dataset.json").read_text())
    assert said["map_side"] == "right"
    assert "not the 250,242,400" in result.warnings[0]


def test_another_process_goes_on_and_a_third_has_nothing_to_do(site: Site, tmp_path: Path) -> None:
    site.breaks = [7000, 0, 0, 0, 0]
    with pytest.raises(SourceError, match=r"keeps breaking off.*7,000 bytes"):
        fetch("maps", tmp_path, url=site.url, options=QUICK)
    assert (tmp_path / "maps.tar.gz.part").stat().st_size == 7000
    first = run("dataset", "fetch", "maps", "--dir", tmp_path, "--url", site.url)
    assert (first.code, first.out) == (0, f"{tmp_path / 'maps'}\n")
    assert site.server.headers[-1]["Range"] == "bytes=7000-"
    asked = len(site.server.log)
    again = run("dataset", "fetch", "maps", "--dir", tmp_path, "--url", site.url, "--json")
    assert json.loads(again.out)["downloaded"] == 0
    assert len(site.server.log) == asked


def test_a_file_that_changed_meanwhile_is_downloaded_anew(site: Site, tmp_path: Path) -> None:
    site.breaks = [7000, 0, 0, 0, 0]
    with pytest.raises(SourceError):
        fetch("maps", tmp_path, url=site.url, options=QUICK)
    site.etag = '"v2"'
    result = fetch("maps", tmp_path, url=site.url, options=QUICK)
    assert result.downloaded == len(site.body)


@pytest.mark.parametrize("etag", ['"v1"', ""])
def test_servers_without_ranges_or_validators_are_asked_for_all(
    etag: str, site: Site, tmp_path: Path
) -> None:
    site.ranges, site.etag = False, etag
    site.breaks = [9000]
    result = fetch("maps", tmp_path, url=site.url, options=QUICK)
    assert result.downloaded == 9000 + len(site.body)
    assert ("Range" in site.server.headers[1]) == bool(etag)


def test_a_complete_part_is_only_confirmed(site: Site, tmp_path: Path) -> None:
    site.breaks = [9000, 0, 0, 0, 0]
    with pytest.raises(SourceError):
        fetch("maps", tmp_path, url=site.url, options=QUICK)
    (tmp_path / "maps.tar.gz.part").write_bytes(site.body)
    assert fetch("maps", tmp_path, url=site.url, options=QUICK).downloaded == 0
    assert (tmp_path / "maps/train/1.jpg").exists()


def test_a_fetch_stopped_while_it_unpacks_leaves_nothing_in_the_end(
    site: Site, tmp_path: Path
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what == "pairs" and done > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("maps", tmp_path, url=site.url, options=QUICK, progress=stop)
    asked = len(site.server.log)
    assert fetch("maps", tmp_path, url=site.url, options=QUICK).downloaded == 0
    assert len(site.server.log) == asked
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]


def test_what_is_not_the_set_is_not_kept(server: TileServer, tmp_path: Path) -> None:
    url = server.url + PATH
    bad = {
        "an HTML page": b"<html>log in</html>",
        "damaged": whole(3, 3)[:-40],
        "3 train and 4 val": whole(3, 4),
    }
    for words, body in bad.items():
        server.pages[PATH] = body
        with pytest.raises(TrainingError, match=words):
            fetch("maps", tmp_path, url=url, options=QUICK)
        assert list(tmp_path.iterdir()) == []
    del server.pages[PATH]
    with pytest.raises(SourceError, match="HTTP 404"):
        fetch("maps", tmp_path, url=url, options=QUICK)


def test_files_of_the_user_are_left_alone(site: Site, tmp_path: Path) -> None:
    (tmp_path / "maps/train").mkdir(parents=True)
    (tmp_path / "maps/train/mine.jpg").write_bytes(picture())
    with pytest.raises(TrainingError, match="exists but has 1 train and 0 val"):
        fetch("maps", tmp_path, url=site.url, options=QUICK)
    other = tmp_path / "other"
    other.mkdir()
    (other / "maps.tar.gz").write_bytes(site.body[:-50])
    with pytest.raises(TrainingError, match="delete this file first"):
        fetch("maps", other, url=site.url, options=QUICK)
    (other / "maps.tar.gz").write_bytes(site.body)
    assert fetch("maps", other, url=site.url, options=QUICK).downloaded == 0
    assert (other / "maps.tar.gz").exists()
    assert not site.server.log


def test_unknown_sets_and_unwritable_folders_are_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="say maps"):
        fetch("streets", tmp_path)
    (tmp_path / "file").write_text("")
    outcome = run("dataset", "fetch", "maps", "--dir", tmp_path / "file/below")
    assert outcome.code == 1
    assert outcome.err.startswith("error: cannot make the folder")
    assert outcome.err.count("\n") == 1


EVIL: dict[str, Callable[[], tuple[tarfile.TarInfo, bytes]]] = {
    "leads out": lambda: member("maps/train/../../../escaped.jpg", picture()),
    "leads out ": lambda: member("/tmp/escaped.jpg", picture()),
    "leads out  ": lambda: member("C:\\escaped.jpg", picture()),
    "a link": lambda: member("maps/train/2.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a link ": lambda: member(
        "maps/train/2.jpg", type=tarfile.LNKTYPE, linkname="maps/train/1.jpg"
    ),
    "a device": lambda: member("maps/train/2.jpg", type=tarfile.CHRTYPE),
    "a device ": lambda: member("maps/train/2.jpg", type=tarfile.FIFOTYPE),
    "twice": lambda: member("maps/train/1.jpg", picture()),
    "too many bytes": lambda: member("maps/train/2.jpg", bytes(65 << 20)),
}


@pytest.mark.parametrize("words", EVIL)
def test_hostile_archives_are_refused(words: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.tar.gz"
    path.write_bytes(pack(member("maps/train/1.jpg", picture()), EVIL[words]()))
    with pytest.raises(Maptile2satError, match=words.strip()):
        unpack(path, tmp_path / "inside/deep/set", lambda done: None)
    inside = [p.name for p in tmp_path.rglob("*") if p.is_file()]
    assert sorted(inside) == ["1.jpg", "evil.tar.gz"]


ODD_HEADERS: dict[str, dict[str, str]] = {
    "NUL in a path": {"path": "maps/train/2\0.jpg"},
    "map that is no numbers": {"GNU.sparse.map": "x,y", "GNU.sparse.size": "5"},
    "size that is no number": {"GNU.sparse.map": "0,1", "GNU.sparse.size": "zz"},
    "long name": {"path": f"maps/train/{'a' * 300}.jpg"},
    "long folder": {"path": f"maps/{'a' * 300}/train/2.jpg"},
    "long name in bytes": {"path": f"maps/train/{'é' * 130}.jpg"},
}


@pytest.mark.parametrize("kind", ODD_HEADERS)
def test_odd_headers_are_the_fault_of_the_archive(
    kind: str, server: TileServer, tmp_path: Path
) -> None:
    odd = member("maps/train/2.jpg", picture(), pax_headers=ODD_HEADERS[kind])
    server.pages[PATH] = pack(member("maps/train/1.jpg", picture()), odd)
    outcome = run("dataset", "fetch", "maps", "--dir", tmp_path, "--url", server.url + PATH)
    assert outcome.code == 1
    assert outcome.err.startswith("error: the archive ")
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_checksum_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "bad.tar.gz"
    body = bytearray(whole(2, 2))
    body[-6] ^= 1  # in gzip's checksum, behind the last entry
    path.write_bytes(bytes(body))
    with pytest.raises(TrainingError, match="damaged"):
        unpack(path, tmp_path / "set", lambda done: None)
