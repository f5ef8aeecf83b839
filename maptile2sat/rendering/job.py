"""A render made ready: map and model opened, area found, everything checked."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from rasterio.crs import CRS
from rasterio.enums import Resampling
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
class Job:
    """A render made ready: everything opened and checked.

    `origin` is what the map was opened from: given, from the environment, or the sample.
    """

    origin: str | os.PathLike[str]
    source: Source
    window: Window
    bundle: Bundle
    options: RenderOptions
    warnings: list[str]


@contextmanager
def prepared(source: str | os.PathLike[str] | None, options: RenderOptions) -> Iterator[Job]:
    """Open the map and the model and find the window; close the map at the end."""
    if not 0 <= options.seed <= MAX_SEED:
        raise UsageError(f"seed {options.seed} is not in 0..{MAX_SEED}")
    if options.resampling is not None and options.resampling not in Resampling.__members__:
        raise UsageError(
            f"resampling '{options.resampling}' is not known: say one of "
            f"{', '.join(Resampling.__members__)}"
        )
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
        # the list goes on growing while the map is read
        warnings = logged
        warnings += getattr(opened, "warnings", [])
        if about.kind == "unet":
            warnings.append(
                f"model '{about.name}' is a unet: windows are blended, a pixel also depends on "
                "where its window ends"
            )
        yield Job(chosen, opened, window, bundle, options, warnings)


def check_fit(job: Job) -> None:
    """Warn of a map whose scale or colours are not the model's; reads the map's middle."""
    others = [other for other in shipped_bundles() if other.folder != job.bundle.folder]
    found = (
        fit.scale_warning(job.source, job.window, job.bundle),
        fit.colour_warning(job.source, job.window, job.bundle, others),
    )
    job.warnings.extend(text for text in found if text)


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


def checked_tiles(job: Job, translator: Translator) -> int:
    """Return how many tiles the render reads, or refuse if they are too many."""
    limit = DEFAULT_MAX_TILES if job.options.max_tiles is None else job.options.max_tiles
    tiles = tile_count(job.source, mosaic.context_of(job.window, translator))
    if tiles > limit:
        raise UsageError(
            f"the area takes {tiles:,} tiles, more than {limit:,}: give a smaller --bbox or "
            f"--zoom, or say --max-tiles {tiles} if the map's owner allows it"
        )
    return tiles
