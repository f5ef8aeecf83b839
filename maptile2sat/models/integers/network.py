"""The whole-number generator, layer by layer, whatever computes it.

Written once over a few operations (`Operations`) that each engine provides. Nothing is padded: a
layer's output is smaller than its input by what it looks at, so that each is computed only where
it is needed, and a pixel cannot depend on where a window ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from maptile2sat.errors import BundleError
from maptile2sat.models.integers import numbers
from maptile2sat.models.integers.model import Convolution, IntegerModel
from maptile2sat.models.noise import COARSE_STEP

STEP = 8
"""Windows begin and end at multiples of this many pixels of the world."""

Value = Any
"""What an engine computes with: a tensor, or a node of a graph."""


class Operations(Protocol):
    """What an engine can do. Codes, streams and sums are those of `numbers`.

    `shift` may be an array of one number per channel; a negative one shifts up.
    """

    def convolve(self, codes: Value, layer: Convolution, dilation: int, stride: int) -> Value:
        """Return the sums of codes under a kernel, without padding, and its bias."""

    def to_codes(self, sums: Value, shift: Any) -> Value:
        """Shift sums down, round half to even, cut off."""

    def leaky_codes(self, sums: Value, shift: Any, offset: Any) -> Value:
        """Take 13/64 of what is negative, shift down, less the offset; round and cut off."""

    def to_stream(self, sums: Value, shift: Any) -> Value:
        """Shift sums down, round half to even, cut off to a stream."""

    def add(self, stream: Value, sums: Value, shift: Any) -> Value:
        """Add rounded sums to a stream, and cut off."""

    def add_lifted(self, sums: Value, others: Value, lift: Any) -> Value:
        """Add sums of a coarser unit, shifted up by `lift`, to sums."""

    def norm(self, stream: Value, square_shift: int, gains: Any, finer: Any) -> Value:
        """Divide each pixel by the root mean square of its channels, by a table; to codes.

        `finer` is by how many bits each channel's unit is finer than that of the table.
        """

    def shuffle(self, value: Value) -> Value:
        """Unfold channels into blocks of 2 x 2 pixels."""

    def blur(self, codes: Value) -> Value:
        """Return sums of [1 2 1] x [1 2 1], 16 times what they mean."""

    def double_codes(self, codes: Value) -> Value:
        """Repeat pixels 2 x 2, blur and round; a pixel before it is lost on each side."""

    def double_stream(self, stream: Value) -> Value:
        """Repeat pixels 2 x 2, blur and round; a stream."""

    def crop(self, value: Value, pixels: int) -> Value:
        """Cut off so many pixels on each side."""

    def join(self, values: list[Value]) -> Value:
        """Put the channels of codes side by side."""

    def clean(self, codes: Value, given: Value, model: IntegerModel) -> Value:
        """Replace the look of labels by that of what is under them; codes."""

    def levels(self, stream: Value) -> Value:
        """Look up tanh: bytes."""


@dataclass(frozen=True)
class Plane:
    """A value, and where it lies in the window.

    Attributes:
        value: What the engine computes with.
        scale: Pixels of the window for one of this.
        margin: Pixels of the window that are missing on each side.
    """

    value: Value
    scale: int
    margin: int


def halo_of(model: IntegerModel, clean: bool) -> int:
    """Return the pixels of map needed on each side, a multiple of `STEP`.

    Raises:
        BundleError: If the integers of a layer are missing, or do not fit those before it.
    """
    channels = (model.look_channels, 1, model.noise_channels)
    lost = _Network(_Channels(model), model, 0).run(*channels, clean).margin
    return -(-lost // STEP) * STEP


def generate(
    ops: Operations, model: IntegerModel, look: Value, fine: Value, coarse: Value, *, clean: bool
) -> Value:
    """Return image levels 0..255 of a window from codes of it and its halo.

    Args:
        ops: The engine.
        model: The integers.
        look: Codes of the look of each pixel of map.
        fine: Codes of the fine noise, as many.
        coarse: Codes of the coarse noise, one for `COARSE_STEP` pixels.
        clean: Whether labels are to be taken off; only if the model can.
    """
    halo = halo_of(model, clean)
    network = _Network(ops, model, halo)
    return network.cropped(network.run(look, fine, coarse, clean), halo).value


class _Channels:
    """Operations that count channels only: to see what margins a network has, and that it fits."""

    def __init__(self, model: IntegerModel) -> None:
        self.model = model

    def _require(self, right: bool, what: str) -> None:
        if not right:
            raise BundleError(f"{self.model.origin}: {what} of another network: convert it again")

    def _one_or_each(self, channels: int, values: Any, what: str) -> int:
        self._require(np.size(values) in (1, channels), what)
        return channels

    def convolve(self, codes: int, layer: Convolution, dilation: int, stride: int) -> int:
        height, width, inputs, outputs = layer.kernel.shape
        sides = {stride} if stride > 1 else {1, 3}
        self._require(
            inputs == codes and height == width and height in sides, f"the layer {layer.name} is"
        )
        return int(outputs)

    def to_codes(self, sums: int, shift: Any) -> int:
        return self._one_or_each(sums, shift, "shifts are")

    def leaky_codes(self, sums: int, shift: Any, offset: Any) -> int:
        self._one_or_each(sums, offset, "offsets are")
        return self._one_or_each(sums, shift, "shifts are")

    def to_stream(self, sums: int, shift: Any) -> int:
        return self._one_or_each(sums, shift, "shifts are")

    def add(self, stream: int, sums: int, shift: Any) -> int:
        self._require(stream == sums, f"{stream} and {sums} channels are")
        return self._one_or_each(sums, shift, "shifts are")

    def add_lifted(self, sums: int | None, others: int, lift: Any) -> int:
        self._require(sums in (None, others), f"{sums} and {others} channels are")
        return self._one_or_each(others, lift, "lifts are")

    def norm(self, stream: int, square_shift: int, gains: Any, finer: Any) -> int:
        self._one_or_each(stream, finer, "units of a norm are")
        fits = stream <= numbers.MAX_CHANNELS and gains.shape == (numbers.GAIN_ROWS,)
        self._require(fits, "a norm is")
        return stream

    def shuffle(self, value: int) -> int:
        self._require(value % 4 == 0, f"{value} channels are")
        return value // 4

    def join(self, values: list[int]) -> int:
        return sum(values)

    def clean(self, codes: int, given: int, model: IntegerModel) -> int:
        outputs = {"clean_classes": model.shape.classes, "clean_other": given, "clean_near": 1}
        for name, count in outputs.items():
            found = self.convolve(codes, model.convolution(name), 1, 1)
            self._require(found == count, f"the layer {name} is")
        looks, kernel = model.array("clean_made/looks"), model.array("clean_share/kernel")
        self._require(looks.shape == (model.shape.classes, given), "the looks of classes are")
        self._require(kernel.shape == (given,), "the layer clean_share is")
        for name in ("clean_near/lift", "clean_share/lift", "clean_share/shift"):
            model.number(name)
        return given

    def blur(self, codes: int) -> int:
        return codes

    def crop(self, value: int, pixels: int) -> int:
        return value

    double_codes = double_stream = blur

    def levels(self, stream: int) -> int:
        self._require(stream == 3, f"{stream} colours are")
        return stream


def _unchanged(channels: int) -> Convolution:
    """Return a convolution whose sums are the codes themselves."""
    nothing = np.zeros(channels, np.int32)
    kernel = np.eye(channels, dtype=np.int8)[None, None]
    return Convolution("unchanged", kernel, nothing, nothing)


class _Network:
    """Follows one window through a model."""

    def __init__(self, ops: Any, model: IntegerModel, halo: int) -> None:
        self.ops, self.model, self.halo = ops, model, halo

    def run(self, look: Value, fine: Value, coarse: Value, clean: bool) -> Plane:
        shape = self.model.shape
        seen = Plane(look, 1, 0)
        grain, clouds = Plane(fine, 1, 0), Plane(coarse, COARSE_STEP, 0)
        if clean and shape.cleaner:
            seen = self._cleaned(seen)
        seen, grain = self.together(seen, grain)
        seen = replace(seen, value=self.ops.join([seen.value, grain.value]))
        x = self._trunk(seen, clouds)
        quarter = self._norm(x, "trunk_norm")
        half = self._leaky(self._up(quarter, "half"), "half_act")
        half = self._leaky(self._conv(half, "half_conv"), "half_conv")
        up = self._up(half, "full")
        up, seen = self.together(up, seen)  # of codes: cutting a stream costs more
        skip = self._to_stream(self._conv(seen, "skip"), "skip")
        full = replace(up, value=self._joined(up.value, skip.value))
        full = self._leaky(full, "full_act")
        full = self._leaky(self._conv(full, "full_conv"), "full_conv")
        rgb = self._conv(full, "rgb_full")
        if not shape.coarse_rgb:
            made = self._to_stream(rgb, "rgb_full")
        else:
            low = self._to_stream(self._conv(quarter, "rgb_quarter"), "rgb_quarter")
            low = self._add(self._double(low), self._conv(half, "rgb_half"), "rgb_half")
            made = self._add(self._double(low), rgb, "rgb_full")
        return replace(made, value=self.ops.levels(made.value))

    def _trunk(self, seen: Plane, clouds: Plane) -> Plane:
        shape = self.model.shape
        x = self._to_stream(self._fold(seen, "stem", COARSE_STEP), "stem")
        for index, dilation in enumerate(shape.dilations):
            noisy = index == 0 or (shape.deep_noise and index % 2 == 0)
            x = self._block(x, f"block{index}", dilation, clouds if noisy else None)
            if shape.deep and index == (len(shape.dilations) - 1) // 2:
                x = self._deepened(x, clouds)
        return x

    def _deepened(self, x: Plane, clouds: Plane) -> Plane:
        y = self._to_stream(self._fold(self._norm(x, "deep_norm"), "deep_stem", 2), "deep_stem")
        far = self._to_codes(self._fold(clouds, "deep_clouds", 2), "deep_clouds")
        for index, dilation in enumerate(self.model.shape.deep):
            y = self._block(y, f"deep{index}", dilation, None if index % 2 else far)
        return self._add(x, self._up(self._norm(y, "deep_out_norm"), "deep"), "deep_add")

    def _block(self, x: Plane, name: str, dilation: int, clouds: Plane | None) -> Plane:
        if self._layer(f"{name}_conv").kernel.shape[2] > numbers.MAX_CHANNELS:
            raise BundleError(f"{self.model.origin}: {name} is wider than {numbers.MAX_CHANNELS}")
        y = self._conv(self._norm(x, f"{name}_norm"), f"{name}_conv", dilation)
        if clouds is not None:
            noise = self.cropped(clouds, y.margin)
            lift = self.model.lift(f"{name}_noise/lift", self._layer(f"{name}_noise").bound)
            sums = self._conv(noise, f"{name}_noise").value
            y = replace(y, value=self.ops.add_lifted(y.value, sums, lift))
        y = self._leaky(y, f"{name}_conv")
        return self._add(x, self._conv(y, f"{name}_out"), f"{name}_out")

    def _cleaned(self, look: Plane) -> Plane:
        x = self._to_stream(self._fold(look, "clean_stem", COARSE_STEP), "clean_stem")
        for index, dilation in enumerate(self.model.shape.cleaner):
            x = self._block(x, f"clean{index}", dilation, None)
        x = self._conv(self._norm(x, "clean_norm"), "clean_code_folded")
        x = self._shuffled(self._to_codes(x, "clean_code_folded"))
        code = self._lost(x, self.ops.double_codes(x.value), x.scale, x.scale // 2)
        code, look = self.together(code, look)
        self._check_cleaner()
        return replace(code, value=self.ops.clean(code.value, look.value, self.model))

    def _check_cleaner(self) -> None:
        """Look at what `Operations.clean` uses."""
        model = self.model
        classes = self._layer("clean_classes")
        # an engine may put the number of a class below its sum to find the first of equals
        if classes.bound << max((model.shape.classes - 1).bit_length(), 1) > numbers.MAX_SUM:
            raise BundleError(f"{model.origin}: sums of clean_classes are too large to be compared")
        self._layer("clean_other")
        model.shift("clean_other")
        model.array("clean_made/looks")
        model.lift("clean_near/lift", self._layer("clean_near").bound)
        counts = np.abs(model.array("clean_share/kernel").astype(np.int64)).sum()
        most = numbers.CODE_MAX - numbers.CODE_MIN
        model.lift("clean_share/lift", most * int(counts))
        model.array("clean_share/shift")

    def _up(self, x: Plane, name: str) -> Plane:
        """Double the resolution: sums, 16 times what they mean if blurred."""
        x = self._shuffled(self._to_codes(self._conv(x, f"{name}_up"), f"{name}_up"))
        if not self.model.shape.smooth:
            # engines may keep codes in another way than sums: a convolution makes these of those
            channels = self._layer(f"{name}_up").kernel.shape[3] // 4
            return replace(x, value=self.ops.convolve(x.value, _unchanged(channels), 1, 1))
        return self._lost(x, self.ops.blur(x.value), x.scale, x.scale)

    def _shuffled(self, x: Plane) -> Plane:
        return self._lost(x, self.ops.shuffle(x.value), 0, x.scale // 2)

    def _double(self, x: Plane) -> Plane:
        return self._lost(x, self.ops.double_stream(x.value), x.scale // 2, x.scale // 2)

    def _conv(self, x: Plane, name: str, dilation: int = 1) -> Plane:
        layer = self._layer(name)
        reach = layer.kernel.shape[0] // 2 * dilation * x.scale
        made = self.ops.convolve(x.value, layer, dilation, 1)
        return self._lost(x, made, reach, x.scale)

    def _fold(self, x: Plane, name: str, block: int) -> Plane:
        # blocks lie at multiples of their size in the world, as windows do
        scale = x.scale * block
        x = self.cropped(x, -(-x.margin // scale) * scale)
        made = self.ops.convolve(x.value, self._layer(name), 1, block)
        return self._lost(x, made, 0, scale)

    def _layer(self, name: str) -> Convolution:
        return self.model.convolution(name)

    def _norm(self, x: Plane, name: str) -> Plane:
        shift, gains = self.model.number(f"{name}/shift"), self.model.gains(name)
        return replace(x, value=self.ops.norm(x.value, shift, gains, self.model.finer(name)))

    def _to_codes(self, x: Plane, name: str) -> Plane:
        return replace(x, value=self.ops.to_codes(x.value, self.model.shift(name)))

    def _leaky(self, x: Plane, name: str) -> Plane:
        shift, offset = self.model.shift(name, leaky=True), self.model.offset(name)
        return replace(x, value=self.ops.leaky_codes(x.value, shift, offset))

    def _to_stream(self, x: Plane, name: str) -> Plane:
        return replace(x, value=self.ops.to_stream(x.value, self.model.array(f"{name}/shift")))

    def _add(self, stream: Plane, sums: Plane, name: str) -> Plane:
        stream, sums = self.together(stream, sums)
        shift = self.model.array(f"{name}/shift")
        return replace(stream, value=self.ops.add(stream.value, sums.value, shift))

    def _joined(self, sums: Value, skip: Value) -> Value:
        """Add the finest map to what comes from below; both lifted to the finer unit."""
        blurred = -numbers.CODE_MIN * (16 if self.model.shape.smooth else 1)
        lift = self.model.lift("full_act/lift", blurred)
        skip_lift = self.model.lift("full_act/skip_lift", -numbers.STREAM_MIN)
        sums = self.ops.add_lifted(None, sums, lift)
        return self.ops.add_lifted(sums, skip, skip_lift)

    def _lost(self, x: Plane, value: Value, pixels: int, scale: int) -> Plane:
        return Plane(value, scale, x.margin + pixels)

    def together(self, first: Plane, second: Plane) -> tuple[Plane, Plane]:
        """Cut two planes to what both have."""
        margin = max(first.margin, second.margin)
        scale = math.lcm(first.scale, second.scale)
        margin = -(-margin // scale) * scale
        return self.cropped(first, margin), self.cropped(second, margin)

    def cropped(self, x: Plane, margin: int) -> Plane:
        """Cut a plane to a larger margin."""
        pixels, rest = divmod(margin - x.margin, x.scale)
        if rest or pixels < 0:
            raise ValueError(f"a margin of {x.margin} px cannot become {margin} at {x.scale} px")
        return replace(x, margin=margin, value=self.ops.crop(x.value, pixels)) if pixels else x
