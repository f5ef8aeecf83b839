"""`maptile2sat merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maptile2sat.cli.console import human_bytes, note, parse_pairs, progress_bar, show_json
from maptile2sat.cli.render import Profile


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
    from maptile2sat.sharding.merging import merge

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
