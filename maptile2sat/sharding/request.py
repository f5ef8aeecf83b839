"""What may be asked of a sharded render, as far as that shows without looking at the map."""

from __future__ import annotations

import dataclasses
import os

from maptile2sat.errors import UsageError
from maptile2sat.rendering.options import RenderOptions
from maptile2sat.sharding.cluster import check_where
from maptile2sat.sharding.options import ShardOptions
from maptile2sat.sharding.store import FILE_ENDINGS
from maptile2sat.sources.naming import safe_place
from maptile2sat.stac import check_pystac

ONE_FILE_ONLY = {
    *("preview", "dst_crs", "resolution", "like", "cutline"),
    *("tile_format", "min_zoom", "max_zoom"),
}
"""Options of renders into one file."""


def check_request(
    output: str | os.PathLike[str], sharding: ShardOptions, options: RenderOptions
) -> None:
    """Refuse a request that makes no sense, before anything is opened.

    Raises:
        UsageError: If the cluster, the output or an option cannot be.
        MissingExtraError: If a package is missing.
    """
    check_where(sharding.dask)
    check_pystac()
    _check_output(os.fspath(output), options)
    if options.cell is not None:
        sharding.side(options.cell)


def _check_output(output: str, options: RenderOptions) -> None:
    """Refuse what a folder of blocks cannot be.

    Raises:
        UsageError: If the output is named like a file, or an option makes no sense with it.
    """
    if output.lower().endswith(FILE_ENDINGS):
        raise UsageError(
            f"--dask writes a folder, and {safe_place(output)} is named like a file: say "
            "-o FOLDER; 'maptile2sat merge FOLDER -o ONE.tif' makes one file of it"
        )
    given = {field.name for field in dataclasses.fields(options)}
    for name in sorted(given & ONE_FILE_ONLY):
        if getattr(options, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} does not go with --dask, which writes blocks on the "
                "map's own grid"
            )
    if not options.cog:
        raise UsageError("--no-cog does not go with --dask: blocks are COGs")
