"""A cutline: the polygons of a GeoJSON file that a render is clipped to.

A pixel is inside when its centre is; that is GDAL's rule, which `gdalwarp -cutline` and
`rasterio.features.rasterize` follow too. Coordinates are longitudes and latitudes (RFC 7946)
unless the file has the `crs` member of older GeoJSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.warp import transform as transform_points

from maptile2sat.errors import UsageError
from maptile2sat.geo.cells import Cells
from maptile2sat.geo.crs import FARTHEST, HALF_WORLD, WGS84, parse_crs
from maptile2sat.geo.grid import Grid, Window

MAX_BYTES = 64 << 20
"""Most bytes that a file may have."""

MAX_CELLS = 1 << 28
"""Most cells that an area may have to be looked through for those that the polygons touch."""

BEND = 0.05
"""Part of a pixel by which the straight line between two points of an edge may miss it."""

STEP = 1 / 16
"""Part of the way around the world after which an edge gets a point in any case."""

_PIECES = 64
"""Most pieces that an edge is cut into by `STEP`: four times around the world."""

_DEPTH = 12
"""Most times that a piece of an edge is halved."""

Ring = npt.NDArray[np.float64]
"""float64 (points, 2): x and y, or column and row; the last point is the first."""


@dataclass(frozen=True)
class Cutline:
    """Polygons in a CRS.

    Attributes:
        name: The file.
        crs: Their CRS.
        polygons: The rings of each, the outer one first.
    """

    name: str
    crs: CRS
    polygons: list[list[Ring]]

    def on(self, grid: Grid) -> Cut:
        """Return the polygons in the pixel coordinates of a grid.

        Raises:
            UsageError: If they reach beyond where the grid's CRS is defined.
        """
        pixel = math.hypot(grid.affine.a, grid.affine.d)
        turn = None if grid.turn is None else grid.turn / pixel
        west = 0.0 if grid.turn is None else (~grid.affine @ (-grid.turn / 2, 0))[0] + grid.col0
        polygons = [self._placed(rings, grid, turn) for rings in self.polygons]
        return Cut(self.name, turn, west, polygons)

    def _placed(self, rings: list[Ring], grid: Grid, turn: float | None) -> list[Ring]:
        """Return a polygon's rings in pixels, edges bent as the grid's CRS bends them."""
        fine = [_bent(ring, self.crs, grid) for ring in rings]
        if not all(np.isfinite(ring).all() for ring in fine):
            raise UsageError(
                f"the cutline {self.name} reaches beyond where {grid.crs} is defined: clip it first"
            )
        return fine if turn is None else _together(fine, turn)


@dataclass(frozen=True)
class Cut:
    """Polygons in the pixel coordinates of a grid: column and row, whole at pixel corners.

    Attributes:
        name: The file that they come from.
        turn: Columns after which the world repeats itself, if it does.
        west: Column at 180 degrees west.
        polygons: The rings of each.
    """

    name: str
    turn: float | None
    west: float
    polygons: list[list[Ring]]

    def window(self, within: Window | None = None, towards: Window | None = None) -> Window:
        """Return the pixels that the polygons span, across 180 degrees if that is shorter.

        Args:
            within: What to cut the window to; its columns may be any turn around the world.
            towards: Without it, pixels in whose turn around the world the window is to lie, if
                any of the polygons can.

        Raises:
            UsageError: If nothing of them is within.
        """
        if within is not None:
            boxes = np.array([_box(rings) for rings in self._near(within)])
        else:
            boxes = self._side_by_side(towards)
        if len(boxes):
            # a polygon that ends on a pixel's border ends there
            left, top = np.floor(boxes[:, :2].min(0) + 1e-3).astype(int)
            right, bottom = np.ceil(boxes[:, 2:].max(0) - 1e-3).astype(int)
            found = Window(int(left), int(top), int(right - left), int(bottom - top))
            found = found if within is None else found.intersection(within)
            if not found.empty:
                return found
        raise UsageError(f"the cutline {self.name} holds no pixel of the area asked for")

    def mask(self, window: Window) -> npt.NDArray[np.uint8]:
        """Return uint8 (height, width): 255 where the centre of a pixel is inside, else 0."""
        return self._burnt(window, window.height, window.width)

    def cells(self, cells: Cells, reach: int) -> npt.NDArray[np.bool_]:
        """Return which cells the polygons come near.

        Args:
            cells: The cells of the area.
            reach: Pixels around a cell that count as it.

        Returns:
            bool (rows, columns) of cells.

        Raises:
            UsageError: If there are too many cells.
        """
        if len(cells) > MAX_CELLS:
            raise UsageError(
                f"the area of the cutline {self.name} has {len(cells):,} cells: cut it up"
            )
        # a cell with what is around it is the cell moved to the corners, and between them if small
        touched = np.zeros((cells.down, cells.across), np.uint8)
        for across in _moves(reach, cells.first.width):
            for down in _moves(reach, cells.first.height):
                moved = cells.covered.shifted(across, down)
                touched |= self._burnt(moved, cells.down, cells.across, touched=True)
        return touched > 0

    def _burnt(
        self, window: Window, rows: int, cols: int, *, touched: bool = False
    ) -> npt.NDArray[np.uint8]:
        """Burn the polygons into `rows` x `cols` rectangles that fill a window."""
        shapes = [
            {"type": "Polygon", "coordinates": [ring.tolist() for ring in rings]}
            for rings in self._near(window)
        ]
        if not shapes:
            return np.zeros((rows, cols), np.uint8)
        at = Affine.translation(window.col, window.row) @ Affine.scale(
            window.width / cols, window.height / rows
        )
        burnt = rasterize(
            shapes,
            out_shape=(rows, cols),
            transform=at,
            all_touched=touched,
            default_value=255,
            dtype="uint8",
        )
        return np.asarray(burnt)

    def _side_by_side(self, towards: Window | None) -> npt.NDArray[np.float64]:
        """Return the polygons' boxes, moved around the world so that they lie beside each other.

        They do so about a window if one is given that any of them meets, else across 180 degrees
        if there is a gap between them of more than half the world.
        """
        boxes = np.array([_box(rings) for rings in self.polygons])
        if self.turn is None:
            return boxes
        boxes[:, [0, 2]] -= np.floor((boxes[:, :1] - self.west) / self.turn) * self.turn
        if towards is not None:
            middle = (towards.col + towards.right) / 2
            turns = np.round((middle - boxes[:, [0, 2]].mean(1)) / self.turn)
            met = np.zeros(len(boxes), bool)
            for turn in (-1, 1, 0):  # the last counts
                left, right = (boxes[:, [0, 2]] + turn * self.turn).T
                there = (left < towards.right) & (right > towards.col)
                turns[there], met = turn, met | there
            if met.any():
                boxes[:, [0, 2]] += turns[:, None] * self.turn
                return boxes
        boxes = boxes[np.argsort(boxes[:, 0])]
        gaps = boxes[1:, 0] - np.maximum.accumulate(boxes[:-1, 2])
        if len(gaps) and gaps.max() > self.turn / 2:
            boxes[: int(gaps.argmax()) + 1, [0, 2]] += self.turn
        return boxes

    def _near(self, window: Window) -> Iterator[list[Ring]]:
        """Yield the polygons whose boxes meet a window, in its turn around the world."""
        for rings in self.polygons:
            left, top, right, bottom = _box(rings)
            if top >= window.bottom or bottom <= window.row:
                continue
            if self.turn is None:
                turns = range(1)
            else:
                first = math.ceil((window.col - right) / self.turn)
                turns = range(first, math.floor((window.right - left) / self.turn) + 1)
            for turn in turns:
                shift = turn * (self.turn or 0.0)
                if left + shift < window.right and right + shift > window.col:
                    yield [ring + np.array([shift, 0.0]) for ring in rings]


def read_cutline(path: Path | str) -> Cutline:
    """Read the polygons of a GeoJSON file.

    Raises:
        UsageError: If it cannot be read, is no GeoJSON, or holds no polygon.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"the cutline {path} has more than {MAX_BYTES >> 20} MB: simplify it")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"the cutline {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the cutline {path} is not GeoJSON: {error}") from error
    polygons = [
        [_ring(ring, path) for ring in _listed(rings, path)] for rings in _polygons(content, path)
    ]
    if not polygons:
        raise UsageError(f"the cutline {path} holds no polygon")
    return Cutline(str(path), _crs(content), polygons)


