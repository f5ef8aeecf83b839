"""GeoTIFFs of small areas, and the command that makes the same."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from maptile2sat.bundle import Bundle, open_bundle
from maptile2sat.errors import BundleError, OutputError, UsageError
from maptile2sat.grid import TILE, BBox, parse_bbox
from maptile2sat.rendering import render
from maptile2sat.resources import sample_map
from maptile2sat.serving.cell_queue import BusyError
from maptile2sat.serving.layer import ImageLayer
from maptile2sat.serving.service import Service, extent_of
from maptile2sat.serving.tiles import ABOVE, BELOW, SHALLOW
from maptile2sat.sources.naming import HIDDEN
from maptile2sat.sources.template import is_template

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
