"""Rendering a map as satellite-style imagery."""

from maptile2sat.rendering.job import choose_source, uses_sample
from maptile2sat.rendering.options import RenderOptions, RenderPlan, RenderResult
from maptile2sat.rendering.run import plan, render
from maptile2sat.rendering.work import partial_folder

__all__ = [
    "RenderOptions",
    "RenderPlan",
    "RenderResult",
    "choose_source",
    "partial_folder",
    "plan",
    "render",
    "uses_sample",
]
