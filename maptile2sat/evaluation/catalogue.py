"""What each figure is called and means, for people who do not know GANs."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Better = Literal["lower", "higher", "neither"]


class Metric(NamedTuple):
    """What a figure is.

    Attributes:
        title: Its name.
        better: Which way is better.
        ranks: Whether it may decide between two models.
        digits: Decimals to show.
        words: What it tells, in plain words.
        unit: Of the value, if it has one.
    """

    title: str
    better: Better
    ranks: bool
    digits: int
    words: str
    unit: str = ""


METRICS: dict[str, Metric] = {
    "swd": Metric(
        "Sliced Wasserstein distance",
        "lower",
        True,
        1,
        "How far small patches of texture, at every scale, are from those of real photos.",
    ),
    "spectrum": Metric(
        "Power spectrum distance",
        "lower",
        True,
        2,
        "Whether there is as much fine and coarse detail as in real photos; blur shows here.",
        "dB",
    ),
    "fcn_accuracy": Metric(
        "FCN-score, pixel accuracy",
        "higher",
        True,
        3,
        "Share of pixels in which a network that knows real photos sees what the map says.",
    ),
    "fcn_mean_iou": Metric(
        "FCN-score, mean IoU",
        "higher",
        True,
        3,
        "The same, each class (water, road, building ...) counting alike.",
    ),
    "fcn_kid": Metric(
        "Kernel distance on the FCN's features",
        "lower",
        True,
        3,
        "How far the pictures as a whole are from real photos, in the eyes of that network.",
    ),
    "brightness": Metric(
        "Brightness, distance of the means",
        "lower",
        True,
        1,
        "How much darker or brighter all pictures together are than real photos.",
        "levels",
    ),
    "class_std": Metric(
        "Contrast within classes",
        "lower",
        True,
        3,
        "Whether water, woods, roofs ... vary in brightness as much as real ones: 0.1 is about "
        "10 % too much or too little.",
    ),
    "class_correlation": Metric(
        "Grain within classes",
        "lower",
        True,
        3,
        "Whether the texture of each class is as fine or coarse as the real one "
        "(autocorrelation at 1, 2, 4 and 8 px).",
    ),
    "grid_4": Metric(
        "Checkerboard of 4 px",
        "lower",
        True,
        2,
        "A grid that upsampling leaves in the picture: times the usual power at its frequency.",
        "×",
    ),
    "grid_2": Metric(
        "Checkerboard of 2 px",
        "lower",
        True,
        2,
        "The same, for every second pixel.",
        "×",
    ),
    "seam": Metric(
        "Seam ratio",
        "lower",
        True,
        3,
        "Steps in brightness across the borders of cells over steps beside them; 1 is no seam.",
        "×",
    ),
    "fid": Metric(
        "FID (InceptionV3)",
        "lower",
        True,
        1,
        "The usual distance to real photos in the literature, here of half of the pictures; too "
        "high with few.",
    ),
    "kid": Metric(
        "KID (InceptionV3) x 1,000",
        "lower",
        True,
        2,
        "A like distance that does not depend on the number of pictures.",
    ),
    "fid_all": Metric(
        "FID (InceptionV3), all pictures",
        "lower",
        False,
        1,
        "As the literature has it, to be compared with that of as many pictures alone.",
    ),
    "brighter": Metric(
        "Brighter (+) or darker (-)",
        "neither",
        False,
        1,
        "The mean of all pictures less that of the real photos of the same places.",
        "levels",
    ),
    "noise": Metric(
        "Response to the seed",
        "neither",
        False,
        2,
        "How much pixels change with the seed alone; 0 means that the model ignores it.",
        "levels",
    ),
    "l1": Metric(
        "L1 on -1..1",
        "lower",
        False,
        3,
        "Mean difference from the real photo, pixel by pixel.",
    ),
    "rmse": Metric(
        "RMSE on -1..1",
        "lower",
        False,
        3,
        "The same, large differences counting more.",
    ),
    "psnr": Metric(
        "PSNR",
        "higher",
        False,
        2,
        "The same in decibels.",
        "dB",
    ),
    "ssim": Metric(
        "SSIM",
        "higher",
        False,
        3,
        "Likeness of local structure to the real photo.",
    ),
}
"""In the order in which they are shown."""

RANKING = [name for name, metric in METRICS.items() if metric.ranks]
"""Figures that may decide between models."""

PIXELWISE = ("l1", "rmse", "psnr", "ssim")

PUBLISHED = {
    "resize": {"ssim": 0.112, "psnr": 14.30, "l1": 0.299},
    "crops": {"ssim": 0.158, "psnr": 14.15, "l1": 0.311},
}
"""What is reported for TensorFlow pix2pix on the 1,098 held-out images of its maps."""

PUBLISHED_SOURCE = (
    "reported for the TensorFlow pix2pix U-Net on all 1,098 validation images of the pix2pix maps "
    "data set (Isola et al. 2017), map to aerial"
)


def show(name: str, value: float | None) -> str:
    """Return a value as text."""
    if value is None or math.isnan(value):
        return "–"
    metric = METRICS[name]
    gap = " " if metric.unit.isalpha() else ""
    return f"{value:,.{metric.digits}f}{gap}{metric.unit}"
