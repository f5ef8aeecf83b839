"""Images of held-out maps by a classic U-Net, for samples and figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maptile2sat.datasets.pairs import Pixels
from maptile2sat.training.samples import Generate


def from_unet(model: Any) -> Generate:
    """Return how a `unet` generator makes an image: one window of its own size, no noise.

    Args:
        model: It must normalise per image, as renders do.
    """

    def generate(drawn: Pixels, row: int) -> npt.NDArray[Any]:
        given = drawn[None].astype(np.float32) / 127.5 - 1.0
        made: npt.NDArray[Any] = np.asarray(model(given, training=False), np.float32)[0]
        return made

    return generate


def middle(pixels: Pixels, side: int) -> Pixels:
    """Return the middle `side` x `side` pixels."""
    low = (pixels.shape[0] - side) // 2
    return pixels[low : low + side, low : low + side]
