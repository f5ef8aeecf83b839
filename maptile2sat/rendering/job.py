"""A render made ready: map and model opened, area found, everything checked."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from rasterio.crs import CRS
from rasterio.errors import CRSError

from maptile2sat import fit, mosaic
from maptile2sat.bundle import Bundle, find_bundle, shipped_bundles
from maptile2sat.errors import UsageError
from maptile2sat.grid import WGS84, BBox, Window, parse_bbox
from maptile2sat.noise import MAX_SEED
from maptile2sat.rendering.options import DEFAULT_MAX_TILES, RenderOptions
from maptile2sat.resources import sample_map
from maptile2sat.sources import Source, SourceOptions, open_source, tile_count
from maptile2sat.translator import Translator

MAX_SIDE = 1 << 30
"""Longest side of an output in pixels: what GDAL can address."""


@dataclass(frozen=True)
class RenderOptions:
    """Everything that decides a render, apart from the map and the output.

    Attributes:
        bbox: The area: text such as `24.93,60.16,24.95,60.17` or four numbers, west, south,
            east, north; west > east crosses 180 degrees. None: all of the map.
        bbox_crs: CRS of `bbox`.
        zoom: Zoom to read the map at. None: tile maps at the model's zoom, rasters as they are.
        model: Name of a shipped model or folder of a bundle.
        batch_size: Cells read ahead, and windows a `unet` generates at once; changes no pixel.
        cell: Side in pixels of what is generated at once; None: the model's.
        precision: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.
        seed: Of the noise, 0..2^32-1.
        profile: `deflate` (lossless), `jpeg` or `webp`.
        creation_options: More GDAL creation options of the output.
        cog: Whether the output is a Cloud Optimized GeoTIFF.
        src_crs: CRS of a raster that does not state one.
        native: Accept rasters with oblong ground pixels as they are.
        resampling: Name of a rasterio resampling for rasters that `zoom` warps. None: `average`
            where pixels shrink, `bilinear` where they grow.
        tile_size: Side in pixels of a server's tiles, 256 or 512, if its template does not say.
        preview: Path of a PNG with map and result side by side.
        missing: `error` or `mask`: what a tile that a server does not have is.
        max_tiles: Most tiles to fetch. None: 20,000.
        overwrite: Whether an existing output is replaced.
    """

    bbox: str | tuple[float, float, float, float] | None = None
    bbox_crs: str = "EPSG:4326"
    zoom: int | None = None
    model: str = DEFAULT_MODEL
    batch_size: int = 8
    cell: int | None = None
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0
    profile: str = "deflate"
    creation_options: Mapping[str, str] = field(default_factory=dict)
    cog: bool = True
    src_crs: str | None = None
    native: bool = False
    resampling: str | None = None
    tile_size: int | None = None
    preview: Path | str | None = None
    missing: str = "error"
    max_tiles: int | None = None
    overwrite: bool = False


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
        source: The map's name, without secrets.
        attribution: Who is to be named for the map and the model.
        cells: Cells generated.
        skipped_cells: Cells without any map.
        tiles: Tiles of the map read, the halo's included; 0 for rasters.
        seconds: Wall time, without loading TensorFlow.
        generator_seconds: Of it, time in the generator.
        useful_megapixels_per_second: Output pixels over `seconds`, in millions.
        peak_rss_mb: Largest memory of the process so far.
        model: Name, version and hash of the model.
        seed: Of the noise.
        precision: What the generator computed in.
        device: What it computed on.
        exact: Whether a pixel is a function of the map around it alone (`unet` blends).
        preview: The preview picture, if one was asked for.
        warnings: What the user should know.
    """

    output: Path
    width: int
    height: int
    crs: str
    bounds: BBox
    source: str
    attribution: str
    cells: int
    skipped_cells: int
    tiles: int
    seconds: float
    generator_seconds: float
    useful_megapixels_per_second: float
    peak_rss_mb: float
    model: str
    seed: int
    precision: str
    device: str
    exact: bool
    preview: Path | None
    warnings: list[str]


@dataclass(frozen=True)
class Job:
    """A render made ready: everything opened and checked."""

    source: Source
    window: Window
    bundle: Bundle
    options: RenderOptions
    warnings: list[str]


@dataclass(frozen=True)
class RenderOptions:
    """Everything that decides a render, apart from the map and the output.

    Attributes:
        bbox: The area: text such as `24.93,60.16,24.95,60.17` or four numbers, west, south,
            east, north; west > east crosses 180 degrees. None: all of the map.
        bbox_crs: CRS of `bbox`.
        zoom: Zoom to read the map at. None: tile maps at the model's zoom, rasters as they are.
        model: Name of a shipped model or folder of a bundle.
        batch_size: Cells read ahead, and windows a `unet` generates at once; changes no pixel.
        cell: Side in pixels of what is generated at once; None: the model's.
        precision: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.
        seed: Of the noise, 0..2^32-1.
        profile: `deflate` (lossless), `jpeg` or `webp`.
        creation_options: More GDAL creation options of the output.
        cog: Whether the output is a Cloud Optimized GeoTIFF.
        src_crs: CRS of a raster that does not state one.
        native: Accept rasters with oblong ground pixels as they are.
        resampling: Name of a rasterio resampling for rasters that `zoom` warps. None: `average`
            where pixels shrink, `bilinear` where they grow.
        tile_size: Side in pixels of a server's tiles, 256 or 512, if its template does not say.
        preview: Path of a PNG with map and result side by side.
        missing: `error` or `mask`: what a tile that a server does not have is.
        max_tiles: Most tiles to fetch. None: 20,000.
        overwrite: Whether an existing output is replaced.
    """

    bbox: str | tuple[float, float, float, float] | None = None
    bbox_crs: str = "EPSG:4326"
    zoom: int | None = None
    model: str = DEFAULT_MODEL
    batch_size: int = 8
    cell: int | None = None
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0
    profile: str = "deflate"
    creation_options: Mapping[str, str] = field(default_factory=dict)
    cog: bool = True
    src_crs: str | None = None
    native: bool = False
    resampling: str | None = None
    tile_size: int | None = None
    preview: Path | str | None = None
    missing: str = "error"
    max_tiles: int | None = None
    overwrite: bool = False


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
        source: The map's name, without secrets.
        attribution: Who is to be named for the map and the model.
        cells: Cells generated.
        skipped_cells: Cells without any map.
        tiles: Tiles of the map read, the halo's included; 0 for rasters.
        seconds: Wall time, without loading TensorFlow.
        generator_seconds: Of it, time in the generator.
        useful_megapixels_per_second: Output pixels over `seconds`, in millions.
        peak_rss_mb: Largest memory of the process so far.
        model: Name, version and hash of the model.
        seed: Of the noise.
        precision: What the generator computed in.
        device: What it computed on.
        exact: Whether a pixel is a function of the map around it alone (`unet` blends).
        preview: The preview picture, if one was asked for.
        warnings: What the user should know.
    """

    output: Path
    width: int
    height: int
    crs: str
    bounds: BBox
    source: str
    attribution: str
    cells: int
    skipped_cells: int
    tiles: int
    seconds: float
    generator_seconds: float
    useful_megapixels_per_second: float
    peak_rss_mb: float
    model: str
    seed: int
    precision: str
    device: str
    exact: bool
    preview: Path | None
    warnings: list[str]


@dataclass(frozen=True)
class Job:
    """A render made ready: everything opened and checked."""

    source: Source
    window: Window
    bundle: Bundle
    options: RenderOptions
    warnings: list[str]


def render(
    source: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    options: RenderOptions | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **changes: Any,
) -> RenderResult:
    """Render a map as satellite-style imagery.

    Args:
        source: What `open_source` takes; None for the sample map.
        output: The GeoTIFF to write.
        options: Everything else; see `RenderOptions`.
        progress: Called with (cells done, all cells).
        **changes: Fields of `RenderOptions` to set, for example `bbox=..., model=...`.

    Raises:
        Maptile2satError: If the map, the model or the request cannot be used, or the output
            cannot be written; then there is no output.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    path = Path(output)
    check_destination(path, overwrite=options.overwrite)
    preview_path = Path(options.preview) if options.preview is not None else None
    if preview_path is not None:
        check_destination(preview_path, overwrite=options.overwrite)
    creation = creation_options(options.profile, options.creation_options, cog=options.cog)
    with _prepared(source, options) as job:
        device = choose_device(options.device, options.precision)
        translator = _translator(job, device)
        tiles = _checked_tiles(job, translator)
        start = time.perf_counter()
        preview = Preview(job.window) if preview_path is not None else None
        tags = _tags(job, device, translator)
        grid = job.source.info.grid
        with GeoTiffWriter(path, grid, job.window, tags, creation, cog=options.cog) as writer:

            def take(cell: mosaic.Cell) -> None:
                writer.write(cell.window, cell.image, cell.mask)
                if preview is not None:
                    preview.add(cell)

            stats = mosaic.make_mosaic(
                job.source,
                translator,
                job.window,
                seed=options.seed,
                fill=job.bundle.description.fill,
                take=take,
                ahead=min(options.batch_size, mosaic.READERS),
                progress=progress,
            )
            writer.finish()
        if preview is not None and preview_path is not None:
            preview.save(preview_path, tags)
        seconds = time.perf_counter() - start
        return RenderResult(
            output=path,
            width=job.window.width,
            height=job.window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(job.window),
            source=job.source.info.name,
            attribution=tags["TIFFTAG_COPYRIGHT"],
            cells=stats.cells,
            skipped_cells=stats.skipped,
            tiles=tiles,
            seconds=round(seconds, 3),
            generator_seconds=round(stats.generator_seconds, 3),
            useful_megapixels_per_second=round(
                job.window.width * job.window.height / 1e6 / seconds, 3
            ),
            peak_rss_mb=round(_peak_rss_mb(), 1),
            model=job.bundle.id,
            seed=options.seed,
            precision=device.precision,
            device=device.kind,
            exact=translator.exact,
            preview=preview_path,
            warnings=job.warnings,
        )


