"""A render made ready: map and model opened, area found, everything checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

import numpy as np
import rasterio
from rasterio.crs import CRS

from maptile2sat._version import __version__
from maptile2sat.errors import UsageError
from maptile2sat.geo.crs import WGS84
from maptile2sat.geo.grid import BBox, Window
from maptile2sat.models.bundle import Bundle, find_bundle
from maptile2sat.models.device import INTEGER, Device, choose_device
from maptile2sat.models.generator import NetworkTranslator, Translator, load_translator
from maptile2sat.models.noise import MAX_SEED, noise
from maptile2sat.output.geotiff import check_destination
from maptile2sat.paths import sample_map
from maptile2sat.rendering import mosaic
from maptile2sat.rendering.area import Area, find_area, read_box
from maptile2sat.rendering.item import item_destination
from maptile2sat.rendering.options import DEFAULT_MAX_TILES, RenderOptions
from maptile2sat.sources import (
    MAX_REPEATS,
    MaskedTiles,
    RepeatGuard,
    Source,
    SourceOptions,
    located,
    open_source,
    tile_count,
    tile_count_of_rows,
)
from maptile2sat.sources.base import STYLES
from maptile2sat.sources.redact import address_mark
from maptile2sat.sources.warp import methods_of

CACHE_BYTES = 128 << 20
LABELS = ("auto", "yes", "no")
"""What GDAL may keep of decoded blocks; its own limit grows with the machine's memory."""


@dataclass
class Notices:
    """What the user should know: told at once, and kept for the result.

    Attributes:
        tell: Called with each text, from whatever thread it comes up in.
        texts: All of them so far.
    """

    tell: Callable[[str], None]
    texts: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, text: str) -> None:
        """Take a text."""
        with self._lock:
            self.texts.append(text)
            self.tell(text)


@dataclass(frozen=True)
class Job:
    """A render made ready: everything opened and checked.

    `origin` is where the map lies, as `located` tells: given, from the environment, or the sample.
    `masked` are tiles that it does not have; they are told when it is closed. `repeats` notices
    error pictures.
    """

    origin: str
    source: Source
    area: Area
    bundle: Bundle
    options: RenderOptions
    notices: Notices
    masked: MaskedTiles
    repeats: RepeatGuard

    @property
    def window(self) -> Window:
        """The pixels of the map's grid to generate."""
        return self.area.window

    @property
    def whole(self) -> bool:
        """Whether it is rendered in whole numbers."""
        return self.bundle.exact and self.options.precision in ("auto", INTEGER)

    @property
    def cleaned(self) -> bool:
        """Whether labels are taken off the map first."""
        if not self.bundle.description.architecture.get("cleaner"):
            return False
        labels = self.options.labels
        return (
            not self.whole or labels == "yes" or (labels == "auto" and not self.source.info.drawn)
        )


@contextmanager
def prepared(
    source: str | os.PathLike[str] | None,
    options: RenderOptions,
    tell: Callable[[str], None],
    *,
    pyramid: bool = False,
    **source_changes: Any,
) -> Iterator[Job]:
    """Open the map and the model and find the window; close the map at the end. See `open_job`."""
    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
        job = open_job(source, options, tell, pyramid=pyramid, **source_changes)
        with closing(job.source):
            yield job


