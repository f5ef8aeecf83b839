"""What a render is asked for, what it would do, and what it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from maptile2sat.errors import UsageError
from maptile2sat.geo.grid import BBox
from maptile2sat.models.generator import check_cell
from maptile2sat.output.manifest import MAX_BLOCK_SIDE
from maptile2sat.output.pyramid import Zooms

DEFAULT_MODEL = "maps"
DEFAULT_MAX_TILES = 20_000
"""Most tiles that a server is asked for."""


@dataclass(frozen=True)
class RenderOptions:
    """Everything that decides a render, apart from the map and the output.

    Attributes:
        bbox: The area: text such as `24.93,60.16,24.95,60.17` or four numbers, west, south,
            east, north; west > east crosses 180 degrees. None: all of the map.
        bbox_crs: CRS of `bbox`.
        zoom: Zoom to read the map at. None: tile maps at the model's zoom, rasters as they are.
        model: Name of a shipped model or folder of a bundle.
        batch_size: Cells read ahead (2 at most on a processor), windows that a `unet` generates
            at once, and most cells that a GPU generates at once, if its memory holds them.
        cell: Largest side in pixels of what is generated at once, a limit on memory; None: the
            model's. It changes no pixel, unless the model has no whole-number form.
        engine: What computes whole numbers: `auto` (the fastest here), `openvino` or `tensorflow`.
            It changes no pixel.
        precision: `auto`: whole numbers if the model has them, else what the processor is fast in;
            `integer`, `float32`, `bfloat16` or `float16`.
        labels: Whether labels on the map are taken off first, if the model can: `auto` (unless the
            map is known to have none, being drawn by this program), `yes` or `no`.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.
        seed: Of the noise, 0..2^32-1.
        dst_crs: CRS of the output; None: the map's.
        resolution: Width of an output pixel in units of its CRS, or width and height. None: the
            map's if `dst_crs` is None too, else one like it.
        like: Raster whose grid, CRS and extent the output gets.
        cutline: GeoJSON file with the polygons that the output is clipped to; without `bbox` they
            are the area.
        profile: Of a GeoTIFF: `deflate` (lossless, the default), `jpeg` or `webp`.
        creation_options: More GDAL creation options of a GeoTIFF.
        cog: Whether a GeoTIFF is a Cloud Optimized GeoTIFF.
        tile_format: Of MBTiles and PMTiles: `png` (lossless, the default), `webp` or `jpeg`.
        min_zoom: Lowest zoom of MBTiles and PMTiles. None: that of one tile.
        max_zoom: Highest zoom of MBTiles and PMTiles. None: the map's own.
        src_crs: CRS of a raster that does not state one.
        native: Accept rasters with oblong ground pixels as they are.
        resampling: Name of a rasterio resampling for all that is warped: rasters by `zoom`, the
            output by `dst_crs`, `resolution` or `like`. None: `average` where pixels shrink,
            `bilinear` where they grow.
        tile_size: Side in pixels of a server's tiles, 256 or 512, if its template does not say.
        preview: Path of a PNG with map and result side by side.
        stac: Whether to write a STAC Item beside the output: `OUT.stac.json` for `OUT.tif`.
        missing: `error` or `mask`: what a tile that a server does not have is.
        headers: More HTTP headers for the map's own server, such as `Authorization`, over those of
            `MAPTILE2SAT_HEADERS`; never shown or kept.
        ca_bundle: File of certificates (PEM) to trust instead of the usual ones.
        rate: Most requests a second to one server.
        allow_vrt: Trust rasters that name other files or servers anywhere (VRT, WMS and such).
        allow_repeats: Take one picture at many places for map, not for a server's excuse.
        max_tiles: Most tiles to read. None: 20,000 from a server, any number from a file.
        overwrite: Whether an existing output is replaced, and unfinished work thrown away.
        resume: Whether to go on with the work of a render that was interrupted.
    """

    bbox: str | tuple[float, float, float, float] | None = None
    bbox_crs: str = "EPSG:4326"
    zoom: int | None = None
    model: str = DEFAULT_MODEL
    batch_size: int = 8
    cell: int | None = None
    engine: str = "auto"
    precision: str = "auto"
    labels: str = "auto"
    device: str = "auto"
    seed: int = 0
    dst_crs: str | None = None
    resolution: float | tuple[float, float] | None = None
    like: Path | str | None = None
    cutline: Path | str | None = None
    profile: str | None = None
    creation_options: Mapping[str, str] = field(default_factory=dict)
    cog: bool = True
    tile_format: str | None = None
    min_zoom: int | None = None
    max_zoom: int | None = None
    src_crs: str | None = None
    native: bool = False
    resampling: str | None = None
    tile_size: int | None = None
    preview: Path | str | None = None
    stac: bool = False
    missing: str = "error"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_bundle: Path | None = None
    rate: float = 50.0
    allow_vrt: bool = False
    allow_repeats: bool = False
    max_tiles: int | None = None
    overwrite: bool = False
    resume: bool = False


@dataclass(frozen=True)
class RenderPlan:
    """What a render would do; nothing of it is done yet.

    Attributes:
        source: The map's name.
        model: The model's name, version and hash.
        width: Columns of the output.
        height: Rows of the output.
        crs: CRS of the output.
        bounds: West, south, east, north in that CRS.
        zooms: Lowest and highest zoom of MBTiles and PMTiles, whose width and height are those of
            the highest; None for a GeoTIFF.
        cells: Cells to generate, at most.
        tiles: Tiles of the map to read, the halo's included; 0 for rasters.
        seconds: Estimated time, from one cell generated on this machine.
        output_bytes: Estimated size of the output.
        temporary_bytes: Disk space needed beside the output while it runs.
        warnings: What the user should know.
    """

    source: str
    model: str
    width: int
    height: int
    crs: str
    bounds: BBox
    zooms: Zooms | None
    cells: int
    tiles: int
    seconds: float
    output_bytes: int
    temporary_bytes: int
    warnings: list[str]


@dataclass(frozen=True)
class RenderResult:
    """What a render did.

    Attributes:
        output: The file.
        width: Its columns.
        height: Its rows.
        crs: Its CRS.
        bounds: West, south, east, north in that CRS.
        zooms: Lowest and highest zoom of MBTiles and PMTiles, None for a GeoTIFF.
        source: The map's name, without secrets.
        attribution: Who is to be named for the map and the model.
        cells: Cells generated.
        skipped_cells: Cells without any map.
        resumed_cells: Cells that an interrupted render had done.
        tiles: Tiles of the map read, the halo's included; 0 for rasters.
        seconds: Wall time, without loading TensorFlow.
        generator_seconds: Of it, time in the generator.
        useful_megapixels_per_second: Output pixels over `seconds`, in millions.
        peak_rss_mb: Largest memory of the process so far; None on Windows.
        model: Name, version and hash of the model.
        seed: Of the noise.
        precision: What the generator computed in.
        engine: What computed, if in whole numbers.
        device: What it computed on.
        exact: Whether a pixel is a function of the map around it alone (`unet` blends).
        preview: The preview picture, if one was asked for.
        item: The STAC Item, if one was asked for.
        warnings: What the user should know.
    """

    output: Path
    width: int
    height: int
    crs: str
    bounds: BBox
    zooms: Zooms | None
    source: str
    attribution: str
    cells: int
    skipped_cells: int
    resumed_cells: int
    tiles: int
    seconds: float
    generator_seconds: float
    useful_megapixels_per_second: float
    peak_rss_mb: float | None
    model: str
    seed: int
    precision: str
    engine: str
    device: str
    exact: bool
    preview: Path | None
    item: Path | None
    warnings: list[str]


# What a sharded render is asked for, and what it did

BLOCK_SIDE = 4096
"""Side in pixels that blocks come near to if none is asked for."""

STRAGGLER_SECONDS = 30.0


@dataclass(frozen=True)
class ShardOptions:
    """How the work is shared out.

    Attributes:
        dask: `local` or `local:N` for N processes of this machine, or the address of a Dask
            scheduler, such as `tcp://10.0.0.1:8786`.
        block: Cells along a side of a block; None for as many as make about 4096 px.
        straggler_seconds: A block is given to an idle worker too if it takes longer than this, and
            three times as long as blocks usually take.
    """

    dask: str
    block: int | None = None
    straggler_seconds: float = STRAGGLER_SECONDS

    def side(self, cell: int) -> int:
        """Return the side of a block in pixels.

        Args:
            cell: The side of a cell.

        Raises:
            UsageError: If there are no such cells, `block` is not positive, or blocks become too
                large.
        """
        check_cell(cell)
        if self.block is not None and self.block < 1:
            raise UsageError(f"a block of {self.block} cells is none: say 1 or more")
        if self.block is not None and cell * self.block > MAX_BLOCK_SIDE:
            raise UsageError(
                f"a block of {self.block} cells is {cell * self.block} px wide, and "
                f"{MAX_BLOCK_SIDE} is the most: pass --block {MAX_BLOCK_SIDE // cell} or less"
            )
        return cell * (self.block or max(1, BLOCK_SIDE // cell))


@dataclass(frozen=True)
class ShardResult:
    """What a sharded render did.

    Attributes:
        output: The folder, or the address of it.
        width: Columns of the whole.
        height: Rows of the whole.
        crs: Its CRS.
        bounds: West, south, east, north in that CRS.
        source: The map's name, without secrets.
        attribution: Who is to be named for the map and the model.
        blocks: All blocks.
        empty_blocks: Of them, those without any map, which have no file.
        resumed_blocks: Of them, those that were there from an earlier run.
        repeated_blocks: Blocks that were given to another worker because they took too long.
        cells: Cells generated.
        skipped_cells: Cells without any map.
        tiles: Tiles of the map that the area takes, the halo's included; 0 for rasters.
        bytes: Size of all blocks' files.
        seconds: Wall time, without starting the cluster.
        generator_seconds: Time in the generator, of all workers together.
        useful_megapixels_per_second: Output pixels made now over `seconds`, in millions.
        workers: Workers that were there at the start.
        model: Name, version and hash of the model.
        seed: Of the noise.
        numerics: Fingerprint of what computed: the same on every worker.
        exact: Whether a pixel is a function of the map around it alone (`unet` blends).
        warnings: What the user should know.
    """

    output: str
    width: int
    height: int
    crs: str
    bounds: BBox
    source: str
    attribution: str
    blocks: int
    empty_blocks: int
    resumed_blocks: int
    repeated_blocks: int
    cells: int
    skipped_cells: int
    tiles: int
    bytes: int
    seconds: float
    generator_seconds: float
    useful_megapixels_per_second: float
    workers: int
    model: str
    seed: int
    numerics: str
    exact: bool
    warnings: list[str]
