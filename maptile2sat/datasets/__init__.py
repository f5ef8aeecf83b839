"""Sets of pairs for training: fetched, checked, or built from the user's own maps."""

from maptile2sat.datasets.build import BuildOptions, BuildResult, build
from maptile2sat.datasets.check import CheckReport, check
from maptile2sat.datasets.fetch import FetchResult, fetch
from maptile2sat.datasets.pairs import require_sound

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