def plan(
    source: str | os.PathLike[str] | None, options: RenderOptions | None = None, **changes: Any
) -> RenderPlan:
    """Return what `render` would do, writing nothing; times one cell for the estimate.

    Raises:
        Maptile2satError: As `render` does.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    creation_options(options.profile, options.creation_options, cog=options.cog)
    with _prepared(source, options) as job:
        translator = _translator(job, choose_device(options.device, options.precision))
        tiles = _checked_tiles(job, translator)
        cells = mosaic.cell_count(job.window, translator.cell)
        grid, window = job.source.info.grid, job.window
        pixels = window.width * window.height
        size = int(pixels * BYTES_PER_PIXEL[options.profile])
        return RenderPlan(
            source=job.source.info.name,
            model=job.bundle.id,
            width=window.width,
            height=window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(window),
            cells=cells,
            tiles=tiles,
            seconds=round(cells * mosaic.seconds_per_cell(translator), 1),
            output_bytes=size,
            temporary_bytes=pixels * TEMPORARY_BYTES_PER_PIXEL + size,
            warnings=job.warnings,
        )


@contextmanager
def prepared(source: str | os.PathLike[str] | None, options: RenderOptions) -> Iterator[Job]:
    """Open the map and the model and find the window; close the map at the end."""
    if not 0 <= options.seed <= MAX_SEED:
        raise UsageError(f"seed {options.seed} is not in 0..{MAX_SEED}")
    bbox = _bbox(options.bbox)
    crs = _crs(options.bbox_crs)
    bundle = find_bundle(options.model)
    about = bundle.description
    chosen = choose_source(source, bbox, crs)
    source_options = SourceOptions(
        zoom=options.zoom,
        default_zoom=about.zoom,
        style=about.style if about.style in ("maps", "osm") else "maps",
        src_crs=options.src_crs,
        missing=options.missing,  # type: ignore[arg-type]  # checked by SourceOptions
        native=options.native,
        resampling=options.resampling,
        tile_size=options.tile_size,
        fill=about.fill,
    )
    with _logged_warnings() as logged, closing(open_source(chosen, source_options)) as opened:
        window = _window(opened, bbox, crs)
        others = [other for other in shipped_bundles() if other.folder != bundle.folder]
        found = (
            fit.scale_warning(opened, window, bundle),
            fit.colour_warning(opened, window, bundle, others),
        )
        # the list goes on growing while the map is read
        warnings = logged
        warnings += [*getattr(opened, "warnings", []), *(text for text in found if text)]
        if about.kind == "unet":
            warnings.append(
                f"model '{about.name}' is a unet: windows are blended, a pixel also depends on "
                "where its window ends"
            )
        yield Job(opened, window, bundle, options, warnings)


@dataclass(frozen=True)
class RenderOptions:
    """Everything that decides a render, apart from the map and the output.

    Attributes:
        bbox: The area: text such as `24.93,60.16,24.95,60.17` or four numbers, west, south,
            east, north; west > east crosses 180 degrees. None: all of the map.
        bbox_crs: CRS of `bbox`.
        zoom: Zoom to read the map at. None: tile maps at the model's zoom, rasters as they are.
        model: Name of a shipped model or folder of a bundle.
        batch_size: Cells read ahead, and windows a `unet` generates at once; changes no pixel.
        cell: Side in pixels of what is generated at once; None: the model's.
        precision: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.
        seed: Of the noise, 0..2^32-1.
        profile: `deflate` (lossless), `jpeg` or `webp`.
        creation_options: More GDAL creation options of the output.
        cog: Whether the output is a Cloud Optimized GeoTIFF.
        src_crs: CRS of a raster that does not state one.
        native: Accept rasters with oblong ground pixels as they are.
        resampling: Name of a rasterio resampling for rasters that `zoom` warps. None: `average`
            where pixels shrink, `bilinear` where they grow.
        tile_size: Side in pixels of a server's tiles, 256 or 512, if its template does not say.
        preview: Path of a PNG with map and result side by side.
        missing: `error` or `mask`: what a tile that a server does not have is.
        max_tiles: Most tiles to fetch. None: 20,000.
        overwrite: Whether an existing output is replaced.
    """

    bbox: str | tuple[float, float, float, float] | None = None
    bbox_crs: str = "EPSG:4326"
    zoom: int | None = None
    model: str = DEFAULT_MODEL
    batch_size: int = 8
    cell: int | None = None
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0
    profile: str = "deflate"
    creation_options: Mapping[str, str] = field(default_factory=dict)
    cog: bool = True
    src_crs: str | None = None
    native: bool = False
    resampling: str | None = None
    tile_size: int | None = None
    preview: Path | str | None = None
    missing: str = "error"
    max_tiles: int | None = None
    overwrite: bool = False


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
        source: The map's name, without secrets.
        attribution: Who is to be named for the map and the model.
        cells: Cells generated.
        skipped_cells: Cells without any map.
        tiles: Tiles of the map read, the halo's included; 0 for rasters.
        seconds: Wall time, without loading TensorFlow.
        generator_seconds: Of it, time in the generator.
        useful_megapixels_per_second: Output pixels over `seconds`, in millions.
        peak_rss_mb: Largest memory of the process so far.
        model: Name, version and hash of the model.
        seed: Of the noise.
        precision: What the generator computed in.
        device: What it computed on.
        exact: Whether a pixel is a function of the map around it alone (`unet` blends).
        preview: The preview picture, if one was asked for.
        warnings: What the user should know.
    """

    output: Path
    width: int
    height: int
    crs: str
    bounds: BBox
    source: str
    attribution: str
    cells: int
    skipped_cells: int
    tiles: int
    seconds: float
    generator_seconds: float
    useful_megapixels_per_second: float
    peak_rss_mb: float
    model: str
    seed: int
    precision: str
    device: str
    exact: bool
    preview: Path | None
    warnings: list[str]


@dataclass(frozen=True)
class Job:
    """A render made ready: everything opened and checked."""

    source: Source
    window: Window
    bundle: Bundle
    options: RenderOptions
    warnings: list[str]


def render(
    source: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    options: RenderOptions | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **changes: Any,
) -> RenderResult:
    """Render a map as satellite-style imagery.

    Args:
        source: What `open_source` takes; None for the sample map.
        output: The GeoTIFF to write.
        options: Everything else; see `RenderOptions`.
        progress: Called with (cells done, all cells).
        **changes: Fields of `RenderOptions` to set, for example `bbox=..., model=...`.

    Raises:
        Maptile2satError: If the map, the model or the request cannot be used, or the output
            cannot be written; then there is no output.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    path = Path(output)
    check_destination(path, overwrite=options.overwrite)
    preview_path = Path(options.preview) if options.preview is not None else None
    if preview_path is not None:
        check_destination(preview_path, overwrite=options.overwrite)
    creation = creation_options(options.profile, options.creation_options, cog=options.cog)
    with _prepared(source, options) as job:
        device = choose_device(options.device, options.precision)
        translator = _translator(job, device)
        tiles = _checked_tiles(job, translator)
        start = time.perf_counter()
        preview = Preview(job.window) if preview_path is not None else None
        tags = _tags(job, device, translator)
        grid = job.source.info.grid
        with GeoTiffWriter(path, grid, job.window, tags, creation, cog=options.cog) as writer:

            def take(cell: mosaic.Cell) -> None:
                writer.write(cell.window, cell.image, cell.mask)
                if preview is not None:
                    preview.add(cell)

            stats = mosaic.make_mosaic(
                job.source,
                translator,
                job.window,
                seed=options.seed,
                fill=job.bundle.description.fill,
                take=take,
                ahead=min(options.batch_size, mosaic.READERS),
                progress=progress,
            )
            writer.finish()
        if preview is not None and preview_path is not None:
            preview.save(preview_path, tags)
        seconds = time.perf_counter() - start
        return RenderResult(
            output=path,
            width=job.window.width,
            height=job.window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(job.window),
            source=job.source.info.name,
            attribution=tags["TIFFTAG_COPYRIGHT"],
            cells=stats.cells,
            skipped_cells=stats.skipped,
            tiles=tiles,
            seconds=round(seconds, 3),
            generator_seconds=round(stats.generator_seconds, 3),
            useful_megapixels_per_second=round(
                job.window.width * job.window.height / 1e6 / seconds, 3
            ),
            peak_rss_mb=round(_peak_rss_mb(), 1),
            model=job.bundle.id,
            seed=options.seed,
            precision=device.precision,
            device=device.kind,
            exact=translator.exact,
            preview=preview_path,
            warnings=job.warnings,
        )


def plan(
    source: str | os.PathLike[str] | None, options: RenderOptions | None = None, **changes: Any
) -> RenderPlan:
    """Return what `render` would do, writing nothing; times one cell for the estimate.

    Raises:
        Maptile2satError: As `render` does.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    creation_options(options.profile, options.creation_options, cog=options.cog)
    with _prepared(source, options) as job:
        translator = _translator(job, choose_device(options.device, options.precision))
        tiles = _checked_tiles(job, translator)
        cells = mosaic.cell_count(job.window, translator.cell)
        grid, window = job.source.info.grid, job.window
        pixels = window.width * window.height
        size = int(pixels * BYTES_PER_PIXEL[options.profile])
        return RenderPlan(
            source=job.source.info.name,
            model=job.bundle.id,
            width=window.width,
            height=window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(window),
            cells=cells,
            tiles=tiles,
            seconds=round(cells * mosaic.seconds_per_cell(translator), 1),
            output_bytes=size,
            temporary_bytes=pixels * TEMPORARY_BYTES_PER_PIXEL + size,
            warnings=job.warnings,
        )


@contextmanager
def prepared(source: str | os.PathLike[str] | None, options: RenderOptions) -> Iterator[Job]:
    """Open the map and the model and find the window; close the map at the end."""
    if not 0 <= options.seed <= MAX_SEED:
        raise UsageError(f"seed {options.seed} is not in 0..{MAX_SEED}")
    bbox = _bbox(options.bbox)
    crs = _crs(options.bbox_crs)
    bundle = find_bundle(options.model)
    about = bundle.description
    chosen = choose_source(source, bbox, crs)
    source_options = SourceOptions(
        zoom=options.zoom,
        default_zoom=about.zoom,
        style=about.style if about.style in ("maps", "osm") else "maps",
        src_crs=options.src_crs,
        missing=options.missing,  # type: ignore[arg-type]  # checked by SourceOptions
        native=options.native,
        resampling=options.resampling,
        tile_size=options.tile_size,
        fill=about.fill,
    )
    with _logged_warnings() as logged, closing(open_source(chosen, source_options)) as opened:
        window = _window(opened, bbox, crs)
        others = [other for other in shipped_bundles() if other.folder != bundle.folder]
        found = (
            fit.scale_warning(opened, window, bundle),
            fit.colour_warning(opened, window, bundle, others),
        )
        # the list goes on growing while the map is read
        warnings = logged
        warnings += [*getattr(opened, "warnings", []), *(text for text in found if text)]
        if about.kind == "unet":
            warnings.append(
                f"model '{about.name}' is a unet: windows are blended, a pixel also depends on "
                "where its window ends"
            )
        yield Job(opened, window, bundle, options, warnings)


