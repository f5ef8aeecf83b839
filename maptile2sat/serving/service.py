"""Everything that a running server holds: layers, caches, queues and counts."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from maptile2sat.errors import BundleError, ErrorPictureError, OutputError, UsageError
from maptile2sat.geo.grid import TILE, BBox, parse_bbox
from maptile2sat.models.bundle import Bundle, open_bundle
from maptile2sat.paths import sample_map
from maptile2sat.rendering import render
from maptile2sat.serving.cache import TileCache
from maptile2sat.serving.layers import ImageLayer, Layers, open_layers
from maptile2sat.serving.options import ServeOptions
from maptile2sat.serving.queue import BusyError, CellQueue
from maptile2sat.serving.tiles import ABOVE, BELOW, SHALLOW, TileMaker
from maptile2sat.sources.mbtiles import viewer_bounds
from maptile2sat.sources.redact import HIDDEN
from maptile2sat.sources.xyz import is_template

_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+", re.ASCII)
"""What TileJSON takes for a version."""


@dataclass
class Counts:
    """What the server has done since it started.

    Attributes:
        requests: Answers by kind: `tiles`, `hits` (tiles that were kept), `unchanged` (304),
            `empty`, `busy` (503), `failed` (502), `gone` (the client left), `downloads`.
        seconds: Time spent by stage: `read`, `generate` and `pack` for cells of imagery, `map`
            for cells of map, `download`.
    """

    requests: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def clock(self, stage: str, seconds: float) -> None:
        """Add to a stage's time; from any thread."""
        with self._lock:
            self.seconds[stage] += seconds  # type: ignore[assignment]  # typed for whole numbers


@dataclass
class Service:
    """A server's state.

    Attributes:
        options: What to serve.
        layers: The map and the imagery.
        makers: Makes tiles, by the first part of their address.
        cells: The queue of cells to be generated.
        reads: The queue of cells of map to be read, so that the map shows at once.
        counts: What has been done.
    """

    options: ServeOptions
    layers: Layers
    makers: dict[str, TileMaker]
    cells: CellQueue
    reads: CellQueue
    counts: Counts

    def health(self) -> dict[str, Any]:
        """Return counts of everything as plain values."""
        return {
            "status": "ok",
            "uptime_seconds": round(time.monotonic() - self.counts.started, 1),
            "process": os.getpid(),
            "requests": dict(self.counts.requests),
            "cells": {
                "waiting": self.cells.waiting,
                "running": self.cells.running,
                **asdict(self.cells.counts),
            },
            "map_cells": {
                "waiting": self.reads.waiting,
                "running": self.reads.running,
                **asdict(self.reads.counts),
            },
            "seconds": {name: round(value, 3) for name, value in self.counts.seconds.items()},
        }

    def tilejson(self, name: str, base: str) -> dict[str, Any]:
        """Return a model's TileJSON 3.0.0.

        Args:
            name: Of the layer.
            base: The server's address, without a slash at its end.
        """
        layer = self.layers.images[name]
        box, middle = extent_of(layer)
        about = layer.job.bundle.description
        lowest = max(0, layer.zoom - BELOW)
        return {
            "tilejson": "3.0.0",
            "name": f"{name} (synthetic)",
            "description": "Synthetic satellite-style imagery, generated from a map by a neural "
            "network; it does not show the real ground.",
            "version": about.version if _VERSION.fullmatch(about.version) else "1.0.0",
            "attribution": layer.attribution.replace("&", "&amp;").replace("<", "&lt;"),
            "scheme": "xyz",
            "tiles": [f"{base}/{quote(name)}/{{z}}/{{x}}/{{y}}.png?v={layer.digest[:12]}"],
            "minzoom": lowest,
            "maxzoom": layer.zoom,
            "bounds": list(box),
            "center": [*middle, max(lowest, layer.zoom - 1)],
        }


def extent_of(layer: ImageLayer) -> tuple[BBox, tuple[float, float]]:
    """Return bounds and middle of a layer in degrees, within -180..180 as TileJSON has them."""
    return viewer_bounds(layer.job.source.info.grid, layer.window)


