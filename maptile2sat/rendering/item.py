"""The STAC Item of a one-machine render: beside its output, and there together with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from maptile2sat.output import pyramid, stac
from maptile2sat.output.geotiff import check_destination, output_errors

ENDING = ".stac.json"


def item_destination(output: Path, *, overwrite: bool) -> Path:
    """Return where the Item of an output goes, after checking that it can.

    Raises:
        MissingExtraError: If pystac is not installed.
        OutputError: If it is there and may not be replaced.
    """
    stac.check_pystac()
    path = output.with_name(output.stem + ENDING)
    check_destination(path, overwrite=overwrite)
    return path


@contextmanager
def accompanied(
    output: Path, item: Path | None, folder: Path, about: Callable[[], stac.Render], *, cog: bool
) -> Iterator[Path]:
    """Give the place to write an output to; put it and its Item in their places together.

    Args:
        output: Where the output is to be in the end.
        item: Where its Item is to be; None for none, then the place given is `output`.
        folder: A folder on the same disk for what is not finished.
        about: Returns what the output shows, once it is written.
        cog: Whether a GeoTIFF is a COG.

    Raises:
        OutputError: If one of them cannot be put in its place; then neither is.
        UsageError: If the output reaches beyond where its CRS is defined.
    """
    if item is None:
        yield output
        return
    with output_errors(output):
        waiting = folder / "waiting"  # whatever it is called, it hits nothing else there
        waiting.mkdir(exist_ok=True)
    done, text = waiting / output.name, waiting / item.name
    yield done
    with output_errors(item):
        text.write_text(_text(done, about(), cog=cog), encoding="utf-8")
    with output_errors(output):
        done.replace(output)
    try:
        with output_errors(item):
            text.replace(item)
    except BaseException:
        output.unlink()
        raise


def _text(done: Path, render: stac.Render, *, cog: bool) -> str:
    """Return the Item of a file that has its name, but not yet its place."""
    tiff = stac.COG if cog else stac.GEOTIFF
    # all that a render makes but pyramids is one, however its name ends
    kind = stac.MEDIA_TYPES[done.suffix.lower()] if done.suffix.lower() in pyramid.ENDINGS else tiff
    with done.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    file = stac.File(
        "image",
        done.name,
        "Synthetic imagery",
        ["data", "visual"],
        media_type=kind,
        size=done.stat().st_size,
        sha256=digest,
    )
    return stac.item_json(render, [file])