@contextmanager
def _logged_warnings() -> Iterator[list[str]]:
    """Collect what the map sources log as warnings, so that it gets into the result."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("maptile2sat")
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)


@dataclass(frozen=True)
class RenderOptions:
    """Everything that decides a render, apart from the map and the output.

    Attributes:
        bbox: The area: text such as `24.93,60.16,24.95,60.17` or four numbers, west, south,
            east, north; west > east crosses 180 degrees. None: all of the map.
        bbox_crs: CRS of `bbox`.
        zoom: Zoom to read the map at. None: tile maps at the model's zoom, rasters as they are.
        model: Name of a shipped model or folder of a bundle.
        batch_size: Cells read ahead, and windows a `unet` generates at once; changes no pixel.
        cell: Side in pixels of what is generated at once; None: the model's.
        precision: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.
        seed: Of the noise, 0..2^32-1.
        profile: `deflate` (lossless), `jpeg` or `webp`.
        creation_options: More GDAL creation options of the output.
        cog: Whether the output is a Cloud Optimized GeoTIFF.
        src_crs: CRS of a raster that does not state one.
        native: Accept rasters with oblong ground pixels as they are.
        resampling: Name of a rasterio resampling for rasters that `zoom` warps. None: `average`
            where pixels shrink, `bilinear` where they grow.
        tile_size: Side in pixels of a server's tiles, 256 or 512, if its template does not say.
        preview: Path of a PNG with map and result side by side.
        missing: `error` or `mask`: what a tile that a server does not have is.
        max_tiles: Most tiles to fetch. None: 20,000.
        overwrite: Whether an existing output is replaced.
    """

    bbox: str | tuple[float, float, float, float] | None = None
    bbox_crs: str = "EPSG:4326"
    zoom: int | None = None
    model: str = DEFAULT_MODEL
    batch_size: int = 8
    cell: int | None = None
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0
    profile: str = "deflate"
    creation_options: Mapping[str, str] = field(default_factory=dict)
    cog: bool = True
    src_crs: str | None = None
    native: bool = False
    resampling: str | None = None
    tile_size: int | None = None
    preview: Path | str | None = None
    missing: str = "error"
    max_tiles: int | None = None
    overwrite: bool = False


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
        source: The map's name, without secrets.
        attribution: Who is to be named for the map and the model.
        cells: Cells generated.
        skipped_cells: Cells without any map.
        tiles: Tiles of the map read, the halo's included; 0 for rasters.
        seconds: Wall time, without loading TensorFlow.
        generator_seconds: Of it, time in the generator.
        useful_megapixels_per_second: Output pixels over `seconds`, in millions.
        peak_rss_mb: Largest memory of the process so far.
        model: Name, version and hash of the model.
        seed: Of the noise.
        precision: What the generator computed in.
        device: What it computed on.
        exact: Whether a pixel is a function of the map around it alone (`unet` blends).
        preview: The preview picture, if one was asked for.
        warnings: What the user should know.
    """

    output: Path
    width: int
    height: int
    crs: str
    bounds: BBox
    source: str
    attribution: str
    cells: int
    skipped_cells: int
    tiles: int
    seconds: float
    generator_seconds: float
    useful_megapixels_per_second: float
    peak_rss_mb: float
    model: str
    seed: int
    precision: str
    device: str
    exact: bool
    preview: Path | None
    warnings: list[str]


@dataclass(frozen=True)
class Job:
    """A render made ready: everything opened and checked."""

    source: Source
    window: Window
    bundle: Bundle
    options: RenderOptions
    warnings: list[str]


def render(
    source: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    options: RenderOptions | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **changes: Any,
) -> RenderResult:
    """Render a map as satellite-style imagery.

    Args:
        source: What `open_source` takes; None for the sample map.
        output: The GeoTIFF to write.
        options: Everything else; see `RenderOptions`.
        progress: Called with (cells done, all cells).
        **changes: Fields of `RenderOptions` to set, for example `bbox=..., model=...`.

    Raises:
        Maptile2satError: If the map, the model or the request cannot be used, or the output
            cannot be written; then there is no output.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    path = Path(output)
    check_destination(path, overwrite=options.overwrite)
    preview_path = Path(options.preview) if options.preview is not None else None
    if preview_path is not None:
        check_destination(preview_path, overwrite=options.overwrite)
    creation = creation_options(options.profile, options.creation_options, cog=options.cog)
    with _prepared(source, options) as job:
        device = choose_device(options.device, options.precision)
        translator = _translator(job, device)
        tiles = _checked_tiles(job, translator)
        start = time.perf_counter()
        preview = Preview(job.window) if preview_path is not None else None
        tags = _tags(job, device, translator)
        grid = job.source.info.grid
        with GeoTiffWriter(path, grid, job.window, tags, creation, cog=options.cog) as writer:

            def take(cell: mosaic.Cell) -> None:
                writer.write(cell.window, cell.image, cell.mask)
                if preview is not None:
                    preview.add(cell)

            stats = mosaic.make_mosaic(
                job.source,
                translator,
                job.window,
                seed=options.seed,
                fill=job.bundle.description.fill,
                take=take,
                ahead=min(options.batch_size, mosaic.READERS),
                progress=progress,
            )
            writer.finish()
        if preview is not None and preview_path is not None:
            preview.save(preview_path, tags)
        seconds = time.perf_counter() - start
        return RenderResult(
            output=path,
            width=job.window.width,
            height=job.window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(job.window),
            source=job.source.info.name,
            attribution=tags["TIFFTAG_COPYRIGHT"],
            cells=stats.cells,
            skipped_cells=stats.skipped,
            tiles=tiles,
            seconds=round(seconds, 3),
            generator_seconds=round(stats.generator_seconds, 3),
            useful_megapixels_per_second=round(
                job.window.width * job.window.height / 1e6 / seconds, 3
            ),
            peak_rss_mb=round(_peak_rss_mb(), 1),
            model=job.bundle.id,
            seed=options.seed,
            precision=device.precision,
            device=device.kind,
            exact=translator.exact,
            preview=preview_path,
            warnings=job.warnings,
        )


def plan(
    source: str | os.PathLike[str] | None, options: RenderOptions | None = None, **changes: Any
) -> RenderPlan:
    """Return what `render` would do, writing nothing; times one cell for the estimate.

    Raises:
        Maptile2satError: As `render` does.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    creation_options(options.profile, options.creation_options, cog=options.cog)
    with _prepared(source, options) as job:
        translator = _translator(job, choose_device(options.device, options.precision))
        tiles = _checked_tiles(job, translator)
        cells = mosaic.cell_count(job.window, translator.cell)
        grid, window = job.source.info.grid, job.window
        pixels = window.width * window.height
        size = int(pixels * BYTES_PER_PIXEL[options.profile])
        return RenderPlan(
            source=job.source.info.name,
            model=job.bundle.id,
            width=window.width,
            height=window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(window),
            cells=cells,
            tiles=tiles,
            seconds=round(cells * mosaic.seconds_per_cell(translator), 1),
            output_bytes=size,
            temporary_bytes=pixels * TEMPORARY_BYTES_PER_PIXEL + size,
            warnings=job.warnings,
        )


@contextmanager
def prepared(source: str | os.PathLike[str] | None, options: RenderOptions) -> Iterator[Job]:
    """Open the map and the model and find the window; close the map at the end."""
    if not 0 <= options.seed <= MAX_SEED:
        raise UsageError(f"seed {options.seed} is not in 0..{MAX_SEED}")
    bbox = _bbox(options.bbox)
    crs = _crs(options.bbox_crs)
    bundle = find_bundle(options.model)
    about = bundle.description
    chosen = choose_source(source, bbox, crs)
    source_options = SourceOptions(
        zoom=options.zoom,
        default_zoom=about.zoom,
        style=about.style if about.style in ("maps", "osm") else "maps",
        src_crs=options.src_crs,
        missing=options.missing,  # type: ignore[arg-type]  # checked by SourceOptions
        native=options.native,
        resampling=options.resampling,
        tile_size=options.tile_size,
        fill=about.fill,
    )
    with _logged_warnings() as logged, closing(open_source(chosen, source_options)) as opened:
        window = _window(opened, bbox, crs)
        others = [other for other in shipped_bundles() if other.folder != bundle.folder]
        found = (
            fit.scale_warning(opened, window, bundle),
            fit.colour_warning(opened, window, bundle, others),
        )
        # the list goes on growing while the map is read
        warnings = logged
        warnings += [*getattr(opened, "warnings", []), *(text for text in found if text)]
        if about.kind == "unet":
            warnings.append(
                f"model '{about.name}' is a unet: windows are blended, a pixel also depends on "
                "where its window ends"
            )
        yield Job(opened, window, bundle, options, warnings)


