"""How far a pixel of a generator looks, computed from its layers.

A tensor's pixel i depends on input pixels from jump * i + low to jump * i + high. Each kind
of layer changes (jump, low, high) by a rule; merging layers take the union. The figure is a
bound that holds for every pixel phase; an impulse test confirms it from outside.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

from maptile2sat.models.noise import COARSE_STEP


class Field(NamedTuple):
    """Input pixels that pixel i of a tensor depends on: jump * i + low .. jump * i + high."""

    jump: Fraction
    low: Fraction
    high: Fraction


class ReceptiveField(NamedTuple):
    """What an output pixel of a network sees of its input.

    Attributes:
        radius: Pixels in every direction beyond which nothing changes the pixel.
        stride: Shift in pixels under which the network commutes with moving its input.
    """

    radius: int
    stride: int

    @property
    def halo(self) -> int:
        """The radius rounded up to the stride."""
        return -(-self.radius // self.stride) * self.stride


def receptive_field(model: Any) -> ReceptiveField:
    """Compute the receptive field of a functional Keras model with one spatial output.

    Args:
        model: A functional model in which every layer is called once. An input named
            `coarse` counts as having one pixel for `COARSE_STEP` of the others.

    Raises:
        TypeError: If a layer is of a kind that has no rule here.
    """
    fields: dict[int, Field] = {}
    largest = Fraction(1)
    for layer in model.layers:
        if type(layer).__name__ == "InputLayer":
            jump = Fraction(COARSE_STEP if layer.name == "coarse" else 1)
            out = Field(jump, Fraction(0), jump - 1)
        else:
            given = layer.input if isinstance(layer.input, (list, tuple)) else [layer.input]
            out = _apply(layer, [fields[id(tensor)] for tensor in given])
        fields[id(layer.output)] = out
        largest = max(largest, out.jump)
    final = fields[id(model.output)]
    return ReceptiveField(math.ceil(max(-final.low, final.high)), int(largest))


def _apply(layer: Any, given: list[Field]) -> Field:
    """Return the field of a layer's output from those of its inputs."""
    jump = given[0].jump
    union = Field(jump, min(field.low for field in given), max(field.high for field in given))
    rule = _RULES.get(type(layer).__name__)
    if rule is None:
        raise TypeError(f"no receptive field rule for layer {layer.name} ({type(layer).__name__})")
    return rule(layer, union)


def _same(layer: Any, field: Field) -> Field:
    return field


def _convolution(layer: Any, field: Field) -> Field:
    kernel, stride, dilation = layer.kernel_size[0], layer.strides[0], layer.dilation_rate[0]
    reach = (kernel - 1) * dilation
    # "same" padding of a strided convolution puts the smaller half in front
    before = max(reach + 1 - stride, 0) // 2
    return Field(
        field.jump * stride,
        field.low - field.jump * before,
        field.high + field.jump * (reach - before),
    )


def _transposed_convolution(layer: Any, field: Field) -> Field:
    kernel, stride = layer.kernel_size[0], layer.strides[0]
    # output o takes input i where o = stride * i + k - before, k in 0..kernel-1
    before = (kernel - stride) // 2
    jump = field.jump / stride
    return Field(jump, field.low - jump * (kernel - 1 - before), field.high + jump * before)


def _blur(layer: Any, field: Field) -> Field:
    return Field(field.jump, field.low - field.jump, field.high + field.jump)


def _fold(layer: Any, field: Field) -> Field:
    return Field(field.jump * layer.block, field.low, field.high + field.jump * (layer.block - 1))


def _unfold(layer: Any, field: Field) -> Field:
    return _finer(field, layer.block)


def _double(layer: Any, field: Field) -> Field:
    return _blur(layer, _finer(field, 2))


def _finer(field: Field, block: int) -> Field:
    return Field(
        field.jump / block, field.low - field.jump * Fraction(block - 1, block), field.high
    )


_RULES = {
    "Conv": _convolution,
    "Conv2D": _convolution,
    "Conv2DTranspose": _transposed_convolution,
    "ProductConv2D": _convolution,
    "ProductConv2DTranspose": _transposed_convolution,
    "Blur": _blur,
    "Double": _double,
    "FoldConv": _fold,
    "DepthToSpace": _unfold,
    **dict.fromkeys(
        (
            "Activation",
            "Add",
            "BatchNorm",
            "ChannelNorm",
            "Choice",
            "Cleaned",
            "ColourScale",
            "Concatenate",
            "Dropout",
            "Filling",
            "Held",
            "InstanceNorm",
            "LeakyReLU",
            "NoiseScale",
            "PaletteEncoding",
            "ReLU",
            "Suspicion",
        ),
        _same,
    ),
}
