"""Which of two models is better, figure by figure."""

from __future__ import annotations

import math

from maptile2sat.evaluation.catalogue import METRICS, RANKING
from maptile2sat.evaluation.halves import Figure
from maptile2sat.evaluation.measuring import Measured

EVEN = "even"


def judge(one: Measured, other: Measured) -> dict[str, str]:
    """Return the better model's name for each figure that ranks, or `even`.

    A difference within the spread of both is even, and so is what reaches the floor of real
    images: no one can be more real than they are.
    """
    verdicts = {}
    for name in RANKING:
        if name in one.figures and name in other.figures:
            gap = _excess(name, one.figures[name]) - _excess(name, other.figures[name])
            doubt = math.hypot(one.figures[name].spread or 0, other.figures[name].spread or 0)
            if math.isnan(gap) or abs(gap) <= doubt:
                verdicts[name] = EVEN
            else:
                verdicts[name] = other.name if gap > 0 else one.name
    return verdicts


def _excess(name: str, figure: Figure) -> float:
    """Return by how much a figure is worse than that of real images, at least 0; nan if unknown."""
    sign = 1.0 if METRICS[name].better == "lower" else -1.0
    excess = sign * (figure.value - (figure.floor or 0.0))
    return excess if math.isnan(excess) else max(0.0, excess)
