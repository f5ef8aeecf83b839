"""`maptile2sat render --dask`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from maptile2sat.cli.console import human_bytes, note, progress_bar, show_json, warn
from maptile2sat.errors import Maptile2satError

if TYPE_CHECKING:
    from maptile2sat.rendering import RenderOptions
    from maptile2sat.sharding.options import ShardResult


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
    from maptile2sat.sharding.options import ShardOptions
    from maptile2sat.sharding.run import render_sharded

    sharding = ShardOptions(*shared_out)
    tell = partial(warn, verbosity=level)
    with progress_bar("blocks", level) as move:
        result = render_sharded(source, output, sharding, options, progress=move, warn=tell)
    show_json(result) if as_json else _show_result(result, level)


def check_sharded(output: str, options: RenderOptions, shared_out: tuple[str, int | None]) -> None:
    """Refuse what `show_sharded` would refuse without looking at the map: for dry runs."""
    from maptile2sat.sharding.options import ShardOptions
    from maptile2sat.sharding.request import check_request

    check_request(output, ShardOptions(*shared_out), options)


def has_unfinished(output: str) -> bool:
    """Return whether there are blocks that `--resume` can go on with."""
    from maptile2sat.sharding.claim import is_unfinished
    from maptile2sat.sharding.store import open_store

    try:
        return is_unfinished(open_store(output))
    except Maptile2satError:
        return False


def _show_result(result: ShardResult, level: int) -> None:
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
