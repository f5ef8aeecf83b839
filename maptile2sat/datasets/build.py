"""Building a set of pairs from any two map sources."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from maptile2sat._version import __version__
from maptile2sat.datasets.pairs import (
    DESCRIPTION,
    MIN_SIDE,
    SPLITS,
    Side,
    read_description,
    write_json,
)
from maptile2sat.datasets.store import (
    FOLDER,
    Format,
    Lattice,
    Parts,
    Workshop,
    choose,
    claim,
    identity,
    is_complete,
)
from maptile2sat.errors import OutputError, TrainingError, UsageError
from maptile2sat.geo.grid import BBox, Window, mercator_grid
from maptile2sat.sources import (
    MAX_REPEATS,
    Hosts,
    RepeatGuard,
    SourceOptions,
    located,
    open_source,
)
from maptile2sat.sources.base import Source, common
from maptile2sat.sources.headers import VARIABLE, environment_headers, merged

# What pairs to build

LARGEST = 4096
"""Largest side of one half of a pair in pixels."""


@dataclass(frozen=True)
class BuildOptions:
    """What pairs to build.

    Attributes:
        zoom: Web mercator zoom on whose grid both sources are read.
        bbox: The area in degrees; by default where both sources may have data.
        count: Pairs wanted; by default all that fit.
        val_fraction: Part of them for validation.
        seed: Decides which squares are taken, and for what.
        size: Side of a half in pixels.
        map_side: Half that the map becomes.
        format: `png` keeps map colours exact; `jpeg` is quality 95 in full colour.
        style: Style in which OpenStreetMap extracts are drawn.
        keep_uniform: Keep pairs whose map or image is of one colour, such as open sea.
        src_crs: CRS of a raster that does not state one.
        tile_size: Side in pixels of a server's tiles, 256 or 512, if its template does not say;
            two sides if those of map and image differ.
        missing: What a tile that a server does not have is: `error` or `mask`.
        headers: More HTTP headers for the server of the map or the image, which must be one if both
            are on servers. Never shown or kept.
        map_headers: More of them for the map's server only.
        image_headers: More of them for the image's server only.
        ca_bundle: File of certificates (PEM) to trust instead of the usual ones.
        allow_vrt: Trust rasters that name other files or servers anywhere (VRT, WMS and such).
        allow_repeats: Take one picture at many places for map or photo, not for a server's excuse.
    """

    zoom: int = 16
    bbox: BBox | None = None
    count: int | None = None
    val_fraction: float = 0.1
    seed: int = 0
    size: int = 512
    map_side: Side = "right"
    format: Format = "png"
    style: str = "maps"
    keep_uniform: bool = False
    src_crs: str | None = None
    tile_size: int | tuple[int, int] | None = None
    missing: Literal["error", "mask"] = "error"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    map_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    image_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_bundle: Path | None = None
    allow_vrt: bool = False
    allow_repeats: bool = False

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            UsageError: If a value is out of its range.
        """
        checks = {
            f"size must be in {MIN_SIDE}..{LARGEST}": MIN_SIDE <= self.size <= LARGEST,
            "count must be 2 or more": self.count is None or self.count >= 2,
            "val_fraction must be in 0..0.5": 0.0 <= self.val_fraction <= 0.5,
            "seed must not be negative": self.seed >= 0,
            "map_side must be left or right": self.map_side in ("left", "right"),
            "format must be png or jpeg": self.format in ("png", "jpeg"),
        }
        for message, right in checks.items():
            if not right:
                raise UsageError(f"building pairs: {message}")


MAX_TILES = 20_000
"""Most tiles that are read unless the user says more."""

Progress = Callable[[int, int], None]
"""Called with the squares judged so far and all there are."""


@dataclass(frozen=True)
class BuildResult:
    """What `build` has made.

    Attributes:
        folder: The set.
        train: Pairs for training.
        val: Pairs for validation.
        gap: Usable squares left out between the two; None if a count was wanted: not all were
            looked at.
        skipped: Squares that were not usable, by reason.
        attribution: Who is to be named.
        warnings: What is unusual.
    """

    folder: Path
    train: int
    val: int
    gap: int | None
    skipped: dict[str, int]
    attribution: str
    warnings: list[str]


