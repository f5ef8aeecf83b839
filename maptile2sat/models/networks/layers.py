"""The layers that generators are built of, beyond those of Keras.

All images are channels-last. Every layer here but `InstanceNorm`, which no `local` generator has,
looks only at a finite neighbourhood and takes no statistics over a window or a batch. This module
imports TensorFlow: import it late.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from maptile2sat.models.noise import UNIT

# Normalisation over a window or a batch, by TensorFlow's fused operation

EPSILON = 1e-3
"""Added to the variance, as Keras' batch normalisation does."""


def normalise_images(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Normalise each image of (N, H, W, C) and each channel over its window.

    The result for an image does not depend on which others are in the batch.
    """
    images = [x] if x.shape[0] == 1 else tf.unstack(x[:, None]) if x.shape[0] else None
    if images is None:  # a batch of unknown size: while a model is described, not while it runs
        wide = tf.cast(x, tf.float32)
        mean, variance = tf.nn.moments(wide, [1, 2], keepdims=True)
        scaled = (wide - mean) * gamma * tf.math.rsqrt(variance + EPSILON) + beta
        return tf.cast(scaled, x.dtype)
    made = [_fused(image, gamma, beta, EPSILON)[0] for image in images]
    return made[0] if len(made) == 1 else tf.concat(made, 0)


def _fused(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normalised batch, its mean and its variance (with Bessel's correction)."""
    made = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=tf.cast(gamma, tf.float32),
        offset=tf.cast(beta, tf.float32),
        mean=tf.zeros((0,)),
        variance=tf.zeros((0,)),
        epsilon=epsilon,
        exponential_avg_factor=1.0,
        is_training=True,
    )
    return made[0], made[1], made[2]


