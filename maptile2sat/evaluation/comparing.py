"""Figures of generated pictures against real ones of the same maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from maptile2sat.evaluation.classes import CLASSES, Labels
from maptile2sat.evaluation.description import Description
from maptile2sat.evaluation.distortion import measure_distortion
from maptile2sat.evaluation.fcn_score import Confusion, Score
from maptile2sat.evaluation.frechet import frechet_distance
from maptile2sat.evaluation.halves import (
    Figure,
    Halves,
    Indices,
    against_real,
    mean_figure,
    on_all,
)
from maptile2sat.evaluation.kernel import kernel_distance
from maptile2sat.evaluation.sliced_wasserstein import sliced_wasserstein
from maptile2sat.evaluation.spectrum import LUMA, peak, spectrum_distance
from maptile2sat.evaluation.texture import class_means, correlation_distance, std_distance

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
PERIODS = (4, 2)


def compare_pixels(made: Pixels, real: Pixels, halves: Sequence[Halves]) -> dict[str, Figure]:
    """Return L1, RMSE, PSNR and SSIM, means over pictures, and what differs in brightness."""
    found = measure_distortion(made, real)
    figures = {name: _mean_figure(values, halves) for name, values in found.items()}
    mine, theirs = (side.mean((1, 2)) @ LUMA for side in (made, real))
    figures["brightness"] = against_real(brightness_distance, mine, theirs, halves)
    # a distance has no sign, but who mends a model has to know which way
    figures["brighter"] = _mean_figure(mine - theirs, halves)
    return figures


def brightness_distance(one: Floats, other: Floats) -> float:
    """Return the distance of the means of two sets of brightnesses."""
    return abs(float(one.mean() - other.mean()))


def _mean_figure(values: npt.NDArray[np.float64], halves: Sequence[Halves]) -> Figure:
    return on_all(lambda chosen: float(values[chosen].mean()), halves)


def compare_sets(
    made: Description, real: Description, halves: Sequence[Halves], seed: int
) -> dict[str, Figure]:
    """Return the distances that need no map: patches, spectrum, features."""
    levels = [
        against_real(lambda a, b: sliced_wasserstein(a, b, seed), mine, theirs, halves)
        for mine, theirs in zip(made.patches, real.patches, strict=True)
    ]
    found = {
        "swd": mean_figure(levels),
        "spectrum": against_real(spectrum_distance, made.profiles, real.profiles, halves),
        "fcn_kid": against_real(
            kernel_distance, made.reading.features, real.reading.features, halves
        ),
    }
    side = made.logs.shape[1]
    # the coarsest levels have too few pixels to tell of texture, but are part of the mean
    for number, figure in enumerate(levels):
        found[f"swd_{side >> number}"] = figure
    for period in PERIODS:
        found[f"grid_{period}"] = _peak_figure(made, real, period, halves)
    if made.inception is not None and real.inception is not None:
        found["fid"] = against_real(frechet_distance, made.inception, real.inception, halves)
        # it falls with the number of pictures: of all there is no floor, as no others are left
        found["fid_all"] = Figure(frechet_distance(made.inception, real.inception))
        found["kid"] = against_real(
            lambda a, b: 1000 * kernel_distance(a, b), made.inception, real.inception, halves
        )
    return found


def _peak_figure(
    made: Description, real: Description, period: int, halves: Sequence[Halves]
) -> Figure:
    return on_all(lambda chosen: peak(made.logs[chosen], period), halves, peak(real.logs, period))


def compare_classes(
    made: Description, real: Description, labels: Labels, halves: Sequence[Halves]
) -> dict[str, Figure]:
    """Return what the maps' classes allow: FCN-score, contrast and grain by class."""

    def score(side: Description, chosen: Indices) -> Score:
        confusion = Confusion()
        confusion.add(labels[chosen], side.reading.classes[chosen])
        return confusion.score()

    best = score(real, np.arange(len(labels)))
    found = {
        "fcn_accuracy": on_all(lambda chosen: score(made, chosen).accuracy, halves, best.accuracy),
        "fcn_mean_iou": on_all(lambda chosen: score(made, chosen).mean_iou, halves, best.mean_iou),
    }
    if made.texture is not None and real.texture is not None:
        found["class_std"] = against_real(std_distance, made.texture.std, real.texture.std, halves)
        found["class_correlation"] = against_real(
            correlation_distance, made.texture.correlation, real.texture.correlation, halves
        )
    return found


def by_class(made: Description, real: Description, labels: Labels) -> dict[str, dict[str, float]]:
    """Return for each class that occurs its share, IoU, contrast and grain, made and real."""
    scores = []
    for side in (made, real):
        confusion = Confusion()
        confusion.add(labels, side.reading.classes)
        scores.append(confusion.score())
    found: dict[str, dict[str, float]] = {}
    for number, name in enumerate(CLASSES):
        row = {"share": float((labels == number).mean())}
        for key, score in zip(("iou", "iou_real"), scores, strict=True):
            row[key] = score.iou.get(name, float("nan"))
        for key, side in (("", made), ("_real", real)):
            if side.texture is not None:
                row[f"std{key}"] = float(class_means(side.texture.std)[number])
                row[f"correlation_4px{key}"] = float(
                    class_means(side.texture.correlation)[number, 2]
                )
        if row["share"] > 0:
            found[name] = row
    return found
