"""Distances of generated from real images, by texture, spectrum, features and pixels.

Sliced Wasserstein distance of pyramid patches (Karras et al. 2018, arXiv 1710.10196): each level of
a Laplacian pyramid holds the detail of one scale. Patches of 7x7 pixels are drawn from it,
normalised per channel over the set, and compared through their projections on random directions:
the fine levels tell of texture and sharpness, the coarse ones of layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maptile2sat.evaluation.fcn import CLASSES, Labels
from maptile2sat.models.device import load_tensorflow

Floats = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]

PATCH = 7
PATCHES = 128
"""Patches per picture and level."""

MAX_PATCHES = 1 << 16
"""Patches per level of all pictures together, beyond which each gives fewer."""

DIRECTIONS = 512
COARSEST = 16
"""Side of the smallest level in pixels."""

SCALE = 1000.0
"""The paper's: distances are shown times 1,000."""

_TAPS = np.array([1, 4, 6, 4, 1], np.float32) / 16


def level_sides(side: int) -> list[int]:
    """Return the sides of a pyramid's levels, finest first: side, side / 2, ... 16."""
    sides = []
    while side >= COARSEST:
        sides.append(side)
        side //= 2
    return sides


def laplacian_pyramid(pictures: Floats) -> list[Floats]:
    """Return the levels, finest first, of pictures (N, side, side, 3); the last is a small copy."""
    levels = []
    for _ in level_sides(pictures.shape[1])[1:]:
        smaller = _smooth(pictures)[:, ::2, ::2]
        levels.append(pictures - _enlarge(smaller))
        pictures = smaller
    return [*levels, pictures]


def _smooth(pictures: Floats) -> Floats:
    """Blur with the binomial kernel 1 4 6 4 1 along both axes, mirrored at the border."""
    for axis in (1, 2):
        margin = [(0, 0)] * 4
        margin[axis] = (2, 2)
        wide = np.pad(pictures, margin, mode="reflect")
        length = pictures.shape[axis]
        parts = [
            tap * np.take(wide, range(place, place + length), axis)
            for place, tap in enumerate(_TAPS)
        ]
        pictures = np.add.reduce(parts)
    return pictures


def _enlarge(pictures: Floats) -> Floats:
    """Double the sides: zeros between the pixels, then the same blur times 4."""
    count, high, wide, channels = pictures.shape
    large = np.zeros((count, 2 * high, 2 * wide, channels), np.float32)
    large[:, ::2, ::2] = pictures
    return 4 * _smooth(large)


