"""Where output and preview of a render go."""

from __future__ import annotations

import os
from pathlib import Path

from maptile2sat.errors import OutputError, UsageError
from maptile2sat.geotiff import check_destination
from maptile2sat.rendering.options import RenderOptions


def destinations(
    output: str | os.PathLike[str], options: RenderOptions
) -> tuple[Path, Path | None]:
    """Return where output and preview go, after checking that they can.

    Raises:
        UsageError: If the preview is not called a PNG.
        OutputError: If something is there already, or cannot be written.
    """
    path = Path(output)
    check_destination(path, overwrite=options.overwrite)
    if options.preview is None:
        return path, None
    preview = Path(options.preview)
    if preview.suffix.lower() != ".png":
        raise UsageError(f"the preview {preview} is a PNG: give a name that ends in .png")
    check_destination(preview, overwrite=options.overwrite)
    return path, preview


def check_different(origin: str | os.PathLike[str], path: Path, preview: Path | None) -> None:
    """Make sure that neither the map nor the output would be overwritten by something else.

    Raises:
        OutputError: If map, output and preview are not different files.
    """
    if preview is not None and preview.resolve() == path.resolve():
        raise OutputError(f"{path} cannot be both the output and the preview")
    for written in (path, preview):
        if written is not None and _same_file(written, origin):
            raise OutputError(f"{written} is the map itself: give another name")


def _same_file(one: Path, other: str | os.PathLike[str]) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist, or is an address
        return False
