"""Many clients pan at random over a served map: does every tile come, and is it the right one?

Runs `maptile2sat serve` over a large map, and clients that each look at a screen of tiles, move
by a random step and look again. Part of them leave before all tiles are there, as people do.
Tiles are compared with a render of the whole map. Two runs: with an empty cache, then with what it
has left behind.

    python bench/serve.py --seconds 120 --clients 64
    python bench/serve.py --cold     only how soon the first tiles of a view are there

Prints one JSON object; exits with 1 if an answer was neither a tile nor a 503, or a tile was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import requests
from common import CORNER, ZOOM, write_map
from PIL import Image

from maptile2sat import render
from maptile2sat.geo.grid import TILE

SCREEN = (5, 4)
"""Tiles of a screen across and down."""

LOOK = 2.0
"""Mean seconds for which a client looks at a screen."""

LEAVES = 0.1
"""Share of screens that are left before all is there."""

PATIENCE = 0.5
"""Seconds after which those leave."""

CONNECTIONS = 6
"""Of each client at the same time, as browsers do."""

CHECKED = 0.1
"""Share of answers whose pixels are compared."""


@dataclass
class Findings:
    """What the clients saw.

    Attributes:
        answers: Answers by status; `left` are those not waited for, `broken` lost connections.
        seconds: Time to each tile.
        checked: Tiles compared.
        wrong: Tiles that differ from the render, or are not pictures.
        retry: Values of Retry-After.
    """

    answers: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    checked: int = 0
    wrong: int = 0
    retry: Counter[str] = field(default_factory=Counter)


class Client:
    """One of those who pan; HTTP by hand, since a library would be slower than the server."""

    def __init__(self, port: int, side: int, truth: Path, found: Findings, seed: int) -> None:
        self._port, self._found, self._random = port, found, random.Random(seed)
        self._first, self._count = CORNER // TILE, side // TILE
        self._truth = rasterio.open(truth)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._free = asyncio.Semaphore(CONNECTIONS)

    async def pan(self, end: float) -> None:
        """Look, move, and look again until the time is over."""
        draw = self._random
        col, row = (draw.randrange(self._count) for _ in range(2))
        while time.monotonic() < end:
            zoom = draw.choice((ZOOM, ZOOM, ZOOM, ZOOM - 1, ZOOM - 2, ZOOM + 1))
            tiles = [
                self._tile(zoom, *self._place(zoom, col + across, row + down))
                for across in range(SCREEN[0])
                for down in range(SCREEN[1])
            ]
            screen = asyncio.gather(*tiles)
            leaves = draw.random() < LEAVES
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(screen, PATIENCE if leaves else 120)
            await asyncio.sleep(draw.uniform(0, 2 * LOOK))
            step = draw.randrange(1, 4)
            col += draw.choice((-step, 0, step))
            row += draw.choice((-step, 0, step))

    def _place(self, zoom: int, col: int, row: int) -> tuple[int, int]:
        col, row = (self._first + value % self._count for value in (col, row))
        if zoom > ZOOM:
            return col << (zoom - ZOOM), row << (zoom - ZOOM)
        return col >> (ZOOM - zoom), row >> (ZOOM - zoom)

    async def _tile(self, zoom: int, col: int, row: int) -> None:
        found = self._found
        try:
            async with self._free:
                start = time.perf_counter()
                status, headers, body = await self._get(f"/maps/{zoom}/{col}/{row}.png")
                seconds = time.perf_counter() - start
        except asyncio.CancelledError:
            found.answers["left"] += 1
            raise
        except (OSError, asyncio.IncompleteReadError):
            found.answers["broken"] += 1
            return
        found.answers[str(status)] += 1
        if status == 503:
            found.retry[headers.get("retry-after", "none")] += 1
        elif status == 200:
            found.seconds.append(seconds)
            if zoom == ZOOM and self._random.random() < CHECKED:
                await asyncio.to_thread(self._check, col, row, body)

    def _check(self, col: int, row: int, body: bytes) -> None:
        left, top = col * TILE - CORNER, row * TILE - CORNER
        with rasterio.open(self._truth.name) as truth:
            expected = truth.read(window=((top, top + TILE), (left, left + TILE)))
        served = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))
        self._found.checked += 1
        self._found.wrong += bool((served != expected.transpose(1, 2, 0)).any())

    async def _get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Ask for an address, on a connection left from before if the server has not closed it."""
        while self._idle:
            reader, writer = self._idle.pop()
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                return await self._ask(reader, writer, path)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        return await self._ask(reader, writer, path)

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Ask on a connection; it is closed unless the answer is read to its end."""
        whole = False
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            whole = headers.get("connection") != "close"
        finally:
            if whole:
                self._idle.append((reader, writer))
            else:
                writer.close()
        return int(head[0].split()[1]), headers, body


def resident_mb(process: int) -> float:
    """Return the memory of a process in megabytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return a median and high percentiles in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100) if len(seconds) > 1 else [0.0] * 99
    return {f"p{part}_ms": round(1000 * cuts[part - 1], 2) for part in (50, 90, 95, 99)}


