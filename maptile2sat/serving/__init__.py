"""A live satellite layer: tiles rendered on demand, and a viewer."""

from maptile2sat.serving.options import ServeOptions
from maptile2sat.serving.server import serve

__all__ = ["ServeOptions", "serve"]