def open_job(
    source: str | os.PathLike[str] | None,
    options: RenderOptions,
    tell: Callable[[str], None],
    *,
    pyramid: bool = False,
    **source_changes: Any,
) -> Job:
    """Open the map and the model and find the window; who calls closes the map.

    Args:
        source: The map; None for the environment's, or the sample.
        options: The render.
        tell: Called with each notice.
        pyramid: Whether the output's pixels are to lie on the grid of a zoom.
        **source_changes: Fields of `SourceOptions` to set otherwise.
    """
    notices = Notices(tell)
    if not 0 <= options.seed <= MAX_SEED:
        raise UsageError(f"seed {options.seed} is not in 0..{MAX_SEED}")
    if options.labels not in LABELS:
        raise UsageError(f"labels '{options.labels}' is not one of {', '.join(LABELS)}")
    methods_of(options.resampling)  # refuses what is not known, warped or not
    bbox, crs = read_box(options.bbox, options.bbox_crs)
    bundle = find_bundle(options.model)
    about = bundle.description
    style = about.style if about.style in STYLES else "maps"
    origin = located(choose_source(source, bbox, crs, style))
    masked, repeats = MaskedTiles(), source_changes.pop("repeats", None) or guard_of(options)
    source_options = SourceOptions(
        zoom=options.zoom,
        default_zoom=about.zoom,
        style=style,
        src_crs=options.src_crs,
        missing=options.missing,  # type: ignore[arg-type]  # checked by SourceOptions
        native=options.native,
        resampling=options.resampling,
        tile_size=options.tile_size,
        headers=options.headers,
        ca_bundle=options.ca_bundle,
        rate=options.rate,
        allow_vrt=options.allow_vrt,
        repeats=repeats,
        fill=about.fill,
        warn=notices.add,
        masked=masked,
    )
    source_options = dataclasses.replace(source_options, **source_changes)
    with ExitStack() as on_failure:
        opened = open_source(origin, source_options)
        on_failure.callback(opened.close)
        if about.kind == "unet":
            notices.add(
                f"model '{about.name}' is a unet: windows are blended, a pixel also depends on "
                "where its window ends"
            )
        area = find_area(opened, options, bbox, crs, pyramid=pyramid)
        job = Job(origin, opened, area, bundle, options, notices, masked, repeats)
        _warn_of_floats(job)
        _warn_of_unused(opened, options, area, notices)
        if bbox is not None and bbox.west > bbox.east and crs.is_geographic:
            _warn_of_turn(opened, area, notices)
        on_failure.pop_all()
        return job


def _warn_of_floats(job: Job) -> None:
    """Note that a render is not in whole numbers.

    Raises:
        UsageError: If an option is given that only whole numbers take.
    """
    about, options = job.bundle.description, job.options
    if job.whole:
        return
    if options.labels == "no":
        raise UsageError(
            f"--labels no: only whole-number models can leave labels where they are, and "
            f"'{about.name}' is not rendered in whole numbers here"
        )
    if options.engine == "openvino":
        raise UsageError(
            f"--engine openvino computes whole numbers only, and '{about.name}' is not rendered "
            "in them here"
        )
    if about.kind == "local" and not job.bundle.exact:
        job.notices.add(
            f"model '{about.name}' has no whole-number form: on another kind of machine some "
            "pixels may differ by a level ('maptile2sat quantise' makes that form)"
        )


def guard_of(options: RenderOptions) -> RepeatGuard:
    """Return what notices error pictures in the map of a render."""
    return RepeatGuard(0 if options.allow_repeats else MAX_REPEATS)


def _warn_of_unused(source: Source, options: RenderOptions, area: Area, notices: Notices) -> None:
    """Say which options do nothing for this map."""
    info = source.info
    if options.tile_size is not None and not info.tiled:
        notices.add(f"--tile-size is not used: {info.name} does not come in tiles")
    if options.src_crs is not None and info.tiled:
        notices.add(f"--src-crs is not used: {info.name} comes in web mercator tiles")
    reads_as_it_is = info.tiled or options.zoom is None
    if options.resampling is not None and reads_as_it_is and not area.regridded:
        notices.add("--resampling is not used: neither the map nor the output is warped")


def uses_sample(source: str | os.PathLike[str] | None) -> bool:
    """Whether no map is given, neither here nor in the environment."""
    return not (source or os.environ.get("MAPTILE2SAT_SOURCE"))


def choose_source(
    source: str | os.PathLike[str] | None,
    bbox: BBox | None,
    crs: CRS = WGS84,
    style: str = "maps",
) -> str | os.PathLike[str]:
    """Return the source given, the one that `MAPTILE2SAT_SOURCE` names, or the sample map.

    Args:
        source: What the user gave.
        bbox: The area wanted, if not all of the map.
        crs: Of `bbox`.
        style: In which the sample map is to be drawn.

    Raises:
        UsageError: If none is given and `bbox` is not inside the sample map.
    """
    source = source or os.environ.get("MAPTILE2SAT_SOURCE")
    if source:
        return source
    sample = sample_map(style)
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


def _warn_of_turn(source: Source, area: Area, notices: Notices) -> None:
    """Say that a box across 180 degrees goes on where the map does not."""
    info = source.info
    if info.grid.wrap is None and area.window.right > info.extent.right:
        notices.add(
            f"the box crosses 180 degrees, and {info.name} cannot be read across: what lies "
            "beyond its eastern end is masked (-z ZOOM reads across)"
        )