class BatchNorm(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, fused in training on one device."""

    def call(self, inputs: Tensor, training: bool | None = None, mask: Any = None) -> Tensor:
        """Normalise (N, H, W, C) by batch statistics in training, else by moving ones."""
        if not training or self.synchronized:
            return super().call(inputs, training=training, mask=mask)
        made, mean, variance = _fused(inputs, self.gamma, self.beta, self.epsilon)
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        old, new = self.momentum, 1.0 - self.momentum
        self.moving_mean.assign(self.moving_mean * old + mean * new)
        biased = variance * (count - 1.0) / count  # Keras keeps the plain mean of squares
        self.moving_variance.assign(self.moving_variance * old + biased * new)
        return made


Tensor = Any
"""A TensorFlow or Keras tensor."""


class PaletteEncoding(keras.layers.Layer):
    """Soft class of each pixel: how near its colour is to each of a few learned map colours.

    Map categories differ by a few grey levels, which a convolution on RGB learns to see only
    late; as a softmax over squared colour distances they are apart from the first step. One
    more class, "unknown", takes what is near to none, such as labels and icons.

    Input: (N, H, W, 3) in 0..255. Output: (N, H, W, colours + 1), each pixel sums to 1.
    """

    MAX_SHARPNESS = 8.0

    def __init__(self, palette: list[list[float]], **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.start = np.asarray(palette, np.float32)

    def build(self, input_shape: Any) -> None:
        """Create the colours, their sharpness and the level of "unknown"."""
        colours = len(self.start)
        self.palette = self.add_weight(
            shape=(colours, 3),
            initializer=keras.initializers.Constant(self.start),
            name="palette",
        )
        self.sharpness = self.add_weight(
            shape=(colours,), initializer=keras.initializers.Constant(1.0), name="sharpness"
        )
        self.unknown = self.add_weight(
            shape=(1,), initializer=keras.initializers.Constant(-4.0), name="unknown"
        )

    def call(self, image: Tensor) -> Tensor:
        """Return class probabilities; distances are in units of 8 grey levels.

        -s |x - p|^2 = 2 s x.p - s x.x - s p.p is linear in (x, x.x): one 1x1 convolution
        does it, without an array of (H, W, colours, 3).
        """
        sharp = tf.clip_by_value(self.sharpness, 0.05, self.MAX_SHARPNESS)
        x = (tf.cast(image, tf.float32) - 216.0) / 8.0
        x = tf.concat([x, tf.reduce_sum(x * x, -1, keepdims=True)], -1)
        p = (self.palette - 216.0) / 8.0
        kernel = tf.concat([2.0 * tf.transpose(p) * sharp, -sharp[None]], 0)
        kernel = tf.concat([kernel, tf.zeros((4, 1))], 1)
        bias = tf.concat([-sharp * tf.reduce_sum(p * p, -1), self.unknown], 0)
        logits = tf.nn.conv2d(x, kernel[None, None], 1, "VALID") + bias
        return tf.nn.softmax(logits)


class Conv(keras.layers.Layer):
    """Convolution at stride 1 with "same" zero padding and a bias.

    As `keras.layers.Conv2D`, but the bias is added by the operation that TensorFlow can fuse
    with the convolution and the leaky ReLU after it.
    """

    strides = (1, 1)

    def __init__(
        self, filters: int, size: int, start: Any, dilation: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.filters, self.start = filters, start
        self.kernel_size, self.dilation_rate = (size, size), (dilation, dilation)

    def build(self, input_shape: Any) -> None:
        """Create kernel and bias."""
        shape = (*self.kernel_size, input_shape[-1], self.filters)
        self.kernel = self.add_weight(shape=shape, initializer=self.start, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        """(N, H, W, C) to (N, H, W, filters)."""
        kernel = tf.cast(self.kernel, x.dtype)
        if training and self.dilation_rate != (1, 1):
            x = self._parted(x, kernel)
        else:
            x = tf.nn.conv2d(x, kernel, 1, "SAME", dilations=self.dilation_rate)
        return tf.nn.bias_add(x, tf.cast(self.bias, x.dtype))

    def _parted(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Convolve every n-th pixel by itself, where n is the dilation.

        The same sums, but with a gradient on every processor: without oneDNN, which
        TensorFlow leaves off on those without AVX-512, a dilated convolution has none.
        """
        return tf.nn.with_space_to_batch(
            x,
            self.dilation_rate,
            "SAME",
            lambda part, *_: tf.nn.conv2d(part, kernel, 1, "VALID"),
            filter_shape=self.kernel_size,
        )


class FoldConv(keras.layers.Layer):
    """Fold blocks of `block` x `block` pixels into channels, then convolve these 1x1.

    Done as one convolution of stride `block`, half as dear here as folding first.
    """

    def __init__(self, filters: int, block: int, start: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.block, self.start = filters, block, start

    def build(self, input_shape: Any) -> None:
        """Create the 1x1 kernel over (block row, block column, channel), and the bias."""
        shape = (1, 1, self.block**2 * input_shape[-1], self.filters)
        self.kernel = self.add_weight(shape=shape, initializer=self.start, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, H / block, W / block, filters)."""
        shape = (self.block, self.block, x.shape[-1], self.filters)
        kernel = tf.reshape(tf.cast(self.kernel, x.dtype), shape)
        x = tf.nn.conv2d(x, kernel, self.block, "VALID")
        return tf.nn.bias_add(x, tf.cast(self.bias, x.dtype))


class DepthToSpace(keras.layers.Layer):
    """Unfold channels into blocks of `block` x `block` pixels (pixel shuffle)."""

    def __init__(self, block: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.block = block

    def call(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, H block, W block, C / block^2)."""
        return tf.nn.depth_to_space(x, self.block)


class Blur(keras.layers.Layer):
    """Smooth with [1 2 1] in both directions: removes the grid that pixel shuffle leaves."""

    def call(self, x: Tensor) -> Tensor:
        """Keep the shape; beyond the border there are zeros.

        A depthwise convolution is twenty times as fast here as sums of slices.
        """
        kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16.0
        kernel = np.tile(kernel[:, :, None, None], (1, 1, x.shape[-1], 1))
        return tf.nn.depthwise_conv2d(x, tf.cast(kernel, x.dtype), [1, 1, 1, 1], "SAME")


class Double(keras.layers.Layer):
    """Double the resolution: repeat pixels, then smooth with [1 2 1] in both directions.

    The four pixels that come of one are weighted means of it and its neighbours: one 3x3
    convolution makes them, a pixel shuffle puts them in place.
    """

    def call(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, 2 H, 2 W, C); beyond the border there are zeros."""
        channels = x.shape[-1]
        taps = np.array([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])  # of the first, of the second
        places = np.einsum("ai,bj->ijab", taps, taps)
        kernel = np.einsum("ijab,cd->ijcabd", places, np.eye(channels))
        kernel = tf.cast(kernel.reshape(3, 3, channels, 4 * channels), x.dtype)
        return tf.nn.depth_to_space(tf.nn.conv2d(x, kernel, 1, "SAME"), 2)


class LeakyReLU(keras.layers.LeakyReLU):
    """Leaky ReLU whose gradient follows from its output, which has the sign of its input.

    So a training step does not keep the input, and TensorFlow can fuse the convolution before
    with it: a step of the `local` preset takes 6 % less time.
    """

    def call(self, x: Tensor) -> Tensor:
        """Keep shape and dtype."""
        slope = float(self.negative_slope)

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def leaky(x: Tensor) -> tuple[Tensor, Any]:
            y = tf.nn.leaky_relu(x, slope)

            def gradient(upstream: Tensor) -> Tensor:
                return tf.raw_ops.LeakyReluGrad(gradients=upstream, features=y, alpha=slope)

            return y, gradient

        return leaky(x)


class ChannelNorm(keras.layers.Layer):
    """Divide each pixel's channels by their root mean square (RMSNorm, arXiv 1910.07467).

    Statistics are those of one pixel, so the layer is local. It has no scale of its own: the
    convolution that follows has one.
    """

    def call(self, x: Tensor) -> Tensor:
        """Keep shape and dtype.

        The mean comes from a 1x1 convolution, three times as fast here as a reduction over
        the last axis, with sums in float32.
        """
        # float16 ends at 65,504, which the square of a feature may pass
        wide = tf.cast(x, tf.float32) if x.dtype == tf.float16 else x
        channels = x.shape[-1]
        average = tf.fill([1, 1, channels, 1], tf.cast(1.0 / channels, wide.dtype))
        mean = tf.nn.conv2d(wide * wide, average, 1, "VALID")
        return x * tf.cast(tf.math.rsqrt(mean + tf.cast(1e-3, wide.dtype)), x.dtype)


class ColourScale(keras.layers.Layer):
    """Bring 0..255 to -1..1."""

    def call(self, x: Tensor) -> Tensor:
        """Keep the shape; float32 inside."""
        return tf.cast(x, tf.float32) / 127.5 - 1.0


class NoiseScale(keras.layers.Layer):
    """Bring raw integer noise to unit variance."""

    def call(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        return tf.cast(x, tf.float32) / UNIT


class IcnrInitializer(keras.initializers.Initializer):
    """Kernels that make a pixel shuffle start as nearest-neighbour upsampling (ICNR).

    See Aitken et al. 2017, arXiv 1707.02937: it removes the checkerboard of a random start.
    """

    def __init__(self, block: int, seed: int) -> None:
        self.block = block
        self.base = keras.initializers.HeNormal(seed=seed)

    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> Tensor:
        """Return a kernel of `shape`, equal within each group of output sub-pixels."""
        height, width, inputs, outputs = shape
        kernel = self.base((height, width, inputs, outputs // self.block**2), dtype=dtype)
        # depth_to_space reads channels as (block row, block column, output)
        return tf.tile(kernel, [1, 1, 1, self.block**2])


class InstanceNorm(keras.layers.Layer):
    """Normalise each image and channel over the window (for U-Nets and discriminators)."""

    def build(self, input_shape: Any) -> None:
        """Create one scale and one offset per channel."""
        shape = (input_shape[-1],)
        self.gamma = self.add_weight(shape=shape, initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=shape, initializer="zeros", name="beta")

    def call(self, x: Tensor) -> Tensor:
        """Keep shape and dtype; statistics are taken in float32."""
        return normalise_images(x, self.gamma, self.beta)
