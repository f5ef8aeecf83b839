"""Whole numbers by OpenVINO, on processors: 8-bit kernels with 32-bit sums.

Codes travel as unsigned bytes, 128 above what they are; a convolution's bias takes that away
again. OpenVINO's passes see bytes where a `FakeQuantize` with 256 levels makes them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from maptile2sat.models.integers import numbers
from maptile2sat.models.integers.model import Convolution, IntegerModel
from maptile2sat.models.integers.network import generate

Node = Any
OFFSET = -numbers.CODE_MIN
SHAPES_KEPT = 4
"""Compiled shapes that stay; compiling one takes half a second."""

UNFOLDED_CHANNELS = 32
"""Most channels that are unfolded by a transposed convolution."""

_BLUR = np.outer([1, 2, 1], [1, 2, 1])
_DOUBLE = np.outer([1, 3, 3, 1], [1, 3, 3, 1])
_ROUNDER, _FAR = 3.0 * 2**22, 2.0**17


class OpenVinoOperations:
    """Operations on nodes of (N, C, H, W); codes are 0..255, 128 above what they mean."""

    def __init__(self, bytewise: bool = True) -> None:
        """Prepare.

        Args:
            bytewise: Whether weights are given as bytes, for kernels of bytes.
        """
        import openvino.opset15 as ops

        self.o, self.bytewise = ops, bytewise
        self._interleaved: dict[int, tuple[Node, Node]] = {}

    def constant(self, value: Any, kind: Any = np.float32) -> Node:
        """Return a constant."""
        return self.o.constant(np.asarray(value, kind))

    def per_channel(self, values: Any) -> Node:
        """Return a constant of one number, or one per channel."""
        array = np.asarray(values, np.float32)
        return self.constant(array.reshape(1, -1, 1, 1) if array.ndim else array)

    def convolve(self, codes: Node, layer: Convolution, dilation: int, stride: int) -> Node:
        """See `Operations`."""
        kernel = np.ascontiguousarray(layer.kernel.transpose(3, 2, 0, 1))
        bias = layer.bias - OFFSET * kernel.astype(np.int64).sum((1, 2, 3))
        return self.o.add(
            self._convolution(codes, kernel, dilation, stride), self.per_channel(bias)
        )

    def _convolution(self, codes: Node, kernel: Any, dilation: int = 1, stride: int = 1) -> Node:
        steps, none = [stride, stride], [0, 0]
        weights = self._weights(kernel)
        return self.o.convolution(codes, weights, steps, none, none, [dilation, dilation])

    def _weights(self, kernel: Any, axis: int = 0) -> Node:
        """Return weights, as bytes of unit 1 for each output (along an axis) if possible."""
        if not self.bytewise:
            return self.constant(kernel)
        sizes = np.ones(kernel.ndim, int)
        sizes[axis] = kernel.shape[axis]
        whole = self.o.convert(self.constant(kernel, np.int8), "f32")
        return self.o.multiply(whole, self.constant(np.ones(sizes)))

    def _unfolded(self, x: Node, weights: Node, cut: int) -> Node:
        """Return a transposed convolution of step 2, its outermost pixels cut off."""
        steps, ends = [2, 2], [cut, cut]
        return self.o.convolution_backprop_data(
            x, weights, steps, pads_begin=ends, pads_end=ends, dilations=[1, 1]
        )

    def _bytes(self, values: Node, low: Any, high: Any) -> Node:
        """Bring low..high to 0..255, rounded half to even and cut off."""
        zero, top = self.constant(0.0), self.constant(255.0)
        return self.o.fake_quantize(
            values, self.per_channel(low), self.per_channel(high), zero, top, 256
        )

    def to_codes(self, sums: Node, shift: Any) -> Node:
        """See `Operations`."""
        return self._code(sums, shift, 0)

    def leaky_codes(self, sums: Node, shift: Any, offset: Any) -> Node:
        """See `Operations`."""
        slope = numbers.SLOPE_NUMERATOR / (1 << numbers.SLOPE_BITS)
        return self._code(self.o.prelu(sums, self.constant([slope])), shift, offset)

    def _code(self, sums: Node, shift: Any, offset: Any) -> Node:
        unit = numbers.two_to(shift)
        low, high = (unit * (end + offset) for end in (numbers.CODE_MIN, numbers.CODE_MAX))
        if (low == low.flat[0]).all() and (high == high.flat[0]).all():
            low, high = low.flat[0], high.flat[0]
        return self._bytes(sums, low, high)

    def _shifted(self, sums: Node, shift: Any) -> Node:
        scale = numbers.two_to(-np.asarray(shift, np.int32))
        return self.o.round(self.o.multiply(sums, self.per_channel(scale)), "half_to_even")

    def _shifted_within(
        self, sums: Node, shift: Any, low: float = -_FAR, high: float = _FAR
    ) -> Node:
        """Shift a convolution's sums down, round half to even and cut off.

        Adding 3 * 2^22 rounds a float32, which convolutions do in passing, unlike a rounding. The
        cuts keep it apart from what is added before and after, or all would be added up at once.
        """
        o = self.o
        scale = numbers.two_to(-np.asarray(shift, np.int32))
        scaled = o.clamp(o.multiply(sums, self.per_channel(scale)), low - 1, high + 1)
        rounded = o.clamp(o.add(scaled, self.constant(_ROUNDER)), _ROUNDER + low, _ROUNDER + high)
        return o.add(rounded, self.constant(-_ROUNDER))

    def to_stream(self, sums: Node, shift: Any) -> Node:
        """See `Operations`."""
        return self._shifted_within(sums, shift, numbers.STREAM_MIN, numbers.STREAM_MAX)

    def add(self, stream: Node, sums: Node, shift: Any) -> Node:
        """See `Operations`."""
        added = self.o.add(self._shifted_within(sums, shift), stream)
        return self.o.clamp(added, float(numbers.STREAM_MIN), float(numbers.STREAM_MAX))

    def add_lifted(self, sums: Node | None, others: Node, lift: Any) -> Node:
        """See `Operations`."""
        factor = numbers.two_to(lift)
        if (factor != 1.0).any():
            others = self.o.multiply(others, self.per_channel(factor))
        return others if sums is None else self.o.add(sums, others)

    def norm(self, stream: Node, square_shift: int, gains: Any, finer: Any) -> Node:
        """See `Operations`."""
        o, limit = self.o, float(numbers.SQUARE_ROOTS)
        roots = o.clamp(self._shifted(stream, square_shift), -limit, limit)
        ones = self.constant(np.ones((1, self._channels(stream), 1, 1)))
        total = o.convolution(o.multiply(roots, roots), ones, [1, 1], [0, 0], [0, 0], [1, 1])
        index: Any = None
        for factor, offset, below in reversed(numbers.INDEX_PIECES):
            row = o.add(o.floor(o.multiply(total, self.constant(factor))), self.constant(offset))
            if index is None:
                index = row
            else:
                index = o.select(o.less(total, self.constant(below)), row, index)
        table = self.constant(gains.astype(np.float64) / (1 << numbers.GAIN_BITS))
        gain = o.gather(table, o.convert(index, "i32"), self.constant(0, np.int32))
        return self._code(o.multiply(stream, gain), -np.asarray(finer, np.int32), 0)

    def shuffle(self, value: Node) -> Node:
        """See `Operations`."""
        channels = self._channels(value) // 4
        if not self.bytewise or channels > UNFOLDED_CHANNELS:
            return self.o.depth_to_space(value, "blocks_first", 2)
        # byte for byte, that is slower than a transposed convolution
        places = np.eye(4, dtype=np.int64).reshape(4, 2, 2)
        kernel = np.einsum("pij,cd->pcdij", places, np.eye(channels, dtype=np.int64))
        weights = self._weights(kernel.reshape(4 * channels, channels, 2, 2), 1)
        return self._bytes(self._unfolded(value, weights, 0), 0, 255)

    def _channels(self, x: Node) -> int:
        return int(x.output(0).get_partial_shape()[1].get_length())

    def blur(self, codes: Node) -> Node:
        """See `Operations`."""
        kernel = np.tile(_BLUR, (self._channels(codes), 1, 1, 1, 1))
        weights, none = self._weights(kernel), [0, 0]
        sums = self.o.group_convolution(codes, weights, [1, 1], none, none, [1, 1])
        return self.o.add(sums, self.constant(-16.0 * OFFSET))

    def double_codes(self, codes: Node) -> Node:
        """See `Operations`."""
        identity = np.eye(self._channels(codes), dtype=np.int64)
        if self.bytewise:
            kernel = np.einsum("ij,cd->cdij", _DOUBLE, identity)
            sums = self._unfolded(codes, self._weights(kernel, 1), 3)
        else:
            sums = self.shuffle(self._convolution(codes, self._quarters(identity)))
        return self.to_codes(self.o.add(sums, self.constant(-16.0 * OFFSET)), 4)

    def _quarters(self, identity: Any) -> Any:
        """Return the kernel that doubles the resolution, with channels to be unfolded."""
        taps = np.array([[1, 3, 0], [0, 3, 1]])
        kernel = np.einsum("ai,bj,cd->abcdij", taps, taps, identity)
        return kernel.reshape(4 * len(identity), len(identity), 3, 3)

    def double_stream(self, stream: Node) -> Node:
        """See `Operations`."""
        kernel = self.constant(self._quarters(np.eye(self._channels(stream))))
        # transposed convolutions of float32 are slow in threads; of what padding makes, all is cut
        sums = self.o.convolution(stream, kernel, [1, 1], [1, 1], [1, 1], [1, 1])
        doubled = self.o.depth_to_space(self._shifted_within(sums, 4), "blocks_first", 2)
        return self.crop(doubled, 1)

    def crop(self, value: Node, pixels: int) -> Node:
        """See `Operations`."""
        if id(value) in self._interleaved:
            return self._planar(self._cropped(self._interleaved[id(value)][1], pixels, [1, 2]))
        return self._cropped(value, pixels, [2, 3])

    def _cropped(self, value: Node, pixels: int, axes: list[int]) -> Node:
        ends = ([pixels, pixels], [-pixels, -pixels], [1, 1], axes)
        return self.o.slice(value, *(self.constant(end, np.int64) for end in ends))

    def _planar(self, value: Node) -> Node:
        """Return (N, C, H, W) of (N, H, W, C), and remember that, to be cut or joined as it is."""
        made = self.o.transpose(value, self.constant([0, 3, 1, 2], np.int64))
        self._interleaved[id(made)] = made, value
        return made

    def interleaved(self, value: Node) -> Node:
        """Return (N, H, W, C) of (N, C, H, W)."""
        if id(value) in self._interleaved:
            return self._interleaved[id(value)][1]
        return self.o.transpose(value, self.constant([0, 2, 3, 1], np.int64))

    def join(self, values: list[Node]) -> Node:
        """See `Operations`."""
        return self.o.concat(values, 1)

    def clean(self, codes: Node, given: Node, model: IntegerModel) -> Node:
        """See `Operations`.

        What is one number for a pixel is computed once for each channel: alike in all of them.
        """
        o, looks = self.o, model.array("clean_made/looks")
        channels = looks.shape[1]
        rank = self._rank(self.convolve(codes, model.convolution("clean_classes"), 1, 1))
        table = self.constant(looks[::-1].astype(np.int16) + OFFSET, np.uint8)
        place = o.convert(o.squeeze(rank, self.constant([1], np.int64)), "i32")
        rows = o.convert(o.gather(table, place, self.constant(0, np.int32)), "f32")
        look = o.subtract(self._planar(self._bytes(rows, 0, 255)), self.constant(float(OFFSET)))
        ranks = self._convolution(self._bytes(rank, 0, 255), np.ones((channels, 1, 1, 1), np.int8))
        unknown = self._bytes(o.subtract(self.constant(1.0), ranks), 0, 255)
        other = model.convolution("clean_other")
        other_codes = self.to_codes(self.convolve(codes, other, 1, 1), other.shift)
        others = o.multiply(unknown, o.subtract(other_codes, self.constant(float(OFFSET))))
        made = o.clamp(o.add(look, others), float(numbers.CODE_MIN), float(numbers.CODE_MAX))
        given = o.subtract(given, self.constant(float(OFFSET)))
        change = o.subtract(made, given)
        counts = np.tile(model.array("clean_share/kernel"), (channels, 1))
        counts = self.constant(counts.reshape(channels, channels, 1, 1))
        differs = o.convolution(o.abs(change), counts, [1, 1], [0, 0], [0, 0], [1, 1])
        near = model.convolution("clean_near")
        near = replace(
            near,
            kernel=np.repeat(near.kernel, channels, 3),
            bias=np.repeat(near.bias, channels),
            shift=np.repeat(near.shift, channels),
        )
        logits = self.add_lifted(
            self.add_lifted(None, self.convolve(codes, near, 1, 1), model.array("clean_near/lift")),
            differs,
            model.array("clean_share/lift"),
        )
        whole = float(1 << numbers.SHARE_BITS)
        share = self._shifted(logits, model.array("clean_share/shift"))
        share = o.clamp(o.add(share, self.constant(whole / 2)), 0.0, whole)
        cleaned = o.add(given, self._shifted(o.multiply(share, change), numbers.SHARE_BITS))
        return self._bytes(cleaned, numbers.CODE_MIN, numbers.CODE_MAX)

    def _rank(self, sums: Node) -> Node:
        """Return how many classes come after that of the largest sum, the first of equals."""
        o, classes = self.o, self._channels(sums)
        # ranks in the lowest bits make all sums different
        step = float(1 << max((classes - 1).bit_length(), 1))
        ranks = self.per_channel(np.arange(classes)[::-1])
        ranked = o.add(o.multiply(sums, self.constant(step)), ranks)
        best = o.reduce_max(ranked, self.constant([1], np.int64), True)
        above = o.floor(o.multiply(best, self.constant(1 / step)))
        return o.subtract(best, o.multiply(above, self.constant(step)))

    def levels(self, stream: Node) -> Node:
        """See `Operations`."""
        o, limit = self.o, float(numbers.RGB_LIMIT)
        index = o.add(o.clamp(stream, -limit, limit), self.constant(limit))
        index = o.convert(self.interleaved(index), "i32")
        table = self.constant(numbers.tanh_table(), np.uint8)
        return self._planar(o.gather(table, index, self.constant(0, np.int32)))

    def given(self, pixels: Node) -> Node:
        """Take codes + 128 as bytes (N, H, W, C)."""
        return self._planar(self._bytes(self.o.convert(pixels, "f32"), 0, 255))


class Runner:
    """Compiles a generator for the shapes of windows that come, and runs it."""

    def __init__(self, model: IntegerModel, clean: bool, threads: int, bytewise: bool) -> None:
        import openvino

        self._core = openvino.Core()
        self._model, self._clean = model, clean
        self._ops = OpenVinoOperations(bytewise)
        self._threads = threads
        self._kept: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, look: Any, fine: Any, coarse: Any) -> npt.NDArray[np.uint8]:
        """Return levels (H', W', 3) of one window, uint8 (1, H, W, C) codes + 128."""
        with self._lock:
            request = self._request(look.shape[1], look.shape[2])
            made = request.infer([look, fine, coarse], share_inputs=True)
            levels: npt.NDArray[np.uint8] = next(iter(made.values()))[0].copy()
        return levels

    def _request(self, height: int, width: int) -> Any:
        key = (height, width)
        if key not in self._kept:
            self._kept[key] = self._compiled(height, width).create_infer_request()
            while len(self._kept) > SHAPES_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def graph(self, height: int, width: int) -> Any:
        """Return the generator as a graph for windows of that size, halo included."""
        import openvino

        from maptile2sat.models.noise import COARSE_STEP

        o = self._ops.o
        coarse = (height // COARSE_STEP, width // COARSE_STEP, self._model.noise_channels)
        shapes = ((height, width, self._model.look_channels), (height, width, 1), coarse)
        inputs = [o.parameter((1, *shape), np.uint8) for shape in shapes]
        values = [self._ops.given(node) for node in inputs]
        levels = self._ops.interleaved(generate(self._ops, self._model, *values, clean=self._clean))
        return openvino.Model([o.result(levels)], inputs, "local")

    def _compiled(self, height: int, width: int) -> Any:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        return self._core.compile_model(self.graph(height, width), "CPU", settings)
