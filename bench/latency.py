"""Time a render over HTTP against the same map as a file: read-ahead should hide the latency.

    python bench/latency.py [--latency 0.1] [--tiles 24] [--model maps] [--repeat 3]

A server on loopback answers each tile after `--latency` seconds; the cache of downloads is new
for every run.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from common import CORNER, ZOOM, medians, timed, write_map
from PIL import Image

from maptile2sat import open_source, render
from maptile2sat.geo.grid import TILE, Window, mercator_grid
from maptile2sat.sources import MBTilesWriter


def tiles_of(drawn: Path, count: int) -> dict[str, bytes]:
    """Return the encoded tiles of a map of `count` x `count` tiles, by path."""
    pages = {}
    with closing(open_source(drawn)) as source:
        for row in range(count):
            for col in range(count):
                x, y = CORNER // TILE + col, CORNER // TILE + row
                image = source.read(Window(x * TILE, y * TILE, TILE, TILE)).image
                stream = io.BytesIO()
                Image.fromarray(image).save(stream, "PNG")
                pages[f"/{ZOOM}/{x}/{y}.png"] = stream.getvalue()
    return pages


def serve(pages: dict[str, bytes], latency: float) -> str:
    """Serve pages on loopback; return the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # the base class's name
            time.sleep(latency)
            body = pages.get(self.path)
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *given: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def main() -> None:
    """Run the benchmark and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency", type=float, default=0.1)
    parser.add_argument("--tiles", type=int, default=24)
    parser.add_argument("--model", default="maps")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        drawn, output = Path(scratch) / "map.tif", Path(scratch) / "out.tif"
        write_map(drawn, options.tiles * TILE)
        pages = tiles_of(drawn, options.tiles)
        stored = Path(scratch) / "map.mbtiles"
        write_mbtiles(stored, pages)
        url = serve(pages, options.latency) + "/{z}/{x}/{y}.png"
        window = Window(CORNER, CORNER, options.tiles * TILE, options.tiles * TILE)
        box = tuple(mercator_grid(ZOOM).lonlat_bounds(window))
        # the server has nothing beyond the map: a box inside it needs no more
        settings = {"model": options.model, "overwrite": True, "missing": "mask"}
        render(None, output, model=options.model)
        runs: dict[str, list[dict[str, float]]] = {"file": [], "http": []}
        for number in range(options.repeat):
            os.environ["MAPTILE2SAT_CACHE_DIR"] = str(Path(scratch) / f"cache{number}")
            runs["file"].append(timed(lambda: render(stored, output, bbox=box, **settings)))
            runs["http"].append(timed(lambda: render(url, output, bbox=box, **settings)))
    times = {name: medians(run) for name, run in runs.items()}
    ratio = times["http"]["wall"] / times["file"]["wall"]
    print(json.dumps({"tiles": len(pages), "http_over_file": round(ratio, 3), "seconds": times}))


def write_mbtiles(path: Path, pages: dict[str, bytes]) -> None:
    """Write the tiles as MBTiles."""
    with MBTilesWriter(path, name="bench", format="png", attribution="") as writer:
        for place, data in pages.items():
            zoom, x, y = place.removesuffix(".png").strip("/").split("/")
            writer.add(int(zoom), int(x), int(y), data)


if __name__ == "__main__":
    main()
