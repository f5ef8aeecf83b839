"""What is painted, in which order: an extract and a style made into coloured polygons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pictures
from PIL import ImageDraw

from maptile2sat.geo.grid import TILE, Window
from maptile2sat.osm.geometry import Polygon, polygonal
from maptile2sat.osm.read import Extract, LineClass, LineFeature
from maptile2sat.osm.style import STYLE_ZOOM, Area, Line, Rgb, Style, rgb

Order = tuple[float, float, float, float]
"""Stage, layer, casing before fill, rank; painted from small to large."""

# Stages of painting, from the bottom to the top.
_SEA, _LAND, _WATER, _SHORE, _PIER, _TUNNEL = 0, 1, 2, 3, 4, 5
_SHELTERED, _WALL, _BUILDING, _GROUND, _BRIDGE = 6, 7, 8, 9, 10

_CASING, _FILL = 0, 1
_PAVING, _BELOW_PAVING = -1, -1000  # ranks below those of all roads
_AREA_STAGE = {
    "water": _WATER, "pool": _WATER, "pier": _PIER, "bridge": _PIER, "building": _BUILDING,
    "pedestrian": _GROUND,
}  # fmt: skip
_LINE_STAGE = {
    "river": _WATER, "canal": _WATER, "stream": _WATER, "pier": _PIER, "runway": _PIER,
    "taxiway": _PIER,
}  # fmt: skip
_FLAT, _ROUND = "flat", "round"
_MIN_WIDTH = 0.6
"""Pixels below which no line is drawn thinner at small zooms."""


@dataclass(frozen=True)
class Shape:
    """A polygon, its colour, and when it is painted."""

    order: Order
    polygon: Polygon
    colour: Rgb


class Scene:
    """All shapes of a map, found quickly by place and given in painting order.

    Args:
        extract: What there is to draw.
        style: How it looks.
        zoom: The zoom of the extract's pixels.
    """

    def __init__(self, extract: Extract, style: Style, zoom: int) -> None:
        from shapely import STRtree

        scale = 2.0 ** (zoom - STYLE_ZOOM)
        shapes = [
            *_water_shapes(extract, style, scale),
            *_area_shapes(extract, style, scale),
            *_line_shapes(extract.lines, style, scale),
        ]
        shapes.sort(key=lambda shape: shape.order)
        self.background = rgb(style.background)
        self._shapes = shapes
        self._tree = STRtree([shape.polygon for shape in shapes])

    def within(self, left: float, top: float, right: float, bottom: float) -> list[Shape]:
        """Return the shapes that touch a rectangle, in painting order."""
        from shapely import box

        found = self._tree.query(box(left, top, right, bottom))
        return [self._shapes[at] for at in np.sort(found).tolist()]


def _water_shapes(extract: Extract, style: Style, scale: float) -> Iterator[Shape]:
    """Yield the sea, and the shading along the shores of all large water."""
    from shapely import box, clip_by_rect, union_all

    look = style.areas["water"]
    if extract.sea is not None:
        yield Shape((_SEA, 0, 0, 0), extract.sea, rgb(look.fill))
    if not style.shore:
        return
    areas = [area.polygon for area in extract.areas if area.name == "water"]
    if extract.sea is not None:
        areas.append(extract.sea)
    window = extract.window
    edges = (window.col, window.row, window.right, window.bottom)
    water = polygonal(union_all(areas).intersection(box(*edges)))
    if water.is_empty:
        return
    inside = (edges[0] + 0.01, edges[1] + 0.01, edges[2] - 0.01, edges[3] - 0.01)
    shore = clip_by_rect(water.boundary, *inside)
    if shore.is_empty:
        return
    for step in range(len(style.shore), 0, -1):
        band = shore.buffer(step * style.shore_step * scale, quad_segs=4).intersection(water)
        yield Shape((_SHORE, 0, 0, -step), band, rgb(style.shore[step - 1]))


def _area_shapes(extract: Extract, style: Style, scale: float) -> Iterator[Shape]:
    """Yield the areas: land cover from large to small, then what stands on it."""
    for area in extract.areas:
        look = style.areas.get(area.name)
        if look is None:
            continue
        stage = _AREA_STAGE.get(area.name, _LAND)
        size = 0.0 if stage in (_BUILDING, _GROUND) else -area.polygon.area
        if area.name == "building" and style.shadow:
            wall = _wall(area.polygon, style.shadow_reach * scale)
            yield Shape((_WALL, 0, 0, 0), wall, rgb(style.shadow))
        below, above = (stage, 0, size, 0), (stage, 0, size, 1)
        if stage == _GROUND:
            below, above = (stage, 0, _CASING, _PAVING), (stage, 0, _FILL, _PAVING)
        yield from _outlined(below, above, area.polygon, look, scale)


def _outlined(
    below: Order, above: Order, polygon: Polygon, look: Area, scale: float
) -> Iterator[Shape]:
    """Yield an area with its border inside it."""
    if look.outline is None:
        yield Shape(above, polygon, rgb(look.fill))
        return
    yield Shape(below, polygon, rgb(look.outline))
    core = polygon.buffer(-look.edge * scale, join_style="mitre")
    if not core.is_empty:
        yield Shape(above, core, rgb(look.fill))


def _wall(polygon: Polygon, reach: float) -> Polygon:
    """Return the building's footprint drawn out to the south-east."""
    from shapely import union_all
    from shapely.affinity import translate

    return union_all([translate(polygon, reach * part, reach * part) for part in (0.5, 1.0)])


