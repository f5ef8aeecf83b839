"""Turn maps into satellite-style imagery for GIS.

The main call is `maptile2sat.render(source, output, bbox=..., model=...)`. Names here are
loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maptile2sat._version import __version__

if TYPE_CHECKING:
    from maptile2sat.drawing import DrawResult, draw
    from maptile2sat.errors import Maptile2satError
    from maptile2sat.evaluation import Evaluation, evaluate
    from maptile2sat.output.merge import MergeResult, merge
    from maptile2sat.rendering import RenderOptions, RenderPlan, RenderResult, plan, render
    from maptile2sat.rendering.options import ShardOptions, ShardResult
    from maptile2sat.rendering.run import render_sharded
    from maptile2sat.serving import ServeOptions, serve
    from maptile2sat.sources import Source, SourceOptions, open_source
    from maptile2sat.training import TrainConfig, train

__all__ = [
    "DrawResult",
    "Evaluation",
    "Maptile2satError",
    "MergeResult",
    "RenderOptions",
    "RenderPlan",
    "RenderResult",
    "ServeOptions",
    "ShardOptions",
    "ShardResult",
    "Source",
    "SourceOptions",
    "TrainConfig",
    "__version__",
    "draw",
    "evaluate",
    "merge",
    "open_source",
    "plan",
    "render",
    "render_sharded",
    "serve",
    "train",
]

_HOMES = {
    "DrawResult": "drawing",
    "Evaluation": "evaluation",
    "Maptile2satError": "errors",
    "MergeResult": "output.merge",
    "RenderOptions": "rendering",
    "RenderPlan": "rendering",
    "RenderResult": "rendering",
    "ServeOptions": "serving",
    "ShardOptions": "rendering.options",
    "ShardResult": "rendering.options",
    "Source": "sources",
    "SourceOptions": "sources",
    "TrainConfig": "training",
    "draw": "drawing",
    "evaluate": "evaluation",
    "merge": "output.merge",
    "open_source": "sources",
    "plan": "rendering",
    "render": "rendering",
    "render_sharded": "rendering.run",
    "serve": "serving",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'maptile2sat' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"maptile2sat.{_HOMES[name]}"), name)
