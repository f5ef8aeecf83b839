"""`mosaic.vrt`: all blocks of a sharded render, with their mask, as one layer.

GDAL reads all of a VRT when it opens it: 10,000 blocks take it 0.6 s and 120 MB, 100,000 take 9 s
and 1.3 GB. Beyond `FLAT` blocks the VRT therefore shows a tile index (`tile_index`) instead of
naming the blocks itself; that opens in 2 ms, but needs GDAL 3.9.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from maptile2sat.geotiff import cog_block
from maptile2sat.grid import Window
from maptile2sat.sharding.manifest import Manifest
from maptile2sat.sharding.overview import OVERVIEW, OVERVIEW_MASK
from maptile2sat.sharding.replacing import write_whole
from maptile2sat.sharding.tile_index import INDEX, is_indexed

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