def build(
    map_source: str,
    image_source: str,
    out: Path,
    options: BuildOptions | None = None,
    *,
    max_tiles: int = MAX_TILES,
    progress: Progress = lambda done, total: None,
) -> BuildResult:
    """Cut pairs out of two sources, or go on with a build that was stopped.

    Args:
        map_source: The map: whatever `open_source` takes.
        image_source: The aerial image of the same ground, likewise.
        out: Folder of the set; one that was begun must be of the same sources and options.
        options: What pairs to build.
        max_tiles: Most tiles to read.
        progress: Called after each square.

    Raises:
        UsageError: If an option makes no sense, or too many tiles would be read.
        SourceError: If a source cannot be read; what was read is kept for the next time.
        TrainingError: If `out` is of other arguments, or the area gives no pairs.
        OutputError: If `out` cannot be written.
    """
    options = options or BuildOptions()
    drawn, image = located(map_source), located(image_source)
    arguments: dict[str, Any] = {
        "map": identity(drawn),
        "image": identity(image),
        **asdict(options),
        "bbox": None if options.bbox is None else list(options.bbox),
    }
    headers = ("headers", "map_headers", "image_headers")
    for name in ("allow_repeats", "ca_bundle", "tile_size", *headers):
        del arguments[name]  # these decide whether pairs can be read, not what they are
    try:
        if is_complete(out, arguments):
            shutil.rmtree(out / FOLDER, ignore_errors=True)
            return _result(out, [])
        return _build((drawn, image), out, options, arguments, max_tiles, progress)
    except OSError as error:
        raise OutputError(
            f"cannot write to {out} ({error.strerror or error}): check the disk, then say it again"
        ) from error


def _build(
    texts: tuple[str, str],
    out: Path,
    options: BuildOptions,
    arguments: dict[str, Any],
    max_tiles: int,
    progress: Progress,
) -> BuildResult:
    with ExitStack() as stack:
        guards = [RepeatGuard(0 if options.allow_repeats else MAX_REPEATS) for _ in texts]
        hosts = Hosts()  # both sources may be on one
        drawn, image = (
            _open(text, options, stack, repeats=guard, tile_size=side, headers=said, hosts=hosts)
            for text, guard, side, said in zip(
                texts, guards, _sides(texts, options), _headers(texts, options), strict=True
            )
        )
        area = _area(drawn, image, options)
        lattice = Lattice.within(area, options.size)
        _check_size(lattice, area, options)
        claim(out, arguments)  # only now: what cannot be built must not keep the folder
        workshop = Workshop(
            out,
            lattice,
            (drawn, image),
            map_side=options.map_side,
            kind=options.format,
            keep_uniform=options.keep_uniform,
            max_tiles=max_tiles,
            progress=lambda done: progress(done, len(lattice)),
        )
        parts = _chosen(lattice, workshop, options, guards)
        _check_parts(parts, workshop, options)
        workshop.publish(parts)
        about = _description(drawn, image, area, options)
        about["pairs"] = {"train": len(parts.train), "val": len(parts.val)}
        gap = len(parts.gap) if options.count is None else None
        about |= {"gap": gap, "skipped": workshop.skipped(), "arguments": arguments}
        write_json(out / DESCRIPTION, about)
        workshop.clear()
        return _result(out, _warnings(drawn, image, parts, options))


def _chosen(
    lattice: Lattice, workshop: Workshop, options: BuildOptions, guards: list[RepeatGuard]
) -> Parts:
    """Return the squares of the set; none is kept that an error picture is in."""
    try:
        parts = choose(
            lattice,
            workshop.assess,
            count=options.count,
            val_fraction=options.val_fraction,
            seed=options.seed,
        )
        for guard in guards:  # also of what was read ahead
            guard.refuse()
    finally:
        workshop.forget([guard.found for guard in guards])
    return parts


def _sides(texts: tuple[str, str], options: BuildOptions) -> list[int | None]:
    """Return the sides of tiles to open two sources with: containers are looked into instead."""
    side = options.tile_size
    sides = side if isinstance(side, tuple) else (side, side)
    return [
        side if "://" in text or text.lower().endswith(".json") else None
        for text, side in zip(texts, sides, strict=True)
    ]


