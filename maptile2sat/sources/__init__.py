"""Map sources: whatever holds a map, read by windows of whole pixels."""

from maptile2sat.sources.base import (
    Image,
    Mask,
    Read,
    Source,
    SourceInfo,
    blank,
    columns_and_rows,
    takes_any,
    tile_count,
    tile_count_of_rows,
)
from maptile2sat.sources.hosts import Hosts
from maptile2sat.sources.mbtiles import MBTilesWriter
from maptile2sat.sources.open import located, open_source
from maptile2sat.sources.options import MAX_REPEATS, MaskedTiles, SourceOptions
from maptile2sat.sources.tiles import RepeatGuard

__all__ = [
    "MAX_REPEATS",
    "Hosts",
    "Image",
    "MBTilesWriter",
    "Mask",
    "MaskedTiles",
    "Read",
    "RepeatGuard",
    "Source",
    "SourceInfo",
    "SourceOptions",
    "blank",
    "columns_and_rows",
    "located",
    "open_source",
    "takes_any",
    "tile_count",
    "tile_count_of_rows",
]
