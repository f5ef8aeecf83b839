"""Map sources: whatever holds a map, read by windows of whole pixels."""

from maptile2sat.source import (
    Image,
    Mask,
    Read,
    Source,
    SourceInfo,
    blank,
    columns_and_rows,
    tile_count,
    tile_count_of_rows,
)
from maptile2sat.sources.masked import MaskedTiles
from maptile2sat.sources.mbtiles_writer import MBTilesWriter
from maptile2sat.sources.opening import open_source
from maptile2sat.sources.options import SourceOptions

__all__ = [
    "Image",
    "MBTilesWriter",
    "Mask",
    "MaskedTiles",
    "Read",
    "Source",
    "SourceInfo",
    "SourceOptions",
    "blank",
    "columns_and_rows",
    "open_source",
    "tile_count",
    "tile_count_of_rows",
]
