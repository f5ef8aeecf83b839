"""Whole numbers by OpenVINO, on processors: 8-bit kernels with 32-bit sums.

Codes travel as unsigned bytes, 128 above what they are; a convolution's bias takes that away
again. OpenVINO's passes see bytes where a `FakeQuantize` with 256 levels makes them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

from maptile2sat.integers import numbers
from maptile2sat.integers.model import Convolution, IntegerModel
from maptile2sat.integers.network import generate

Node = Any
OFFSET = -numbers.CODE_MIN
SHAPES_KEPT = 4
"""Compiled shapes that stay; compiling one takes half a second."""

_BLUR = np.outer([1, 2, 1], [1, 2, 1])


class OpenVinoOperations:
    """Operations on nodes of (N, C, H, W); codes are 0..255, 128 above what they mean."""

    def __init__(self, bytewise: bool = True) -> None:
        """Prepare.

        Args:
            bytewise: Whether weights are given as bytes, for kernels of bytes.
        """
        import openvino.opset15 as ops

        self.o, self.bytewise = ops, bytewise

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
        o = self.o
        if self.bytewise:
            ones = self.constant(np.ones((len(kernel), 1, 1, 1)))
            weights = o.multiply(o.convert(self.constant(kernel, np.int8), "f32"), ones)
        else:
            weights = self.constant(kernel)
        steps, none = [stride, stride], [0, 0]
        return o.convolution(codes, weights, steps, none, none, [dilation, dilation])

    def _bytes(self, values: Node, low: Any, high: Any) -> Node:
        """Bring low..high to 0..255, rounded half to even and cut off."""
        zero, top = self.constant(0.0), self.constant(255.0)
        return self.o.fake_quantize(
            values, self.per_channel(low), self.per_channel(high), zero, top, 256
        )

    def to_codes(self, sums: Node, shift: Any, leaky: bool = False) -> Node:
        """See `Operations`."""
        if leaky:
            slope = numbers.SLOPE_NUMERATOR / (1 << numbers.SLOPE_BITS)
            sums = self.o.prelu(sums, self.constant([slope]))
        unit = np.exp2(np.asarray(shift, np.float64))
        if unit.ndim and (unit == unit.flat[0]).all():
            unit = unit.flat[0]
        return self._bytes(sums, numbers.CODE_MIN * unit, numbers.CODE_MAX * unit)

    def _shifted(self, sums: Node, shift: Any) -> Node:
        scale = np.exp2(-np.asarray(shift, np.float64))
        return self.o.round(self.o.multiply(sums, self.per_channel(scale)), "half_to_even")

    def _cut(self, stream: Node) -> Node:
        return self.o.clamp(stream, float(numbers.STREAM_MIN), float(numbers.STREAM_MAX))

    def to_stream(self, sums: Node, shift: Any) -> Node:
        """See `Operations`."""
        return self._cut(self._shifted(sums, shift))

    def add(self, stream: Node, sums: Node, shift: Any) -> Node:
        """See `Operations`."""
        return self._cut(self.o.add(stream, self._shifted(sums, shift)))

    def add_lifted(self, sums: Node | None, others: Node, lift: Any) -> Node:
        """See `Operations`."""
        factor = np.exp2(np.asarray(lift, np.float64))
        if (factor != 1.0).any():
            others = self.o.multiply(others, self.per_channel(factor))
        return others if sums is None else self.o.add(sums, others)

    def norm(self, stream: Node, square_shift: int, gains: Any) -> Node:
        """See `Operations`."""
        o, limit = self.o, float(numbers.SQUARE_ROOTS)
        channels = stream.output(0).get_partial_shape()[1].get_length()
        roots = o.clamp(self._shifted(stream, square_shift), -limit, limit)
        ones = self.constant(np.ones((1, channels, 1, 1)))
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
        return self._bytes(o.multiply(stream, gain), numbers.CODE_MIN, numbers.CODE_MAX)

    def shuffle(self, value: Node) -> Node:
        """See `Operations`."""
        return self.o.depth_to_space(value, "blocks_first", 2)

    def _depthwise(self, x: Node, kernel: Any) -> Node:
        channels = x.output(0).get_partial_shape()[1].get_length()
        tiled = np.tile(np.asarray(kernel, np.int8)[None, None, None], (channels, 1, 1, 1, 1))
        weights = self.constant(tiled)
        return self.o.group_convolution(x, weights, [1, 1], [0, 0], [0, 0], [1, 1])

    def blur(self, codes: Node) -> Node:
        """See `Operations`."""
        return self.o.add(self._depthwise(codes, _BLUR), self.constant(-16.0 * OFFSET))

    def _repeated(self, x: Node) -> Node:
        return self.shuffle(self.o.concat([x] * 4, 1))

    def double_codes(self, codes: Node) -> Node:
        """See `Operations`."""
        channels = codes.output(0).get_partial_shape()[1].get_length()
        taps = np.array([[1, 3, 0], [0, 3, 1]])
        places = np.einsum("ai,bj->abij", taps, taps)
        kernel = np.einsum("abij,cd->abcdij", places, np.eye(channels, dtype=np.int64))
        kernel = kernel.reshape(4 * channels, channels, 3, 3)
        sums = self.o.add(self._convolution(codes, kernel), self.constant(-16.0 * OFFSET))
        return self.shuffle(self.to_codes(sums, 4))

    def double_stream(self, stream: Node) -> Node:
        """See `Operations`."""
        return self._shifted(self._depthwise(self._repeated(stream), _BLUR), 4)

    def crop(self, value: Node, pixels: int) -> Node:
        """See `Operations`."""
        ends = ([pixels, pixels], [-pixels, -pixels], [1, 1], [2, 3])
        return self.o.slice(value, *(self.constant(end, np.int64) for end in ends))

    def join(self, values: list[Node]) -> Node:
        """See `Operations`."""
        return self.o.concat(values, 1)

    def clean(self, codes: Node, given: Node, model: IntegerModel) -> Node:
        """See `Operations`."""
        o, classes = self.o, model.shape.classes
        # ranks in the lowest bits make every channel different: the first of equals is the largest
        bits = max((classes - 1).bit_length(), 1)
        layer = model.convolution("clean_classes")
        ranks = self.per_channel(np.arange(classes)[::-1])
        sums = self.convolve(codes, layer, 1, 1)
        ranked = o.add(o.multiply(sums, self.constant(float(1 << bits))), ranks)
        best = o.reduce_max(ranked, self.constant([1], np.int64), True)
        above = o.floor(o.multiply(best, self.constant(1.0 / (1 << bits))))
        rank = o.subtract(best, o.multiply(above, self.constant(float(1 << bits))))
        choice = o.subtract(self.constant(classes - 1.0), rank)
        other = model.convolution("clean_other")
        other_codes = self.to_codes(self.convolve(codes, other, 1, 1), other.shift)
        looks = self.constant(model.array("clean_made/looks"))
        rows = o.gather(
            looks,
            o.convert(o.squeeze(choice, self.constant([1], np.int64)), "i32"),
            self.constant(0, np.int32),
        )
        made = o.transpose(rows, self.constant([0, 3, 1, 2], np.int64))
        unknown = o.subtract(self.constant(1.0), o.minimum(rank, self.constant(1.0)))
        others = o.multiply(unknown, o.subtract(other_codes, self.constant(float(OFFSET))))
        made = o.clamp(o.add(made, others), float(numbers.CODE_MIN), float(numbers.CODE_MAX))
        given = o.subtract(given, self.constant(float(OFFSET)))
        change = o.subtract(made, given)
        kernel = self.constant(model.array("clean_share/kernel").reshape(1, -1, 1, 1))
        differs = o.convolution(o.abs(change), kernel, [1, 1], [0, 0], [0, 0], [1, 1])
        near = self.convolve(codes, model.convolution("clean_near"), 1, 1)
        logits = self.add_lifted(
            self.add_lifted(None, near, model.array("clean_near/lift")),
            differs,
            model.array("clean_share/lift"),
        )
        whole = float(1 << numbers.SHARE_BITS)
        share = self._shifted(logits, model.array("clean_share/shift"))
        share = o.clamp(o.add(share, self.constant(whole / 2)), 0.0, whole)
        cleaned = o.add(given, self._shifted(o.multiply(share, change), numbers.SHARE_BITS))
        return self._bytes(cleaned, numbers.CODE_MIN, numbers.CODE_MAX)

    def levels(self, stream: Node) -> Node:
        """See `Operations`."""
        o, limit = self.o, float(numbers.RGB_LIMIT)
        index = o.add(o.clamp(stream, -limit, limit), self.constant(limit))
        table = self.constant(numbers.tanh_table(), np.uint8)
        return o.gather(table, o.convert(index, "i32"), self.constant(0, np.int32))

    def given(self, pixels: Node) -> Node:
        """Take codes + 128 as bytes (N, H, W, C)."""
        values = self.o.transpose(pixels, self.constant([0, 3, 1, 2], np.int64))
        zero, top = self.constant(0.0), self.constant(255.0)
        return self.o.fake_quantize(self.o.convert(values, "f32"), zero, top, zero, top, 256)


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
            levels = next(iter(made.values()))[0]
        return np.ascontiguousarray(levels.transpose(1, 2, 0))

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

        from maptile2sat.noise import COARSE_STEP

        o = self._ops.o
        coarse = (height // COARSE_STEP, width // COARSE_STEP, self._model.noise_channels)
        shapes = ((height, width, self._model.look_channels), (height, width, 1), coarse)
        inputs = [o.parameter((1, *shape), np.uint8) for shape in shapes]
        values = [self._ops.given(node) for node in inputs]
        levels = generate(self._ops, self._model, *values, clean=self._clean)
        return openvino.Model([o.result(levels)], inputs, "local")

    def _compiled(self, height: int, width: int) -> Any:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        return self._core.compile_model(self.graph(height, width), "CPU", settings)
