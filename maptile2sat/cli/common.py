"""How commands talk: results to stdout, everything else to stderr."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from maptile2sat.errors import UsageError

DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh]?)")


def show_json(value: Any) -> None:
    """Print a dataclass or plain value as one JSON object on stdout."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    text = json.dumps(value, default=_plain, ensure_ascii=False, indent=2)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8: JSON must be
        text = json.dumps(value, default=_plain, indent=2)
    print(text, flush=True)  # a program may wait for it while we go on, as `serve` does


def _plain(value: Any) -> Any:
    if isinstance(value, (Path, Enum)):
        return str(value)
    raise TypeError(f"{type(value)} cannot be shown as JSON")


def set_logging(verbosity: int) -> None:
    """Send log messages to stderr: those that inform at -v, all at -vv."""
    if verbosity > 0:
        level = logging.INFO if verbosity == 1 else logging.DEBUG
        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        for name in ("maptile2sat", "urllib3"):
            logging.getLogger(name).setLevel(level)


def warn(message: str, verbosity: int) -> None:
    """Print a warning to stderr, unless the user asked for quiet twice."""
    if verbosity > -2:
        print(f"warning: {message}", file=sys.stderr)


def note(message: str, verbosity: int) -> None:
    """Print what is going on to stderr, unless the user asked for quiet."""
    if verbosity >= 0:
        print(message, file=sys.stderr)


@contextmanager
def progress_bar(title: str, verbosity: int) -> Iterator[Callable[[int, int], None]]:
    """Give a function (done, total) that moves a bar on stderr, if that is a terminal."""
    if verbosity < 0 or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def parse_duration(text: str) -> float:
    """Return seconds from text such as `90`, `90s`, `5m` or `1.5h`.

    Raises:
        UsageError: If it is not of this form.
    """
    match = DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"'{text}' is not a length of time: say for example 90s, 5m or 1.5h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def parse_pairs(items: list[str], option: str) -> dict[str, str]:
    """Return a dictionary from texts `NAME=VALUE`.

    Raises:
        UsageError: If one has no `=`.
    """
    wrong = next((item for item in items if "=" not in item), None)
    if wrong is not None:
        raise UsageError(f"{option} {wrong}: say NAME=VALUE")
    return dict(item.split("=", 1) for item in items)


def parse_resolution(text: str) -> tuple[float, float]:
    """Return width and height of a pixel from text such as `0.5` or `0.00002,0.00001`.

    Raises:
        UsageError: If it is not of this form.
    """
    parts = text.replace(",", " ").split()
    try:
        sizes = [float(part) for part in parts]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2):
        raise UsageError(f"'{text}' is no resolution: say for example 0.5, or width,height")
    return sizes[0], sizes[-1]


def parse_sides(text: str) -> tuple[int, int]:
    """Return the sides of the tiles of two sources from text such as `512` or `512,256`.

    Raises:
        UsageError: If it is not of this form.
    """
    parts = text.replace(",", " ").split()
    if len(parts) not in (1, 2) or not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(
            f"'{text[:100]}' is no side of tiles: say 256 or 512, or that of the map and of the "
            "image, such as 512,256"
        )
    return int(parts[0]), int(parts[-1])


def human_bytes(count: float) -> str:
    """Return a size in the unit that suits it."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


# Options of several commands: how a map is opened

MAP = "Map and map server"
"""Title of their panel in --help."""

ReadZoom = Annotated[
    int | None, typer.Option("--zoom", "-z", help="Zoom to read the map at, as for render.")
]
SrcCrs = Annotated[
    str | None, typer.Option(help="CRS of a raster that states none.", rich_help_panel=MAP)
]
CaBundle = Annotated[
    Path | None,
    typer.Option(
        metavar="PEM", help="Certificates to trust instead of the usual ones.", rich_help_panel=MAP
    ),
]
Rate = Annotated[
    float, typer.Option(help="Most requests a second to one map server.", rich_help_panel=MAP)
]
Header = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        metavar="'NAME: VALUE'",
        help="HTTP header for the map's own server, also in $MAPTILE2SAT_HEADERS; repeatable.",
        show_default=False,
        rich_help_panel=MAP,
    ),
]
AllowRepeats = Annotated[
    bool,
    typer.Option(
        "--allow-repeats",
        help="One picture at many places is map, no error picture.",
        rich_help_panel=MAP,
    ),
]
AllowVrt = Annotated[
    bool,
    typer.Option(
        "--allow-vrt", help="Trust a raster that reads other files or servers.", rich_help_panel=MAP
    ),
]


def read_headers(lines: Sequence[str] | None, option: str = "--header") -> dict[str, str]:
    """Return the headers of a repeatable option.

    Raises:
        UsageError: If a line is no header.
    """
    from maptile2sat.sources.headers import parse_headers

    return parse_headers(lines or (), option)