@contextmanager
def open_service(
    source: Any, options: ServeOptions, warn: Callable[[str], None] = lambda text: None
) -> Iterator[Service]:
    """Open map, models and cache; at the end wait for work that has begun, but for no server.

    Args:
        source: What `open_source` takes; None for the sample map.
        options: What to serve.
        warn: Told what the user should know, from any thread.

    Raises:
        Maptile2satError: If map, models or cache cannot be used.
    """
    counts = Counts()
    makers: dict[str, TileMaker] = {}

    def make(key: tuple[str, int, int]) -> Any:
        return makers[key[0]].make_cell(key[1], key[2])

    def forget(zoom: int, error: ErrorPictureError) -> None:
        for maker in makers.values():  # all read the same tiles, if of the same zoom
            if maker.layer.zoom == zoom:
                maker.forget(error)

    cells, reads = CellQueue(make, options.queue), CellQueue(make, options.queue)
    with (
        closing(cells),
        closing(reads),
        open_layers(source, options, counts.clock, warn) as layers,
    ):
        cache = TileCache(options.cache_folder, options.cache_bytes)
        makers["source"] = TileMaker(layers.map, cache, reads)
        for name, layer in layers.images.items():
            makers[name] = TileMaker(layer, cache, cells)
            # not by the error of a cell: that may have failed for another reason before
            layer.job.repeats.tell = partial(forget, layer.zoom)
        try:
            yield Service(options, layers, makers, cells, reads, counts)
        finally:
            info = layers.map.job.source.info
            # closing a map server ends its downloads, which may take as long as it likes; any
            # other map must not be closed while it is read
            if not (info.remote and info.tiled):
                cells.close()
                reads.close()


# GeoTIFFs of small areas, and the command that makes the same

WAIT_SECONDS = 5

_rendering = threading.Lock()
"""One GeoTIFF at a time: each takes all processors for seconds."""

_thread = ThreadPoolExecutor(1, "area")
"""Of our own: who stops the server would wait for a thread of asyncio's."""


async def area_response(service: Service, layer: ImageLayer, text: str) -> Response:
    """Render an area and send it.

    Args:
        service: The server.
        layer: Of what.
        text: West, south, east, north in degrees.

    Raises:
        UsageError: If the area is too large, or not on the map.
        BusyError: If another one is being rendered.
        OutputError: If there is no place for it.
    """
    box = parse_bbox(text)
    window = layer.job.source.info.grid.window(box)
    limit = service.options.max_download
    if window.width * window.height > limit:
        raise UsageError(
            f"{window.width} x {window.height} px are more than the {limit:,} that are rendered "
            "here: use the command"
        )
    turn = TILE << layer.zoom  # of an area across 180 degrees, the west is a turn further
    inside = any(layer.window.contains(window.shifted(by, 0)) for by in (-turn, 0, turn))
    if layer.job.options.bbox is not None and not inside:
        raise UsageError("the area is not inside the one that is served")
    if not _rendering.acquire(blocking=False):
        raise BusyError(WAIT_SECONDS)
    try:
        folder = _temporary_folder()
        # the lock goes with the thread: it stays if the client leaves
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(_thread, _render, service, layer, box, folder)
    except BaseException:
        _rendering.release()
        raise
    try:
        await work
    except asyncio.CancelledError:  # the server is being stopped: nobody will send it
        shutil.rmtree(folder, ignore_errors=True)
        raise
    service.counts.requests["downloads"] += 1
    return _Once(
        folder / "area.tif",
        media_type="image/tiff",
        filename=f"{layer.name}-{box.west:.5f}-{box.south:.5f}.tif",
        headers={"Cache-Control": "no-store"},
    )


def _temporary_folder() -> Path:
    """Make a folder for a GeoTIFF.

    Raises:
        OutputError: If that cannot be done, as on a full disk.
    """
    try:
        return Path(tempfile.mkdtemp(prefix="maptile2sat-"))
    except OSError as error:
        raise OutputError(
            f"no temporary folder can be made for the GeoTIFF: {error.strerror or error}: free "
            "some space, or start the server with another TMPDIR"
        ) from error


