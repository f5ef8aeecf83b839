"""Everything that a running server holds: layers, caches, queues and counts."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

from maptile2sat.errors import ErrorPictureError
from maptile2sat.grid import BBox
from maptile2sat.serving.cache import TileCache
from maptile2sat.serving.cell_queue import CellQueue
from maptile2sat.serving.layer import ImageLayer, Layers, open_layers
from maptile2sat.serving.options import ServeOptions
from maptile2sat.serving.tiles import BELOW, TileMaker
from maptile2sat.sources.mbtiles_writer import viewer_bounds

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
