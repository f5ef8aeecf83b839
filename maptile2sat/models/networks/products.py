"""The 4x4 stride-2 convolutions of a U-Net's small inner layers, as matrix products.

Where an image is a few pixels wide and has a thousand channels, convolution kernels spend their
time on rearranging weights. As a product of patches and weights, forward and backward, such a
layer is three to five times as fast on a CPU at batch 1. Weights, names and results are those of
the Keras layers, up to rounding. This module imports TensorFlow: import it late.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

Tensor = Any
SIZE, STRIDE = 4, 2


class ProductConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` of 4x4 at stride 2, "same" padding, no bias."""

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(filters, SIZE, STRIDE, "same", use_bias=False, **kwargs)

    def call(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, H / 2, W / 2, filters)."""
        return _down(x, tf.convert_to_tensor(self.kernel))


class ProductConv2DTranspose(keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` of 4x4 at stride 2, "same" padding, no bias."""

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(filters, SIZE, STRIDE, "same", use_bias=False, **kwargs)

    def call(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, 2 H, 2 W, filters)."""
        return _up(x, tf.convert_to_tensor(self.kernel))


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _down(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
    """Convolve; `kernel` is (4, 4, inputs, outputs)."""
    inputs, outputs = kernel.shape[2:]
    matrix = tf.reshape(kernel, (-1, outputs))
    patches = _unfold(x)
    shape = tf.shape(x)
    made = tf.reshape(patches @ matrix, (-1, x.shape[1] // 2, x.shape[2] // 2, outputs))

    def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
        flat = tf.reshape(upstream, (-1, outputs))
        columns = tf.matmul(flat, matrix, transpose_b=True)
        to_x = tf.reshape(_fold(columns, upstream, inputs), shape)
        return to_x, tf.reshape(tf.matmul(patches, flat, transpose_a=True), kernel.shape)

    return made, gradient


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _up(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
    """Convolve transposed; `kernel` is (4, 4, outputs, inputs)."""
    outputs, inputs = kernel.shape[2:]
    matrix = tf.reshape(kernel, (-1, inputs))
    flat = tf.reshape(x, (-1, inputs))
    shape = tf.shape(x)
    made = _fold(tf.matmul(flat, matrix, transpose_b=True), x, outputs)

    def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
        patches = _unfold(upstream)
        to_x = tf.reshape(patches @ matrix, shape)
        return to_x, tf.reshape(tf.matmul(patches, flat, transpose_a=True), kernel.shape)

    return made, gradient


def _unfold(x: Tensor) -> Tensor:
    """Return the 4x4 patches at stride 2 of (N, H, W, C), as rows of 16 C values."""
    sizes, strides = [1, SIZE, SIZE, 1], [1, STRIDE, STRIDE, 1]
    patches = tf.image.extract_patches(x, sizes, strides, [1, 1, 1, 1], "SAME")
    return tf.reshape(patches, (-1, SIZE * SIZE * x.shape[-1]))


def _fold(columns: Tensor, like: Tensor, channels: int) -> Tensor:
    """Add patches up to an image: the transpose of `_unfold`.

    Args:
        columns: Rows of 16 `channels` values, one for each place of `like`.
        like: Any tensor (N, H, W, ...).
        channels: Of the image.

    Returns:
        (N, 2 H, 2 W, channels). A patch is 2 x 2 blocks of 2 x 2 pixels: each of the four
        blocks, over all places, makes an image without overlap, shifted by one block.
    """
    height, width = like.shape[1:3]
    blocks = tf.reshape(columns, (-1, height, width, 2, 2, 2, 2, channels))
    parts = []
    for down in (0, 1):
        for across in (0, 1):
            block = blocks[:, :, :, down, :, across]
            part = tf.nn.depth_to_space(tf.reshape(block, (-1, height, width, 4 * channels)), 2)
            rows, cols = [2 * down, 2 - 2 * down], [2 * across, 2 - 2 * across]
            parts.append(tf.pad(part, [[0, 0], rows, cols, [0, 0]]))
    return tf.add_n(parts)[:, 1:-1, 1:-1]