class _Once(FileResponse):
    """A file that goes away with its folder, however sending it ends.

    A background task would not do: a range that is none, or a client that leaves, skip it.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            shutil.rmtree(Path(self.path).parent, ignore_errors=True)


def _render(service: Service, layer: ImageLayer, box: BBox, folder: Path) -> None:
    """Render into a temporary folder, which goes away if that fails."""
    start = time.perf_counter()
    try:
        _check_unchanged(layer.job.bundle)
        options = replace(layer.job.options, bbox=box)
        render(layer.job.origin, folder / "area.tif", options, hosts=service.layers.hosts)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        _rendering.release()
        service.counts.clock("download", time.perf_counter() - start)


def _check_unchanged(bundle: Bundle) -> None:
    """Make sure that a model is still the one that tiles are made with.

    Raises:
        BundleError: If another lies in its folder now.
    """
    found = open_bundle(bundle.folder).description.weights_sha256
    if found != bundle.description.weights_sha256:
        raise BundleError(
            f"the model {bundle.description.name} has changed since the server was started: "
            "start it again"
        )


def viewer_settings(service: Service) -> dict[str, Any]:
    """Return what the viewer needs to know."""
    layer = service.layers.map
    return {
        "map": {
            "version": layer.digest[:12],
            "lowest": max(0, layer.zoom - SHALLOW),
            "highest": layer.zoom + ABOVE,
        },
        "maxPixels": service.options.max_download,
        "models": [_model(service, layer) for layer in service.layers.images.values()],
    }


def _model(service: Service, layer: ImageLayer) -> dict[str, Any]:
    about = layer.job.bundle.description
    box, middle = extent_of(layer)
    return {
        "name": layer.name,
        "title": f"{layer.name} {about.version}",
        "version": layer.digest[:12],
        "attribution": layer.attribution,
        "zoom": layer.zoom,
        "lowest": max(0, layer.zoom - SHALLOW),
        "whole": max(0, layer.zoom - BELOW),
        "highest": layer.zoom + ABOVE,
        "bounds": list(box),
        "middle": list(middle),
        "command": command(layer, private=not service.options.loopback),
    }


def command(layer: ImageLayer, *, private: bool) -> list[str]:
    """Return the words before and after the box of the command that renders the same pixels.

    Args:
        layer: Of what.
        private: Whether to leave out in which folders map, model and certificates lie.
    """
    info, options = layer.job.source.info, layer.job.options
    words = ["maptile2sat", "render"]
    if Path(layer.job.origin) != sample_map(layer.job.bundle.description.style):
        words.append(_map_word(layer, private=private))
    model = Path(options.model).name if private else options.model
    words += ["-m", model]
    if options.zoom is not None:
        words += ["-z", str(options.zoom)]
    if options.seed:
        words += ["--seed", str(options.seed)]
    for name in ("precision", "labels"):
        if (value := getattr(options, name)) != "auto":
            words += [f"--{name}", value]
    if options.src_crs is not None:
        words += ["--src-crs", options.src_crs]
    if options.tile_size is not None:
        words += ["--tile-size", str(options.tile_size)]
    for name in options.headers:  # what they say is the server's to know
        words += [] if private else ["--header", f"{name}: {HIDDEN}"]
    if options.ca_bundle is not None:
        words += ["--ca-bundle", options.ca_bundle.name if private else str(options.ca_bundle)]
    if options.allow_vrt:
        words.append("--allow-vrt")
    if options.allow_repeats:
        words.append("--allow-repeats")
    if info.remote and options.missing != "error":
        words += ["--missing", options.missing]
    return [shlex.join([*words, "--bbox"]), "-o area.tif"]


def _map_word(layer: ImageLayer, *, private: bool) -> str:
    """Return what `render` opens the same map by: a name may lack its folder, or the template."""
    origin = layer.job.origin
    if "://" in origin:
        return layer.job.source.info.name  # without the secrets of the address
    if not private:
        return origin
    if not is_template(origin):
        return Path(origin).name
    place, brace, rest = origin.partition("{")
    folder, slash, begun = place.rpartition("/")  # the tiles lie in that folder
    return Path(folder).name + slash + begun + brace + rest