def _polygons(thing: Any, path: Path) -> Iterator[Any]:
    """Yield the coordinates of every polygon of a GeoJSON object."""
    kind = thing.get("type") if isinstance(thing, dict) else None
    if kind == "FeatureCollection":
        for feature in _listed(thing.get("features"), path):
            yield from _polygons(feature, path)
    elif kind == "Feature":
        if thing.get("geometry") is not None:
            yield from _polygons(thing["geometry"], path)
    elif kind == "GeometryCollection":
        for geometry in _listed(thing.get("geometries"), path):
            yield from _polygons(geometry, path)
    elif kind == "MultiPolygon":
        yield from _listed(thing.get("coordinates"), path)
    elif kind == "Polygon":
        yield thing.get("coordinates")
    elif kind in ("Point", "MultiPoint", "LineString", "MultiLineString"):
        raise UsageError(f"the cutline {path} holds a {kind}: only polygons can be cut along")
    else:
        raise UsageError(f"the cutline {path} is not GeoJSON: it has an object of type {kind!r}")


def _listed(value: Any, path: Path) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise UsageError(f"the cutline {path} is not GeoJSON: a list is missing or empty")
    return value


def _ring(points: Any, path: Path) -> Ring:
    """Return a ring as an array, after checking that it is one."""
    try:
        ring = np.array([[float(x), float(y)] for x, y, *_ in points])
    except (TypeError, ValueError) as error:
        raise UsageError(f"the cutline {path} has a position that is not two numbers") from error
    except OverflowError as error:
        raise _nowhere(path) from error
    if np.abs(ring).max(initial=0.0) > FARTHEST:
        raise _nowhere(path)
    closed = len(ring) >= 4 and bool((ring[0] == ring[-1]).all())
    if not closed or not np.isfinite(ring).all():
        raise UsageError(
            f"the cutline {path} has a ring that is not closed, of at least four positions"
        )
    return ring


