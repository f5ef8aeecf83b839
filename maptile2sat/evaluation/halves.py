"""Comparing sets of pictures fairly: the same places are never on both sides.

A distance between two sets of pictures is never 0, even if both are real, and grows as the
sets get smaller. So generated pictures of one half of the places are compared with real ones
of the other half, and beside it stands the floor: real ones of the first half against real
ones of the second. Only "generated" or "real" differs between the two numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

SPLITS = 3
"""Ways of halving the places; figures are means over them."""

Indices = npt.NDArray[np.int64]
Distance = Callable[[Any, Any], float]


class Halves(NamedTuple):
    """Indices of the pictures of either half."""

    first: Indices
    second: Indices


class Figure(NamedTuple):
    """A measured value.

    Attributes:
        value: Of the generated pictures.
        floor: The same of real pictures, the best that can be hoped for; None if there is none.
        spread: Standard deviation over halves of the places.
        samples: The values on these halves, which are the same for every model: differences
            between two models vary less than the values do.
    """

    value: float
    floor: float | None = None
    spread: float | None = None
    samples: tuple[float, ...] = ()


def halve(places: Sequence[int], seed: int, splits: int = SPLITS) -> list[Halves]:
    """Cut pictures into two disjoint halves, in several ways.

    Args:
        places: Where each picture was taken; pictures of one place stay together.
        seed: Of the cuts.
        splits: How many ways.

    Returns:
        The halves; both have pictures if there are two places.
    """
    given = np.asarray(places)
    known = np.unique(given)
    found = []
    for number in range(splits):
        order = np.random.default_rng([seed, 10, number]).permutation(known)
        first = np.isin(given, order[: len(order) // 2])
        found.append(Halves(np.flatnonzero(first), np.flatnonzero(~first)))
    return found


def against_real(
    distance: Distance,
    generated: npt.NDArray[Any],
    real: npt.NDArray[Any],
    halves: Sequence[Halves],
) -> Figure:
    """Return the distance of generated from real pictures of other places, with its floor.

    Args:
        distance: Of two arrays of what describes pictures, the picture along the first axis.
        generated: What describes the generated pictures.
        real: What describes the real ones, in the same order.
        halves: Indices of pictures.
    """
    floors = [distance(real[a], real[b]) for a, b in halves]
    values = [
        distance(generated[one], real[other]) for a, b in halves for one, other in ((a, b), (b, a))
    ]
    return _figure(float(np.mean(values)), float(np.mean(floors)), values)


def mean_figure(figures: Sequence[Figure]) -> Figure:
    """Return the mean of several figures, for example one per scale."""
    value = float(np.mean([figure.value for figure in figures]))
    floor = float(np.mean([figure.floor for figure in figures if figure.floor is not None]))
    return _figure(value, floor, np.mean([figure.samples for figure in figures], axis=0))


def on_all(
    measure: Callable[[Indices], float],
    halves: Sequence[Halves],
    floor: float | None = None,
) -> Figure:
    """Return a measure of all pictures, with its standard error from halves of them.

    Half of a sample, drawn without replacement, differs from the whole by as much as the whole
    differs from the truth.

    Args:
        measure: Takes the indices of pictures.
        halves: Indices of pictures.
        floor: What real pictures have.
    """
    everything = np.sort(np.concatenate(halves[0]))
    return _figure(measure(everything), floor, [measure(half) for both in halves for half in both])


def _figure(value: float, floor: float | None, samples: Sequence[float] | Any) -> Figure:
    given = tuple(float(sample) for sample in samples)
    return Figure(value, floor, float(np.std(given)), given)
