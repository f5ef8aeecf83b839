"""`maptile2sat draw`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from maptile2sat.cli.common import note, progress_bar, set_logging, show_json, warn


class StyleName(StrEnum):
    """A map style that models are trained on."""

    maps = "maps"
    osm = "osm"


def draw_command(
    extract: Annotated[
        Path, typer.Argument(help="OpenStreetMap data: .osm.pbf, .osm, .osh.pbf or .osh.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The map to write: .mbtiles or .tif.")
    ],
    zoom: Annotated[int, typer.Option("--zoom", "-z", help="Zoom of the map.")] = 16,
    style: Annotated[StyleName, typer.Option(help="Colours and widths.")] = StyleName.maps,
    bbox: Annotated[
        str | None, typer.Option(metavar="W,S,E,N", help="The area in degrees.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more.")] = 0,
    quiet: Annotated[
        int, typer.Option("--quiet", "-q", count=True, help="Say less; -qq: no warnings.")
    ] = 0,
) -> None:
    """Draw a map without labels from OpenStreetMap data."""
    from maptile2sat.drawing import draw
    from maptile2sat.geo.grid import parse_bbox

    level = verbose - quiet
    set_logging(level)
    box = None if bbox is None else parse_bbox(bbox)
    with progress_bar("tiles", level) as move:
        result = draw(
            extract,
            output,
            zoom=zoom,
            style=style.value,
            bbox=box,
            overwrite=overwrite,
            progress=move,
        )
    for text in result.warnings:
        warn(text, level)
    if as_json:
        show_json(result)
        return
    print(result.output)
    note(
        f"{result.width} x {result.height} px, {result.tiles} tiles at zoom {result.zoom} in "
        f"{result.seconds:.1f} s; © OpenStreetMap contributors (ODbL)",
        level,
    )
