"""`maptile2sat serve`."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from maptile2sat.cli.common import (
    MAP,
    AllowRepeats,
    AllowVrt,
    CaBundle,
    Header,
    Rate,
    ReadZoom,
    SrcCrs,
    note,
    read_headers,
    set_logging,
    show_json,
    warn,
)
from maptile2sat.cli.render import (
    MODEL,
    RUN,
    Engine,
    EngineOption,
    Labels,
    LabelsOption,
    Missing,
    Precision,
)
from maptile2sat.errors import UsageError

_SIZE = re.compile(r"(\d{1,18}(?:\.\d+)?)\s*([KMGT]?)B?", re.I)


def parse_size(text: str) -> int:
    """Return bytes from text such as `500M`, `2GB` or `0`.

    Raises:
        UsageError: If it is not of this form.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"'{text[:100]}' is not a size: say for example 500M or 2G")
    return int(float(match[1]) * 1024 ** ("KMGT".index(match[2].upper()) + 1 if match[2] else 0))


def serve_command(
    source: Annotated[
        str | None,
        typer.Argument(
            help="The map, as for render. Without it: $MAPTILE2SAT_SOURCE, or the sample map.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A shipped model or a bundle's folder; repeatable, the viewer switches. "
            "Default: $MAPTILE2SAT_MODEL, or maps.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any that is free.")] = 8080,
    public_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Address of a proxy in front of the server, for TileJSON."
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of the tiles made; default: the user's cache.")
    ] = None,
    cache_size: Annotated[
        str, typer.Option(help="Most disk space for them, such as 500M; 0 keeps none.")
    ] = "2G",
    queue: Annotated[
        int, typer.Option(min=1, help="Cells that may wait before requests get a 503.")
    ] = 64,
    cors: Annotated[
        list[str] | None,
        typer.Option(help="Origin whose pages may read tiles, or *; repeatable. Default: none."),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    bbox: Annotated[
        str | None, typer.Option(metavar="W,S,E,N", help="Serve only this area (degrees).")
    ] = None,
    zoom: ReadZoom = None,
    seed: Annotated[
        int, typer.Option(help="Another seed, another picture of the map.", rich_help_panel=MODEL)
    ] = 0,
    precision: Annotated[
        Precision,
        typer.Option(help="auto: whole numbers if the model has them.", rich_help_panel=MODEL),
    ] = Precision.auto,
    engine: EngineOption = Engine.auto,
    labels: LabelsOption = Labels.auto,
    device: Annotated[
        str, typer.Option(help="auto, cpu, gpu or gpu:N.", rich_help_panel=RUN)
    ] = "auto",
    src_crs: SrcCrs = None,
    tile_size: Annotated[
        int | None,
        typer.Option(
            help="Side of a server's tiles, half with @2x, if its URL does not say: 256, 512.",
            rich_help_panel=MAP,
        ),
    ] = None,
    missing: Annotated[
        Missing,
        typer.Option(help="What tiles that a map server does not have are.", rich_help_panel=MAP),
    ] = Missing.mask,
    header: Header = None,
    ca_bundle: CaBundle = None,
    rate: Rate = 50.0,
    allow_vrt: AllowVrt = False,
    allow_repeats: AllowRepeats = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as JSON.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more.")] = 0,
    quiet: Annotated[
        int, typer.Option("--quiet", "-q", count=True, help="Say less; -qq: no warnings.")
    ] = 0,
) -> None:
    """Serve satellite-style tiles, made on demand, with a viewer."""
    from maptile2sat.rendering import RenderOptions
    from maptile2sat.serving import ServeOptions, serve

    level = verbose - quiet
    set_logging(level)
    options = ServeOptions(
        # not by typer, which parts such a list at blanks
        models=tuple(model or [os.environ.get("MAPTILE2SAT_MODEL") or "maps"]),
        render=RenderOptions(
            bbox=bbox,
            zoom=zoom,
            seed=seed,
            precision=precision.value,
            engine=engine.value,
            labels=labels.value,
            device=device,
            src_crs=src_crs,
            tile_size=tile_size,
            missing=missing.value,
            headers=read_headers(header),
            ca_bundle=ca_bundle,
            rate=rate,
            allow_vrt=allow_vrt,
            allow_repeats=allow_repeats,
        ),
        host=host,
        port=port,
        public_url=public_url,
        cache=cache,
        cache_bytes=parse_size(cache_size),
        queue=queue,
        cors=tuple(cors or ()),
    )

    def ready(url: str) -> None:
        if as_json:
            show_json({"url": url, "health": f"{url}healthz"})
        else:
            print(url, flush=True)
        note("open this address in a browser; Ctrl-C ends the server", level)

    tell = partial(warn, verbosity=level)
    serve(source, options, ready=ready, warn=tell, open_browser=open_browser)
