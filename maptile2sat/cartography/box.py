"""The extract's box in pixels: cutting lines at it, and closing open lines along it."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
"""Float64 array (n, 2) of pixel positions: x to the right, y down."""


class Box(NamedTuple):
    """A rectangle in pixels; y grows southwards."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Distance from left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Distance from top to bottom."""
        return self.bottom - self.top

    @property
    def reach(self) -> float:
        """How far an open end may lie from the box and still belong to it."""
        return min(self.width, self.height) / 3

    @property
    def around(self) -> float:
        """Length of the border."""
        return 2 * (self.width + self.height)

    def nearest(self, point: Points) -> tuple[Points, float]:
        """Return the point of the border nearest to `point` (inside), and its distance."""
        x, y = float(point[0]), float(point[1])
        sides = [
            (x - self.left, (self.left, y)),
            (self.right - x, (self.right, y)),
            (y - self.top, (x, self.top)),
            (self.bottom - y, (x, self.bottom)),
        ]
        distance, place = min(sides)
        return np.array(place), distance

    def position(self, point: Points) -> float:
        """Return how far along the border `point` lies.

        It starts at the south-west corner and goes east, north, west and south:
        counter-clockwise on the map.
        """
        x, y = float(point[0]), float(point[1])
        if y >= self.bottom:
            return x - self.left
        if x >= self.right:
            return self.width + (self.bottom - y)
        if y <= self.top:
            return self.width + self.height + (self.right - x)
        return 2 * self.width + self.height + (y - self.top)

    def corners_between(self, start: float, end: float) -> Points:
        """Return the corners passed when going counter-clockwise from `start` to `end`."""
        along = [0.0, self.width, self.width + self.height, 2 * self.width + self.height]
        points = [
            (self.left, self.bottom),
            (self.right, self.bottom),
            (self.right, self.top),
            (self.left, self.top),
        ]
        if end <= start:
            end += self.around
        passed = [
            (at + turn, point)
            for turn in (0.0, self.around)
            for at, point in zip(along, points, strict=True)
            if start < at + turn < end
        ]
        return np.array([point for _, point in sorted(passed)]).reshape(-1, 2)

    def ring(self) -> Points:
        """Return the closed border, counter-clockwise on the map from the south-west."""
        corners = self.corners_between(-1e-9, self.around - 1e-9)
        return np.vstack([corners, corners[:1]])

    def polygon(self) -> Any:
        """Return the box as a shapely Polygon."""
        from shapely import box

        return box(self.left, self.top, self.right, self.bottom)

    def clip(self, line: Points) -> list[Points]:
        """Return the pieces of `line` inside the box, each in the line's own direction."""
        if self._holds(line).all():
            return [line]
        pieces: list[list[Points]] = []
        for start, end in itertools.pairwise(list(line)):
            part = self._clip_segment(start, end)
            if part is None:
                continue
            first, last = part
            if pieces and first is start and pieces[-1][-1] is start:
                pieces[-1].append(last)
            else:
                pieces.append([first, last])
        return [np.array(piece) for piece in pieces]

    def extended(self, line: Points) -> Points | None:
        """Return `line` with both ends led to the nearest side; `None` if that is too far."""
        ends = []
        for point in (line[0], line[-1]):
            target, distance = self.nearest(point)
            if distance > self.reach:
                return None
            ends.append(target[np.newaxis] if distance > 0 else np.empty((0, 2)))
        return np.vstack([ends[0], line, ends[1]])

    def beyond(self, before: Points, end: Points, limit: float) -> Points | None:
        """Follow a line from `before` through `end` out of the box.

        Returns:
            A point a little outside, or `None` if the border is not within `limit`.
        """
        step = end - before
        length = float(np.hypot(*step))
        if length == 0:
            return None
        target = end + step / length * limit
        inside = self.clip(np.array([end, target]))
        if len(inside) != 1 or not self._on_border(inside[0][-1]):
            return None
        return np.asarray(inside[0][-1] + step / length * limit)

    def _holds(self, points: Points) -> npt.NDArray[np.bool_]:
        x, y = points[:, 0], points[:, 1]
        inside = (x >= self.left) & (x <= self.right) & (y >= self.top) & (y <= self.bottom)
        return np.asarray(inside)

    def _on_border(self, point: Points) -> bool:
        return point[0] in (self.left, self.right) or point[1] in (self.top, self.bottom)

    def _clip_segment(self, start: Points, end: Points) -> tuple[Points, Points] | None:
        """Cut one segment (Liang and Barsky); cut ends lie exactly on the border."""
        step = end - start
        low, high = 0.0, 1.0
        for axis, (near, far) in enumerate(((self.left, self.right), (self.top, self.bottom))):
            if step[axis] == 0:
                if not near <= start[axis] <= far:
                    return None
                continue
            first, last = sorted((edge - start[axis]) / step[axis] for edge in (near, far))
            low, high = max(low, first), min(high, last)
        if low >= high:
            return None
        return self._at(start, end, low), self._at(start, end, high)

    def _at(self, start: Points, end: Points, part: float) -> Points:
        if part <= 0.0:
            return start
        if part >= 1.0:
            return end
        point = start + (end - start) * part
        for axis, sides in enumerate(((self.left, self.right), (self.top, self.bottom))):
            for side in sides:
                if abs(point[axis] - side) < 1e-6:
                    point[axis] = side
        return np.asarray(point)
