"""Where the bundles and the sample map that come with the package are, and where downloads go.

A wheel carries them inside the package; in a checkout they lie beside it.
"""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_dir

PACKAGE = Path(__file__).parent


def models_folder() -> Path:
    """Return the folder of the shipped model bundles."""
    return _first(PACKAGE / "data" / "models", PACKAGE.parent / "models")


def sample_map(style: str = "maps") -> Path:
    """Return the sample map, an MBTiles of central Helsinki.

    Args:
        style: `osm` for the map drawn in that style; any other gives the one of `maps`.
    """
    name = "helsinki-osm.mbtiles" if style == "osm" else "helsinki.mbtiles"
    return _first(PACKAGE / "data" / name, PACKAGE.parent / "examples" / name)


def cache_folder() -> Path:
    """Return the folder for downloads: `MAPTILE2SAT_CACHE_DIR`, or the user's."""
    return Path(os.environ.get("MAPTILE2SAT_CACHE_DIR") or user_cache_dir("maptile2sat"))


def _first(*candidates: Path) -> Path:
    return next((path for path in candidates if path.exists()), candidates[-1])
