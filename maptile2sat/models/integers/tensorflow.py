"""Whole numbers by TensorFlow, carried in float32: the reference, and what runs on a GPU.

Sums are below 2^24, so that float32 holds them exactly in whatever order they are added, also
where products are taken in TF32 or bfloat16, which hold codes and weights exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from maptile2sat.models.integers import numbers
from maptile2sat.models.integers.model import Convolution, IntegerModel
from maptile2sat.models.integers.network import generate

Tensor = Any
_BLUR = np.outer([1, 2, 1], [1, 2, 1])


class TensorFlowOperations:
    """Operations on (N, H, W, C) float32 tensors of whole numbers."""

    def __init__(self, plain: bool = False) -> None:
        """Prepare.

        Args:
            plain: Whether convolutions are sums of shifted matrix products, which no library
                computes by a transform that rounds.
        """
        import tensorflow as tf

        self.tf, self.plain = tf, plain

    def convolve(self, codes: Tensor, layer: Convolution, dilation: int, stride: int) -> Tensor:
        """See `Operations`."""
        kernel = layer.kernel.astype(np.float32)
        if self.plain:
            sums = self._by_products(codes, kernel, dilation, stride)
        else:
            sums = self.tf.nn.conv2d(codes, kernel, stride, "VALID", dilations=dilation)
        return sums + layer.bias.astype(np.float32)

    def _by_products(self, codes: Tensor, kernel: Any, dilation: int, stride: int) -> Tensor:
        tf = self.tf
        rows, cols = kernel.shape[:2]
        shape = tf.shape(codes)
        height = (shape[1] - (rows - 1) * dilation - 1) // stride + 1
        width = (shape[2] - (cols - 1) * dilation - 1) // stride + 1
        total: Any = None
        for row in range(rows):
            for col in range(cols):
                top, left = row * dilation, col * dilation
                part = codes[:, top::stride, left::stride][:, :height, :width]
                product = tf.tensordot(part, kernel[row, col], 1)
                total = product if total is None else total + product
        return total

    def _shifted(self, sums: Tensor, shift: Any) -> Tensor:
        return self.tf.round(sums * numbers.two_to(-np.asarray(shift, np.int32)))

    def to_codes(self, sums: Tensor, shift: Any) -> Tensor:
        """See `Operations`."""
        return self._code(self._shifted(sums, shift))

    def leaky_codes(self, sums: Tensor, shift: Any, offset: Any) -> Tensor:
        """See `Operations`."""
        slope = numbers.SLOPE_NUMERATOR / (1 << numbers.SLOPE_BITS)
        values = self.tf.maximum(sums, sums * slope) * numbers.two_to(-np.asarray(shift, np.int32))
        return self._code(self.tf.round(values - offset.astype(np.float32)))

    def _code(self, made: Tensor) -> Tensor:
        return self.tf.clip_by_value(made, float(numbers.CODE_MIN), float(numbers.CODE_MAX))

    def _cut(self, stream: Tensor) -> Tensor:
        limits = float(numbers.STREAM_MIN), float(numbers.STREAM_MAX)
        return self.tf.clip_by_value(stream, *limits)

    def to_stream(self, sums: Tensor, shift: Any) -> Tensor:
        """See `Operations`."""
        return self._cut(self._shifted(sums, shift))

    def add(self, stream: Tensor, sums: Tensor, shift: Any) -> Tensor:
        """See `Operations`."""
        return self._cut(stream + self._shifted(sums, shift))

    def add_lifted(self, sums: Tensor | None, others: Tensor, lift: Any) -> Tensor:
        """See `Operations`."""
        lifted = others * numbers.two_to(lift)
        return lifted if sums is None else sums + lifted

    def norm(self, stream: Tensor, square_shift: int, gains: Any, finer: Any) -> Tensor:
        """See `Operations`."""
        tf = self.tf
        limit = float(numbers.SQUARE_ROOTS)
        roots = tf.clip_by_value(self._shifted(stream, square_shift), -limit, limit)
        # squares are below 2^16: too many bits for the products of TF32, so no matrix product
        total = tf.reduce_sum(roots * roots, -1, keepdims=True)
        index: Any = None
        for factor, offset, below in reversed(numbers.INDEX_PIECES):
            row = tf.floor(total * factor) + offset
            index = row if index is None else tf.where(total < below, row, index)
        table = gains.astype(np.float32) / np.float32(1 << numbers.GAIN_BITS)
        made = stream * tf.gather(table, tf.cast(index, tf.int32))
        return self._code(tf.round(made * numbers.two_to(finer)))

    def shuffle(self, value: Tensor) -> Tensor:
        """See `Operations`."""
        return self.tf.nn.depth_to_space(value, 2)

    def blur(self, codes: Tensor) -> Tensor:
        """See `Operations`."""
        return self._smoothed(self._smoothed(codes, 1), 2)

    def _smoothed(self, x: Tensor, axis: int) -> Tensor:
        """Add neighbours: no convolution, since streams have too many bits for TF32."""
        first, middle, last = (
            self._slice(x, axis, start, stop) for start, stop in ((0, -2), (1, -1), (2, None))
        )
        return first + 2.0 * middle + last

    @staticmethod
    def _slice(x: Tensor, axis: int, start: int, stop: int | None) -> Tensor:
        return x[:, start:stop] if axis == 1 else x[:, :, start:stop]

    def _repeated(self, x: Tensor) -> Tensor:
        return self.tf.nn.depth_to_space(self.tf.concat([x] * 4, -1), 2)

    def double_codes(self, codes: Tensor) -> Tensor:
        """See `Operations`."""
        return self.to_codes(self.crop(self.blur(self._repeated(codes)), 1), 4)

    def double_stream(self, stream: Tensor) -> Tensor:
        """See `Operations`."""
        return self._shifted(self.blur(self._repeated(stream)), 4)

    def crop(self, value: Tensor, pixels: int) -> Tensor:
        """See `Operations`."""
        return value[:, pixels:-pixels, pixels:-pixels]

    def join(self, values: list[Tensor]) -> Tensor:
        """See `Operations`."""
        return self.tf.concat(values, -1)

    def clean(self, codes: Tensor, given: Tensor, model: IntegerModel) -> Tensor:
        """See `Operations`."""
        tf = self.tf
        classes = self.convolve(codes, model.convolution("clean_classes"), 1, 1)
        count = model.shape.classes
        # the first of equals; argmax does not say which of them it takes
        best = classes >= tf.reduce_max(classes, -1, keepdims=True)
        choice = tf.reduce_min(tf.where(best, tf.range(count), count), -1)
        made = tf.gather(model.array("clean_made/looks").astype(np.float32), choice)
        other = model.convolution("clean_other")
        other_codes = self.to_codes(self.convolve(codes, other, 1, 1), other.shift)
        unknown = tf.cast(tf.equal(choice, count - 1), tf.float32)[..., None]
        limits = float(numbers.CODE_MIN), float(numbers.CODE_MAX)
        made = tf.clip_by_value(made + unknown * other_codes, *limits)
        change = made - given
        near = model.convolution("clean_near")
        kernel = model.array("clean_share/kernel").astype(np.float32)
        differs = tf.reduce_sum(tf.abs(change) * kernel, -1, keepdims=True)
        logits = self.add_lifted(
            self.add_lifted(None, self.convolve(codes, near, 1, 1), model.array("clean_near/lift")),
            differs,
            model.array("clean_share/lift"),
        )
        whole = float(1 << numbers.SHARE_BITS)
        share = self._shifted(logits, model.array("clean_share/shift")) + whole / 2
        share = tf.clip_by_value(share, 0.0, whole)
        return given + self._shifted(share * change, numbers.SHARE_BITS)

    def levels(self, stream: Tensor) -> Tensor:
        """See `Operations`."""
        tf = self.tf
        limit = float(numbers.RGB_LIMIT)
        index = tf.cast(tf.clip_by_value(stream, -limit, limit) + limit, tf.int32)
        return tf.gather(numbers.tanh_table(), index)


def build(model: IntegerModel, clean: bool, plain: bool = False) -> Any:
    """Return a function of (look, fine, coarse), uint8 (N, H, W, C) codes + 128, to image levels.

    Args:
        model: The integers.
        clean: Whether it takes labels off.
        plain: As for `TensorFlowOperations`.
    """
    import tensorflow as tf

    ops = TensorFlowOperations(plain)

    def run(look: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
        codes = (tf.cast(value, tf.float32) - 128.0 for value in (look, fine, coarse))
        return generate(ops, model, *codes, clean=clean)

    channels = (model.look_channels, 1, model.noise_channels)
    return tf.function(
        run,
        input_signature=[tf.TensorSpec((None, None, None, count), tf.uint8) for count in channels],
        autograph=False,
    )
