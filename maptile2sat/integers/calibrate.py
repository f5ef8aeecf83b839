"""From a float generator to whole numbers: scales measured on training crops, then rounding.

Every scale is a power of two, so that an engine that folds scales into weights or into each other
changes nothing. The scale of a tensor is the one that rounds a sample of its values best.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from maptile2sat.colour_table import colour_table
from maptile2sat.errors import BundleError
from maptile2sat.grid import Window
from maptile2sat.integers import look, numbers
from maptile2sat.integers.model import Array, Arrays, Convolution, IntegerModel, Shape
from maptile2sat.integers.network import generate, halo_of
from maptile2sat.integers.tensorflow import TensorFlowOperations
from maptile2sat.noise import UNIT, Noise, noise

MIDDLE = 256
"""Side in pixels of the parts of maps over which means are compared."""

SAMPLE = 200_000
"""Values of a tensor that its scale is chosen by."""

Floats = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]
Means = dict[str, tuple[Floats, int]]
"""Means of a layer's channels, and the side of the middle that they are of."""


def calibrated(
    architecture: dict[str, Any], model: Any, maps: Iterable[npt.NDArray[np.uint8]], origin: str
) -> IntegerModel:
    """Return the whole-number form of a `local` generator.

    Args:
        architecture: What its bundle says of it.
        model: The Keras model, computing in float32.
        maps: Crops of training maps, uint8 (H, W, 3), sides multiples of 8.
        origin: Named in errors.

    Raises:
        BundleError: If the sums of a layer may exceed what float32 holds exactly.
    """
    return _Conversion(architecture, model, maps).converted(origin)


class _Correcting(TensorFlowOperations):
    """Operations that correct the bias of each convolution before they go on."""

    def __init__(self, arrays: Arrays, units: dict[str, Floats], means: Means) -> None:
        super().__init__()
        self.arrays, self.units, self.means = arrays, units, means

    def convolve(self, codes: Any, layer: Convolution, dilation: int, stride: int) -> Any:
        """Convolve, correct, and return the corrected sums."""
        sums = super().convolve(codes, layer, dilation, stride)
        if layer.name not in self.units:
            return sums
        mean, side = self.means[layer.name]
        found = np.mean(_middle(sums.numpy(), side), (0, 1, 2), np.float64)
        change = np.rint(mean / self.units[layer.name] - found).astype(np.int32)
        self.arrays[f"{layer.name}/bias"] += change
        return sums + change.astype(np.float32)