def made_of(job: Job, numerics: str) -> dict[str, Any]:
    """Return all that decides the pixels of a render, without anything secret.

    Args:
        job: The render.
        numerics: The fingerprint of what computes.
    """
    grid, options = job.source.info.grid, job.options
    return {
        "source": job.source.info.name,
        "source_address": address_mark(job.origin),
        "source_file": _file_state(job.origin, job.source.info.parts),
        "grid": [grid.crs.to_wkt(), *grid.transform(Window(0, 0, 1, 1))[:6]],
        "window": list(job.window),
        "model": job.bundle.description.identity,
        "labels": job.cleaned,
        "architecture": job.bundle.description.architecture,
        "fill": job.bundle.description.fill,
        "numerics": numerics,
        "seed": options.seed,
        "missing": options.missing,
        "resampling": None if options.zoom is None else options.resampling,
        "tile_size": options.tile_size,
    }


def _file_state(origin: str, parts: Sequence[Path]) -> list[int | str] | None:
    """Return size and time of change of a map that is a file: another map has others.

    With `parts`, a digest of theirs follows. The size of a folder is none of the map: it depends
    on the file system.
    """

    def look(path: Path) -> list[int]:
        state = path.stat()
        return [state.st_size if S_ISREG(state.st_mode) else 0, state.st_mtime_ns]

    try:
        found = look(Path(origin))
        others = sorted([part.name, *look(part)] for part in parts)
    except OSError:  # an address, or a template
        return None
    if not others:
        return [*found]
    return [*found, hashlib.sha256(json.dumps(others).encode()).hexdigest()[:16]]


def checked_tiles(job: Job, translator: Translator) -> int:
    """Return how many tiles the render reads, or refuse if they are too many.

    Without a word from the user that is only so on a network, where each is a request.
    """
    limit = job.options.max_tiles
    if limit is None and job.source.info.remote:
        limit = DEFAULT_MAX_TILES
    every = mosaic.cells_of(job.window, translator)
    near = job.area.wanted(every)
    if near is None:
        tiles = tile_count(job.source, mosaic.context_of(job.window, translator))
    else:
        cells = filter(near, every)
        contexts = (mosaic.context_of(job.window, translator, cell) for cell in cells)
        tiles = tile_count_of_rows(job.source, contexts)
    if limit is not None and tiles > limit:
        raise UsageError(
            f"the area takes {tiles:,} tiles, more than {limit:,}: give a smaller --bbox or "
            f"--zoom, or pass --max-tiles {tiles} if the map's owner allows it"
        )
    return tiles


def wanted_cells(job: Job, translator: Translator) -> int:
    """Return how many cells are to be generated, at most."""
    cells = mosaic.cells_of(job.window, translator)
    near = job.area.wanted(cells)
    return len(cells) if near is None else sum(map(near, cells))


def translator_of(job: Job, device: Device) -> NetworkTranslator:
    """Return the generator of a render on a device."""
    size = job.options.batch_size
    return load_translator(
        job.bundle,
        device,
        cell=job.options.cell,
        batch_size=size,
        cells=size,
        engine=job.options.engine,
        clean=job.cleaned,
    )


def device_of(job: Job) -> Device:
    """Return where and how a render computes.

    Raises:
        Maptile2satError: If the device asked for is not there.
    """
    options = job.options
    device = options.device
    if options.engine == "openvino" and device == "auto":
        device = "cpu"  # OpenVINO computes on no GPU here
    return choose_device(device, options.precision, exact=job.bundle.exact)


# Where output, preview and STAC Item of a render go


class Destinations(NamedTuple):
    """The files of a render.

    Attributes:
        output: The imagery.
        preview: The picture of map and result, if one is asked for.
        item: The STAC Item, if one is asked for.
    """

    output: Path
    preview: Path | None
    item: Path | None


def destinations(output: str | os.PathLike[str], options: RenderOptions) -> Destinations:
    """Return where the files of a render go, after checking that they can.

    Raises:
        UsageError: If the preview is not called a PNG.
        OutputError: If something is there already, or cannot be written.
        MissingExtraError: If a STAC Item is asked for and pystac is not installed.
    """
    path = Path(output)
    check_destination(path, overwrite=options.overwrite)
    preview = None if options.preview is None else Path(options.preview)
    if preview is not None:
        if preview.suffix.lower() != ".png":
            raise UsageError(f"the preview {preview} is a PNG: give a name that ends in .png")
        check_destination(preview, overwrite=options.overwrite)
    item = item_destination(path, overwrite=options.overwrite) if options.stac else None
    return Destinations(path, preview, item)