def _nowhere(path: Path) -> UsageError:
    return UsageError(
        f"the cutline {path} has a position where nothing can lie: give longitudes and latitudes"
    )


def _crs(content: dict[str, Any]) -> CRS:
    """Return the CRS that a GeoJSON object states, or that of longitude and latitude."""
    stated = content.get("crs")
    if stated is None:
        return WGS84
    properties = stated.get("properties") if isinstance(stated, dict) else None
    name = str(properties.get("name") if isinstance(properties, dict) else stated)
    # rasterio goes by longitude first whatever a CRS says, as GeoJSON does
    return WGS84 if name.endswith("CRS84") else parse_crs(name)


def _bent(ring: Ring, crs: CRS, grid: Grid) -> Ring:
    """Return a ring in pixels, with points added where straight edges become curves."""
    inverse = ~grid.affine
    lengths = np.hypot(*np.diff(ring, axis=0).T)
    steps = np.ceil(lengths / (_around(crs) * STEP)).clip(1, _PIECES).astype(int)
    fine = np.concatenate(
        [
            start + (end - start) * np.linspace(0.0, 1.0, count, endpoint=False)[:, None]
            for start, end, count in zip(ring[:-1], ring[1:], steps, strict=True)
        ]
        + [ring[-1:]]
    )

    def placed(points: Ring) -> Ring:
        xs, ys = _there(points, crs, grid.crs)
        cols, rows = inverse @ (xs, ys)
        return np.column_stack([cols + grid.col0, rows + grid.row0])

    if crs == grid.crs:
        return placed(fine)
    there = placed(fine)
    for _ in range(_DEPTH):
        middles = (fine[:-1] + fine[1:]) / 2
        bent = placed(middles)
        off = bent - (there[:-1] + there[1:]) / 2
        wrong = np.hypot(off[:, 0], off[:, 1]) > BEND
        if not wrong.any():
            break
        places = np.flatnonzero(wrong) + 1
        fine = np.insert(fine, places, middles[wrong], axis=0)
        there = np.insert(there, places, bent[wrong], axis=0)
    return there


def _around(crs: CRS) -> float:
    """Return how far once around the world is in units of a CRS, about that in most projections.

    Edges are cut up by it: a long one would be taken for a jump across 180 degrees.
    """
    if crs.is_geographic:
        return 360.0
    metres: float = crs.linear_units_factor[1] if crs.is_projected else 1.0
    return 2 * HALF_WORLD / metres


def _together(rings: list[Ring], turn: float) -> list[Ring]:
    """Return a polygon's rings without jumps at 180 degrees, the holes inside the outer ring."""
    for ring in rings:
        ring[:, 0] = np.unwrap(ring[:, 0], period=turn)
    # no ring is wider than the world, so the middle of a hole tells in which turn it lies
    middles = np.array([(ring[:, 0].min() + ring[:, 0].max()) / 2 for ring in rings])
    shifts = np.round((middles[0] - middles) / turn) * turn
    return [ring + np.array([shift, 0.0]) for ring, shift in zip(rings, shifts, strict=True)]


def _there(points: Ring, crs: CRS, wanted: CRS) -> tuple[Ring, Ring]:
    try:
        xs, ys = transform_points(crs, wanted, points[:, 0], points[:, 1])
    except (RasterioError, CPLE_BaseError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"the cutline's positions make no sense in {crs} ({reason}): GeoJSON is in degrees, "
            "longitude first, unless it states a CRS"
        ) from error
    return np.asarray(xs), np.asarray(ys)


def _box(rings: list[Ring]) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of a polygon."""
    outer = rings[0]
    return (*outer.min(0).tolist(), *outer.max(0).tolist())


def _moves(reach: int, side: int) -> list[int]:
    """Return shifts from -`reach` to `reach` that leave no gap between cells of that side."""
    count = -(-2 * reach // side)
    return (
        [round(-reach + 2 * reach * index / count) for index in range(count + 1)] if reach else [0]
    )
