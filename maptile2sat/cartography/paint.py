"""Painting one tile of a scene, antialiased by painting it larger and averaging."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image as Pictures
from PIL import ImageDraw

from maptile2sat.cartography.scene import Scene
from maptile2sat.cartography.shapes import Polygon
from maptile2sat.cartography.style import Rgb
from maptile2sat.grid import TILE, Window

Image = npt.NDArray[np.uint8]

SAMPLES = 4
"""Samples per pixel and direction."""

_MARGIN = 16
"""Pixels around the canvas that large polygons keep when they are cut for speed."""

_MANY = 400
"""Points above which a polygon is cut to the canvas before painting."""

Corners = npt.NDArray[np.int64]


def paint(scene: Scene, window: Window) -> Image:
    """Draw `window` of `scene`.

    Corners are rounded to whole samples of the world grid, so that a pixel does not depend
    on the window that it is drawn in.
    """
    size = (window.width * SAMPLES, window.height * SAMPLES)
    canvas = Pictures.new("RGB", size, scene.background)
    brush = ImageDraw.Draw(canvas)
    origin = np.array([window.col * SAMPLES, window.row * SAMPLES])
    around = window.grown(1)
    for shape in scene.within(around.col, around.row, around.right, around.bottom):
        for outer, holes in _rings(shape.polygon, window, origin):
            if holes:
                _fill_with_holes(canvas, outer, holes, shape.colour)
            else:
                brush.polygon(outer.ravel().tolist(), fill=shape.colour)
    return np.asarray(canvas.reduce(SAMPLES))


def paint_tile(scene: Scene, column: int, row: int) -> Image:
    """Draw the 256 px tile `column`, `row`."""
    return paint(scene, Window(column * TILE, row * TILE, TILE, TILE))


def _rings(
    polygon: Polygon, window: Window, origin: Corners
) -> Iterator[tuple[Corners, list[Corners]]]:
    """Yield outer ring and holes of each part of `polygon`, in samples of the canvas."""
    import shapely

    if shapely.get_num_coordinates(polygon) > _MANY:
        around = window.grown(_MARGIN)
        edges = shapely.box(around.col, around.row, around.right, around.bottom)
        polygon = polygon.intersection(edges)
    for part in shapely.get_parts(polygon).tolist():
        if part.geom_type in ("GeometryCollection", "MultiPolygon"):
            yield from _rings(part, window, origin)
        elif part.geom_type == "Polygon" and not part.is_empty:
            outer = _samples(part.exterior.coords, origin)
            yield outer, [_samples(ring.coords, origin) for ring in part.interiors]


def _samples(coords: object, origin: Corners) -> Corners:
    """Round pixel positions to the samples whose middles are nearest."""
    points = np.asarray(coords)[:, :2] * SAMPLES - 0.5
    return np.asarray(np.floor(points + 0.5).astype(np.int64) - origin)


def _fill_with_holes(
    canvas: Pictures.Image, outer: Corners, holes: list[Corners], colour: Rgb
) -> None:
    """Fill a polygon except its holes."""
    low = np.maximum(outer.min(axis=0), 0)
    high = np.minimum(outer.max(axis=0) + 1, canvas.size)
    if (low >= high).any():
        return
    width, height = (high - low).tolist()
    stencil = Pictures.new("1", (width, height))
    brush = ImageDraw.Draw(stencil)
    brush.polygon((outer - low).ravel().tolist(), fill=1)
    for hole in holes:
        brush.polygon((hole - low).ravel().tolist(), fill=0)
    canvas.paste(colour, (int(low[0]), int(low[1])), stencil)
