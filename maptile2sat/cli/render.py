"""`maptile2sat render`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maptile2sat.cli.common import (
    MAP,
    AllowRepeats,
    AllowVrt,
    CaBundle,
    Header,
    Rate,
    SrcCrs,
    human_bytes,
    note,
    parse_pairs,
    parse_resolution,
    progress_bar,
    read_headers,
    set_logging,
    show_json,
    warn,
)
from maptile2sat.errors import Maptile2satError, UnfinishedError, UsageError

if TYPE_CHECKING:
    from maptile2sat.rendering import RenderOptions, RenderPlan, RenderResult
    from maptile2sat.rendering.options import ShardResult

# `maptile2sat render --dask`


def show_sharded(
    source: str | None,
    output: str,
    options: RenderOptions,
    shared_out: tuple[str, int | None],
    level: int,
    *,
    as_json: bool,
) -> None:
    """Render with the workers of a Dask cluster, and say what came of it.

    Args:
        source: The map.
        output: The folder.
        options: The render.
        shared_out: What `--dask` and `--block` say.
        level: Verbosity.
        as_json: Whether to print JSON.
    """
    from maptile2sat.rendering.options import ShardOptions
    from maptile2sat.rendering.run import render_sharded

    sharding = ShardOptions(*shared_out)
    tell = partial(warn, verbosity=level)
    with progress_bar("blocks", level) as move:
        result = render_sharded(source, output, sharding, options, progress=move, warn=tell)
    show_json(result) if as_json else _show_blocks(result, level)


def check_sharded(output: str, options: RenderOptions, shared_out: tuple[str, int | None]) -> None:
    """Refuse what `show_sharded` would refuse without looking at the map: for dry runs."""
    from maptile2sat.rendering.dask import check_request
    from maptile2sat.rendering.options import ShardOptions

    check_request(output, ShardOptions(*shared_out), options)


def has_unfinished(output: str) -> bool:
    """Return whether there are blocks that `--resume` can go on with."""
    from maptile2sat.output.store import open_store
    from maptile2sat.rendering.work import is_unfinished

    try:
        return is_unfinished(open_store(output))
    except Maptile2satError:
        return False


def _show_blocks(result: ShardResult, level: int) -> None:
    print(result.output)
    resumed = f" ({result.resumed_blocks:,} of them done before)" if result.resumed_blocks else ""
    empty = f", {result.empty_blocks:,} without any map" if result.empty_blocks else ""
    note(
        f"{result.width} x {result.height} px, {result.crs}, {result.blocks:,} blocks{resumed}"
        f"{empty}, {human_bytes(result.bytes)}, by {result.workers} workers in "
        f"{result.seconds:.1f} s; model {result.model}; map: "
        f"{result.attribution or result.source}",
        level,
    )


# titles of the panels of --help
AREA = "Area"
MODEL = "Model"
OUTPUT = "Output"
RUN = "Run"


class Precision(StrEnum):
    """What a generator computes in."""

    auto = "auto"
    integer = "integer"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Engine(StrEnum):
    """What computes whole numbers."""

    auto = "auto"
    openvino = "openvino"
    tensorflow = "tensorflow"


class Labels(StrEnum):
    """Whether labels are taken off the map."""

    auto = "auto"
    yes = "yes"
    no = "no"


class Profile(StrEnum):
    """How the output is compressed."""

    deflate = "deflate"
    jpeg = "jpeg"
    webp = "webp"


class TileFormat(StrEnum):
    """What pictures tiles are."""

    png = "png"
    webp = "webp"
    jpeg = "jpeg"


class Missing(StrEnum):
    """What a tile that a server does not have is."""

    error = "error"
    mask = "mask"


EngineOption = Annotated[
    Engine, typer.Option(help="What computes whole numbers; changes no pixel.", rich_help_panel=RUN)
]
LabelsOption = Annotated[
    Labels,
    typer.Option(
        help="Take labels off the map first; auto: unless drawn by `draw`.", rich_help_panel=MODEL
    ),
]


def render_command(
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="The GeoTIFF, .mbtiles or .pmtiles to write; with --dask a folder.",
            rich_help_panel=OUTPUT,
        ),
    ],
    source: Annotated[
        str | None,
        typer.Argument(
            help="The map: GeoTIFF, .mbtiles, .pmtiles, tile URL with {z}/{x}/{y}, folder of "
            "tiles, TileJSON or .osm.pbf. Without it: $MAPTILE2SAT_SOURCE, or the sample map.",
            show_default=False,
        ),
    ] = None,
    bbox: Annotated[
        str | None,
        typer.Option(
            metavar="W,S,E,N",
            help="The area; west > east crosses 180 degrees.",
            rich_help_panel=AREA,
        ),
    ] = None,
    bbox_crs: Annotated[
        str, typer.Option(help="CRS of --bbox.", rich_help_panel=AREA)
    ] = "EPSG:4326",
    zoom: Annotated[
        int | None,
        typer.Option(
            "--zoom",
            "-z",
            help="Zoom to read the map at; default: the model's for tiles, a "
            "raster's own grid for rasters.",
            rich_help_panel=AREA,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            envvar="MAPTILE2SAT_MODEL",
            help="A shipped model or a bundle's folder.",
            rich_help_panel=MODEL,
        ),
    ] = "maps",
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            help="Most cells a GPU, or windows a unet, generates at once.",
            rich_help_panel=RUN,
        ),
    ] = 8,
    cell: Annotated[
        int | None,
        typer.Option(
            help="Largest side in pixels of what is generated at once, to save memory.",
            rich_help_panel=RUN,
        ),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(help="auto: whole numbers if the model has them.", rich_help_panel=MODEL),
    ] = Precision.auto,
    engine: EngineOption = Engine.auto,
    labels: LabelsOption = Labels.auto,
    device: Annotated[
        str, typer.Option(help="auto, cpu, gpu or gpu:N.", rich_help_panel=RUN)
    ] = "auto",
    seed: Annotated[
        int, typer.Option(help="Another seed, another picture of the map.", rich_help_panel=MODEL)
    ] = 0,
    dst_crs: Annotated[
        str | None,
        typer.Option(help="CRS of the GeoTIFF; default: the map's.", rich_help_panel=OUTPUT),
    ] = None,
    resolution: Annotated[
        str | None,
        typer.Option(
            metavar="R|X,Y", help="Size of its pixels, in units of its CRS.", rich_help_panel=OUTPUT
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="RASTER", help="Raster whose grid and extent it gets.", rich_help_panel=OUTPUT
        ),
    ] = None,
    cutline: Annotated[
        Path | None,
        typer.Option(
            metavar="GEOJSON",
            help="Polygons to clip to; without --bbox the area.",
            rich_help_panel=AREA,
        ),
    ] = None,
    profile: Annotated[
        Profile | None,
        typer.Option(help="Compression of the GeoTIFF; default: deflate.", rich_help_panel=OUTPUT),
    ] = None,
    co: Annotated[
        list[str] | None,
        typer.Option(
            "--co",
            metavar="NAME=VALUE",
            help="GDAL creation option; repeatable.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    no_cog: Annotated[
        bool, typer.Option("--no-cog", help="Write a plain tiled GeoTIFF.", rich_help_panel=OUTPUT)
    ] = False,
    tile_format: Annotated[
        TileFormat | None,
        typer.Option(
            help="Of .mbtiles and .pmtiles; png (default) is lossless, jpeg has no mask.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    min_zoom: Annotated[
        int | None,
        typer.Option(
            help="Lowest zoom of tiles; default: that of a single tile.", rich_help_panel=OUTPUT
        ),
    ] = None,
    max_zoom: Annotated[
        int | None,
        typer.Option(help="Highest zoom of tiles; default: the map's.", rich_help_panel=OUTPUT),
    ] = None,
    src_crs: SrcCrs = None,
    native: Annotated[
        bool,
        typer.Option(
            "--native", help="Take rasters with oblong pixels as they are.", rich_help_panel=MAP
        ),
    ] = False,
    resampling: Annotated[
        str | None,
        typer.Option(
            help="Of all that -z, --dst-crs, --resolution, --like warp (rasterio's names).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    tile_size: Annotated[
        int | None,
        typer.Option(
            help="Side of a server's tiles, half with @2x, if its URL does not say: 256, 512.",
            rich_help_panel=MAP,
        ),
    ] = None,
    preview: Annotated[
        Path | None,
        typer.Option(help="Also write a PNG, map and result side by side.", rich_help_panel=OUTPUT),
    ] = None,
    stac: Annotated[
        bool,
        typer.Option(
            "--stac",
            help="Also write a STAC Item, OUT.stac.json; --dask always does.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    missing: Annotated[
        Missing,
        typer.Option(help="What tiles that a server does not have are.", rich_help_panel=MAP),
    ] = Missing.error,
    header: Header = None,
    ca_bundle: CaBundle = None,
    rate: Rate = 50.0,
    allow_vrt: AllowVrt = False,
    allow_repeats: AllowRepeats = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what would be done; write nothing.", rich_help_panel=RUN
        ),
    ] = False,
    max_tiles: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most tiles to read; default 20,000 of a server.", rich_help_panel=MAP
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output.", rich_help_panel=OUTPUT)
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with a render that was interrupted.", rich_help_panel=RUN
        ),
    ] = False,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS|local[:N]",
            help="Share the work out among Dask workers: those of a scheduler, or N of this "
            "machine. -o is a folder of blocks then, or s3://bucket/prefix.",
            rich_help_panel=RUN,
        ),
    ] = None,
    block: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --dask: cells along a side of a block; default: 4096 px, at most 16384.",
            rich_help_panel=RUN,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=RUN)
    ] = False,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Say more.", rich_help_panel=RUN)
    ] = 0,
    quiet: Annotated[
        int,
        typer.Option(
            "--quiet", "-q", count=True, help="Say less; -qq: no warnings.", rich_help_panel=RUN
        ),
    ] = 0,
) -> None:
    """Render a map as one satellite-style GeoTIFF, or as tiles."""
    from maptile2sat.rendering import RenderOptions, partial_folder, plan, render, uses_sample

    level = verbose - quiet
    set_logging(level)
    options = RenderOptions(
        bbox=bbox,
        bbox_crs=bbox_crs,
        zoom=zoom,
        model=model,
        batch_size=batch_size,
        cell=cell,
        precision=precision.value,
        engine=engine.value,
        labels=labels.value,
        device=device,
        seed=seed,
        dst_crs=dst_crs,
        resolution=None if resolution is None else parse_resolution(resolution),
        like=like,
        cutline=cutline,
        profile=None if profile is None else profile.value,
        creation_options=parse_pairs(co or [], "--co"),
        cog=not no_cog,
        tile_format=None if tile_format is None else tile_format.value,
        min_zoom=min_zoom,
        max_zoom=max_zoom,
        src_crs=src_crs,
        native=native,
        resampling=resampling,
        tile_size=tile_size,
        preview=preview,
        stac=stac,
        missing=missing.value,
        headers=read_headers(header),
        ca_bundle=ca_bundle,
        rate=rate,
        allow_vrt=allow_vrt,
        allow_repeats=allow_repeats,
        max_tiles=max_tiles,
        overwrite=overwrite,
        resume=resume,
    )
    if block is not None and dask is None:
        raise UsageError("--block goes with --dask only")
    if uses_sample(source):
        note("no map given: rendering the sample map (central Helsinki)", level)
    if dask is not None and not dry_run:
        with _hinting_at_resume(lambda: has_unfinished(output)):
            show_sharded(source, output, options, (dask, block), level, as_json=as_json)
        return
    if dry_run:
        if dask is not None:
            check_sharded(output, options, (dask, block))
        planned = plan(
            source, None if dask else output, options, warn=partial(warn, verbosity=level)
        )
        show_json(planned) if as_json else _show_plan(planned)
        return
    with (
        progress_bar("cells", level) as move,
        _hinting_at_resume(lambda: partial_folder(Path(output)).is_dir()),
    ):
        tell = partial(warn, verbosity=level)
        result = render(source, output, options, progress=move, warn=tell)
    show_json(result) if as_json else _show_result(result, level)


@contextmanager
def _hinting_at_resume(kept: Callable[[], bool]) -> Iterator[None]:
    """Say how to go on if work is left behind."""
    from maptile2sat.sources.headers import without_headers
    from maptile2sat.sources.redact import safe_url

    try:
        yield
    except UnfinishedError:
        raise
    except Maptile2satError as error:
        if kept():
            error.add_note("what is done is kept: --resume goes on with it")
        raise
    except BaseException:  # Ctrl-C or SIGTERM
        if kept():
            words = without_headers(sys.argv[1:])
            words = [word if safe_url(word) == word else "URL" for word in words]
            words += [] if "--resume" in words else ["--resume"]
            print(f"to go on: maptile2sat {shlex.join(words)}", file=sys.stderr)
        raise


def _show_plan(planned: RenderPlan) -> None:
    print(f"map         {planned.source}")
    print(f"model       {planned.model}")
    print(f"output      {planned.width} x {planned.height} px, {planned.crs}")
    if planned.zooms is not None:
        print(f"zooms       {planned.zooms[0]} to {planned.zooms[1]}")
    print(f"bounds      {', '.join(f'{value:.6f}' for value in planned.bounds)}")
    print(f"tiles       {planned.tiles:,} to read, halo included")
    print(f"cells       {planned.cells:,}")
    print(f"time        about {planned.seconds:,.0f} s on this machine")
    print(f"file        about {human_bytes(planned.output_bytes)}")
    print(f"disk        about {human_bytes(planned.temporary_bytes)} while it runs")


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count:,} cells"


def _show_result(result: RenderResult, level: int) -> None:
    print(result.output)
    if result.preview is not None:
        print(result.preview)
    if result.item is not None:
        print(result.item)
    resumed = f" ({result.resumed_cells} more done before)" if result.resumed_cells else ""
    note(
        f"{result.width} x {result.height} px, {result.crs}, {_cells(result.cells)}{resumed} in "
        f"{result.seconds:.1f} s ({result.generator_seconds:.1f} s in the generator, "
        f"{result.engine}); model {result.model}; map: {result.attribution or result.source}",
        level,
    )


# `maptile2sat merge`


def merge_command(
    folder: Annotated[
        str,
        typer.Argument(
            help="The folder that render --dask wrote, or its address: s3://bucket/name."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The GeoTIFF to write.")],
    profile: Annotated[Profile, typer.Option(help="Compression.")] = Profile.deflate,
    co: Annotated[
        list[str] | None,
        typer.Option("--co", metavar="NAME=VALUE", help="GDAL creation option; repeatable."),
    ] = None,
    no_cog: Annotated[bool, typer.Option("--no-cog", help="Write a plain tiled GeoTIFF.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[int, typer.Option("--quiet", "-q", count=True, help="Say less.")] = 0,
) -> None:
    """Make one GeoTIFF of the blocks that `render --dask` wrote."""
    from maptile2sat.output.merge import merge

    with progress_bar("blocks", -quiet) as move:
        result = merge(
            folder,
            output,
            profile=profile.value,
            extra_options=parse_pairs(co or [], "--co"),
            cog=not no_cog,
            overwrite=overwrite,
            progress=move,
        )
    if as_json:
        show_json(result)
        return
    print(result.output)
    note(
        f"{result.width} x {result.height} px, {result.crs}, from {result.blocks:,} blocks in "
        f"{result.seconds:.1f} s; {human_bytes(result.bytes)}",
        -quiet,
    )