@contextmanager
def _logged_warnings() -> Iterator[list[str]]:
    """Collect what the map sources log as warnings, so that it gets into the result."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("maptile2sat")
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)


def uses_sample(source: str | os.PathLike[str] | None) -> bool:
    """Whether no map is given, neither here nor in the environment."""
    return not (source or os.environ.get("MAPTILE2SAT_SOURCE"))


@dataclass(frozen=True)
class RenderOptions:
    """Everything that decides a render, apart from the map and the output.

    Attributes:
        bbox: The area: text such as `24.93,60.16,24.95,60.17` or four numbers, west, south,
            east, north; west > east crosses 180 degrees. None: all of the map.
        bbox_crs: CRS of `bbox`.
        zoom: Zoom to read the map at. None: tile maps at the model's zoom, rasters as they are.
        model: Name of a shipped model or folder of a bundle.
        batch_size: Cells read ahead, and windows a `unet` generates at once; changes no pixel.
        cell: Side in pixels of what is generated at once; None: the model's.
        precision: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.
        seed: Of the noise, 0..2^32-1.
        profile: `deflate` (lossless), `jpeg` or `webp`.
        creation_options: More GDAL creation options of the output.
        cog: Whether the output is a Cloud Optimized GeoTIFF.
        src_crs: CRS of a raster that does not state one.
        native: Accept rasters with oblong ground pixels as they are.
        resampling: Name of a rasterio resampling for rasters that `zoom` warps. None: `average`
            where pixels shrink, `bilinear` where they grow.
        tile_size: Side in pixels of a server's tiles, 256 or 512, if its template does not say.
        preview: Path of a PNG with map and result side by side.
        missing: `error` or `mask`: what a tile that a server does not have is.
        max_tiles: Most tiles to fetch. None: 20,000.
        overwrite: Whether an existing output is replaced.
    """

    bbox: str | tuple[float, float, float, float] | None = None
    bbox_crs: str = "EPSG:4326"
    zoom: int | None = None
    model: str = DEFAULT_MODEL
    batch_size: int = 8
    cell: int | None = None
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0
    profile: str = "deflate"
    creation_options: Mapping[str, str] = field(default_factory=dict)
    cog: bool = True
    src_crs: str | None = None
    native: bool = False
    resampling: str | None = None
    tile_size: int | None = None
    preview: Path | str | None = None
    missing: str = "error"
    max_tiles: int | None = None
    overwrite: bool = False


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
        source: The map's name, without secrets.
        attribution: Who is to be named for the map and the model.
        cells: Cells generated.
        skipped_cells: Cells without any map.
        tiles: Tiles of the map read, the halo's included; 0 for rasters.
        seconds: Wall time, without loading TensorFlow.
        generator_seconds: Of it, time in the generator.
        useful_megapixels_per_second: Output pixels over `seconds`, in millions.
        peak_rss_mb: Largest memory of the process so far.
        model: Name, version and hash of the model.
        seed: Of the noise.
        precision: What the generator computed in.
        device: What it computed on.
        exact: Whether a pixel is a function of the map around it alone (`unet` blends).
        preview: The preview picture, if one was asked for.
        warnings: What the user should know.
    """

    output: Path
    width: int
    height: int
    crs: str
    bounds: BBox
    source: str
    attribution: str
    cells: int
    skipped_cells: int
    tiles: int
    seconds: float
    generator_seconds: float
    useful_megapixels_per_second: float
    peak_rss_mb: float
    model: str
    seed: int
    precision: str
    device: str
    exact: bool
    preview: Path | None
    warnings: list[str]


@dataclass(frozen=True)
class Job:
    """A render made ready: everything opened and checked."""

    source: Source
    window: Window
    bundle: Bundle
    options: RenderOptions
    warnings: list[str]


def render(
    source: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    options: RenderOptions | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **changes: Any,
) -> RenderResult:
    """Render a map as satellite-style imagery.

    Args:
        source: What `open_source` takes; None for the sample map.
        output: The GeoTIFF to write.
        options: Everything else; see `RenderOptions`.
        progress: Called with (cells done, all cells).
        **changes: Fields of `RenderOptions` to set, for example `bbox=..., model=...`.

    Raises:
        Maptile2satError: If the map, the model or the request cannot be used, or the output
            cannot be written; then there is no output.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    path = Path(output)
    check_destination(path, overwrite=options.overwrite)
    preview_path = Path(options.preview) if options.preview is not None else None
    if preview_path is not None:
        check_destination(preview_path, overwrite=options.overwrite)
    creation = creation_options(options.profile, options.creation_options, cog=options.cog)
    with _prepared(source, options) as job:
        device = choose_device(options.device, options.precision)
        translator = _translator(job, device)
        tiles = _checked_tiles(job, translator)
        start = time.perf_counter()
        preview = Preview(job.window) if preview_path is not None else None
        tags = _tags(job, device, translator)
        grid = job.source.info.grid
        with GeoTiffWriter(path, grid, job.window, tags, creation, cog=options.cog) as writer:

            def take(cell: mosaic.Cell) -> None:
                writer.write(cell.window, cell.image, cell.mask)
                if preview is not None:
                    preview.add(cell)

            stats = mosaic.make_mosaic(
                job.source,
                translator,
                job.window,
                seed=options.seed,
                fill=job.bundle.description.fill,
                take=take,
                ahead=min(options.batch_size, mosaic.READERS),
                progress=progress,
            )
            writer.finish()
        if preview is not None and preview_path is not None:
            preview.save(preview_path, tags)
        seconds = time.perf_counter() - start
        return RenderResult(
            output=path,
            width=job.window.width,
            height=job.window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(job.window),
            source=job.source.info.name,
            attribution=tags["TIFFTAG_COPYRIGHT"],
            cells=stats.cells,
            skipped_cells=stats.skipped,
            tiles=tiles,
            seconds=round(seconds, 3),
            generator_seconds=round(stats.generator_seconds, 3),
            useful_megapixels_per_second=round(
                job.window.width * job.window.height / 1e6 / seconds, 3
            ),
            peak_rss_mb=round(_peak_rss_mb(), 1),
            model=job.bundle.id,
            seed=options.seed,
            precision=device.precision,
            device=device.kind,
            exact=translator.exact,
            preview=preview_path,
            warnings=job.warnings,
        )


def plan(
    source: str | os.PathLike[str] | None, options: RenderOptions | None = None, **changes: Any
) -> RenderPlan:
    """Return what `render` would do, writing nothing; times one cell for the estimate.

    Raises:
        Maptile2satError: As `render` does.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    creation_options(options.profile, options.creation_options, cog=options.cog)
    with _prepared(source, options) as job:
        translator = _translator(job, choose_device(options.device, options.precision))
        tiles = _checked_tiles(job, translator)
        cells = mosaic.cell_count(job.window, translator.cell)
        grid, window = job.source.info.grid, job.window
        pixels = window.width * window.height
        size = int(pixels * BYTES_PER_PIXEL[options.profile])
        return RenderPlan(
            source=job.source.info.name,
            model=job.bundle.id,
            width=window.width,
            height=window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(window),
            cells=cells,
            tiles=tiles,
            seconds=round(cells * mosaic.seconds_per_cell(translator), 1),
            output_bytes=size,
            temporary_bytes=pixels * TEMPORARY_BYTES_PER_PIXEL + size,
            warnings=job.warnings,
        )


@contextmanager
def prepared(source: str | os.PathLike[str] | None, options: RenderOptions) -> Iterator[Job]:
    """Open the map and the model and find the window; close the map at the end."""
    if not 0 <= options.seed <= MAX_SEED:
        raise UsageError(f"seed {options.seed} is not in 0..{MAX_SEED}")
    bbox = _bbox(options.bbox)
    crs = _crs(options.bbox_crs)
    bundle = find_bundle(options.model)
    about = bundle.description
    chosen = choose_source(source, bbox, crs)
    source_options = SourceOptions(
        zoom=options.zoom,
        default_zoom=about.zoom,
        style=about.style if about.style in ("maps", "osm") else "maps",
        src_crs=options.src_crs,
        missing=options.missing,  # type: ignore[arg-type]  # checked by SourceOptions
        native=options.native,
        resampling=options.resampling,
        tile_size=options.tile_size,
        fill=about.fill,
    )
    with _logged_warnings() as logged, closing(open_source(chosen, source_options)) as opened:
        window = _window(opened, bbox, crs)
        others = [other for other in shipped_bundles() if other.folder != bundle.folder]
        found = (
            fit.scale_warning(opened, window, bundle),
            fit.colour_warning(opened, window, bundle, others),
        )
        # the list goes on growing while the map is read
        warnings = logged
        warnings += [*getattr(opened, "warnings", []), *(text for text in found if text)]
        if about.kind == "unet":
            warnings.append(
                f"model '{about.name}' is a unet: windows are blended, a pixel also depends on "
                "where its window ends"
            )
        yield Job(opened, window, bundle, options, warnings)


@contextmanager
def _logged_warnings() -> Iterator[list[str]]:
    """Collect what the map sources log as warnings, so that it gets into the result."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("maptile2sat")
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)


def uses_sample(source: str | os.PathLike[str] | None) -> bool:
    """Whether no map is given, neither here nor in the environment."""
    return not (source or os.environ.get("MAPTILE2SAT_SOURCE"))


def choose_source(
    source: str | os.PathLike[str] | None, bbox: BBox | None, crs: CRS = WGS84
) -> str | os.PathLike[str]:
    """Return the source given, the one that `MAPTILE2SAT_SOURCE` names, or the sample map.

    Raises:
        UsageError: If none is given and `bbox` is not inside the sample map.
    """
    source = source or os.environ.get("MAPTILE2SAT_SOURCE")
    if source:
        return source
    sample = sample_map()
    if bbox is None:
        return sample
    with closing(open_source(sample)) as opened:
        info = opened.info
        if info.extent.contains(info.grid.window(bbox, crs)):
            return sample
    box = ",".join(f"{value:g}" for value in bbox)
    raise UsageError(
        "no map given, and the box is outside the sample map (central Helsinki). Say one of:\n"
        f"  maptile2sat render MAP.tif -o OUT.tif --bbox {box}\n"
        "  maptile2sat render 'https://TILES.EXAMPLE/{z}/{x}/{y}.png' "
        f"-o OUT.tif --bbox {box}\n"
        f"  maptile2sat draw EXTRACT.osm.pbf -o MAP.mbtiles --bbox {box}"
    )


@dataclass(frozen=True)
class RenderOptions:
    """Everything that decides a render, apart from the map and the output.

    Attributes:
        bbox: The area: text such as `24.93,60.16,24.95,60.17` or four numbers, west, south,
            east, north; west > east crosses 180 degrees. None: all of the map.
        bbox_crs: CRS of `bbox`.
        zoom: Zoom to read the map at. None: tile maps at the model's zoom, rasters as they are.
        model: Name of a shipped model or folder of a bundle.
        batch_size: Cells read ahead, and windows a `unet` generates at once; changes no pixel.
        cell: Side in pixels of what is generated at once; None: the model's.
        precision: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.
        seed: Of the noise, 0..2^32-1.
        profile: `deflate` (lossless), `jpeg` or `webp`.
        creation_options: More GDAL creation options of the output.
        cog: Whether the output is a Cloud Optimized GeoTIFF.
        src_crs: CRS of a raster that does not state one.
        native: Accept rasters with oblong ground pixels as they are.
        resampling: Name of a rasterio resampling for rasters that `zoom` warps. None: `average`
            where pixels shrink, `bilinear` where they grow.
        tile_size: Side in pixels of a server's tiles, 256 or 512, if its template does not say.
        preview: Path of a PNG with map and result side by side.
        missing: `error` or `mask`: what a tile that a server does not have is.
        max_tiles: Most tiles to fetch. None: 20,000.
        overwrite: Whether an existing output is replaced.
    """

    bbox: str | tuple[float, float, float, float] | None = None
    bbox_crs: str = "EPSG:4326"
    zoom: int | None = None
    model: str = DEFAULT_MODEL
    batch_size: int = 8
    cell: int | None = None
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0
    profile: str = "deflate"
    creation_options: Mapping[str, str] = field(default_factory=dict)
    cog: bool = True
    src_crs: str | None = None
    native: bool = False
    resampling: str | None = None
    tile_size: int | None = None
    preview: Path | str | None = None
    missing: str = "error"
    max_tiles: int | None = None
    overwrite: bool = False


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
        source: The map's name, without secrets.
        attribution: Who is to be named for the map and the model.
        cells: Cells generated.
        skipped_cells: Cells without any map.
        tiles: Tiles of the map read, the halo's included; 0 for rasters.
        seconds: Wall time, without loading TensorFlow.
        generator_seconds: Of it, time in the generator.
        useful_megapixels_per_second: Output pixels over `seconds`, in millions.
        peak_rss_mb: Largest memory of the process so far.
        model: Name, version and hash of the model.
        seed: Of the noise.
        precision: What the generator computed in.
        device: What it computed on.
        exact: Whether a pixel is a function of the map around it alone (`unet` blends).
        preview: The preview picture, if one was asked for.
        warnings: What the user should know.
    """

    output: Path
    width: int
    height: int
    crs: str
    bounds: BBox
    source: str
    attribution: str
    cells: int
    skipped_cells: int
    tiles: int
    seconds: float
    generator_seconds: float
    useful_megapixels_per_second: float
    peak_rss_mb: float
    model: str
    seed: int
    precision: str
    device: str
    exact: bool
    preview: Path | None
    warnings: list[str]


