"""Options of several commands: how a map is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ReadZoom = Annotated[
    int | None, typer.Option("--zoom", "-z", help="Zoom to read the map at, as for render.")
]
SrcCrs = Annotated[str | None, typer.Option(help="CRS of a raster that states none.")]
CaBundle = Annotated[
    Path | None,
    typer.Option(metavar="PEM", help="Certificates to trust instead of the usual ones."),
]
Rate = Annotated[float, typer.Option(help="Most requests a second to one map server.")]
AllowRepeats = Annotated[
    bool,
    typer.Option("--allow-repeats", help="One picture at many places is map, no error picture."),
]
AllowVrt = Annotated[
    bool, typer.Option("--allow-vrt", help="Trust a raster that reads other files or servers.")
]