class _Conversion:
    """Holds what the layers of one conversion share: samples and the integers so far."""

    def __init__(
        self, architecture: dict[str, Any], model: Any, maps: Iterable[npt.NDArray[np.uint8]]
    ) -> None:
        self.architecture, self.model = architecture, model
        self.shape = Shape.of(architecture)
        self.arrays: Arrays = {}
        self.units: dict[str, Floats] = {}
        self.maps = list(maps)
        self.samples = self._sampled(self.maps)

    def converted(self, origin: str) -> IntegerModel:
        look_bits = self._look()
        shape = self.shape
        noise_units = np.full(1, _NOISE_UNIT)
        seen = np.concatenate([np.exp2(-look_bits.astype(np.float64)), noise_units])
        if shape.cleaner:
            self._cleaner(look_bits)
        self._to_stream("stem", seen, fold=4)
        clouds: Any = np.full(len(self._weights("block0_noise")[0][0, 0]), _NOISE_UNIT)
        for index in range(len(shape.dilations)):
            noisy = index == 0 or (shape.deep_noise and index % 2 == 0)
            self._block(f"block{index}", clouds if noisy else None)
        if shape.deep:
            self._to_stream("deep_stem", self._norm("deep_norm"), fold=2)
            far = self._codes("deep_clouds")
            self._convolution("deep_clouds", clouds, far, fold=2)
            for index in range(len(shape.deep)):
                self._block(f"deep{index}", None if index % 2 else np.exp2(-float(far)))
            unit = self._up("deep", self._norm("deep_out_norm"))
            self.arrays["deep_add/shift"] = _whole(numbers_shift(unit, numbers.STREAM_BITS))
        quarter = self._norm("trunk_norm")
        self._after_blur("half", self._up("half", quarter), self._codes("half_act"))
        act = np.exp2(-float(self._codes("half_act")))
        act2 = self._codes("half_act2")
        self._convolution("half_conv", act, act2, leaky=True)
        self._full(seen, np.exp2(-float(act2)))
        self._to_stream("rgb_full", np.exp2(-float(self._codes("full_act2"))))
        if shape.coarse_rgb:
            self._to_stream("rgb_quarter", quarter)
            self._to_stream("rgb_half", np.exp2(-float(act2)))
        self._correct_biases(origin)
        made = IntegerModel(self.architecture, self.arrays, origin)
        made.bounds()
        return made

    def _correct_biases(self, origin: str) -> None:
        """Give every sum the mean that it has in the float model.

        Rounding shifts the means of channels a little, and each layer those of the next. One pass
        through the network corrects a layer before the next one sees it.
        """
        model = IntegerModel(self.architecture, self.arrays, origin)
        crops = [
            _centre(image, MIDDLE + 2 * halo_of(model, model.has_cleaner)) for image in self.maps
        ]
        tables = [colour_table(image) for image in crops]
        looks = [look.spread(table, look.look_of(model, table.colours)) for table in tables]
        grains = [look.noise_codes(_grains(image)) for image in crops]
        given = (looks, [fine for fine, _ in grains], [coarse for _, coarse in grains])
        codes = [np.stack(part).astype(np.float32) - 128.0 for part in given]
        means = self._means(crops)
        ops = _Correcting(self.arrays, self.units, means)
        made = generate(ops, model, *codes, clean=model.has_cleaner)
        # less spread before tanh is a darker image: what is left is taken off the colours
        wanted, slope = means["levels"][0], means["slope"][0]
        away = wanted - np.mean(_middle(made.numpy(), MIDDLE), (0, 1, 2), np.float64)
        change = np.rint(away / slope / self.units["rgb_full"]).astype(np.int32)
        self.arrays["rgb_full/bias"] += change

    def _means(self, crops: list[Image]) -> Means:
        """Return the means of each convolution's channels in the float model, in the middle."""
        import keras

        kinds = ("Conv", "FoldConv")
        layers = [layer for layer in self.model.layers if type(layer).__name__ in kinds]
        outputs = {layer.name: layer.output for layer in layers}
        seen = keras.Model(self.model.inputs, {**outputs, "image": self.model.output})
        means: Means = {}
        for image in crops:
            grains = _grains(image)
            given = (image, grains.fine, grains.coarse)
            made = seen([np.asarray(part, np.float32)[None] for part in given], training=False)
            found = {name: tensor.numpy() for name, tensor in made.items()}
            image_made = found.pop("image")
            found["levels"] = np.clip(np.rint((image_made + 1.0) * 127.5), 0, 255)
            found["slope"] = 127.5 * (1.0 - np.square(image_made))
            for name, values in found.items():
                side = MIDDLE * values.shape[1] // image.shape[0]
                mean = np.mean(_middle(values, side), (0, 1, 2), dtype=np.float64) / len(crops)
                before = means[name][0] if name in means else np.zeros_like(mean)
                means[name] = (before + mean, side)
        return means

    def _full(self, seen: Floats, half: Any) -> None:
        """The finest resolution: what comes from below and the map itself, in one unit."""
        self._to_stream("skip", seen)
        unit = self._up("full", half)
        finer = max(unit, numbers.STREAM_BITS)
        self.arrays["full_act/lift"] = _whole(finer - unit)
        self.arrays["full_act/skip_lift"] = _whole(finer - numbers.STREAM_BITS)
        bits = self._codes("full_act")
        self.arrays["full_act/shift"] = _whole(finer - bits)
        act2 = self._codes("full_act2")
        self._convolution("full_conv", np.exp2(-float(bits)), act2, leaky=True)

    def _up(self, name: str, unit: Any) -> int:
        """Return the bits of the unit of what a blurred pixel shuffle makes."""
        bits = self._codes(f"{name}_up")
        self._convolution(f"{name}_up", unit, bits)
        return bits + (4 if self.shape.smooth else 0)

    def _after_blur(self, name: str, bits: int, wanted: int) -> None:
        self.arrays[f"{name}_act/shift"] = _whole(bits - wanted)

    def _block(self, name: str, clouds: Any) -> None:
        bits = self._codes(f"{name}_act")
        unit = self._norm(f"{name}_norm")
        units = self._convolution(f"{name}_conv", unit, bits, leaky=True)
        if clouds is not None:
            self._noise(f"{name}_noise", clouds, units)
        self._to_stream(f"{name}_out", np.exp2(-float(bits)))

    def _noise(self, name: str, clouds: Any, units: Floats) -> None:
        """Bring noise to sums of a unit that is a whole multiple of those it is added to."""
        kernel, bias = self._weights(name)
        kernel = kernel * np.broadcast_to(clouds, kernel.shape[2:3])[:, None]
        lift = np.maximum(
            numbers.power_of_two(np.abs(kernel).max((0, 1, 2)) / units / numbers.MAX_WEIGHT), 0
        )
        unit = units * np.exp2(lift)
        self._keep(name, kernel / unit, bias / unit, np.zeros(len(bias)))
        self.arrays[f"{name}/lift"] = lift.astype(np.int8)

    def _cleaner(self, look_bits: Array) -> None:
        look = np.exp2(-look_bits.astype(np.float64))
        self._to_stream("clean_stem", look, fold=4)
        for index in range(len(self.shape.cleaner)):
            self._block(f"clean{index}", None)
        code = self._codes("clean_code_folded")
        self._convolution("clean_code_folded", self._norm("clean_norm"), code)
        unit = np.exp2(-float(code))
        self._classes(unit)
        kernel, bias = self._weights("clean_made")
        looks = (kernel[0, 0] + bias) / look
        limits = numbers.CODE_MIN, numbers.CODE_MAX
        self.arrays["clean_made/looks"] = np.clip(np.rint(looks), *limits).astype(np.int8)
        self._convolution("clean_other", unit, look_bits)
        self._suspicion(unit, look)

    def _classes(self, unit: Any) -> None:
        """Bring all classes to one unit, so that they can be compared."""
        kernel, bias = self._weights("clean_classes")
        kernel = kernel * unit
        step = np.exp2(float(numbers.power_of_two(np.abs(kernel).max() / numbers.MAX_WEIGHT)))
        self._keep("clean_classes", kernel / step, bias / step, np.zeros(len(bias)))

    def _suspicion(self, unit: Any, look: Floats) -> None:
        """Bring "near a label" and "differs" to one unit; a line of slope 1/4 is the sigmoid."""
        units = self._convolution("clean_near", unit, 0)
        weights = self.model.get_layer("clean_share").kernel.numpy().astype(np.float64)[0, 0, :, 0]
        weights = weights * look
        step = np.exp2(float(numbers.power_of_two(np.abs(weights).max() / 127)))
        self.arrays["clean_share/kernel"] = np.rint(weights / step).astype(np.int8)
        finer = min(step, float(units[0]))
        self.arrays["clean_near/lift"] = _whole(np.log2(units[0] / finer))
        self.arrays["clean_share/lift"] = _whole(np.log2(step / finer))
        # 128ths of a share: 0.25 * 128 for each 1
        self.arrays["clean_share/shift"] = _whole(-np.log2(finer) - 5)

    def _look(self) -> Array:
        """Convert palette and look; return the bits of each channel's unit."""
        layer = self.model.get_layer("palette")
        palette, sharp, unknown = (weight.numpy().astype(np.float64) for weight in layer.weights)
        sharp = np.clip(sharp, 0.05, layer.MAX_SHARPNESS)
        unit = 64 << 2 * look.PALETTE_BITS  # distances are in units of 8 levels
        self.arrays |= {
            "palette/palette": np.rint(palette * (1 << look.PALETTE_BITS)).astype(np.int32),
            "palette/sharpness": np.rint(sharp / unit * (1 << look.SHARP_BITS)).astype(np.int32),
            "palette/unknown": np.rint(unknown * numbers.EXP_STEPS).astype(np.int32),
            "palette/exponentials": numbers.exp_table(),
        }
        kernel, bias = self._weights("look")
        kernel = kernel[0, 0]
        shares, colour = kernel[:-3] * (1 << look.LOOK_BITS), kernel[-3:] / 127.5
        sums = look.LOOK_BITS + look.SHARE_BITS
        whole = np.concatenate([shares, colour * np.exp2(sums)])
        if np.abs(whole).max() >= 1 << 31:
            raise BundleError("the weights of the layer 'look' are too large for whole numbers")
        bits = np.array([_best_bits(values) for values in self.samples["look"].T])
        self.arrays |= {
            "look/weights": np.rint(whole).astype(np.int32),
            "look/bias": np.rint((bias - kernel[-3:].sum(0)) * np.exp2(sums)).astype(np.int64),
            "look/shift": (sums - bits).astype(np.int8),
        }
        return bits

    def _norm(self, name: str) -> Any:
        """Convert a norm; return the unit of its codes."""
        given = np.abs(self.samples[f"{name}/given"])
        channels = int(self.model.get_layer(name).output.shape[-1])
        top = np.quantile(given, 0.999) * (1 << numbers.STREAM_BITS) / numbers.SQUARE_ROOTS
        shift = max(int(numbers.power_of_two(top)), 0)
        bits = self._codes(name)
        self.arrays[f"{name}/shift"] = _whole(shift)
        self.arrays[f"{name}/gains"] = numbers.gain_table(channels, shift, bits)
        return np.exp2(-float(bits))

    def _to_stream(self, name: str, unit: Any, fold: int = 0) -> None:
        self._convolution(name, unit, numbers.STREAM_BITS, fold=fold)

    def _convolution(
        self, name: str, unit: Any, bits: Any, fold: int = 0, leaky: bool = False
    ) -> Floats:
        """Convert a convolution; return the units of its sums.

        Args:
            name: Of the layer.
            unit: Of its codes, one or one per channel.
            bits: The unit of what its sums become is 2^-bits.
            fold: Side of the blocks that it folds; 0 for a plain convolution.
            leaky: Whether a leaky ReLU follows.
        """
        kernel, bias = self._weights(name)
        if fold:
            kernel = kernel.reshape(fold, fold, -1, kernel.shape[-1])
        kernel = kernel * np.broadcast_to(unit, kernel.shape[2:3])[:, None]
        most = numbers.MAX_LEAKY_SHIFT if leaky else numbers.MAX_SHIFT
        best = np.array([_best_step(part) for part in np.moveaxis(kernel, -1, 0)])
        exponents = np.maximum(best, -np.asarray(bits) - most)
        units: Floats = np.exp2(exponents.astype(np.float64))
        self._keep(name, kernel / units, bias / units, -np.asarray(bits) - exponents)
        self.units[name] = units
        return units

    def _keep(self, name: str, kernel: Floats, bias: Floats, shift: Any) -> None:
        limit = numbers.MAX_WEIGHT
        self.arrays[f"{name}/kernel"] = np.clip(np.rint(kernel), -limit, limit).astype(np.int8)
        self.arrays[f"{name}/bias"] = np.rint(bias).astype(np.int32)
        self.arrays[f"{name}/shift"] = np.asarray(shift).astype(np.int8)

    def _weights(self, name: str) -> tuple[Floats, Floats]:
        layer = self.model.get_layer(name)
        return layer.kernel.numpy().astype(np.float64), layer.bias.numpy().astype(np.float64)

    def _codes(self, name: str) -> int:
        """Return the bits of the unit in which a tensor is kept best as codes."""
        return _best_bits(self.samples[name])

    def _sampled(self, maps: Iterable[npt.NDArray[np.uint8]]) -> dict[str, Array]:
        """Run the float model and keep some values of every tensor that will be codes."""
        import keras

        wanted: dict[str, Any] = {}
        for layer in self.model.layers:
            kind = type(layer).__name__
            if kind == "ChannelNorm":
                wanted[f"{layer.name}/given"] = layer.input
            if kind in ("ChannelNorm", "LeakyReLU") or layer.name in _CODES:
                wanted[layer.name] = layer.output
        seen = keras.Model(self.model.inputs, wanted)
        found: dict[str, list[Array]] = {name: [] for name in wanted}
        generator = np.random.default_rng(0)
        pictures = list(maps)
        for image in pictures:
            grains = _grains(image)
            given = (image, grains.fine, grains.coarse)
            made = seen([np.asarray(part, np.float32)[None] for part in given], training=False)
            for name, tensor in made.items():
                values = tensor.numpy().astype(np.float32)
                if name == "look":
                    values = values.reshape(-1, values.shape[-1])
                else:
                    values = values.reshape(-1)
                rows = generator.integers(0, len(values), SAMPLE // len(pictures) + 1)
                found[name].append(values[rows])
        return {name: np.concatenate(parts) for name, parts in found.items()}


_CODES = {"look", "clean_code_folded", "deep_up", "half_up", "full_up", "deep_clouds"}
_NOISE_UNIT = 4 / UNIT


def _centre(image: Image, side: int) -> Image:
    """Return the middle of a map, mirrored at its borders if it is too small."""
    pads = [(max(side - length, 0), max(side - length, 0)) for length in image.shape[:2]]
    wide = np.pad(
        image, [*((before // 2, after - after // 2) for before, after in pads), (0, 0)], "reflect"
    )
    top, left = ((length - side) // 2 for length in wide.shape[:2])
    return np.ascontiguousarray(wide[top : top + side, left : left + side])


def _middle(values: Array, side: int) -> Array:
    """Return the middle of (N, H, W, C)."""
    top, left = ((length - side) // 2 for length in values.shape[1:3])
    return values[:, top : top + side, left : left + side]


def _grains(image: Image) -> Noise:
    return noise(0, Window(0, 0, image.shape[1], image.shape[0]))


def numbers_shift(bits: int, wanted: int) -> int:
    """Return by how many bits sums of unit 2^-bits are shifted down to unit 2^-wanted."""
    return bits - wanted


def _best_bits(values: Array) -> int:
    """Return n so that codes in units of 2^-n keep values best."""
    top = float(np.quantile(np.abs(values), 0.9999))
    first = int(numbers.power_of_two(top / numbers.CODE_MAX))
    wide = values.astype(np.float64)
    return -min((first - 1, first, first + 1), key=lambda n: _loss(wide, n, numbers.CODE_MAX))


def _best_step(kernel: Floats) -> int:
    """Return n so that whole numbers in units of 2^n keep the weights of a channel best."""
    first = int(numbers.power_of_two(np.abs(kernel).max() / numbers.MAX_WEIGHT))
    return min((first, first - 1), key=lambda n: _loss(kernel, n, numbers.MAX_WEIGHT))


def _loss(values: Floats, exponent: int, limit: int) -> float:
    unit = np.exp2(float(exponent))
    kept = np.clip(np.rint(values / unit), -limit, limit) * unit
    return float(np.square(kept - values).mean())


def _whole(value: Any) -> Array:
    return np.asarray(np.rint(value), np.int8)
