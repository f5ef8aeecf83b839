"""Joining the pieces of ways, which extracts cut, into longer lines and rings."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from maptile2sat.cartography.box import Points

Key = tuple[float, float]


def present_parts(points: Points) -> list[Points]:
    """Split a way where nodes are missing (NaN); parts of one node are left out."""
    there = ~np.isnan(points[:, 0])
    if there.all():
        return [points] if len(points) > 1 else []
    borders = np.flatnonzero(np.diff(there.astype(np.int8))) + 1
    parts = np.split(points, borders)
    return [part for part in parts if len(part) > 1 and not np.isnan(part[0, 0])]


def is_ring(line: Points) -> bool:
    """Return whether `line` ends where it begins."""
    return len(line) > 3 and np.array_equal(line[0], line[-1])


def join(lines: list[Points], *, directed: bool) -> list[Points]:
    """Join lines that meet at their ends, as far as it goes.

    Args:
        lines: The lines; rings among them stay as they are.
        directed: Whether an end may only meet a beginning (coastlines), or any other end.

    Returns:
        Rings and open lines.
    """
    done = [line for line in lines if is_ring(line)]
    waiting = {at: line for at, line in enumerate(lines) if not is_ring(line)}
    ends: dict[Key, list[int]] = defaultdict(list)
    for at, line in waiting.items():
        ends[_key(line[0])].append(at)
        ends[_key(line[-1])].append(at)
    while waiting:
        first = next(iter(waiting))
        parts = [waiting.pop(first)]
        _grow(parts, waiting, ends, directed=directed, forward=True)
        if not np.array_equal(parts[0][0], parts[-1][-1]):
            _grow(parts, waiting, ends, directed=directed, forward=False)
        done.append(np.vstack([parts[0], *(part[1:] for part in parts[1:])]))
    return done


def _grow(
    parts: list[Points],
    waiting: dict[int, Points],
    ends: dict[Key, list[int]],
    *,
    directed: bool,
    forward: bool,
) -> None:
    """Add lines at the end (or the beginning) of `parts` until none fits or it is closed."""
    while True:
        tip = parts[-1][-1] if forward else parts[0][0]
        for at in ends[_key(tip)]:
            line = waiting.get(at)
            if line is None:
                continue
            meets = np.array_equal(line[0] if forward else line[-1], tip)
            if not meets and directed:
                continue
            del waiting[at]
            line = line if meets else line[::-1]
            parts.insert(len(parts) if forward else 0, line)
            break
        else:
            return
        if np.array_equal(parts[0][0], parts[-1][-1]):
            return


def _key(point: Points) -> Key:
    return float(point[0]), float(point[1])
