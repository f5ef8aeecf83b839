"""Pixel by pixel against the real image: L1, RMSE, PSNR and SSIM, as the literature has them.

They do not rank generators: trees and roofs that stand elsewhere count as errors, so a blurred
image scores better than a sharp one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from maptile2sat.device import load_tensorflow

Pixels = npt.NDArray[np.uint8]

IDENTICAL_PSNR = 100.0
"""PSNR in dB that two identical pictures count as; its true value is infinite."""


def l1(made: Pixels, real: Pixels) -> float:
    """Return the mean absolute difference on the scale -1..1 (0..2; lower is nearer)."""
    return float(np.abs(made.astype(np.float64) - real).mean() / 127.5)


def rmse(made: Pixels, real: Pixels) -> float:
    """Return the root of the mean squared difference on the scale -1..1."""
    return float(np.sqrt(((made.astype(np.float64) - real) ** 2).mean()) / 127.5)


def psnr(made: Pixels, real: Pixels) -> float:
    """Return the peak signal-to-noise ratio in dB, peak 255 (higher is nearer)."""
    error = rmse(made, real)
    return min(IDENTICAL_PSNR, float(20 * np.log10(2 / error))) if error else IDENTICAL_PSNR


def ssim(made: Pixels, real: Pixels) -> float:
    """Return the structural similarity (Wang et al. 2004), -1..1, higher is nearer.

    The variant of `tf.image.ssim`: 11x11 Gaussian window of sigma 1.5 at every place where it
    fits, K1 0.01, K2 0.03, range 255, mean over the three channels. scikit-image gives the same
    with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`.
    """
    tf = load_tensorflow()
    return float(tf.image.ssim(tf.constant(made), tf.constant(real), max_val=255))


def measure_distortion(
    generated: Sequence[Pixels] | Pixels, real: Sequence[Pixels] | Pixels
) -> dict[str, npt.NDArray[np.float64]]:
    """Return `l1`, `rmse`, `psnr` and `ssim` of each picture, as arrays (N,)."""
    measures = {"l1": l1, "rmse": rmse, "psnr": psnr, "ssim": ssim}
    return {
        name: np.array([measure(a, b) for a, b in zip(generated, real, strict=True)])
        for name, measure in measures.items()
    }
