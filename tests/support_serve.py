"""A server of tiles in a thread of the test process, asked over HTTP on loopback."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import requests
from PIL import Image

from maptile2sat.geo.grid import TILE
from maptile2sat.models.bundle import open_bundle, redescribe
from maptile2sat.rendering import RenderOptions
from maptile2sat.serving import ServeOptions
from tests.support_once import once, scratch
from tests.support_render import copy_of_tiny

SIDE = 512
"""Cell of the model: four tiles."""

if TYPE_CHECKING:
    from maptile2sat.serving.service import Service

Pixels = npt.NDArray[np.uint8]


@once
def model() -> Path:
    """Return a tiny bundle whose cells are several tiles; do not change it."""
    return redescribe(open_bundle(copy_of_tiny(scratch("serve"))), cell=SIDE).folder


@dataclass
class Running:
    """A running server.

    Attributes:
        url: Its address, without a slash at its end.
        service: Its state.
    """

    url: str
    service: Service

    def get(self, path: str, **settings: Any) -> requests.Response:
        """Ask for an address."""
        return requests.get(self.url + path, timeout=60, **settings)

    def tile(self, layer: str, zoom: int, col: int, row: int, form: str = "png") -> Pixels:
        """Return a tile as uint8 (256, 256, 4)."""
        answer = self.get(f"/{layer}/{zoom}/{col}/{row}.{form}")
        assert answer.status_code == 200, answer.text
        with Image.open(io.BytesIO(answer.content)) as picture:
            assert picture.size == (TILE, TILE)
            return np.asarray(picture.convert("RGBA"))

    def health(self) -> dict[str, Any]:
        """Return the server's counts."""
        values: dict[str, Any] = self.get("/healthz").json()
        return values


@contextmanager
def running(source: Any, cache: Path, **changes: Any) -> Iterator[Running]:
    """Run a server of a map with the tiny bundle in float32."""
    from maptile2sat.serving.app import build_app
    from maptile2sat.serving.server import address, listening, server_of
    from maptile2sat.serving.service import open_service

    settings: dict[str, Any] = {
        "models": (str(model()),),
        "render": RenderOptions(precision="integer", missing="mask"),
        "port": 0,
        "cache": cache,
        **changes,
    }
    options = ServeOptions(**settings)
    with listening(options) as listener, open_service(source, options) as service:
        server = server_of(build_app(service))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        try:
            yield Running(address(options.host, listener).rstrip("/"), service)
        finally:
            server.should_exit = True
            thread.join(10)


def wait_for(true: Any, seconds: float = 30.0) -> None:
    """Wait until something is true, or fail."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
