"""All that makes a folder of blocks one thing that GIS programs open, written at the end."""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.windows import Window as RasterWindow

from maptile2sat.errors import FolderError, OutputError
from maptile2sat.geo.grid import BBox, Grid, Window
from maptile2sat.output import stac
from maptile2sat.output.geotiff import (
    BLOCK,
    CACHE_BYTES,
    GeoTiffWriter,
    cog_block,
    creation_options,
    output_errors,
)
from maptile2sat.output.manifest import (
    CHANGED,
    MANIFEST,
    Manifest,
    check_files,
    parse_manifest,
    read_manifest,
    sha256_of,
    write_manifest,
)
from maptile2sat.output.replacing import write_whole
from maptile2sat.output.store import FolderStore, ObjectStore, Store

# `overview.tif`: a small copy of a sharded render, so that zooming out opens no block

OVERVIEW = "overview.tif"
OVERVIEW_MASK = "overview_mask.vrt"
"""Shows the mask as a band: the only thing that GDAL takes for overviews of a VRT's mask."""

FEW = 64
"""Most blocks that GDAL may well open one by one."""

FACTOR = 16
"""Pixels of the render to one of the overview, at least: blocks have overviews of their own."""

LONGEST = 1 << 15
"""Longest side of an overview in pixels."""

STRIP = 512