def draw_patches(pictures: npt.NDArray[np.uint8], seed: int) -> list[Floats]:
    """Return patches of every level, finest first.

    Args:
        pictures: uint8 (N, side, side, 3), the side a power of two.
        seed: Of their places, which are the same for any pictures.

    Returns:
        For each level float32 (N, patches, 7, 7, 3).
    """
    count = min(PATCHES, max(1, MAX_PATCHES // len(pictures)))
    levels: list[list[Floats]] = [[] for _ in level_sides(pictures.shape[1])]
    for index, picture in enumerate(pictures):
        random = np.random.default_rng([seed, 20, index])
        for place, level in enumerate(laplacian_pyramid(picture[None].astype(np.float32))):
            windows = np.lib.stride_tricks.sliding_window_view(level[0], (PATCH, PATCH), (0, 1))
            rows, cols = random.integers(0, windows.shape[0], (2, count))
            levels[place].append(np.moveaxis(windows[rows, cols], 1, -1))
    return [np.stack(level) for level in levels]


def sliced_wasserstein(one: Floats, other: Floats, seed: int = 0) -> float:
    """Return the distance of two sets of patches, times 1,000; 0 for equal sets.

    Args:
        one: Patches (N, patches, 7, 7, 3).
        other: Patches (M, patches, 7, 7, 3).
        seed: Of the directions.
    """
    directions = np.random.default_rng([seed, 21]).normal(size=(DIRECTIONS, PATCH * PATCH * 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    places = directions.astype(np.float32)
    first, second = (_sorted_projections(part, places) for part in (one, other))
    if first.shape != second.shape:
        first, second = _same_length(first, second)
    return float(np.abs(first - second).mean() * SCALE)


def _sorted_projections(patches: Floats, directions: Floats) -> Floats:
    """Return sorted projections (directions, patches) of normalised patches."""
    flat = patches.reshape(-1, PATCH * PATCH, 3)
    mean, spread = flat.mean((0, 1)), flat.std((0, 1))
    flat = (flat - mean) / np.maximum(spread, 1e-6)
    return np.sort(directions @ flat.reshape(len(flat), -1).T, axis=1)


def _same_length(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Bring two rows of sorted values to the shorter length, by their quantiles."""
    length = min(first.shape[1], second.shape[1])

    def cut(values: Floats) -> Any:
        places = (np.arange(length) + 0.5) / length * values.shape[1] - 0.5
        low = np.clip(np.floor(places).astype(int), 0, values.shape[1] - 1)
        high = np.minimum(low + 1, values.shape[1] - 1)
        part = (places - low).astype(np.float32)
        return values[:, low] * (1 - part) + values[:, high] * part

    return cut(first), cut(second)


# Pixel by pixel against the real image: L1, RMSE, PSNR and SSIM, as the literature has them

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


# The Frechet distance of two sets of features, taken as Gaussians (Heusel et al. 2017)


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


# The kernel distance of two sets of features (KID, Binkowski et al. 2018, arXiv 1801.01401)


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


# Response to noise: how far a picture changes when only the seed does


def noise_response(
    versions: Sequence[npt.NDArray[np.uint8]], labels: Labels | None
) -> dict[str, float]:
    """Return the standard deviation over seeds in levels, mean over pixels and channels.

    That of a few seeds is too small on average; it is put right for normally distributed levels.

    Args:
        versions: For each seed pictures uint8 (N, side, side, 3) of the same maps.
        labels: The maps' classes, uint8 (N, side, side), if known.

    Returns:
        `all`, and the mean of each class that occurs.
    """
    moved = np.stack(versions).astype(np.float32).std(0, ddof=1).mean(-1)
    moved /= _share_seen(len(versions))
    found = {"all": float(moved.mean())}
    if labels is not None:
        for number, name in enumerate(CLASSES):
            mine = labels == number
            if mine.any():
                found[name] = float(moved[mine].mean())
    return found


def _share_seen(count: int) -> float:
    """Return how much of a normal deviation `count` draws show on average, with `count - 1`."""
    return math.sqrt(2.0 / (count - 1)) * math.gamma(count / 2) / math.gamma((count - 1) / 2)


# Seams: do neighbouring pixels differ more across the borders of cells than beside them?

BESIDE = 16
"""Pixels on either side of a border with which it is compared: the same ground and texture."""


class Steps(NamedTuple):
    """Differences between neighbouring pixels of a picture, summed over rows and columns.

    Attributes:
        border: Sum over pairs of pixels on either side of a border.
        borders: How many such pairs there are.
        inside: Sum over pairs up to `BESIDE` pixels from a border.
        insides: How many.
    """

    border: float
    borders: int
    inside: float
    insides: int


def measure_steps(picture: Pixels, borders: Sequence[int]) -> Steps:
    """Measure a picture.

    Args:
        picture: uint8 (side, side, 3).
        borders: Columns, and rows, at which a new cell begins.
    """
    totals = [0.0, 0, 0.0, 0]
    for axis in (0, 1):
        gaps = np.abs(np.diff(picture.astype(np.float64), axis=axis)).mean(-1)
        lines = np.moveaxis(gaps, axis, 0)
        places = np.arange(1, len(lines) + 1)
        gap = np.abs(places[:, None] - np.array(borders, int)).min(axis=1, initial=len(places))
        for place, part in ((0, lines[gap == 0]), (2, lines[(gap > 0) & (gap <= BESIDE)])):
            totals[place] += float(part.sum())
            totals[place + 1] += part.size
    border, count, inside, others = totals
    return Steps(border, int(count), inside, int(others))


def seam_ratio(steps: Sequence[Steps]) -> float:
    """Return the mean step across borders over the mean step beside them; about 1 without seams.

    nan if there is no border; 1 if all pixels are equal.
    """
    border, borders, inside, insides = (sum(values) for values in zip(*steps, strict=True))
    if not borders or not insides:
        return float("nan")
    if inside == 0:
        return 1.0 if border == 0 else float("inf")
    return float((border / borders) / (inside / insides))


# Power spectra: detail by scale, and peaks that upsampling layers leave (checkerboards)


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


# Texture within each class of the map: how strong it is, and how far it hangs together


LAGS = (1, 2, 4, 8)
"""Pixels between the two points of an autocorrelation."""

MIN_PIXELS = 1500
"""Pixels of a class in a picture below which its texture is not measured."""


class Texture(NamedTuple):
    """Texture of pictures by class; nan where a picture has too little of a class.

    Attributes:
        std: Standard deviation of grey values in levels, (N, classes).
        correlation: Correlation of grey values that lie `LAGS` apart, (N, classes, lags).
    """

    std: Floats
    correlation: Floats


def measure_texture(pictures: npt.NDArray[np.uint8], labels: Labels) -> Texture:
    """Measure pictures.

    Args:
        pictures: uint8 (N, side, side, 3).
        labels: Their maps' classes, uint8 (N, side, side).
    """
    std = np.full((len(pictures), len(CLASSES)), np.nan)
    correlation = np.full((len(pictures), len(CLASSES), len(LAGS)), np.nan)
    for index, (picture, classes) in enumerate(zip(pictures, labels, strict=True)):
        grey = picture @ LUMA
        for number in range(len(CLASSES)):
            mine = classes == number
            if mine.sum() >= MIN_PIXELS:
                values = grey - grey[mine].mean()
                std[index, number] = values[mine].std()
                correlation[index, number] = [_correlation(values, mine, lag) for lag in LAGS]
    return Texture(std, correlation)


def _correlation(values: Floats, mine: npt.NDArray[np.bool_], lag: int) -> float:
    """Return the correlation of pixels `lag` apart, both of the class; 1 if all are equal."""
    products, squares = 0.0, 0.0
    for axis in (0, 1):
        one, other = (np.moveaxis(values, axis, 0)[part] for part in _apart(lag))
        both = np.logical_and(*(np.moveaxis(mine, axis, 0)[part] for part in _apart(lag)))
        products += float((one * other)[both].sum())
        squares += float((one**2 + other**2)[both].sum()) / 2
    return products / squares if squares > 0 else 1.0


def _apart(lag: int) -> tuple[slice, slice]:
    return slice(None, -lag), slice(lag, None)


def class_means(values: Floats) -> Floats:
    """Return the mean over pictures of what is known, nan for a class that none shows."""
    known = ~np.isnan(values)
    count = known.sum(0)
    sums = np.where(known, values, 0).sum(0)
    return np.where(count > 0, sums / np.maximum(count, 1), np.nan)


def std_distance(one: Floats, other: Floats) -> float:
    """Return the mean over classes of |ln(std / std)|: 0.1 is about ten per cent.

    nan if no class is in both.
    """
    gap = np.abs(np.log((class_means(one) + 0.5) / (class_means(other) + 0.5)))
    return _mean_known(gap)


def correlation_distance(one: Floats, other: Floats) -> float:
    """Return the mean over classes and lags of the difference of autocorrelations, 0..2."""
    return _mean_known(np.abs(class_means(one) - class_means(other)))


def _mean_known(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
