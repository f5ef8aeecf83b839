"""Maps made for the tests: one test pattern in every container, and a tile server."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine
from PIL import Image

from maptile2sat.geo.grid import TILE, Window, mercator_grid
from maptile2sat.sources import MBTilesWriter, SourceOptions
from tests.support_once import FOLDER

Pixels = npt.NDArray[np.uint8]

# a shell ignores Ctrl-C for what it starts in the background, and what the tests start inherits it
signal.signal(signal.SIGINT, signal.default_int_handler)

# processes that share the cores compute on their share of them
_workers, _cores = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), os.cpu_count() or 1
if _workers > 1:
    for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(_name, str(max(1, _cores // _workers)))

# looking for garbage among TensorFlow's many objects takes a sixth of the time
USUAL_GARBAGE = gc.get_threshold()
gc.set_threshold(50_000, 20, 20)


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of the session, unless the process that started this one has."""
    if FOLDER in os.environ:
        return
    folder = os.environ[FOLDER] = tempfile.mkdtemp(prefix="maptile2sat-tests-")

    def end() -> None:
        del os.environ[FOLDER]
        shutil.rmtree(folder, ignore_errors=True)

    config.add_cleanup(end)


def pattern(window: Window) -> Pixels:
    """Colours that differ at every pixel and in no symmetric way.

    Red counts columns, green counts rows, blue hashes the tile and the pixel, so that a flip, a
    shift by one pixel or a swapped tile shows.
    """
    cols = np.arange(window.col, window.right, dtype=np.int64)[None, :]
    rows = np.arange(window.row, window.bottom, dtype=np.int64)[:, None]
    red = (cols % 251) + 0 * rows
    green = (rows % 241) + 0 * cols
    blue = (7 * (cols // TILE) + 13 * (rows // TILE) + 3 * cols * rows) % 239
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def encode(pixels: Pixels, kind: str = "PNG") -> bytes:
    """Return pixels as the bytes of a picture."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


@dataclass(frozen=True)
class TileMap:
    """A map of whole tiles in the test pattern.

    Attributes:
        zoom: Its zoom.
        tiles: The tiles that it has, as (x, y).
        picture: The pixels of a tile, given its window.
    """

    zoom: int
    tiles: tuple[tuple[int, int], ...]
    picture: Callable[[Window], Pixels] = pattern

    @classmethod
    def block(cls, zoom: int, x: int, y: int, across: int, down: int) -> TileMap:
        """Return a map without holes."""
        tiles = tuple((x + dx, y + dy) for dy in range(down) for dx in range(across))
        return cls(zoom, tiles)

    @property
    def extent(self) -> Window:
        """The pixels from the first to the last tile."""
        xs, ys = [x for x, _ in self.tiles], [y for _, y in self.tiles]
        left, top = min(xs) * TILE, min(ys) * TILE
        return Window(left, top, (max(xs) + 1) * TILE - left, (max(ys) + 1) * TILE - top)

    def tile(self, x: int, y: int) -> bytes:
        """Return a tile as PNG."""
        return encode(self.picture(Window(x * TILE, y * TILE, TILE, TILE)))

    def read(self, window: Window) -> tuple[Pixels, Pixels]:
        """Return what any source of this map must read in `window`."""
        image = np.zeros((window.height, window.width, 3), np.uint8)
        mask = np.zeros((window.height, window.width), np.uint8)
        for x, y in self.tiles:
            part = Window(x * TILE, y * TILE, TILE, TILE).intersection(window)
            if not part.empty:
                there = part.slices(window)
                image[there] = self.picture(part)
                mask[there] = 255
        return image, mask


@pytest.fixture
def tile_map() -> TileMap:
    """A map of 4 x 3 tiles with two holes, off all symmetry axes."""
    whole = TileMap.block(13, 4661, 2371, 4, 3)
    holes = {(4662, 2371), (4664, 2373)}
    return TileMap(13, tuple(tile for tile in whole.tiles if tile not in holes))


@pytest.fixture
def full_map() -> TileMap:
    """A map of 3 x 2 tiles without holes."""
    return TileMap.block(13, 4661, 2371, 3, 2)


def write_mbtiles(path: Path, tile_map: TileMap, **metadata: Any) -> Path:
    """Write the map as MBTiles."""
    stated = {"name": "test", "format": "png", "attribution": "© test", **metadata}
    with MBTilesWriter(path, **stated) as writer:
        for x, y in tile_map.tiles:
            writer.add(tile_map.zoom, x, y, tile_map.tile(x, y))
    return path


def write_folder(root: Path, tile_map: TileMap, *, tms: bool = False) -> Path:
    """Write the map as z/x/y.png."""
    for x, y in tile_map.tiles:
        row = (1 << tile_map.zoom) - 1 - y if tms else y
        path = root / str(tile_map.zoom) / str(x) / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tile_map.tile(x, y))
    return root


def write_pmtiles(path: Path, tile_map: TileMap) -> Path:
    """Write the map as PMTiles 3."""
    from pmtiles.tile import Compression, TileType, zxy_to_tileid
    from pmtiles.writer import Writer

    bounds = mercator_grid(tile_map.zoom).lonlat_bounds(tile_map.extent)
    keys = ("min_lon_e7", "min_lat_e7", "max_lon_e7", "max_lat_e7")
    with path.open("wb") as file:
        writer = Writer(file)
        tiles = sorted((zxy_to_tileid(tile_map.zoom, x, y), x, y) for x, y in tile_map.tiles)
        for number, x, y in tiles:
            writer.write_tile(number, tile_map.tile(x, y))
        header = {
            "tile_type": TileType.PNG,
            "tile_compression": Compression.NONE,
            **{key: round(value * 1e7) for key, value in zip(keys, bounds, strict=True)},
        }
        writer.finalize(header, {"attribution": "© test"})
    return path


def write_raster(
    path: Path,
    bands: npt.NDArray[Any],
    transform: Affine | None = None,
    crs: str | None = "EPSG:3857",
    **profile: Any,
) -> Path:
    """Write (band, row, column) values as a GeoTIFF, unless `profile` has another `driver`."""
    count, height, width = bands.shape
    with rasterio.open(
        path,
        "w",
        count=count,
        height=height,
        width=width,
        dtype=bands.dtype,
        crs=crs,
        transform=transform or Affine(2.0, 0, 2_700_000.5, 0, -2.0, 8_400_000.25),
        **{"driver": "GTiff", **profile},
    ) as dataset:
        dataset.write(bands)
    return path


def write_map_raster(
    path: Path, tile_map: TileMap, extent: Window | None = None, *, internal_mask: bool = True
) -> Path:
    """Write the map as a GeoTIFF on its web mercator grid, with a mask for the holes."""
    extent = extent or tile_map.extent
    image, mask = tile_map.read(extent)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal_mask),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=3,
            height=extent.height,
            width=extent.width,
            dtype="uint8",
            crs="EPSG:3857",
            transform=mercator_grid(tile_map.zoom).transform(extent),
            photometric="RGB",
            tiled=True,
            blockxsize=128,
            blockysize=128,
            compress="deflate",
        ) as dataset,
    ):
        dataset.write(np.moveaxis(image, -1, 0))
        dataset.write_mask(mask)
    return path


@dataclass
class TileServer:
    """A web server on the loopback; set `answer` to make it misbehave.

    Attributes:
        port: Where it listens.
        pages: Bytes by path.
        log: The paths asked for, with their queries.
        headers: The headers of each request.
        answer: Called first with (path, number of this request); returns (status, headers, body)
            or None for the usual answer.
    """

    port: int = 0
    pages: dict[str, bytes] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answer: Callable[[str, int], tuple[int, dict[str, str], bytes] | None] | None = None

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.port}"

    def serve(self, tile_map: TileMap, ending: str = ".png") -> str:
        """Offer the map; return the template."""
        for x, y in tile_map.tiles:
            self.pages[f"/{tile_map.zoom}/{x}/{y}{ending}"] = tile_map.tile(x, y)
        return self.url + "/{z}/{x}/{y}" + ending

    def reply(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """Return what a request is answered with."""
        self.log.append(path)
        self.headers.append(headers)
        special = self.answer(path, len(self.log)) if self.answer else None
        if special is not None:
            return special
        body = self.pages.get(path.partition("?")[0])
        if body is None:
            return 404, {}, b"not here"
        if "Range" in headers:
            first, last = map(int, headers["Range"].removeprefix("bytes=").split("-"))
            part = body[first : last + 1]
            shown = f"bytes {first}-{first + len(part) - 1}/{len(body)}"
            return (206, {"Content-Range": shown}, part) if part else (416, {}, b"")
        return 200, {}, body


class _QuietServer(ThreadingHTTPServer):
    """Says nothing of clients that hang up, as a run that fails does at any moment.

    It shares stderr with what is tested, where a line of its own would count.
    """

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@pytest.fixture
def server() -> Iterator[TileServer]:
    """A running tile server without tiles."""
    state = TileServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            body = state.pages.get(self.path.partition("?")[0])
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()

        def do_GET(self) -> None:
            status, headers, body = state.reply(self.path, dict(self.headers))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    web = _QuietServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    state.port = web.server_address[1]
    thread = threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield state
    web.shutdown()
    web.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> None:
    """Keep downloads of tests out of the user's cache, and no settings of the user's in them."""
    monkeypatch.setenv("MAPTILE2SAT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    for name in ("MAPTILE2SAT_USER_AGENT", "MAPTILE2SAT_SOURCE", "MAPTILE2SAT_MODEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def quick_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose the scales of exported bundles by two training maps, which have few pairs here."""
    from maptile2sat.training import export

    monkeypatch.setattr(export, "CROPS", 2)


@pytest.fixture
def usual_garbage() -> Iterator[None]:
    """Collect garbage as often as for users, for tests that measure memory."""
    rarely = gc.get_threshold()
    gc.set_threshold(*USUAL_GARBAGE)
    yield
    gc.set_threshold(*rarely)


@pytest.fixture
def plain_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the diagrams of training runs blank; `test_training_report` has them drawn.

    They take a third of the time of a run of some steps.
    """
    blank = encode(np.full((2, 3, 3), 255, np.uint8))
    monkeypatch.setattr("maptile2sat.training.report.panel_png", lambda panel, theme: blank)
    monkeypatch.setattr(
        "maptile2sat.training.log.draw_curves",
        lambda metrics, validation, path: path.write_bytes(blank),
    )


@pytest.fixture
def idle_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs learn nothing, where only what surrounds their steps counts.

    Most of the time of a short run is spent on preparing its first step.
    """
    losses = {"critic_real": 0.7, "critic_fake": 0.7, "l1": 1.0}
    monkeypatch.setattr(
        "maptile2sat.training.trainer.Trainer.step", lambda self, batch, number: losses
    )


@pytest.fixture
def quick() -> SourceOptions:
    """Options that do not wait for servers for long."""
    return SourceOptions(zoom=13, timeout=2.0, retries=1)