@dataclass(frozen=True)
class Job:
    """A render made ready: everything opened and checked."""

    source: Source
    window: Window
    bundle: Bundle
    options: RenderOptions
    warnings: list[str]


def render(
    source: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    options: RenderOptions | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **changes: Any,
) -> RenderResult:
    """Render a map as satellite-style imagery.

    Args:
        source: What `open_source` takes; None for the sample map.
        output: The GeoTIFF to write.
        options: Everything else; see `RenderOptions`.
        progress: Called with (cells done, all cells).
        **changes: Fields of `RenderOptions` to set, for example `bbox=..., model=...`.

    Raises:
        Maptile2satError: If the map, the model or the request cannot be used, or the output
            cannot be written; then there is no output.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    path = Path(output)
    check_destination(path, overwrite=options.overwrite)
    preview_path = Path(options.preview) if options.preview is not None else None
    if preview_path is not None:
        check_destination(preview_path, overwrite=options.overwrite)
    creation = creation_options(options.profile, options.creation_options, cog=options.cog)
    with _prepared(source, options) as job:
        device = choose_device(options.device, options.precision)
        translator = _translator(job, device)
        tiles = _checked_tiles(job, translator)
        start = time.perf_counter()
        preview = Preview(job.window) if preview_path is not None else None
        tags = _tags(job, device, translator)
        grid = job.source.info.grid
        with GeoTiffWriter(path, grid, job.window, tags, creation, cog=options.cog) as writer:

            def take(cell: mosaic.Cell) -> None:
                writer.write(cell.window, cell.image, cell.mask)
                if preview is not None:
                    preview.add(cell)

            stats = mosaic.make_mosaic(
                job.source,
                translator,
                job.window,
                seed=options.seed,
                fill=job.bundle.description.fill,
                take=take,
                ahead=min(options.batch_size, mosaic.READERS),
                progress=progress,
            )
            writer.finish()
        if preview is not None and preview_path is not None:
            preview.save(preview_path, tags)
        seconds = time.perf_counter() - start
        return RenderResult(
            output=path,
            width=job.window.width,
            height=job.window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(job.window),
            source=job.source.info.name,
            attribution=tags["TIFFTAG_COPYRIGHT"],
            cells=stats.cells,
            skipped_cells=stats.skipped,
            tiles=tiles,
            seconds=round(seconds, 3),
            generator_seconds=round(stats.generator_seconds, 3),
            useful_megapixels_per_second=round(
                job.window.width * job.window.height / 1e6 / seconds, 3
            ),
            peak_rss_mb=round(_peak_rss_mb(), 1),
            model=job.bundle.id,
            seed=options.seed,
            precision=device.precision,
            device=device.kind,
            exact=translator.exact,
            preview=preview_path,
            warnings=job.warnings,
        )


def plan(
    source: str | os.PathLike[str] | None, options: RenderOptions | None = None, **changes: Any
) -> RenderPlan:
    """Return what `render` would do, writing nothing; times one cell for the estimate.

    Raises:
        Maptile2satError: As `render` does.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    creation_options(options.profile, options.creation_options, cog=options.cog)
    with _prepared(source, options) as job:
        translator = _translator(job, choose_device(options.device, options.precision))
        tiles = _checked_tiles(job, translator)
        cells = mosaic.cell_count(job.window, translator.cell)
        grid, window = job.source.info.grid, job.window
        pixels = window.width * window.height
        size = int(pixels * BYTES_PER_PIXEL[options.profile])
        return RenderPlan(
            source=job.source.info.name,
            model=job.bundle.id,
            width=window.width,
            height=window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(window),
            cells=cells,
            tiles=tiles,
            seconds=round(cells * mosaic.seconds_per_cell(translator), 1),
            output_bytes=size,
            temporary_bytes=pixels * TEMPORARY_BYTES_PER_PIXEL + size,
            warnings=job.warnings,
        )


@contextmanager
def prepared(source: str | os.PathLike[str] | None, options: RenderOptions) -> Iterator[Job]:
    """Open the map and the model and find the window; close the map at the end."""
    if not 0 <= options.seed <= MAX_SEED:
        raise UsageError(f"seed {options.seed} is not in 0..{MAX_SEED}")
    bbox = _bbox(options.bbox)
    crs = _crs(options.bbox_crs)
    bundle = find_bundle(options.model)
    about = bundle.description
    chosen = choose_source(source, bbox, crs)
    source_options = SourceOptions(
        zoom=options.zoom,
        default_zoom=about.zoom,
        style=about.style if about.style in ("maps", "osm") else "maps",
        src_crs=options.src_crs,
        missing=options.missing,  # type: ignore[arg-type]  # checked by SourceOptions
        native=options.native,
        resampling=options.resampling,
        tile_size=options.tile_size,
        fill=about.fill,
    )
    with _logged_warnings() as logged, closing(open_source(chosen, source_options)) as opened:
        window = _window(opened, bbox, crs)
        others = [other for other in shipped_bundles() if other.folder != bundle.folder]
        found = (
            fit.scale_warning(opened, window, bundle),
            fit.colour_warning(opened, window, bundle, others),
        )
        # the list goes on growing while the map is read
        warnings = logged
        warnings += [*getattr(opened, "warnings", []), *(text for text in found if text)]
        if about.kind == "unet":
            warnings.append(
                f"model '{about.name}' is a unet: windows are blended, a pixel also depends on "
                "where its window ends"
            )
        yield Job(opened, window, bundle, options, warnings)


@contextmanager
def _logged_warnings() -> Iterator[list[str]]:
    """Collect what the map sources log as warnings, so that it gets into the result."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("maptile2sat")
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)


def uses_sample(source: str | os.PathLike[str] | None) -> bool:
    """Whether no map is given, neither here nor in the environment."""
    return not (source or os.environ.get("MAPTILE2SAT_SOURCE"))


def choose_source(
    source: str | os.PathLike[str] | None, bbox: BBox | None, crs: CRS = WGS84
) -> str | os.PathLike[str]:
    """Return the source given, the one that `MAPTILE2SAT_SOURCE` names, or the sample map.

    Raises:
        UsageError: If none is given and `bbox` is not inside the sample map.
    """
    source = source or os.environ.get("MAPTILE2SAT_SOURCE")
    if source:
        return source
    sample = sample_map()
    if bbox is None:
        return sample
    with closing(open_source(sample)) as opened:
        info = opened.info
        if info.extent.contains(info.grid.window(bbox, crs)):
            return sample
    box = ",".join(f"{value:g}" for value in bbox)
    raise UsageError(
        "no map given, and the box is outside the sample map (central Helsinki). Say one of:\n"
        f"  maptile2sat render MAP.tif -o OUT.tif --bbox {box}\n"
        "  maptile2sat render 'https://TILES.EXAMPLE/{z}/{x}/{y}.png' "
        f"-o OUT.tif --bbox {box}\n"
        f"  maptile2sat draw EXTRACT.osm.pbf -o MAP.mbtiles --bbox {box}"
    )


def _bbox(given: str | tuple[float, float, float, float] | None) -> BBox | None:
    if given is None:
        return None
    return parse_bbox(given) if isinstance(given, str) else BBox(*given)


@dataclass(frozen=True)
class RenderOptions:
    """Everything that decides a render, apart from the map and the output.

    Attributes:
        bbox: The area: text such as `24.93,60.16,24.95,60.17` or four numbers, west, south,
            east, north; west > east crosses 180 degrees. None: all of the map.
        bbox_crs: CRS of `bbox`.
        zoom: Zoom to read the map at. None: tile maps at the model's zoom, rasters as they are.
        model: Name of a shipped model or folder of a bundle.
        batch_size: Cells read ahead, and windows a `unet` generates at once; changes no pixel.
        cell: Side in pixels of what is generated at once; None: the model's.
        precision: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.
        seed: Of the noise, 0..2^32-1.
        profile: `deflate` (lossless), `jpeg` or `webp`.
        creation_options: More GDAL creation options of the output.
        cog: Whether the output is a Cloud Optimized GeoTIFF.
        src_crs: CRS of a raster that does not state one.
        native: Accept rasters with oblong ground pixels as they are.
        resampling: Name of a rasterio resampling for rasters that `zoom` warps. None: `average`
            where pixels shrink, `bilinear` where they grow.
        tile_size: Side in pixels of a server's tiles, 256 or 512, if its template does not say.
        preview: Path of a PNG with map and result side by side.
        missing: `error` or `mask`: what a tile that a server does not have is.
        max_tiles: Most tiles to fetch. None: 20,000.
        overwrite: Whether an existing output is replaced.
    """

    bbox: str | tuple[float, float, float, float] | None = None
    bbox_crs: str = "EPSG:4326"
    zoom: int | None = None
    model: str = DEFAULT_MODEL
    batch_size: int = 8
    cell: int | None = None
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0
    profile: str = "deflate"
    creation_options: Mapping[str, str] = field(default_factory=dict)
    cog: bool = True
    src_crs: str | None = None
    native: bool = False
    resampling: str | None = None
    tile_size: int | None = None
    preview: Path | str | None = None
    missing: str = "error"
    max_tiles: int | None = None
    overwrite: bool = False


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
        source: The map's name, without secrets.
        attribution: Who is to be named for the map and the model.
        cells: Cells generated.
        skipped_cells: Cells without any map.
        tiles: Tiles of the map read, the halo's included; 0 for rasters.
        seconds: Wall time, without loading TensorFlow.
        generator_seconds: Of it, time in the generator.
        useful_megapixels_per_second: Output pixels over `seconds`, in millions.
        peak_rss_mb: Largest memory of the process so far.
        model: Name, version and hash of the model.
        seed: Of the noise.
        precision: What the generator computed in.
        device: What it computed on.
        exact: Whether a pixel is a function of the map around it alone (`unet` blends).
        preview: The preview picture, if one was asked for.
        warnings: What the user should know.
    """

    output: Path
    width: int
    height: int
    crs: str
    bounds: BBox
    source: str
    attribution: str
    cells: int
    skipped_cells: int
    tiles: int
    seconds: float
    generator_seconds: float
    useful_megapixels_per_second: float
    peak_rss_mb: float
    model: str
    seed: int
    precision: str
    device: str
    exact: bool
    preview: Path | None
    warnings: list[str]


