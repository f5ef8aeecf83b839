"""The kernel distance of two sets of features (KID, Binkowski et al. 2018, arXiv 1801.01401)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]


def kernel_distance(one: Floats, other: Floats) -> float:
    """Return the unbiased squared MMD under the kernel (x.y / D + 1)^3.

    Its expectation is 0 for sets of one distribution, so single values may lie below 0.

    Args:
        one: Features (N, D), N at least 2.
        other: Features (M, D), M at least 2.
    """
    a, b = one.astype(np.float64), other.astype(np.float64)
    within = _without_self(_kernel(a, a)) + _without_self(_kernel(b, b))
    return float(within - 2 * _kernel(a, b).mean())


def _kernel(a: Floats, b: Floats) -> Floats:
    return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)


def _without_self(values: Floats) -> float:
    """Return the mean of a square matrix off its diagonal."""
    count = len(values)
    return float((values.sum() - np.trace(values)) / (count * (count - 1)))
