"""Files of a folder that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from maptile2sat.output.geotiff import output_errors


def write_whole(path: Path, parts: Iterable[str]) -> None:
    """Write a text beside its place, and put it there once it is safely on disk.

    Args:
        path: The file.
        parts: Its text, piece by piece.

    Raises:
        OutputError: If it cannot be written; then an earlier file stays as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with output_errors(path):
        try:
            with temporary.open("w", encoding="utf-8") as stream:
                stream.writelines(parts)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
