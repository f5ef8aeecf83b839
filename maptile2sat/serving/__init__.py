"""A live satellite layer: tiles rendered on demand, and a viewer."""

from maptile2sat.serving.options import ServeOptions
from maptile2sat.serving.run import serve

__all__ = ["ServeOptions", "serve"]
