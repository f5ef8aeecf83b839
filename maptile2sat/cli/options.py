"""Options of several commands: how a map is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

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