@dataclass(frozen=True)
class Job:
    """A render made ready: everything opened and checked."""

    source: Source
    window: Window
    bundle: Bundle
    options: RenderOptions
    warnings: list[str]


def render(
    source: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    options: RenderOptions | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **changes: Any,
) -> RenderResult:
    """Render a map as satellite-style imagery.

    Args:
        source: What `open_source` takes; None for the sample map.
        output: The GeoTIFF to write.
        options: Everything else; see `RenderOptions`.
        progress: Called with (cells done, all cells).
        **changes: Fields of `RenderOptions` to set, for example `bbox=..., model=...`.

    Raises:
        Maptile2satError: If the map, the model or the request cannot be used, or the output
            cannot be written; then there is no output.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    path = Path(output)
    check_destination(path, overwrite=options.overwrite)
    preview_path = Path(options.preview) if options.preview is not None else None
    if preview_path is not None:
        check_destination(preview_path, overwrite=options.overwrite)
    creation = creation_options(options.profile, options.creation_options, cog=options.cog)
    with _prepared(source, options) as job:
        device = choose_device(options.device, options.precision)
        translator = _translator(job, device)
        tiles = _checked_tiles(job, translator)
        start = time.perf_counter()
        preview = Preview(job.window) if preview_path is not None else None
        tags = _tags(job, device, translator)
        grid = job.source.info.grid
        with GeoTiffWriter(path, grid, job.window, tags, creation, cog=options.cog) as writer:

            def take(cell: mosaic.Cell) -> None:
                writer.write(cell.window, cell.image, cell.mask)
                if preview is not None:
                    preview.add(cell)

            stats = mosaic.make_mosaic(
                job.source,
                translator,
                job.window,
                seed=options.seed,
                fill=job.bundle.description.fill,
                take=take,
                ahead=min(options.batch_size, mosaic.READERS),
                progress=progress,
            )
            writer.finish()
        if preview is not None and preview_path is not None:
            preview.save(preview_path, tags)
        seconds = time.perf_counter() - start
        return RenderResult(
            output=path,
            width=job.window.width,
            height=job.window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(job.window),
            source=job.source.info.name,
            attribution=tags["TIFFTAG_COPYRIGHT"],
            cells=stats.cells,
            skipped_cells=stats.skipped,
            tiles=tiles,
            seconds=round(seconds, 3),
            generator_seconds=round(stats.generator_seconds, 3),
            useful_megapixels_per_second=round(
                job.window.width * job.window.height / 1e6 / seconds, 3
            ),
            peak_rss_mb=round(_peak_rss_mb(), 1),
            model=job.bundle.id,
            seed=options.seed,
            precision=device.precision,
            device=device.kind,
            exact=translator.exact,
            preview=preview_path,
            warnings=job.warnings,
        )


def plan(
    source: str | os.PathLike[str] | None, options: RenderOptions | None = None, **changes: Any
) -> RenderPlan:
    """Return what `render` would do, writing nothing; times one cell for the estimate.

    Raises:
        Maptile2satError: As `render` does.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    creation_options(options.profile, options.creation_options, cog=options.cog)
    with _prepared(source, options) as job:
        translator = _translator(job, choose_device(options.device, options.precision))
        tiles = _checked_tiles(job, translator)
        cells = mosaic.cell_count(job.window, translator.cell)
        grid, window = job.source.info.grid, job.window
        pixels = window.width * window.height
        size = int(pixels * BYTES_PER_PIXEL[options.profile])
        return RenderPlan(
            source=job.source.info.name,
            model=job.bundle.id,
            width=window.width,
            height=window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(window),
            cells=cells,
            tiles=tiles,
            seconds=round(cells * mosaic.seconds_per_cell(translator), 1),
            output_bytes=size,
            temporary_bytes=pixels * TEMPORARY_BYTES_PER_PIXEL + size,
            warnings=job.warnings,
        )


@contextmanager
def prepared(source: str | os.PathLike[str] | None, options: RenderOptions) -> Iterator[Job]:
    """Open the map and the model and find the window; close the map at the end."""
    if not 0 <= options.seed <= MAX_SEED:
        raise UsageError(f"seed {options.seed} is not in 0..{MAX_SEED}")
    bbox = _bbox(options.bbox)
    crs = _crs(options.bbox_crs)
    bundle = find_bundle(options.model)
    about = bundle.description
    chosen = choose_source(source, bbox, crs)
    source_options = SourceOptions(
        zoom=options.zoom,
        default_zoom=about.zoom,
        style=about.style if about.style in ("maps", "osm") else "maps",
        src_crs=options.src_crs,
        missing=options.missing,  # type: ignore[arg-type]  # checked by SourceOptions
        native=options.native,
        resampling=options.resampling,
        tile_size=options.tile_size,
        fill=about.fill,
    )
    with _logged_warnings() as logged, closing(open_source(chosen, source_options)) as opened:
        window = _window(opened, bbox, crs)
        others = [other for other in shipped_bundles() if other.folder != bundle.folder]
        found = (
            fit.scale_warning(opened, window, bundle),
            fit.colour_warning(opened, window, bundle, others),
        )
        # the list goes on growing while the map is read
        warnings = logged
        warnings += [*getattr(opened, "warnings", []), *(text for text in found if text)]
        if about.kind == "unet":
            warnings.append(
                f"model '{about.name}' is a unet: windows are blended, a pixel also depends on "
                "where its window ends"
            )
        yield Job(opened, window, bundle, options, warnings)


@contextmanager
def _logged_warnings() -> Iterator[list[str]]:
    """Collect what the map sources log as warnings, so that it gets into the result."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("maptile2sat")
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)


def uses_sample(source: str | os.PathLike[str] | None) -> bool:
    """Whether no map is given, neither here nor in the environment."""
    return not (source or os.environ.get("MAPTILE2SAT_SOURCE"))


def choose_source(
    source: str | os.PathLike[str] | None, bbox: BBox | None, crs: CRS = WGS84
) -> str | os.PathLike[str]:
    """Return the source given, the one that `MAPTILE2SAT_SOURCE` names, or the sample map.

    Raises:
        UsageError: If none is given and `bbox` is not inside the sample map.
    """
    source = source or os.environ.get("MAPTILE2SAT_SOURCE")
    if source:
        return source
    sample = sample_map()
    if bbox is None:
        return sample
    with closing(open_source(sample)) as opened:
        info = opened.info
        if info.extent.contains(info.grid.window(bbox, crs)):
            return sample
    box = ",".join(f"{value:g}" for value in bbox)
    raise UsageError(
        "no map given, and the box is outside the sample map (central Helsinki). Say one of:\n"
        f"  maptile2sat render MAP.tif -o OUT.tif --bbox {box}\n"
        "  maptile2sat render 'https://TILES.EXAMPLE/{z}/{x}/{y}.png' "
        f"-o OUT.tif --bbox {box}\n"
        f"  maptile2sat draw EXTRACT.osm.pbf -o MAP.mbtiles --bbox {box}"
    )


def _bbox(given: str | tuple[float, float, float, float] | None) -> BBox | None:
    if given is None:
        return None
    return parse_bbox(given) if isinstance(given, str) else BBox(*given)


def _crs(text: str) -> CRS:
    try:
        return CRS.from_user_input(text)
    except (CRSError, ValueError) as error:
        raise UsageError(f"'{text}' is not a CRS: say for example EPSG:4326") from error


@dataclass(frozen=True)
class RenderOptions:
    """Everything that decides a render, apart from the map and the output.

    Attributes:
        bbox: The area: text such as `24.93,60.16,24.95,60.17` or four numbers, west, south,
            east, north; west > east crosses 180 degrees. None: all of the map.
        bbox_crs: CRS of `bbox`.
        zoom: Zoom to read the map at. None: tile maps at the model's zoom, rasters as they are.
        model: Name of a shipped model or folder of a bundle.
        batch_size: Cells read ahead, and windows a `unet` generates at once; changes no pixel.
        cell: Side in pixels of what is generated at once; None: the model's.
        precision: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.
        seed: Of the noise, 0..2^32-1.
        profile: `deflate` (lossless), `jpeg` or `webp`.
        creation_options: More GDAL creation options of the output.
        cog: Whether the output is a Cloud Optimized GeoTIFF.
        src_crs: CRS of a raster that does not state one.
        native: Accept rasters with oblong ground pixels as they are.
        resampling: Name of a rasterio resampling for rasters that `zoom` warps. None: `average`
            where pixels shrink, `bilinear` where they grow.
        tile_size: Side in pixels of a server's tiles, 256 or 512, if its template does not say.
        preview: Path of a PNG with map and result side by side.
        missing: `error` or `mask`: what a tile that a server does not have is.
        max_tiles: Most tiles to fetch. None: 20,000.
        overwrite: Whether an existing output is replaced.
    """

    bbox: str | tuple[float, float, float, float] | None = None
    bbox_crs: str = "EPSG:4326"
    zoom: int | None = None
    model: str = DEFAULT_MODEL
    batch_size: int = 8
    cell: int | None = None
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0
    profile: str = "deflate"
    creation_options: Mapping[str, str] = field(default_factory=dict)
    cog: bool = True
    src_crs: str | None = None
    native: bool = False
    resampling: str | None = None
    tile_size: int | None = None
    preview: Path | str | None = None
    missing: str = "error"
    max_tiles: int | None = None
    overwrite: bool = False


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
        source: The map's name, without secrets.
        attribution: Who is to be named for the map and the model.
        cells: Cells generated.
        skipped_cells: Cells without any map.
        tiles: Tiles of the map read, the halo's included; 0 for rasters.
        seconds: Wall time, without loading TensorFlow.
        generator_seconds: Of it, time in the generator.
        useful_megapixels_per_second: Output pixels over `seconds`, in millions.
        peak_rss_mb: Largest memory of the process so far.
        model: Name, version and hash of the model.
        seed: Of the noise.
        precision: What the generator computed in.
        device: What it computed on.
        exact: Whether a pixel is a function of the map around it alone (`unet` blends).
        preview: The preview picture, if one was asked for.
        warnings: What the user should know.
    """

    output: Path
    width: int
    height: int
    crs: str
    bounds: BBox
    source: str
    attribution: str
    cells: int
    skipped_cells: int
    tiles: int
    seconds: float
    generator_seconds: float
    useful_megapixels_per_second: float
    peak_rss_mb: float
    model: str
    seed: int
    precision: str
    device: str
    exact: bool
    preview: Path | None
    warnings: list[str]


