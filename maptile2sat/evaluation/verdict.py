"""Which of two models is better, figure by figure."""

from __future__ import annotations

import math

import numpy as np

from maptile2sat.evaluation.catalogue import METRICS, RANKING
from maptile2sat.evaluation.halves import Figure
from maptile2sat.evaluation.measuring import Measured

EVEN = "even"


DOUBT = 2.0
"""Standard deviations of a difference that it must exceed to count."""


def judge(one: Measured, other: Measured) -> dict[str, str]:
    """Return the better model's name for each figure that ranks, or `even`.

    A difference counts if it exceeds twice its standard deviation over halves of the places.
    What reaches the floor of real images is even: no one can be more real than they are.
    """
    verdicts = {}
    for name in RANKING:
        if name in one.figures and name in other.figures:
            first, second = one.figures[name], other.figures[name]
            gap = _excess(name, first) - _excess(name, second)
            differences = np.subtract(first.samples, second.samples)
            doubt = DOUBT * float(differences.std()) if differences.size else 0.0
            # of a half without labelled pixels, say, nothing is known: then there is no winner
            if abs(gap) > doubt:
                verdicts[name] = other.name if gap > 0 else one.name
            else:
                verdicts[name] = EVEN
    return verdicts


def _excess(name: str, figure: Figure) -> float:
    """Return by how much a figure is worse than that of real images, at least 0; nan if unknown."""
    sign = 1.0 if METRICS[name].better == "lower" else -1.0
    excess = sign * (figure.value - (figure.floor or 0.0))
    return excess if math.isnan(excess) else max(0.0, excess)
