"""What the messages of sources advise can be said to `dataset build` and `fetch` too."""

from __future__ import annotations

import functools
import ssl
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from maptile2sat.geo.grid import TILE, Window, mercator_grid
from tests.conftest import TileMap, encode, write_folder, write_raster
from tests.datasets.test_build import ACROSS, AREA, DOWN, SIZE, ZOOM, X, Y, drawn_tiles
from tests.support_dataset import run, town

SIDE = 2 * TILE


class Site(NamedTuple):
    """A server with a certificate of its own: the folder that it shows, and whom to trust."""

    folder: Path
    url: str
    bundle: Path


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(_Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        web.daemon_threads = True
        web.handle_error = lambda *given: None  # type: ignore[method-assign]  # who does not trust
        web.socket = context.wrap_socket(web.socket, server_side=True)
        threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
        yield Site(folder, f"https://127.0.0.1:{web.server_port}", tmp_path / "authority.pem")
        web.shutdown()


def write_large_tiles(folder: Path) -> None:
    """Write the map in tiles of 512 px, which every zoom has: at 15 they have the pixels of 16."""
    for x in range(X, X + ACROSS):
        for y in range(Y, Y + DOWN):
            for zoom, col, row in ((ZOOM, x, y), (ZOOM - 1, x // 2, y // 2)):
                path = folder / str(zoom) / str(col) / f"{row}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                window = Window(x // 2 * SIDE, y // 2 * SIDE, SIDE, SIDE)
                path.write_bytes(encode(town(window)[0]))


def test_advice_leads_to_pairs(site: Site, tmp_path: Path) -> None:
    write_large_tiles(site.folder)
    pixels = np.moveaxis(town(AREA)[1], -1, 0)
    ortho = write_raster(tmp_path / "o.tif", pixels, mercator_grid(ZOOM).transform(AREA), crs=None)
    out = tmp_path / "pairs"
    words: list[Any] = ["dataset", "build", "--map", site.url + "/{z}/{x}/{y}.png", "--out", out]
    words += ["--image", ortho, "--zoom", str(ZOOM), "--size", str(SIZE)]
    for advice, value in (
        ("pass --src-crs", "EPSG:3857"),
        ("--ca-bundle", site.bundle),
        ("pass --tile-size 512", "512"),  # by now the set is begun
    ):
        refused = run(*words)
        assert refused.code == 1
        assert advice in refused.err
        words += [advice.split()[-2] if value == "512" else advice.split()[-1], value]
    done = run(*words)
    assert done.code == 0, done.err
    pair = next((out / "train").iterdir())
    _, col, row = map(int, pair.stem.split("-"))
    with Image.open(pair) as picture:
        made = np.asarray(picture)[:, SIZE:]
    assert np.array_equal(made, town(Window(col, row, SIZE, SIZE))[0])


def test_tiles_of_map_and_image_may_differ_in_size(site: Site, tmp_path: Path) -> None:
    write_large_tiles(site.folder)
    photo = TileMap(ZOOM, drawn_tiles().tiles, lambda window: town(window)[1])
    image = write_folder(site.folder / "image", photo)
    there = ["--image", site.url + "/image/{z}/{x}/{y}.png", "--out", tmp_path / "a"]
    box = ",".join(map(str, mercator_grid(ZOOM).lonlat_bounds(AREA)))
    words: list[Any] = ["dataset", "build", "--map", site.url + "/{z}/{x}/{y}.png", "--bbox", box]
    words += ["--ca-bundle", site.bundle, "--zoom", str(ZOOM), "--size", str(SIZE)]
    words += ["--keep-uniform", "--tile-size"]
    refused = run(*words, "512", *there)
    assert refused.code == 1
    assert "/image/{z}/{x}/{y}.png" in refused.err  # which would have them at another zoom
    for wrong, said in (("a", "no side of tiles"), ("1,2,3", "no side of tiles"), ("9", "9 px")):
        odd = run(*words, wrong, *there)
        assert odd.code == 2
        assert said in odd.err
    here = ["--image", image, "--out", tmp_path / "b"]  # what is here is looked into
    for sides, more in (("512,256", there), ("512", here)):
        done = run(*words, sides, *more)
        assert done.code == 0, done.err


def test_fetch_trusts_whom_it_is_told_to(site: Site, tmp_path: Path) -> None:
    (site.folder / "maps.tar.gz").write_bytes(b"no archive")
    words: list[Any] = ["dataset", "fetch", "maps", "--url", site.url + "/maps.tar.gz"]
    words += ["--dir", tmp_path / "data"]
    refused = run(*words)
    assert refused.code == 1
    assert "give its authority's certificate, --ca-bundle FILE.pem" in refused.err
    come = run(*words, "--ca-bundle", site.bundle)
    assert come.code == 1  # what it holds is another matter
    assert "archive" in come.err
    assert "certificate" not in come.err