def _headers(texts: tuple[str, str], options: BuildOptions) -> list[dict[str, str]]:
    """Return the HTTP headers for each of two sources: what is one server's is not the other's.

    Raises:
        UsageError: If it is not clear whose some are.
    """
    servers = {urlsplit(text)[:2] for text in texts if "://" in text}
    shared = merged(environment_headers(), options.headers)
    if shared and len(servers) > 1:
        raise UsageError(
            "map and image are on two servers, and headers are sent to one only: give "
            f"--map-header or --image-header instead of --header and {VARIABLE}"
        )
    own = (options.map_headers, options.image_headers)
    return [merged(shared, each) for each in own]


def _open(text: str, options: BuildOptions, stack: ExitStack, **more: Any) -> Source:
    """Open a source on the grid of the zoom."""
    how = SourceOptions(
        zoom=options.zoom,
        style=options.style,
        src_crs=options.src_crs,
        missing=options.missing,
        ca_bundle=options.ca_bundle,
        allow_vrt=options.allow_vrt,
        **more,
    )
    source = open_source(text, how)
    stack.callback(source.close)
    if source.info.grid.zoom != options.zoom:
        raise UsageError(f"{source.info.name} cannot be read at zoom {options.zoom}: say another")
    return source


def _area(drawn: Source, image: Source, options: BuildOptions) -> Window:
    """Return the pixels where both sources may have data, within the box."""
    grid = mercator_grid(options.zoom)
    area = drawn.info.extent if options.bbox is None else grid.window(options.bbox)
    for source in (drawn, image):
        area = common(source.info, area)
        if area.empty:
            where = ",".join(f"{value:.5f}" for value in grid.lonlat_bounds(source.info.extent))
            raise UsageError(
                f"{source.info.name} has nothing where the pairs are to be: it covers {where}"
            )
    return area


def _check_size(lattice: Lattice, area: Window, options: BuildOptions) -> None:
    if len(lattice) < 2:
        raise UsageError(
            f"the area of {area.width} x {area.height} px has no room for two pairs of "
            f"{options.size} px: choose a larger --bbox, a higher --zoom or a smaller --size"
        )


def _check_parts(parts: Parts, workshop: Workshop, options: BuildOptions) -> None:
    if parts.train and (parts.val or not options.val_fraction):
        return
    skipped = ", ".join(f"{count} {reason}" for reason, count in workshop.skipped().items())
    gap = f"; between the two: {len(parts.gap)}" if options.count is None else ""
    raise TrainingError(
        f"{len(parts.train)} pairs are left for training and {len(parts.val)} for validation "
        f"(skipped: {skipped or 'none'}{gap}): choose a larger area or a smaller --size; for "
        "another try delete the output folder"
    )


def _description(
    drawn: Source, image: Source, area: Window, options: BuildOptions
) -> dict[str, Any]:
    """Return what `dataset.json` says, but for the numbers."""
    grid = mercator_grid(options.zoom)
    named = [source.info.attribution for source in (drawn, image) if source.info.attribution]
    return {
        "kind": "built",
        "made_by": f"maptile2sat {__version__}",
        "map_side": options.map_side,
        "style": drawn.info.style,
        "size": options.size,
        "zoom": options.zoom,
        "metres_per_pixel": round(grid.metres_per_pixel(area)[0], 4),
        "bounds": [round(value, 7) for value in grid.lonlat_bounds(area)],
        "attribution": "; ".join(dict.fromkeys(named)),
        "map_attribution": drawn.info.attribution,
        "image_attribution": image.info.attribution,
        "gap_pixels": options.size,
    }


def _warnings(drawn: Source, image: Source, parts: Parts, options: BuildOptions) -> list[str]:
    found: list[str] = []
    if not parts.val:
        found.append(
            "no pairs are held out: train, check and evaluate need some in val, of another area"
        )
    for source in (drawn, image):
        found += getattr(source, "warnings", [])
        if not source.info.attribution:
            found.append(f"{source.info.name} does not say who is to be named for it")
    made = len(parts.train) + len(parts.val)
    if options.count is not None and made < options.count:
        found.append(f"only {made} of {options.count} pairs could be cut from the area")
    return found


def _result(out: Path, warnings: list[str]) -> BuildResult:
    """Return what `dataset.json` says of a complete set."""
    said = read_description(out)
    train, val = (int(said["pairs"][split]) for split in SPLITS)
    return BuildResult(out, train, val, said["gap"], said["skipped"], said["attribution"], warnings)
