"""The layers with which a generator takes labels off a map before it looks at it.

All look at single pixels. This module imports TensorFlow: import it late.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

Tensor = Any


class Held(keras.layers.Layer):
    """Pass on what comes, and no gradient back."""

    def call(self, x: Tensor) -> Tensor:
        """Keep shape and dtype."""
        return tf.stop_gradient(x)


class Choice(keras.layers.Layer):
    """Choose a class for each pixel, all but surely.

    Maps are flat: what lies between two classes, such as half a road, is nowhere on them, and
    what has learned from maps makes something odd of it. So it is sharper than a softmax, and yet
    small roundings change it little.
    """

    SHARPNESS = 3.0

    def call(self, x: Tensor) -> Tensor:
        """From logits (N, H, W, C) to shares of 0..1 that sum to 1."""
        return tf.nn.softmax(self.SHARPNESS * x)


class Filling(keras.layers.Layer):
    """Say what is under a label: what its class looks like, and for the last class what else.

    Called with [choice (N, H, W, C), known (N, H, W, D), other (N, H, W, D)]: the shares of
    classes, what these look like, and what is added as far as the last class, "unknown", is chosen.
    """

    def call(self, parts: list[Tensor]) -> Tensor:
        """Return (N, H, W, D)."""
        choice, known, other = parts
        return known + choice[..., -1:] * other


class Suspicion(keras.layers.Layer):
    """Say of each pixel whether it is a label: it differs from what is thought to be under it.

    Called with [given (N, H, W, C), made (N, H, W, C), near (N, H, W, 1)]: what is there, what is
    expected, and logits of whether there is a label somewhere near. No gradient goes to the
    first two.
    """

    def build(self, input_shape: Any) -> None:
        """Create what a difference in each channel counts."""
        channels = input_shape[0][-1]
        self.kernel = self.add_weight(shape=(1, 1, channels, 1), initializer="ones", name="kernel")

    def call(self, parts: list[Tensor]) -> Tensor:
        """Return logits (N, H, W, 1)."""
        given, made, near = (*map(tf.stop_gradient, parts[:2]), parts[2])
        kernel = tf.cast(self.kernel, given.dtype)
        return near + tf.nn.conv2d(tf.abs(given - made), kernel, 1, "VALID")


class Cleaned(keras.layers.Layer):
    """Put what a cleaner made in the place of what it does not trust, such as labels.

    Called with [given (N, H, W, C), share (N, H, W, 1), made (N, H, W, C)]: `share`, logits, says
    how much of a pixel is to be replaced by `made`. Where it surely is not, the given goes through
    bit by bit. Gradients of what is made of the result reach `given` alone: a cleaner learns
    from maps with and without labels where labels are and what is under them, and nothing else.
    """

    def call(self, parts: list[Tensor]) -> Tensor:
        """Return (N, H, W, C)."""
        given, share, made = (parts[0], *map(tf.stop_gradient, parts[1:]))
        # a little wider than 0..1 before it is cut off, so that "not at all" can be reached
        share = tf.clip_by_value(1.2 * tf.sigmoid(share) - 0.1, 0.0, 1.0)
        return given + share * (made - given)
