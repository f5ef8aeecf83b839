"""`maptile2sat dataset fetch`, `check` and `build`."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maptile2sat.cli.common import (
    MAP,
    AllowRepeats,
    AllowVrt,
    CaBundle,
    Header,
    SrcCrs,
    note,
    parse_sides,
    progress_bar,
    read_headers,
    set_logging,
    show_json,
    warn,
)
from maptile2sat.cli.draw import StyleName
from maptile2sat.cli.render import Missing

if TYPE_CHECKING:
    from maptile2sat.datasets import CheckReport

app = typer.Typer(
    help="Get, check and make sets of pairs to train on.",
    no_args_is_help=True,
    add_completion=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more.")]
Quiet = Annotated[
    int, typer.Option("--quiet", "-q", count=True, help="Say less; -qq: no warnings.")
]

NAMES_SHOWN = 20


class MapSide(StrEnum):
    """Half of a pair that is the map."""

    left = "left"
    right = "right"


class PairFormat(StrEnum):
    """How pairs are stored."""

    png = "png"
    jpeg = "jpeg"


@app.command("fetch")
def fetch_command(
    name: Annotated[str, typer.Argument(help="The set: maps (pix2pix maps, 250 MB).")],
    parent: Annotated[
        Path, typer.Option("--dir", help="Folder in which the set's own folder is made.")
    ] = Path("data"),
    url: Annotated[str | None, typer.Option(help="Another place of the same archive.")] = None,
    ca_bundle: CaBundle = None,
    as_json: AsJson = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Download a public set; a download that broke off is gone on with."""
    from maptile2sat.datasets import fetch
    from maptile2sat.sources import SourceOptions

    level = verbose - quiet
    set_logging(level)
    with progress_bar("bytes", level) as bytes_bar, progress_bar("pairs", level) as pairs_bar:
        bars = {"bytes": bytes_bar, "pairs": pairs_bar}
        result = fetch(
            name,
            parent,
            url=url,
            options=SourceOptions(ca_bundle=ca_bundle),
            progress=lambda what, done, total: bars[what](done, total),
        )
    for text in result.warnings:
        warn(text, level)
    if as_json:
        show_json(result)
        return
    print(result.folder)
    how = f"{result.downloaded:,} bytes downloaded" if result.downloaded else "it was there already"
    note(f"{result.train:,} train and {result.val:,} val pairs; {how}", level)


