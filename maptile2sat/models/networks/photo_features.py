"""Features of photos: the first layers of a network that learned from millions of pictures.

EfficientNet-Lite0 (Tan and Le 2019, arXiv 1905.11946, without squeeze-and-excitation and with
ReLU6), trained on ImageNet by its authors. A discriminator that starts from what such a network
sees learns much sooner what photos look like (projected GANs, Sauer et al. 2021, arXiv
2111.01007). The weights, with their origin and licence, are in `models/features`; none of them
becomes part of a bundle. This module imports TensorFlow: import it late.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from maptile2sat.errors import BundleError
from maptile2sat.models.weights import Weights, file_sha256, read_arrays
from maptile2sat.paths import models_folder

Tensor = Any

FOLDER = "features"
WEIGHTS = "features.weights.h5"
SHA256 = "75c0c3ebef08303993023e9ad7ec5bc67b3fa64ba989955ff75f61e122aae635"


class Block(NamedTuple):
    """An inverted residual block (Sandler et al. 2018, arXiv 1801.04381).

    Attributes:
        stride: Of its depthwise convolution.
        level: What its output is called, if it is one of the features that are given out.
    """

    stride: int
    level: str = ""


BLOCKS = (
    *(Block(1), Block(2), Block(1, "quarter"), Block(2), Block(1, "eighth")),
    *(Block(2), Block(1), Block(1), Block(1), Block(1), Block(1, "sixteenth")),
)
LEVELS = {"quarter": 24, "eighth": 40, "sixteenth": 112}
"""Channels of the features by name."""

STRIDES = {"quarter": 4, "eighth": 8, "sixteenth": 16}
"""Pixels of the photo per feature, by name."""


class PhotoFeatures:
    """The fixed network, in float32: bfloat16 is hardly faster here and costs it 6 % of accuracy.

    Args:
        weights: What `load_weights` returned.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Return the features of (N, H, W, 3) in -1..1, sides multiples of 16, by `LEVELS`.

        Each is (N, H / stride, W / stride, channels), of mean 0 and variance 1 over photos.
        """
        x = tf.nn.relu6(self._product(tf.cast(image, tf.float32), "stem", 2))
        found = []
        for index, block in enumerate(BLOCKS):
            x = self._block(x, f"block{index}", block.stride)
            if block.level:
                mean, spread = (self._value(f"{block.level}/{kind}") for kind in ("mean", "std"))
                found.append((x - mean) / spread)
        return found

    def _block(self, x: Tensor, name: str, stride: int) -> Tensor:
        y = x
        if f"{name}_expand/kernel" in self._weights:
            y = tf.nn.relu6(self._product(y, f"{name}_expand"))
        kernel = self._value(f"{name}_depth/kernel")
        y = tf.nn.depthwise_conv2d(y, kernel, [1, stride, stride, 1], "SAME")
        y = tf.nn.bias_add(y, self._value(f"{name}_depth/bias"))
        y = self._product(tf.nn.relu6(y), f"{name}_project")
        return x + y if stride == 1 and x.shape[-1] == y.shape[-1] else y

    def _product(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        x = tf.nn.conv2d(x, self._value(f"{name}/kernel"), stride, "SAME")
        return tf.nn.bias_add(x, self._value(f"{name}/bias"))

    def _value(self, name: str) -> Tensor:
        return tf.constant(self._weights[name])


def load_weights() -> Weights:
    """Return the network's arrays by name.

    Raises:
        BundleError: If they are missing or damaged.
    """
    path = models_folder() / FOLDER / WEIGHTS
    if not path.exists():
        raise BundleError(f"{path} is missing: reinstall maptile2sat")
    if file_sha256(path) != SHA256:
        raise BundleError(f"{path} is damaged or of another version: reinstall maptile2sat")
    return read_arrays(path)
