"""Sets of pairs for training: fetched, checked, or built from the user's own maps."""

from maptile2sat.datasets.building import BuildResult, build
from maptile2sat.datasets.checking import CheckReport, check
from maptile2sat.datasets.fetching import FetchResult, fetch
from maptile2sat.datasets.files import require_sound
from maptile2sat.datasets.options import BuildOptions

__all__ = [
    "BuildOptions",
    "BuildResult",
    "CheckReport",
    "FetchResult",
    "build",
    "check",
    "fetch",
    "require_sound",
]