@dataclass(frozen=True)
class Job:
    """A render made ready: everything opened and checked."""

    source: Source
    window: Window
    bundle: Bundle
    options: RenderOptions
    warnings: list[str]


def render(
    source: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    options: RenderOptions | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **changes: Any,
) -> RenderResult:
    """Render a map as satellite-style imagery.

    Args:
        source: What `open_source` takes; None for the sample map.
        output: The GeoTIFF to write.
        options: Everything else; see `RenderOptions`.
        progress: Called with (cells done, all cells).
        **changes: Fields of `RenderOptions` to set, for example `bbox=..., model=...`.

    Raises:
        Maptile2satError: If the map, the model or the request cannot be used, or the output
            cannot be written; then there is no output.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    path = Path(output)
    check_destination(path, overwrite=options.overwrite)
    preview_path = Path(options.preview) if options.preview is not None else None
    if preview_path is not None:
        check_destination(preview_path, overwrite=options.overwrite)
    creation = creation_options(options.profile, options.creation_options, cog=options.cog)
    with _prepared(source, options) as job:
        device = choose_device(options.device, options.precision)
        translator = _translator(job, device)
        tiles = _checked_tiles(job, translator)
        start = time.perf_counter()
        preview = Preview(job.window) if preview_path is not None else None
        tags = _tags(job, device, translator)
        grid = job.source.info.grid
        with GeoTiffWriter(path, grid, job.window, tags, creation, cog=options.cog) as writer:

            def take(cell: mosaic.Cell) -> None:
                writer.write(cell.window, cell.image, cell.mask)
                if preview is not None:
                    preview.add(cell)

            stats = mosaic.make_mosaic(
                job.source,
                translator,
                job.window,
                seed=options.seed,
                fill=job.bundle.description.fill,
                take=take,
                ahead=min(options.batch_size, mosaic.READERS),
                progress=progress,
            )
            writer.finish()
        if preview is not None and preview_path is not None:
            preview.save(preview_path, tags)
        seconds = time.perf_counter() - start
        return RenderResult(
            output=path,
            width=job.window.width,
            height=job.window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(job.window),
            source=job.source.info.name,
            attribution=tags["TIFFTAG_COPYRIGHT"],
            cells=stats.cells,
            skipped_cells=stats.skipped,
            tiles=tiles,
            seconds=round(seconds, 3),
            generator_seconds=round(stats.generator_seconds, 3),
            useful_megapixels_per_second=round(
                job.window.width * job.window.height / 1e6 / seconds, 3
            ),
            peak_rss_mb=round(_peak_rss_mb(), 1),
            model=job.bundle.id,
            seed=options.seed,
            precision=device.precision,
            device=device.kind,
            exact=translator.exact,
            preview=preview_path,
            warnings=job.warnings,
        )


def plan(
    source: str | os.PathLike[str] | None, options: RenderOptions | None = None, **changes: Any
) -> RenderPlan:
    """Return what `render` would do, writing nothing; times one cell for the estimate.

    Raises:
        Maptile2satError: As `render` does.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    creation_options(options.profile, options.creation_options, cog=options.cog)
    with _prepared(source, options) as job:
        translator = _translator(job, choose_device(options.device, options.precision))
        tiles = _checked_tiles(job, translator)
        cells = mosaic.cell_count(job.window, translator.cell)
        grid, window = job.source.info.grid, job.window
        pixels = window.width * window.height
        size = int(pixels * BYTES_PER_PIXEL[options.profile])
        return RenderPlan(
            source=job.source.info.name,
            model=job.bundle.id,
            width=window.width,
            height=window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(window),
            cells=cells,
            tiles=tiles,
            seconds=round(cells * mosaic.seconds_per_cell(translator), 1),
            output_bytes=size,
            temporary_bytes=pixels * TEMPORARY_BYTES_PER_PIXEL + size,
            warnings=job.warnings,
        )


@contextmanager
def prepared(source: str | os.PathLike[str] | None, options: RenderOptions) -> Iterator[Job]:
    """Open the map and the model and find the window; close the map at the end."""
    if not 0 <= options.seed <= MAX_SEED:
        raise UsageError(f"seed {options.seed} is not in 0..{MAX_SEED}")
    bbox = _bbox(options.bbox)
    crs = _crs(options.bbox_crs)
    bundle = find_bundle(options.model)
    about = bundle.description
    chosen = choose_source(source, bbox, crs)
    source_options = SourceOptions(
        zoom=options.zoom,
        default_zoom=about.zoom,
        style=about.style if about.style in ("maps", "osm") else "maps",
        src_crs=options.src_crs,
        missing=options.missing,  # type: ignore[arg-type]  # checked by SourceOptions
        native=options.native,
        resampling=options.resampling,
        tile_size=options.tile_size,
        fill=about.fill,
    )
    with _logged_warnings() as logged, closing(open_source(chosen, source_options)) as opened:
        window = _window(opened, bbox, crs)
        others = [other for other in shipped_bundles() if other.folder != bundle.folder]
        found = (
            fit.scale_warning(opened, window, bundle),
            fit.colour_warning(opened, window, bundle, others),
        )
        # the list goes on growing while the map is read
        warnings = logged
        warnings += [*getattr(opened, "warnings", []), *(text for text in found if text)]
        if about.kind == "unet":
            warnings.append(
                f"model '{about.name}' is a unet: windows are blended, a pixel also depends on "
                "where its window ends"
            )
        yield Job(opened, window, bundle, options, warnings)


@contextmanager
def _logged_warnings() -> Iterator[list[str]]:
    """Collect what the map sources log as warnings, so that it gets into the result."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("maptile2sat")
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)


def uses_sample(source: str | os.PathLike[str] | None) -> bool:
    """Whether no map is given, neither here nor in the environment."""
    return not (source or os.environ.get("MAPTILE2SAT_SOURCE"))


def choose_source(
    source: str | os.PathLike[str] | None, bbox: BBox | None, crs: CRS = WGS84
) -> str | os.PathLike[str]:
    """Return the source given, the one that `MAPTILE2SAT_SOURCE` names, or the sample map.

    Raises:
        UsageError: If none is given and `bbox` is not inside the sample map.
    """
    source = source or os.environ.get("MAPTILE2SAT_SOURCE")
    if source:
        return source
    sample = sample_map()
    if bbox is None:
        return sample
    with closing(open_source(sample)) as opened:
        info = opened.info
        if info.extent.contains(info.grid.window(bbox, crs)):
            return sample
    box = ",".join(f"{value:g}" for value in bbox)
    raise UsageError(
        "no map given, and the box is outside the sample map (central Helsinki). Say one of:\n"
        f"  maptile2sat render MAP.tif -o OUT.tif --bbox {box}\n"
        "  maptile2sat render 'https://TILES.EXAMPLE/{z}/{x}/{y}.png' "
        f"-o OUT.tif --bbox {box}\n"
        f"  maptile2sat draw EXTRACT.osm.pbf -o MAP.mbtiles --bbox {box}"
    )


def _bbox(given: str | tuple[float, float, float, float] | None) -> BBox | None:
    if given is None:
        return None
    return parse_bbox(given) if isinstance(given, str) else BBox(*given)


def _crs(text: str) -> CRS:
    try:
        return CRS.from_user_input(text)
    except (CRSError, ValueError) as error:
        raise UsageError(f"'{text}' is not a CRS: say for example EPSG:4326") from error


def _window(source: Source, bbox: BBox | None, crs: CRS) -> Window:
    """Return the pixels asked for, after checking that the map has any of them."""
    info = source.info
    window = info.extent if bbox is None else info.grid.window(bbox, crs)
    if not any(True for _ in info.grid.pieces(window, info.extent)):
        west, south, east, north = info.grid.lonlat_bounds(info.extent)
        raise UsageError(
            f"the box is outside the map {info.name}, which covers "
            f"{west:.5f},{south:.5f},{east:.5f},{north:.5f} (degrees)"
        )
    if max(window.width, window.height) > MAX_SIDE:
        raise UsageError(
            f"the area is {window.width}x{window.height} pixels: give a smaller --bbox or --zoom"
        )
    return window


@dataclass(frozen=True)
class RenderOptions:
    """Everything that decides a render, apart from the map and the output.

    Attributes:
        bbox: The area: text such as `24.93,60.16,24.95,60.17` or four numbers, west, south,
            east, north; west > east crosses 180 degrees. None: all of the map.
        bbox_crs: CRS of `bbox`.
        zoom: Zoom to read the map at. None: tile maps at the model's zoom, rasters as they are.
        model: Name of a shipped model or folder of a bundle.
        batch_size: Cells read ahead, and windows a `unet` generates at once; changes no pixel.
        cell: Side in pixels of what is generated at once; None: the model's.
        precision: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.
        seed: Of the noise, 0..2^32-1.
        profile: `deflate` (lossless), `jpeg` or `webp`.
        creation_options: More GDAL creation options of the output.
        cog: Whether the output is a Cloud Optimized GeoTIFF.
        src_crs: CRS of a raster that does not state one.
        native: Accept rasters with oblong ground pixels as they are.
        resampling: Name of a rasterio resampling for rasters that `zoom` warps. None: `average`
            where pixels shrink, `bilinear` where they grow.
        tile_size: Side in pixels of a server's tiles, 256 or 512, if its template does not say.
        preview: Path of a PNG with map and result side by side.
        missing: `error` or `mask`: what a tile that a server does not have is.
        max_tiles: Most tiles to fetch. None: 20,000.
        overwrite: Whether an existing output is replaced.
    """

    bbox: str | tuple[float, float, float, float] | None = None
    bbox_crs: str = "EPSG:4326"
    zoom: int | None = None
    model: str = DEFAULT_MODEL
    batch_size: int = 8
    cell: int | None = None
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0
    profile: str = "deflate"
    creation_options: Mapping[str, str] = field(default_factory=dict)
    cog: bool = True
    src_crs: str | None = None
    native: bool = False
    resampling: str | None = None
    tile_size: int | None = None
    preview: Path | str | None = None
    missing: str = "error"
    max_tiles: int | None = None
    overwrite: bool = False


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
        source: The map's name, without secrets.
        attribution: Who is to be named for the map and the model.
        cells: Cells generated.
        skipped_cells: Cells without any map.
        tiles: Tiles of the map read, the halo's included; 0 for rasters.
        seconds: Wall time, without loading TensorFlow.
        generator_seconds: Of it, time in the generator.
        useful_megapixels_per_second: Output pixels over `seconds`, in millions.
        peak_rss_mb: Largest memory of the process so far.
        model: Name, version and hash of the model.
        seed: Of the noise.
        precision: What the generator computed in.
        device: What it computed on.
        exact: Whether a pixel is a function of the map around it alone (`unet` blends).
        preview: The preview picture, if one was asked for.
        warnings: What the user should know.
    """

    output: Path
    width: int
    height: int
    crs: str
    bounds: BBox
    source: str
    attribution: str
    cells: int
    skipped_cells: int
    tiles: int
    seconds: float
    generator_seconds: float
    useful_megapixels_per_second: float
    peak_rss_mb: float
    model: str
    seed: int
    precision: str
    device: str
    exact: bool
    preview: Path | None
    warnings: list[str]


