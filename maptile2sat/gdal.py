"""Keeping rasterio from warning of what is no fault."""

from __future__ import annotations

import warnings

from rasterio.errors import NotGeoreferencedWarning


def ignore_missing_position() -> None:
    """Keep rasterio from warning of rasters without a position.

    Maps without one are refused here with a better message, masks and overviews opened by
    themselves have none, and `rasterio.warp.reproject` warns by mistake when several threads use
    it. `warnings.catch_warnings` would not do across threads.
    """
    where = r"rasterio(\.warp)?$|maptile2sat\."
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module=where)