async def crowd(port: int, side: int, truth: Path, args: Any, process: int) -> dict[str, Any]:
    """Let the clients in, and watch the server's memory."""
    found = Findings()
    end = time.monotonic() + args.seconds
    clients = [Client(port, side, truth, found, number) for number in range(args.clients)]
    memory = []

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(resident_mb(process))
            await asyncio.sleep(1)

    await asyncio.gather(watch(), *(client.pan(end) for client in clients))
    third = max(1, len(memory) // 3)
    return {
        "answers": dict(found.answers),
        **percentiles(found.seconds),
        "tiles_per_second": round(len(found.seconds) / args.seconds, 1),
        "checked": found.checked,
        "wrong": found.wrong,
        "retry_after": dict(found.retry),
        "memory_mb": {
            "start": round(memory[0]),
            "second_third": round(max(memory[third : 2 * third])),
            "last_third": round(max(memory[2 * third :])),
        },
    }


def serve(source: Path, cache: Path, queue: int) -> tuple[subprocess.Popen[str], int]:
    """Start a server; return it and its port."""
    words = [sys.executable, "-c", "from maptile2sat.cli import main; main()"]
    words += ["serve", str(source), "--port", "0", "--cache", str(cache), "--queue", str(queue)]
    # what the bench has set so that its own TensorFlow keeps quiet would make this one talk
    quiet = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    server = subprocess.Popen(
        words, env=quiet, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
    )
    port = int(server.stdout.readline().strip().rstrip("/").rpartition(":")[2])
    return server, port


def run(source: Path, cache: Path, truth: Path, args: Any) -> dict[str, Any]:
    """Run the clients against one server."""
    server, port = serve(source, cache, args.queue)
    try:
        seen = asyncio.run(crowd(port, args.side, truth, args, server.pid))
        seen["server"] = requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10).json()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
    return seen


def cold(source: Path, cache: Path, args: Any) -> dict[str, Any]:
    """Return seconds from a start with an empty cache to its address, a first tile and a view."""
    begin = time.perf_counter()
    server, port = serve(source, cache, args.queue)
    started = time.perf_counter()
    first = (CORNER + args.side // 2) // TILE
    try:
        with requests.Session() as session:
            waits = []
            for row in range(SCREEN[1]):
                for col in range(SCREEN[0]):
                    place = f"{ZOOM}/{first + col}/{first + row}"
                    answer = session.get(f"http://127.0.0.1:{port}/maps/{place}.png", timeout=300)
                    answer.raise_for_status()
                    waits.append(round(time.perf_counter() - started, 3))
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
    return {"start": round(started - begin, 3), "first_tile": waits[0], "view": waits[-1]}


def main() -> None:
    """Run the load test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--side", type=int, default=8192, help="of the map in pixels")
    parser.add_argument("--queue", type=int, default=8, help="cells that may wait at the server")
    parser.add_argument("--cold", action="store_true", help="measure a cold start only")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_map(folder / "map.tif", args.side)
        if args.cold:
            print(json.dumps(cold(folder / "map.tif", folder / "tiles", args), indent=2))
            return
        render(folder / "map.tif", folder / "truth.tif", cog=False)
        runs = {
            state: run(folder / "map.tif", folder / "tiles", folder / "truth.tif", args)
            for state in ("empty_cache", "warm_cache")
        }
    print(json.dumps(runs, indent=2))
    good = all(
        set(seen["answers"]) <= {"200", "503", "left"} and not seen["wrong"] and seen["checked"]
        for seen in runs.values()
    )
    sys.exit(not good)


if __name__ == "__main__":
    main()
