"""What kind of map some bytes begin with: files may be called anything."""

from __future__ import annotations

import re

START_BYTES = 4096
"""First bytes of a map that tell its kind."""

RASTER_ENDINGS = (
    *(".tif", ".tiff", ".png", ".jpg", ".jpeg", ".webp", ".jp2", ".vrt", ".gif", ".bmp", ".img"),
    *(".gpkg", ".ecw", ".sid", ".ntf", ".nitf", ".xml", ".wms"),
)
"""What the addresses of rasters end in, which are not asked for their first bytes."""

_SQLITE = b"SQLite format 3\0"
_GEOPACKAGE = (b"GPKG", b"GP10", b"GP11")
_TILES = re.compile(rb"\"(tiles|tilejson)\"\s*:")
_PICTURES = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"\0\0\0\x0cjP  ", b"RIFF", b"BM"),
)


def kind_of(start: bytes) -> str:
    """Return the kind of a map by its first bytes: mbtiles, pmtiles, tilejson or raster.

    Empty if they do not tell, as those of OpenStreetMap extracts.
    """
    if start.startswith(_SQLITE):
        return "raster" if start[68:72] in _GEOPACKAGE else "mbtiles"
    if start.startswith(b"PMTiles"):
        return "pmtiles"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"{") and _TILES.search(text):
        return "tilejson"
    return "raster" if start.startswith(_PICTURES) else ""