def _line_shapes(lines: list[LineFeature], style: Style, scale: float) -> Iterator[Shape]:
    """Yield casings and fills of all lines; the casings of a level lie under all its fills."""
    groups: dict[LineClass, list[npt.NDArray[np.float64]]] = {}
    for line in lines:
        groups.setdefault(line.kind, []).append(line.points)
    for kind, paths in groups.items():
        look = style.lines.get(kind.name)
        if look is None or (kind.tunnel and look.tunnel is None):
            continue
        yield from _strokes(kind, look, paths, style.rank[kind.name], scale)


def _strokes(
    kind: LineClass, look: Line, paths: list[npt.NDArray[np.float64]], rank: int, scale: float
) -> Iterator[Shape]:
    from shapely.geometry import LineString

    shapes = [LineString(path) for path in paths]
    stage, layer = _level(kind)
    if look.below_paving:
        rank += _BELOW_PAVING
    width = max(_MIN_WIDTH, look.width * scale)
    if look.casing is not None:
        cased = width + 2 * look.edge * scale
        cap = _FLAT if kind.bridge or kind.tunnel else _ROUND
        for polygon in _buffers(shapes, cased, cap):
            yield Shape((stage, layer, _CASING, rank), polygon, rgb(look.casing))
    if look.dash is not None:
        on, off = look.dash[0] * scale, look.dash[1] * scale
        shapes = [part for shape in shapes for part in _dashes(shape, on, off)]
    colour = rgb(look.tunnel if kind.tunnel and look.tunnel else look.fill)
    for polygon in _buffers(shapes, width, _FLAT if look.dash else _ROUND):
        yield Shape((stage, layer, _FILL, rank), polygon, colour)


def _level(kind: LineClass) -> tuple[int, int]:
    """Return stage and layer of a line: tunnels, shelters, ground, bridges."""
    if kind.name in _LINE_STAGE and not kind.bridge:
        return _LINE_STAGE[kind.name], 0
    if kind.tunnel:
        return _TUNNEL, kind.layer
    if kind.sheltered:
        return _SHELTERED, 0
    if kind.bridge:
        return _BRIDGE, kind.layer
    return _GROUND, min(kind.layer, 0)


def _buffers(shapes: list[Any], width: float, cap: str) -> Iterable[Polygon]:
    """Return the lines as polygons `width` pixels wide, empty ones left out."""
    from shapely import buffer

    if not shapes:
        return []
    polygons = buffer(shapes, width / 2, quad_segs=4, cap_style=cap, join_style="round")
    return [polygon for polygon in polygons if not polygon.is_empty]


def _dashes(line: Any, on: float, off: float) -> Iterator[Any]:
    """Yield the dashes of `line`."""
    from shapely.ops import substring

    start, length = 0.0, line.length
    while start < length:
        yield substring(line, start, min(start + on, length))
        start += on + off


# Painting one tile of a scene, antialiased by painting it larger and averaging

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