def check_different(origin: str, places: Destinations) -> None:
    """Make sure that neither the map nor the output would be overwritten by something else.

    Args:
        origin: Path or address of the map, as `located` returns it.
        places: Where the files of the render go.

    Raises:
        UsageError: If map, output, preview and STAC Item are not different files.
    """
    for extra in (places.preview, places.item):
        if extra is not None and extra.resolve() == places.output.resolve():
            kind = "the preview" if extra == places.preview else "its STAC Item"
            raise UsageError(f"{places.output} cannot be both the output and {kind}")
    for written in places:
        if written is not None and _same_file(written, origin):
            raise UsageError(f"{written} is the map itself: give another name")


def _same_file(one: Path, other: str) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist, or is an address
        return False


# How long cells take on this machine

PROBE = 512
"""Side in pixels of the cell that is timed on a processor."""

YEAR = 365.25 * 24 * 3600
"""Seconds from which on a render is not meant."""

LARGE = 10**11
"""Pixels from which on a render may take so long."""


def excess(seconds: float, needed: int, folder: Path | None) -> str:
    """Return what makes a plan one that cannot be meant, in one line; empty if nothing does.

    Args:
        seconds: How long it takes.
        needed: Bytes of disk that it takes, at most.
        folder: Where; None leaves this out.
    """
    said = [f"takes about {seconds / YEAR:,.0f} years on this machine"] if seconds > YEAR else []
    if folder is not None:
        with suppress(OSError):  # a folder that is not there yet, or of which nothing is known
            free = shutil.disk_usage(folder).free
            if needed > free:
                said.append(f"needs up to {_gb(needed)} GB of disk, of which {_gb(free)} are free")
    if not said:
        return ""
    return f"this render {' and '.join(said)}: give a smaller area (--bbox), or a lower --zoom"


def _gb(count: int) -> str:
    return f"{count / 1e9:,.0f}" if count >= 10e9 else f"{count / 1e9:,.2f}"


def seconds_per_cell(translator: NetworkTranslator, cell: Window) -> float:
    """Return how long a cell takes on this machine, the first call's tracing left out.

    A processor is timed with a small cell: an estimate should not take as long as the work. A
    GPU is as fast as it is with its usual cells alone.
    """
    whole = cell.grown(translator.halo)
    if not translator.overlap:
        translator = translator.resized(min(PROBE, translator.cell))
    window = Window(0, 0, translator.cell, translator.cell).grown(translator.halo)
    image = np.full((window.height, window.width, 3), 230, np.uint8)
    batch = [translator.pack(image, noise(0, window))] * translator.batch
    translator.finish(translator.start(batch))
    start = time.perf_counter()
    translator.finish(translator.start(batch))
    seconds = (time.perf_counter() - start) / translator.batch
    return seconds * whole.width * whole.height / window.width**2


# What a render's files say of themselves


def tags_of(job: Job, device: Device, translator: Translator) -> dict[str, str]:
    """Return the output's metadata: what made it, and nothing that changes by the day."""
    about, info, grid = job.bundle.description, job.source.info, job.source.info.grid
    metres = sum(grid.metres_per_pixel(job.window)) / 2
    numerics = device.fingerprint
    if device.precision != INTEGER:
        together = f" x {translator.batch}" if translator.batch > 1 else ""
        numerics = f"{numerics}; cell {translator.cell}{together}"
    scale = {"METRES_PER_PIXEL": f"{metres:.4f}"} if grid.zoom is None else {"ZOOM": str(grid.zoom)}
    return {
        "TIFFTAG_SOFTWARE": f"maptile2sat {__version__}",
        "TIFFTAG_IMAGEDESCRIPTION": (
            "SYNTHETIC satellite-style imagery, generated from a map by a neural network; "
            "it does not show the real ground"
        ),
        "TIFFTAG_COPYRIGHT": attribution_of(job),
        "SYNTHETIC": "YES",
        "MODEL": about.name,
        "MODEL_VERSION": about.version,
        "MODEL_SHA256": about.identity,
        "SEED": str(job.options.seed),
        "PRECISION": device.precision,
        "NUMERICS": numerics,
        "EXACT": "YES" if translator.exact else "NO",
        "LABELS": "TAKEN OFF" if job.cleaned else "KEPT",
        # a local path would say where the file lay, and change the bytes with it
        "SOURCE": info.name if "://" in info.name else Path(info.name).name,
        **scale,
    }


def attribution_of(job: Job) -> str:
    """Return who is to be named for the map and the model."""
    owners = (job.source.info.attribution, job.bundle.description.attribution)
    return "; ".join(text for text in owners if text)