@dataclass(frozen=True)
class Job:
    """A render made ready: everything opened and checked."""

    source: Source
    window: Window
    bundle: Bundle
    options: RenderOptions
    warnings: list[str]


def render(
    source: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    options: RenderOptions | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **changes: Any,
) -> RenderResult:
    """Render a map as satellite-style imagery.

    Args:
        source: What `open_source` takes; None for the sample map.
        output: The GeoTIFF to write.
        options: Everything else; see `RenderOptions`.
        progress: Called with (cells done, all cells).
        **changes: Fields of `RenderOptions` to set, for example `bbox=..., model=...`.

    Raises:
        Maptile2satError: If the map, the model or the request cannot be used, or the output
            cannot be written; then there is no output.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    path = Path(output)
    check_destination(path, overwrite=options.overwrite)
    preview_path = Path(options.preview) if options.preview is not None else None
    if preview_path is not None:
        check_destination(preview_path, overwrite=options.overwrite)
    creation = creation_options(options.profile, options.creation_options, cog=options.cog)
    with _prepared(source, options) as job:
        device = choose_device(options.device, options.precision)
        translator = _translator(job, device)
        tiles = _checked_tiles(job, translator)
        start = time.perf_counter()
        preview = Preview(job.window) if preview_path is not None else None
        tags = _tags(job, device, translator)
        grid = job.source.info.grid
        with GeoTiffWriter(path, grid, job.window, tags, creation, cog=options.cog) as writer:

            def take(cell: mosaic.Cell) -> None:
                writer.write(cell.window, cell.image, cell.mask)
                if preview is not None:
                    preview.add(cell)

            stats = mosaic.make_mosaic(
                job.source,
                translator,
                job.window,
                seed=options.seed,
                fill=job.bundle.description.fill,
                take=take,
                ahead=min(options.batch_size, mosaic.READERS),
                progress=progress,
            )
            writer.finish()
        if preview is not None and preview_path is not None:
            preview.save(preview_path, tags)
        seconds = time.perf_counter() - start
        return RenderResult(
            output=path,
            width=job.window.width,
            height=job.window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(job.window),
            source=job.source.info.name,
            attribution=tags["TIFFTAG_COPYRIGHT"],
            cells=stats.cells,
            skipped_cells=stats.skipped,
            tiles=tiles,
            seconds=round(seconds, 3),
            generator_seconds=round(stats.generator_seconds, 3),
            useful_megapixels_per_second=round(
                job.window.width * job.window.height / 1e6 / seconds, 3
            ),
            peak_rss_mb=round(_peak_rss_mb(), 1),
            model=job.bundle.id,
            seed=options.seed,
            precision=device.precision,
            device=device.kind,
            exact=translator.exact,
            preview=preview_path,
            warnings=job.warnings,
        )


def plan(
    source: str | os.PathLike[str] | None, options: RenderOptions | None = None, **changes: Any
) -> RenderPlan:
    """Return what `render` would do, writing nothing; times one cell for the estimate.

    Raises:
        Maptile2satError: As `render` does.
    """
    options = dataclasses.replace(options or RenderOptions(), **changes)
    creation_options(options.profile, options.creation_options, cog=options.cog)
    with _prepared(source, options) as job:
        translator = _translator(job, choose_device(options.device, options.precision))
        tiles = _checked_tiles(job, translator)
        cells = mosaic.cell_count(job.window, translator.cell)
        grid, window = job.source.info.grid, job.window
        pixels = window.width * window.height
        size = int(pixels * BYTES_PER_PIXEL[options.profile])
        return RenderPlan(
            source=job.source.info.name,
            model=job.bundle.id,
            width=window.width,
            height=window.height,
            crs=grid.crs.to_string(),
            bounds=grid.bounds(window),
            cells=cells,
            tiles=tiles,
            seconds=round(cells * mosaic.seconds_per_cell(translator), 1),
            output_bytes=size,
            temporary_bytes=pixels * TEMPORARY_BYTES_PER_PIXEL + size,
            warnings=job.warnings,
        )


@contextmanager
def prepared(source: str | os.PathLike[str] | None, options: RenderOptions) -> Iterator[Job]:
    """Open the map and the model and find the window; close the map at the end."""
    if not 0 <= options.seed <= MAX_SEED:
        raise UsageError(f"seed {options.seed} is not in 0..{MAX_SEED}")
    bbox = _bbox(options.bbox)
    crs = _crs(options.bbox_crs)
    bundle = find_bundle(options.model)
    about = bundle.description
    chosen = choose_source(source, bbox, crs)
    source_options = SourceOptions(
        zoom=options.zoom,
        default_zoom=about.zoom,
        style=about.style if about.style in ("maps", "osm") else "maps",
        src_crs=options.src_crs,
        missing=options.missing,  # type: ignore[arg-type]  # checked by SourceOptions
        native=options.native,
        resampling=options.resampling,
        tile_size=options.tile_size,
        fill=about.fill,
    )
    with _logged_warnings() as logged, closing(open_source(chosen, source_options)) as opened:
        window = _window(opened, bbox, crs)
        others = [other for other in shipped_bundles() if other.folder != bundle.folder]
        found = (
            fit.scale_warning(opened, window, bundle),
            fit.colour_warning(opened, window, bundle, others),
        )
        # the list goes on growing while the map is read
        warnings = logged
        warnings += [*getattr(opened, "warnings", []), *(text for text in found if text)]
        if about.kind == "unet":
            warnings.append(
                f"model '{about.name}' is a unet: windows are blended, a pixel also depends on "
                "where its window ends"
            )
        yield Job(opened, window, bundle, options, warnings)


@contextmanager
def _logged_warnings() -> Iterator[list[str]]:
    """Collect what the map sources log as warnings, so that it gets into the result."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("maptile2sat")
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)


def uses_sample(source: str | os.PathLike[str] | None) -> bool:
    """Whether no map is given, neither here nor in the environment."""
    return not (source or os.environ.get("MAPTILE2SAT_SOURCE"))


def choose_source(
    source: str | os.PathLike[str] | None, bbox: BBox | None, crs: CRS = WGS84
) -> str | os.PathLike[str]:
    """Return the source given, the one that `MAPTILE2SAT_SOURCE` names, or the sample map.

    Raises:
        UsageError: If none is given and `bbox` is not inside the sample map.
    """
    source = source or os.environ.get("MAPTILE2SAT_SOURCE")
    if source:
        return source
    sample = sample_map()
    if bbox is None:
        return sample
    with closing(open_source(sample)) as opened:
        info = opened.info
        if info.extent.contains(info.grid.window(bbox, crs)):
            return sample
    box = ",".join(f"{value:g}" for value in bbox)
    raise UsageError(
        "no map given, and the box is outside the sample map (central Helsinki). Say one of:\n"
        f"  maptile2sat render MAP.tif -o OUT.tif --bbox {box}\n"
        "  maptile2sat render 'https://TILES.EXAMPLE/{z}/{x}/{y}.png' "
        f"-o OUT.tif --bbox {box}\n"
        f"  maptile2sat draw EXTRACT.osm.pbf -o MAP.mbtiles --bbox {box}"
    )


def _bbox(given: str | tuple[float, float, float, float] | None) -> BBox | None:
    if given is None:
        return None
    return parse_bbox(given) if isinstance(given, str) else BBox(*given)


def _crs(text: str) -> CRS:
    try:
        return CRS.from_user_input(text)
    except (CRSError, ValueError) as error:
        raise UsageError(f"'{text}' is not a CRS: say for example EPSG:4326") from error


def _window(source: Source, bbox: BBox | None, crs: CRS) -> Window:
    """Return the pixels asked for, after checking that the map has any of them."""
    info = source.info
    window = info.extent if bbox is None else info.grid.window(bbox, crs)
    if not any(True for _ in info.grid.pieces(window, info.extent)):
        west, south, east, north = info.grid.lonlat_bounds(info.extent)
        raise UsageError(
            f"the box is outside the map {info.name}, which covers "
            f"{west:.5f},{south:.5f},{east:.5f},{north:.5f} (degrees)"
        )
    if max(window.width, window.height) > MAX_SIDE:
        raise UsageError(
            f"the area is {window.width}x{window.height} pixels: give a smaller --bbox or --zoom"
        )
    return window


def _translator(job: Job, device: Device) -> Translator:
    return load_translator(
        job.bundle, device, cell=job.options.cell, batch_size=job.options.batch_size
    )


def checked_tiles(job: Job, translator: Translator) -> int:
    """Return how many tiles the render reads, or refuse if they are too many."""
    limit = DEFAULT_MAX_TILES if job.options.max_tiles is None else job.options.max_tiles
    window = mosaic.covered_by_cells(job.window, translator.cell).grown(translator.halo)
    tiles = tile_count(job.source, window)
    if tiles > limit:
        raise UsageError(
            f"the area takes {tiles:,} tiles, more than {limit:,}: give a smaller --bbox or "
            f"--zoom, or say --max-tiles {tiles} if the map's owner allows it"
        )
    return tiles
