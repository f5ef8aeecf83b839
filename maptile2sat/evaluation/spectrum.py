"""Power spectra: detail by scale, and peaks that upsampling layers leave (checkerboards)."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

LUMA = np.array([0.299, 0.587, 0.114])
"""Grey value of red, green, blue (ITU-R BT.601)."""

AROUND = 8
"""Bins on every side of a frequency with which its power is compared."""

NEAR = 2
"""Bins beside it that the window's leakage reaches, and which are left out."""


def power_spectra(pictures: Pixels) -> npt.NDArray[np.float32]:
    """Return the power of every frequency, float32 (N, side, side), zero frequency first.

    Args:
        pictures: uint8 (N, side, side, 3), taken as grey, mean removed, under a Hann window.
    """
    side = pictures.shape[1]
    window = _window(side)
    spectra = np.empty(pictures.shape[:3], np.float32)
    for index, picture in enumerate(pictures):
        grey = picture @ LUMA
        spectra[index] = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
    return spectra


def radial_profile(spectra: npt.NDArray[np.float32]) -> Floats:
    """Return the mean power at each whole radius 1..side / 2, (N, side / 2)."""
    count, side = spectra.shape[:2]
    places = np.fft.fftfreq(side, 1 / side)
    radius = np.rint(np.hypot(places[:, None], places)).astype(int).ravel()
    half = side // 2
    areas = np.bincount(radius, minlength=half + 1)[1 : half + 1]
    flat = spectra.reshape(count, -1)
    sums = [np.bincount(radius, row, minlength=half + 1)[1 : half + 1] for row in flat]
    return np.stack(sums) / areas


def decibels(profiles: Floats) -> Floats:
    """Return the mean profile of pictures (N, radii) in decibels, (radii,)."""
    return np.asarray(10 * np.log10(profiles.mean(0) + _rounding(2 * profiles.shape[1])))


def spectrum_distance(one: Floats, other: Floats) -> float:
    """Return the root mean square difference of two sets' mean profiles in decibels."""
    return float(np.sqrt(((decibels(one) - decibels(other)) ** 2).mean()))


def log_spectra(spectra: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Return the logarithm of the power of each picture, float16 as there are many.

    The mean of logarithms weighs a calm picture as much as a busy one; a grid shows in water
    and lawns first.
    """
    return np.asarray(np.log(spectra + np.float32(_rounding(spectra.shape[1]))), np.float16)


def peak(logs: npt.NDArray[np.float16], period: int) -> float:
    """Return how far a grid of `period` pixels stands out of the spectrum.

    Args:
        logs: What `log_spectra` returns, (N, side, side).
        period: 2 or 4: the strides of the generators' upsampling.

    Returns:
        The largest ratio of the power at a frequency of this grid to the median around it;
        about 1 where there is no grid.
    """
    side = logs.shape[1]
    mean = logs.mean(0, dtype=np.float32)
    step = side // period
    doubled = 2 * step % side  # a grid of 4 px also has frequencies that one of 2 px has
    ratios = []
    for row in range(0, side, step):
        for col in range(0, side, step):
            coarser = period > 2 and row % doubled == 0 and col % doubled == 0
            if (row, col) != (0, 0) and not coarser:
                ratios.append(_prominence(mean, row, col))
    return float(np.exp(max(ratios)))


def _prominence(mean: npt.NDArray[np.float32], row: int, col: int) -> float:
    offsets = np.arange(-AROUND, AROUND + 1)
    part = np.take(mean, row + offsets, 0, mode="wrap").take(col + offsets, 1, mode="wrap")
    near = np.abs(offsets) <= NEAR
    around = part[~(near[:, None] & near)]
    return float(mean[row, col] - np.median(around))


@cache
def _window(side: int) -> Floats:
    ramp = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    return np.asarray(ramp[:, None] * ramp)


def _rounding(side: int) -> float:
    """Return the power at every frequency that rounding to whole levels adds."""
    return float((_window(side) ** 2).sum() / 12)