@app.command("check")
def check_command(
    folder: Annotated[Path, typer.Argument(help="Folder with train/ and val/.")],
    map_side: Annotated[
        MapSide | None, typer.Option(help="Half that is the map; default: dataset.json, or right.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Also write a contact sheet.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a sheet.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = 0,
) -> None:
    """Look for bad files, blank pairs and misplaced maps; exit code 1 if files are unusable."""
    from maptile2sat.datasets import check

    with progress_bar("files", -quiet) as files_bar, progress_bar("pairs", -quiet) as pairs_bar:
        bars = {"files": files_bar, "pairs": pairs_bar}
        report = check(
            folder,
            map_side=None if map_side is None else map_side.value,
            sheet=sheet,
            overwrite=overwrite,
            progress=lambda what, done, total: bars[what](done, total),
        )
    if as_json:
        show_json({**dataclasses.asdict(report), "usable": report.usable})
    else:
        _show_report(report)
    if not report.usable:
        raise typer.Exit(1)


@app.command("build")
def build_command(
    map_source: Annotated[
        str, typer.Option("--map", help="The map: a file, tile URL or .osm.pbf, as for render.")
    ],
    image: Annotated[str, typer.Option("--image", help="Aerial imagery of the same ground.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the set; gone on with if begun.")],
    bbox: Annotated[
        str | None,
        typer.Option(metavar="W,S,E,N", help="The area in degrees; default: all that both cover."),
    ] = None,
    zoom: Annotated[int, typer.Option("--zoom", "-z", help="Zoom of the pairs.")] = 16,
    count: Annotated[
        int | None, typer.Option(min=2, help="Pairs to make; default: all that fit.")
    ] = None,
    val_fraction: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Part of them for validation; train needs some.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Which squares, and for what.")] = 0,
    size: Annotated[int, typer.Option(min=256, help="Side of each half in pixels.")] = 512,
    map_side: Annotated[MapSide, typer.Option(help="Half that the map becomes.")] = MapSide.right,
    pair_format: Annotated[
        PairFormat, typer.Option("--format", help="png: exact map colours; jpeg: a third as large.")
    ] = PairFormat.png,
    style: Annotated[StyleName, typer.Option(help="How .osm.pbf is drawn.")] = StyleName.maps,
    keep_uniform: Annotated[
        bool, typer.Option("--keep-uniform", help="Keep pairs of one colour, such as open sea.")
    ] = False,
    src_crs: SrcCrs = None,
    tile_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIDE|MAP,IMAGE",
            help="Side of a server's tiles, half with @2x, if its URL does not say: 256, 512.",
            rich_help_panel=MAP,
        ),
    ] = None,
    missing: Annotated[
        Missing,
        typer.Option(help="What tiles that a server does not have are.", rich_help_panel=MAP),
    ] = Missing.error,
    header: Header = None,
    map_header: Annotated[
        list[str] | None,
        typer.Option(metavar="'NAME: VALUE'", help="Header for the map's server only; repeatable."),
    ] = None,
    image_header: Annotated[
        list[str] | None,
        typer.Option(metavar="'NAME: VALUE'", help="The same for the image's server."),
    ] = None,
    ca_bundle: CaBundle = None,
    allow_vrt: AllowVrt = False,
    allow_repeats: AllowRepeats = False,
    max_tiles: Annotated[
        int, typer.Option(min=1, help="Most tiles to read.", rich_help_panel=MAP)
    ] = 20_000,
    as_json: AsJson = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Make pairs of any two sources; train and val lie a pair's width apart."""
    from maptile2sat.datasets import BuildOptions, build
    from maptile2sat.geo.grid import parse_bbox

    level = verbose - quiet
    set_logging(level)
    options = BuildOptions(
        zoom=zoom,
        bbox=None if bbox is None else parse_bbox(bbox),
        count=count,
        val_fraction=val_fraction,
        seed=seed,
        size=size,
        map_side=map_side.value,
        format=pair_format.value,
        style=style.value,
        keep_uniform=keep_uniform,
        src_crs=src_crs,
        tile_size=None if tile_size is None else parse_sides(tile_size),
        missing=missing.value,
        headers=read_headers(header),
        map_headers=read_headers(map_header, "--map-header"),
        image_headers=read_headers(image_header, "--image-header"),
        ca_bundle=ca_bundle,
        allow_vrt=allow_vrt,
        allow_repeats=allow_repeats,
    )
    with progress_bar("squares", level) as move:
        result = build(map_source, image, out, options, max_tiles=max_tiles, progress=move)
    for text in result.warnings:
        warn(text, level)
    if as_json:
        show_json(result)
        return
    print(result.folder)
    skipped = ", ".join(f"{number} {reason}" for reason, number in result.skipped.items())
    gap = "" if result.gap is None else f", {result.gap} left out between them"
    note(
        f"{result.train} train and {result.val} val pairs{gap}; "
        f"skipped: {skipped or 'none'}; {result.attribution or 'nobody is named for the sources'}",
        level,
    )


def _show_report(report: CheckReport) -> None:
    for name, split in report.splits.items():
        sizes = ", ".join(f"{number:,} of {size}" for size, number in split.sizes.items())
        print(f"{name:12} {split.files:,} files: {sizes or 'none readable'}")
        _show_names("unusable", [f"{file} {why}" for file, why in split.unusable.items()])
        _show_names("odd-sized", split.odd_sized)
        _show_names("blank maps", split.blank_maps)
        _show_names("blank images", [f"{file} ({why})" for file, why in split.blank_images.items()])
    looks = {None: "cannot be told by its look", report.map_side: "and looks like it"}
    print(
        f"{'map':12} {report.map_side} half, "
        + looks.get(report.map_looks, f"BUT THE {str(report.map_looks).upper()} LOOKS LIKE IT")
    )
    print(f"{'alignment':12} {_alignment(report)}")
    _show_names("misplaced?", report.misplaced)
    scale = report.scale
    metres = "" if scale.metres_per_pixel is None else f", {scale.metres_per_pixel:g} m per pixel"
    print(f"{'scale':12} {'' if scale.zoom is None else f'zoom {scale.zoom}{metres}; '}{scale.how}")
    if report.attribution:
        print(f"{'attribution':12} {report.attribution}")
    if report.sheet is not None:
        print(f"{'sheet':12} {report.sheet}")


def _show_names(title: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        print(f"  {title:10} {len(names)}: {', '.join(names[:NAMES_SHOWN])}{more}")


def _alignment(report: CheckReport) -> str:
    found = report.alignment
    if found is None:
        return "no usable pairs"
    scores = (
        f"edge correlation {found.score:.3f} as they lie, {found.best_score:.3f} at best, "
        f"{found.elsewhere:.3f} with other places; {found.pairs} pairs"
    )
    if not found.clear:
        return f"NOT SEEN: no shift stands out ({scores})"
    if found.fits:
        return f"good: best shift {found.right},{found.down} px ({scores})"
    return f"OFF: images lie {found.right} px right and {found.down} px down of the maps ({scores})"
