"""The Frechet distance of two sets of features, taken as Gaussians (Heusel et al. 2017)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]


def frechet_distance(one: Floats, other: Floats) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)); 0 for equal sets.

    Args:
        one: Features (N, D), N at least 2.
        other: Features (M, D).
    """
    gap = one.mean(0) - other.mean(0)
    first, second = (np.cov(part, rowvar=False).reshape(2 * gap.shape) for part in (one, other))
    # the trace of (C1 C2)^(1/2) is that of the symmetric (R C2 R)^(1/2) with R = C1^(1/2)
    root = _root(first)
    inner = np.linalg.eigvalsh(root @ second @ root)
    shared = np.sqrt(np.maximum(inner, 0)).sum()
    return float(max(0.0, gap @ gap + np.trace(first) + np.trace(second) - 2 * shared))


def _root(matrix: Floats) -> Floats:
    """Return the square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)
