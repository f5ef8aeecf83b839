"""Files that GDAL reads beside a raster: notes (`.aux.xml`), masks and overviews.

GDAL opens them with all its drivers, so that a mask may be a VRT of any file, and notes may name
a CRS whose grid is any file. They are looked at before GDAL sees them.
"""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree  # nosec B405 # nothing with entities is parsed

from maptile2sat.errors import SourceError, UsageError
from maptile2sat.geo.crs import check_crs_text

MAX_NOTES_BYTES = 16 << 20
"""Most bytes of notes that are read: histograms and colour tables take a few kB."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ERDAS = b"EHFA_HEADER_TAG"
_PICTURES = (".msk", ".ovr", ".MSK", ".OVR")
_NOTES = (".aux.xml", ".AUX.XML")
_ELSEWHERE = frozenset(("overviews", "geolocation", "subdatasets"))
"""Kinds of notes that name other files."""


def foreign_side_file(path: Path) -> Path | None:
    """Return a file beside a raster that may make GDAL open others, None if there is none.

    Raises:
        SourceError: If it is a mask: without it pixels that are no map would count as map.
    """
    masks = [mask for mask in (Path(f"{path}.msk"), Path(f"{path}.MSK")) if mask.is_file()]
    for found in (*_beside(path, depth=2), *_pipes(path)):
        if not _is_plain(found):
            if masks:
                raise SourceError(
                    f"{found} may read other files, which the mask {masks[0].name} cannot be used "
                    f"without: remove {found.name}, or if you trust it, pass --allow-vrt"
                )
            return found
    return None


def _beside(path: Path, depth: int) -> list[Path]:
    """Return the files beside a picture, and beside those that are pictures themselves."""
    pictures = [found for end in _PICTURES if (found := Path(f"{path}{end}")).exists()]
    names = [f"{path}{end}" for end in (*_NOTES, ".aux", ".AUX")]
    names += [str(path.with_suffix(end)) for end in (".aux", ".AUX") if path.stem]
    others = [found for name in names if (found := Path(name)).exists() and found != path]
    inner = [each for picture in pictures for each in _beside(picture, depth - 1)] if depth else []
    return [*pictures, *others, *inner]


def _pipes(path: Path) -> list[Path]:
    """Return what is neither file nor folder beside a picture: GDAL would wait for it."""
    try:
        with os.scandir(path.parent) as entries:
            odd = [Path(entry) for entry in entries if not (entry.is_file() or entry.is_dir())]
    except OSError:
        return []
    return [each for each in odd if each.exists()]  # not a link to nothing


def _is_plain(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(len(_ERDAS))
        kind = path.suffix.lower()
        if kind in {".msk", ".ovr"}:
            return start.startswith(_TIFF)
        return start != _ERDAS if kind == ".aux" else _are_plain_notes(path)
    except OSError:
        return False


def _are_plain_notes(path: Path) -> bool:
    """Whether notes name no other file, and no CRS that does."""
    with path.open("rb") as file:
        data = file.read(MAX_NOTES_BYTES + 1)
    if len(data) > MAX_NOTES_BYTES or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        return False
    try:
        elements = list(ElementTree.fromstring(data).iter())  # nosec B314 # see above
    except (ElementTree.ParseError, ValueError, LookupError):
        return False
    return all(map(_is_plain_note, elements))


def _is_plain_note(element: ElementTree.Element) -> bool:
    attributes = {name.casefold(): value for name, value in element.attrib.items()}
    kind = element.tag.casefold()  # GDAL takes both
    if attributes.get("domain", "").casefold() in _ELSEWHERE:
        return False
    texts = [element.text or ""] if kind in {"srs", "wkt"} else []
    if kind == "gcplist":
        texts.append(attributes.get("projection", ""))
    try:
        for text in filter(str.strip, texts):
            check_crs_text(text)
    except UsageError:
        return False
    return True
