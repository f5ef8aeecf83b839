"""`mosaic.gti.gpkg`: a table of where each block lies, for mosaics too large for a plain VRT.

A GeoPackage that GDAL's driver for raster tile indexes (GTI, GDAL 3.9) opens as one layer, and
that GIS programs also open as the blocks' footprints. It is written with `sqlite3`, by the
GeoPackage 1.3 standard with its extensions for the spatial index and for metadata.
"""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from maptile2sat.creation import BLOCK
from maptile2sat.errors import OutputError
from maptile2sat.geotiff import output_errors
from maptile2sat.grid import BBox
from maptile2sat.sharding.manifest import Manifest
from maptile2sat.sharding.overview import OVERVIEW

INDEX = "mosaic.gti.gpkg"
TABLE = "blocks"

_OWN_CRS = 100_000
"""Number in the table of a CRS that EPSG does not know; the standard leaves these to us."""

_APPLICATION, _VERSION = 0x47504B47, 10300

_SCHEMA = f"""
PRAGMA application_id={_APPLICATION};
PRAGMA user_version={_VERSION};
CREATE TABLE gpkg_spatial_ref_sys (
  srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY, organization TEXT NOT NULL,
  organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (
  table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
  description TEXT DEFAULT '', last_change DATETIME NOT NULL,
  min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER);
CREATE TABLE gpkg_geometry_columns (
  table_name TEXT NOT NULL, column_name TEXT NOT NULL, geometry_type_name TEXT NOT NULL,
  srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL,
  PRIMARY KEY (table_name, column_name));
CREATE TABLE gpkg_extensions (
  table_name TEXT, column_name TEXT, extension_name TEXT NOT NULL, definition TEXT NOT NULL,
  scope TEXT NOT NULL, UNIQUE (table_name, column_name, extension_name));
CREATE TABLE gpkg_metadata (
  id INTEGER PRIMARY KEY NOT NULL, md_scope TEXT NOT NULL DEFAULT 'dataset',
  md_standard_uri TEXT NOT NULL, mime_type TEXT NOT NULL DEFAULT 'text/xml',
  metadata TEXT NOT NULL DEFAULT '');
CREATE TABLE gpkg_metadata_reference (
  reference_scope TEXT NOT NULL, table_name TEXT, column_name TEXT, row_id_value INTEGER,
  timestamp DATETIME NOT NULL, md_file_id INTEGER NOT NULL, md_parent_id INTEGER);
CREATE TABLE blocks (fid INTEGER PRIMARY KEY NOT NULL, geom POLYGON, location TEXT NOT NULL);
CREATE VIRTUAL TABLE rtree_blocks_geom USING rtree(id, minx, maxx, miny, maxy);
"""


def is_indexed(manifest: Manifest, flat: int) -> bool:
    """Whether a mosaic is shown by an index.

    GDAL's driver takes grids with north up only; others stay plain, however slow they open.

    Args:
        manifest: What it holds.
        flat: Most blocks of a plain VRT.
    """
    at = manifest.grid.affine
    return len(manifest.blocks) > flat and at.a > 0 > at.e and not (at.b or at.d)