def overview_factor(manifest: Manifest) -> int | None:
    """Return how many pixels of a render go to one of its overview, None if it needs none."""
    if sum(block.file is not None for block in manifest.blocks) <= FEW:
        return None
    longest = max(manifest.window.width, manifest.window.height)
    return max(FACTOR, 1 << (-(-longest // LONGEST) - 1).bit_length())


def write_overview(folder: Path, mosaic: Path | str, manifest: Manifest, factor: int) -> None:
    """Write `overview.tif`, a COG, whole or not at all.

    Args:
        folder: Where it goes.
        mosaic: The mosaic of the blocks at full size, as GDAL opens it.
        manifest: What it shows.
        factor: Pixels of the mosaic to one of the overview, across and down.

    Raises:
        OutputError: If the blocks cannot be read or the file cannot be written.
    """
    path = folder / OVERVIEW
    whole = manifest.window
    width, height = -(-whole.width // factor), -(-whole.height // factor)
    scale = Affine.scale(whole.width / width, whole.height / height)
    grid = Grid(manifest.grid.crs, manifest.grid.transform(whole) @ scale)
    creation = creation_options("deflate", {}, cog=True)
    with (
        output_errors(path),
        rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES),
        rasterio.open(mosaic) as dataset,
        GeoTiffWriter(path, grid, Window(0, 0, width, height), manifest.tags, creation) as writer,
    ):
        for top in range(0, height, STRIP):
            rows = min(STRIP, height - top)
            first = top * whole.height / height
            part = RasterWindow(0, first, whole.width, (top + rows) * whole.height / height - first)
            shape = (rows, width)
            image = dataset.read(out_shape=(3, *shape), window=part, resampling=Resampling.average)
            mask = dataset.dataset_mask(out_shape=shape, window=part)
            writer.write(Window(0, top, width, rows), image.transpose(1, 2, 0), mask)
        writer.finish()
        write_whole(folder / OVERVIEW_MASK, [_mask_view(width, height)])


def _mask_view(width: int, height: int) -> str:
    return (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">'
        '<VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{OVERVIEW}</SourceFilename>'
        "<SourceBand>mask,1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>\n"
    )


# `mosaic.gti.gpkg`: a table of where each block lies, for mosaics too large for a plain VRT

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


# `mosaic.vrt`: all blocks of a sharded render, with their mask, as one layer

MOSAIC = "mosaic.vrt"

FLAT = 10_000
"""Most blocks that a VRT names itself."""

_COLOURS = ("Red", "Green", "Blue")


def write_vrt(folder: Path, manifest: Manifest, *, overview: bool, flat: int = FLAT) -> None:
    """Write `mosaic.vrt`, whole or not at all; file names in it are relative.

    Args:
        folder: The folder of the render.
        manifest: What it holds.
        overview: Whether `overview.tif` is to be read where little detail is wanted.
        flat: Most blocks to name one by one.

    Raises:
        OutputError: If it cannot be written.
    """
    indexed = is_indexed(manifest, flat)
    write_whole(folder / MOSAIC, _lines(manifest, indexed=indexed, overview=overview))


def _lines(manifest: Manifest, *, indexed: bool, overview: bool) -> Iterator[str]:
    window = manifest.window
    transform = ", ".join(repr(value) for value in manifest.grid.transform(window).to_gdal())
    yield f'<VRTDataset rasterXSize="{window.width}" rasterYSize="{window.height}">\n'
    yield f"<SRS>{escape(manifest.grid.crs.to_wkt())}</SRS>\n"
    yield f"<GeoTransform>{transform}</GeoTransform>\n<Metadata>\n"
    for key, value in sorted(manifest.tags.items()):
        yield f"<MDI key={quoteattr(key)}>{escape(value)}</MDI>\n"
    yield "</Metadata>\n"
    for number, colour in enumerate(_COLOURS, start=1):
        yield f'<VRTRasterBand dataType="Byte" band="{number}">\n'
        yield f"<ColorInterp>{colour}</ColorInterp>\n"
        yield from _sources(manifest, str(number), indexed=indexed)
        yield _overview(OVERVIEW, number) if overview else ""
        yield "</VRTRasterBand>\n"
    if manifest.masked:
        yield '<MaskBand><VRTRasterBand dataType="Byte">\n'
        yield from _sources(manifest, "mask,1", indexed=indexed)
        yield _overview(OVERVIEW_MASK, 1) if overview else ""
        yield "</VRTRasterBand></MaskBand>\n"
    yield "</VRTDataset>\n"


def _sources(manifest: Manifest, band: str, *, indexed: bool) -> Iterator[str]:
    """Yield what a band is made of."""
    window = manifest.window
    if indexed:
        yield _source(INDEX, band, window, window)
        return
    for block in manifest.blocks:
        if block.file is not None:
            yield _source(block.file, band, block.window, window)


def _source(name: str, band: str, part: Window, whole: Window) -> str:
    """Return the element for a file that holds `part`; its size lets GDAL open it late."""
    side = cog_block(part.width, part.height)
    size = f'xSize="{part.width}" ySize="{part.height}"'
    return (
        f'<SimpleSource><SourceFilename relativeToVRT="1">{escape(name)}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand>"
        f'<SourceProperties RasterXSize="{part.width}" RasterYSize="{part.height}" '
        f'DataType="Byte" BlockXSize="{side}" BlockYSize="{side}"/>'
        f'<SrcRect xOff="0" yOff="0" {size}/>'
        f'<DstRect xOff="{part.col - whole.col}" yOff="{part.row - whole.row}" {size}/>'
        "</SimpleSource>\n"
    )


def _overview(name: str, band: int) -> str:
    return (
        f'<Overview><SourceFilename relativeToVRT="1">{name}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand></Overview>\n"
    )


ITEM = "item.json"
COLLECTION = "collection.json"


def describe(
    folder: Path,
    manifest: Manifest,
    *,
    name: str | None = None,
    overview: bool = True,
    flat: int = FLAT,
) -> None:
    """Write everything about a finished sharded render into its folder.

    `overview.tif` for large mosaics, `mosaic.vrt` (with `mosaic.gti.gpkg` for very large ones),
    `item.json` and `collection.json`, and last of all `manifest.json`, each whole or not at all.
    All names in these are relative, so that the folder may be moved or uploaded as it is. Nothing
    is asked of the blocks' files except by the overview.

    Args:
        folder: The folder; made if missing.
        manifest: What was rendered.
        name: What STAC calls it; None for the folder's name.
        overview: Whether to make an overview, which reads the blocks' files; say False where
            they lie somewhere else.
        flat: Most blocks that the VRT names one by one.

    Raises:
        MissingExtraError: If pystac is not installed; `stac.check_pystac` says so early.
        OutputError: If something cannot be written, or blocks cannot be read for the overview.
    """
    stac.check_pystac()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # that of an earlier render: no longer whole
    factor = overview_factor(manifest) if overview else None
    if factor is not None:
        _write_mosaic(folder, manifest, overview=False, flat=flat)
        write_overview(folder, folder / MOSAIC, manifest, factor)
    else:
        for old in (OVERVIEW, OVERVIEW_MASK):
            (folder / old).unlink(missing_ok=True)
    if not is_indexed(manifest, flat):
        (folder / INDEX).unlink(missing_ok=True)
    _write_mosaic(folder, manifest, overview=factor is not None, flat=flat)
    _write_stac(folder, manifest, name or folder.resolve().name)
    write_manifest(folder, manifest)


def _write_mosaic(folder: Path, manifest: Manifest, *, overview: bool, flat: int) -> None:
    if is_indexed(manifest, flat):
        write_index(folder, manifest, overview=overview)
    write_vrt(folder, manifest, overview=overview, flat=flat)


def _write_stac(folder: Path, manifest: Manifest, name: str) -> None:
    """Write `item.json` and `collection.json`."""
    render = stac.Render(
        name=name,
        grid=manifest.grid,
        window=manifest.window,
        tags=manifest.tags,
        masked=manifest.masked,
        created=manifest.created,
        architecture=manifest.job.get("architecture", {}),
    )
    files = list(_files(folder, manifest))
    write_whole(folder / ITEM, [stac.item_json(render, files, in_collection=True)])
    write_whole(folder / COLLECTION, [stac.collection_json(render, files)])


def _files(folder: Path, manifest: Manifest) -> Iterator[stac.File]:
    """Yield what the Item names: not each block, of which there may be a million."""
    count = f"{len(manifest.blocks):,}"
    known = [
        stac.File("mosaic", MOSAIC, f"All {count} blocks as one layer", ["data", "visual"]),
        stac.File("index", INDEX, "Where each block lies", ["metadata"]),
        stac.File("overview", OVERVIEW, "The whole, much smaller", ["overview", "visual"]),
    ]
    for file in known:
        path = folder / file.href
        if path.exists():
            yield stac.File(
                file.key,
                file.href,
                file.title,
                file.roles,
                size=path.stat().st_size,
                sha256=sha256_of(path),
            )
    title = f"All {count} blocks with sizes and checksums"
    yield stac.File("manifest", MANIFEST, title, ["metadata"])


# Reading the folder of a sharded render, wherever it is


def manifest_of(store: Store) -> Manifest:
    """Return the manifest of a render.

    Raises:
        FolderError: If there is none, or it cannot be used.
        OutputError: If the store cannot be read.
    """
    if isinstance(store, FolderStore):
        return read_manifest(store.root)
    data = store.read(MANIFEST)
    if data is None:
        raise FolderError(
            f"{store.place} has no {MANIFEST}: the render there is not finished, or it is "
            "something else"
        )
    return parse_manifest(data.decode("utf-8", "replace"), f"{store.place}/{MANIFEST}")


def faults_of(store: Store, manifest: Manifest, *, checksums: bool) -> list[str]:
    """Return what is wrong with the files of a render, a line for each; empty if nothing is.

    Args:
        store: Where it is.
        manifest: What it should hold.
        checksums: Whether to read every file; else only their sizes are compared.

    Raises:
        OutputError: If the store cannot be read.
    """
    if not isinstance(store, ObjectStore):
        assert isinstance(store, FolderStore)
        return check_files(store.root, manifest, checksums=checksums)
    sizes, faults = store.sizes(), []
    for block in manifest.blocks:
        if block.file is None:
            continue
        size = sizes.get(block.file)
        if size is None:
            faults.append(f"{block.file} is missing")
        elif size != block.size:
            faults.append(f"{block.file} has {size} bytes instead of {block.size}")
        elif checksums and not is_sound(store.read(block.file), block.sha256):
            faults.append(f"{block.file} {CHANGED}")
    return faults


def is_sound(data: bytes | None, sha256: str) -> bool:
    """Whether bytes are there and have a SHA-256."""
    return data is not None and hashlib.sha256(data).hexdigest() == sha256
