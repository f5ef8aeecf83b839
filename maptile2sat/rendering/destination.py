"""Where output, preview and STAC Item of a render go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from maptile2sat.errors import UsageError
from maptile2sat.geotiff import check_destination
from maptile2sat.rendering.item import item_destination
from maptile2sat.rendering.options import RenderOptions


class Destinations(NamedTuple):
    """The files of a render.

    Attributes:
        output: The imagery.
        preview: The picture of map and result, if one is asked for.
        item: The STAC Item, if one is asked for.
    """

    output: Path
    preview: Path | None
    item: Path | None


def destinations(output: str | os.PathLike[str], options: RenderOptions) -> Destinations:
    """Return where the files of a render go, after checking that they can.

    Raises:
        UsageError: If the preview is not called a PNG.
        OutputError: If something is there already, or cannot be written.
        MissingExtraError: If a STAC Item is asked for and pystac is not installed.
    """
    path = Path(output)
    check_destination(path, overwrite=options.overwrite)
    preview = None if options.preview is None else Path(options.preview)
    if preview is not None:
        if preview.suffix.lower() != ".png":
            raise UsageError(f"the preview {preview} is a PNG: give a name that ends in .png")
        check_destination(preview, overwrite=options.overwrite)
    item = item_destination(path, overwrite=options.overwrite) if options.stac else None
    return Destinations(path, preview, item)


def check_different(origin: str, places: Destinations) -> None:
    """Make sure that neither the map nor the output would be overwritten by something else.

    Args:
        origin: Path or address of the map, as `located` returns it.
        places: Where the files of the render go.

    Raises:
        UsageError: If map, output, preview and STAC Item are not different files.
    """
    for extra in (places.preview, places.item):
        if extra is not None and extra.resolve() == places.output.resolve():
            kind = "the preview" if extra == places.preview else "its STAC Item"
            raise UsageError(f"{places.output} cannot be both the output and {kind}")
    for written in places:
        if written is not None and _same_file(written, origin):
            raise UsageError(f"{written} is the map itself: give another name")


def _same_file(one: Path, other: str) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist, or is an address
        return False