def write_index(folder: Path, manifest: Manifest, *, overview: bool) -> None:
    """Write `mosaic.gti.gpkg`, whole or not at all; file names in it are relative.

    Args:
        folder: The folder of the render.
        manifest: What it holds.
        overview: Whether `overview.tif` is to be read where little detail is wanted.

    Raises:
        OutputError: If it cannot be written.
    """
    path = folder / INDEX
    temporary = folder / f".{INDEX}.tmp"
    with output_errors(path):
        temporary.unlink(missing_ok=True)
        try:
            database = sqlite3.connect(temporary, isolation_level=None)
            try:
                # a file that is renamed when it is done needs no journal to be taken back
                database.execute("PRAGMA journal_mode=OFF")
                database.executescript(_SCHEMA)
                database.execute("BEGIN")
                _describe(database, manifest, overview=overview)
                _fill(database, manifest)
                database.execute("COMMIT")
            finally:
                database.close()
            temporary.replace(path)
        except sqlite3.Error as error:
            raise OutputError(f"{path} cannot be written: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)


def _describe(database: sqlite3.Connection, manifest: Manifest, *, overview: bool) -> None:
    """Fill the tables that say what the table of blocks is."""
    crs, number = manifest.grid.crs, _crs_number(manifest)
    authority = ("EPSG", number) if number != _OWN_CRS else ("NONE", number)
    database.executemany(
        "INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, NULL)",
        [
            ("Undefined Cartesian", -1, "NONE", -1, "undefined"),
            ("Undefined geographic", 0, "NONE", 0, "undefined"),
            (crs.to_string()[:100], number, *authority, crs.to_wkt()),
        ],
    )
    bounds = manifest.grid.bounds(manifest.window)
    created = f"{manifest.created[:19]}.000Z"  # the standard wants milliseconds
    database.execute(
        "INSERT INTO gpkg_contents VALUES (?, 'features', ?, '', ?, ?, ?, ?, ?, ?)",
        (TABLE, TABLE, created, *bounds, number),
    )
    database.execute(
        "INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'POLYGON', ?, 0, 0)", (TABLE, number)
    )
    standard = "http://www.geopackage.org/spec130/#extension_"
    metadata = ("gpkg_metadata", f"{standard}metadata", "read-write")
    database.executemany(
        "INSERT INTO gpkg_extensions VALUES (?, ?, ?, ?, ?)",
        [
            (TABLE, "geom", "gpkg_rtree_index", f"{standard}rtree", "write-only"),
            ("gpkg_metadata", None, *metadata),
            ("gpkg_metadata_reference", None, *metadata),
        ],
    )
    database.execute(
        "INSERT INTO gpkg_metadata VALUES (1, 'dataset', 'http://gdal.org', 'text/xml', ?)",
        (_metadata(manifest, overview=overview),),
    )
    database.execute(
        "INSERT INTO gpkg_metadata_reference VALUES ('table', ?, NULL, NULL, ?, 1, NULL)",
        (TABLE, created),
    )


def _metadata(manifest: Manifest, *, overview: bool) -> str:
    """Return what GDAL is to make of the index, as its XML for metadata."""
    window = manifest.window
    transform = manifest.grid.transform(window).to_gdal()
    items = {
        "GEOTRANSFORM": ",".join(repr(value) for value in transform),
        "XSIZE": str(window.width),
        "YSIZE": str(window.height),
        "SRS": manifest.grid.crs.to_wkt(),
        "BAND_COUNT": "3",
        "DATA_TYPE": "Byte",
        "COLOR_INTERPRETATION": "red,green,blue",
        "MASK_BAND": "YES" if manifest.masked else "NO",
        "BLOCKXSIZE": str(BLOCK),
        "BLOCKYSIZE": str(BLOCK),
        **({"OVERVIEW_0_DATASET": OVERVIEW} if overview else {}),
        **manifest.tags,
    }
    rows = "".join(
        f"<MDI key={quoteattr(key)}>{escape(value)}</MDI>" for key, value in items.items()
    )
    return f"<GDALMultiDomainMetadata><Metadata>{rows}</Metadata></GDALMultiDomainMetadata>"


def _fill(database: sqlite3.Connection, manifest: Manifest) -> None:
    """Fill the table of blocks and its spatial index, as the blocks come."""
    number = _crs_number(manifest)
    boxes = (
        (fid, manifest.grid.bounds(block.window), block.file)
        for fid, block in enumerate(manifest.blocks, start=1)
        if block.file is not None
    )
    for fid, box, file in boxes:
        database.execute(
            "INSERT INTO blocks VALUES (?, ?, ?)",
            (fid, _geometry(box, number), file),
        )
        database.execute(
            "INSERT INTO rtree_blocks_geom VALUES (?, ?, ?, ?, ?)",
            (fid, box.west, box.east, box.south, box.north),
        )


def _geometry(box: BBox, crs: int) -> bytes:
    """Return a rectangle as GeoPackage holds it: a header with its extent, then WKB."""
    west, south, east, north = box
    ring = (west, south, east, south, east, north, west, north, west, south)
    header = b"GP\0\x03" + struct.pack("<i4d", crs, west, east, south, north)
    return header + struct.pack("<BIII10d", 1, 3, 1, 5, *ring)


def _crs_number(manifest: Manifest) -> int:
    """Return the number by which the tables name the CRS."""
    code: int | None = manifest.grid.crs.to_epsg()
    return _OWN_CRS if code is None else code
