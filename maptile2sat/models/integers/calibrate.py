"""From a float generator to whole numbers: units measured on training crops, then rounding.

Each channel of a tensor has a unit of its own, the one that keeps a sample of its values best; it
goes into the weights of the layers around it. Streams and looks have powers of two as units, the
channels of a norm one number times powers of two. What a leaky ReLU makes lies mostly on one side
of zero: its codes have an offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from maptile2sat.errors import BundleError
from maptile2sat.geo.grid import Window
from maptile2sat.models.colour_table import colour_table
from maptile2sat.models.integers import look, numbers
from maptile2sat.models.integers.model import Array, Arrays, Convolution, IntegerModel, Shape
from maptile2sat.models.integers.network import generate, halo_of
from maptile2sat.models.integers.tensorflow import TensorFlowOperations
from maptile2sat.models.noise import UNIT, Noise, noise

MIDDLE = 256
"""Side in pixels of the parts of maps over which means are compared."""

SAMPLE = 8_000
"""Pixels of a tensor that its units are chosen by."""

TAIL = 1e-4
"""Share of a channel's values that may lie beyond what its first unit holds."""

STEPS = tuple(2.0 ** (part / 8) for part in range(8))
"""Units that are tried, times powers of two."""

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
        look = self._look()
        shape = self.shape
        seen = look.joined(_Units(np.full(1, _NOISE_UNIT)))
        clouds = _Units(np.full(len(self._weights("block0_noise")[0][0, 0]), _NOISE_UNIT))
        if shape.cleaner:
            self._cleaner(look)
        self._to_stream("stem", seen, fold=4)
        for index in range(len(shape.dilations)):
            noisy = index == 0 or (shape.deep_noise and index % 2 == 0)
            self._block(f"block{index}", clouds if noisy else None)
        if shape.deep:
            self._to_stream("deep_stem", self._norm("deep_norm"), fold=2)
            far = _best_units(self.samples["deep_clouds"], STEPS)
            self._convolution("deep_clouds", clouds, far, fold=2)
            for index in range(len(shape.deep)):
                self._block(f"deep{index}", None if index % 2 else far)
            above = self._up("deep", self._norm("deep_out_norm"), _STREAM)
            self.arrays["deep_add/shift"] = above.finer_than(_STREAM).astype(np.int8)
        quarter = self._norm("trunk_norm")
        act = self._leaky("half_act", "half_act")
        above = self._up("half", quarter, act.unit)
        self.arrays["half_act/shift"] = above.finer_than(act.unit).astype(np.int8)
        half = self._leaky("half_act2", "half_conv")
        self._convolution("half_conv", act, half, leaky=True)
        full = self._full(seen, half)
        self._to_stream("rgb_full", full)
        if shape.coarse_rgb:
            self._to_stream("rgb_quarter", quarter)
            self._to_stream("rgb_half", half)
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

    def _full(self, seen: _Units, half: _Units) -> _Units:
        """The finest resolution: what comes from below and the map itself, in one unit."""
        act = self._leaky("full_act", "full_act")
        below = self._up("full", half, act.unit)
        # what is added has the same unit but for a power of two
        skip = _Units(
            act.unit * np.exp2(np.maximum(act.finer_than(_STREAM), -numbers.MAX_LEAKY_SHIFT))
        )
        self._convolution("skip", seen, skip)
        finest = np.minimum(below.unit, skip.unit)
        self.arrays["full_act/lift"] = -below.finer_than(finest).astype(np.int8)
        self.arrays["full_act/skip_lift"] = -skip.finer_than(finest).astype(np.int8)
        self.arrays["full_act/shift"] = -act.finer_than(finest).astype(np.int8)
        full = self._leaky("full_act2", "full_conv")
        self._convolution("full_conv", act, full, leaky=True)
        return full

    def _up(self, name: str, given: _Units, wanted: Any) -> _Units:
        """Return the units of the sums that a blurred pixel shuffle makes.

        They are powers of two times those wanted of what is made of them.
        """
        values = self.samples[f"{name}_up"]
        values = values.reshape(-1, values.shape[-1] // 4)  # four channels become one
        steps = np.broadcast_to(wanted, values.shape[1:])
        units = _best_units(values / steps)
        # with the four bits of a blur, no more than a leaky ReLU may shift down
        most = 2.0 ** (4 - numbers.MAX_LEAKY_SHIFT)
        units = replace(units, unit=np.maximum(units.unit, most) * steps)
        self._convolution(f"{name}_up", given, units.repeated(4))
        return replace(units, unit=units.unit / (16 if self.shape.smooth else 1))

    def _leaky(self, name: str, kept: str) -> _Units:
        """Choose the units of what a leaky ReLU makes, and keep their offset."""
        units = _best_units(self.samples[name], STEPS, offset=True)
        self.arrays[f"{kept}/offset"] = units.offset.astype(np.int16)
        return units

    def _block(self, name: str, clouds: _Units | None) -> None:
        act = self._leaky(f"{name}_act", f"{name}_conv")
        units = self._convolution(f"{name}_conv", self._norm(f"{name}_norm"), act, leaky=True)
        if clouds is not None:
            self._noise(f"{name}_noise", clouds, units)
        self._to_stream(f"{name}_out", act)

    def _noise(self, name: str, clouds: _Units, units: Floats) -> None:
        """Bring noise to sums of a unit that is a whole multiple of those it is added to."""
        kernel, bias = self._weights(name)
        kernel = kernel * clouds.unit[:, None]
        lift = np.maximum(
            numbers.power_of_two(np.abs(kernel).max((0, 1, 2)) / units / numbers.MAX_WEIGHT), 0
        )
        unit = units * np.exp2(lift)
        self._keep(name, kernel / unit, bias / unit, np.zeros(len(bias)))
        self.arrays[f"{name}/lift"] = lift.astype(np.int8)

    def _cleaner(self, look: _Units) -> None:
        self._to_stream("clean_stem", look, fold=4)
        for index in range(len(self.shape.cleaner)):
            self._block(f"clean{index}", None)
        values = self.samples["clean_code_folded"]
        code = _best_units(values.reshape(-1, values.shape[-1] // 4), STEPS)
        self._convolution("clean_code_folded", self._norm("clean_norm"), code.repeated(4))
        self._classes(code)
        kernel, bias = self._weights("clean_made")
        looks = (kernel[0, 0] + bias) / look.unit
        limits = numbers.CODE_MIN, numbers.CODE_MAX
        self.arrays["clean_made/looks"] = np.clip(np.rint(looks), *limits).astype(np.int8)
        self._convolution("clean_other", code, look)
        self._suspicion(code, look)

    def _classes(self, code: _Units) -> None:
        """Bring all classes to one unit, so that they can be compared."""
        kernel, bias = self._weights("clean_classes")
        kernel = kernel * code.unit[:, None]
        step = np.exp2(float(numbers.power_of_two(np.abs(kernel).max() / numbers.MAX_WEIGHT)))
        self._keep("clean_classes", kernel / step, bias / step, np.zeros(len(bias)))

    def _suspicion(self, code: _Units, look: _Units) -> None:
        """Bring "near a label" and "differs" to one unit; a line of slope 1/4 is the sigmoid."""
        units = self._convolution("clean_near", code, _Units(np.ones(1)))
        weights = self.model.get_layer("clean_share").kernel.numpy().astype(np.float64)[0, 0, :, 0]
        weights = weights * look.unit
        step = np.exp2(float(numbers.power_of_two(np.abs(weights).max() / 127)))
        self.arrays["clean_share/kernel"] = np.rint(weights / step).astype(np.int8)
        finer = min(step, float(units[0]))
        self.arrays["clean_near/lift"] = _whole(np.log2(units[0] / finer))
        self.arrays["clean_share/lift"] = _whole(np.log2(step / finer))
        # 128ths of a share: 0.25 * 128 for each 1
        self.arrays["clean_share/shift"] = _whole(-np.log2(finer) - 5)

    def _look(self) -> _Units:
        """Convert palette and look."""
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
        units = _best_units(self.samples["look"])
        self.arrays |= {
            "look/weights": np.rint(whole).astype(np.int32),
            "look/bias": np.rint((bias - kernel[-3:].sum(0)) * np.exp2(sums)).astype(np.int64),
            "look/shift": (sums - units.bits).astype(np.int8),
        }
        return units

    def _norm(self, name: str) -> _Units:
        given = np.abs(self.samples[f"{name}/given"])
        channels = int(self.model.get_layer(name).output.shape[-1])
        top = np.quantile(given, 0.999) * (1 << numbers.STREAM_BITS) / numbers.SQUARE_ROOTS
        shift = max(int(numbers.power_of_two(top)), 0)
        values = self.samples[name]
        tried = [(_best_units(values / step), step) for step in STEPS]
        losses = [step * step * units.loss(values / step) for units, step in tried]
        units, step = tried[int(np.argmin(losses))]
        coarsest = int(units.bits.min())
        self.arrays[f"{name}/shift"] = _whole(shift)
        self.arrays[f"{name}/gains"] = numbers.gain_table(channels, shift, 2.0**coarsest / step)
        self.arrays[f"{name}/finer"] = _whole(units.bits - coarsest)
        return replace(units, unit=units.unit * step)

    def _to_stream(self, name: str, given: _Units, fold: int = 0) -> None:
        self._convolution(name, given, _Units(np.full(1, _STREAM)), fold=fold)

    def _convolution(
        self, name: str, given: _Units, made: _Units, fold: int = 0, leaky: bool = False
    ) -> Floats:
        """Convert a convolution; return the units of its sums.

        Args:
            name: Of the layer.
            given: What its codes mean.
            made: What its sums become.
            fold: Side of the blocks that it folds; 0 for a plain convolution.
            leaky: Whether a leaky ReLU follows.
        """
        kernel, bias = self._weights(name)
        if fold:
            kernel = kernel.reshape(fold, fold, -1, kernel.shape[-1])
        kernel = kernel * given.unit[:, None] / made.unit
        most = numbers.MAX_LEAKY_SHIFT if leaky else numbers.MAX_SHIFT
        best = np.array([_best_step(part) for part in np.moveaxis(kernel, -1, 0)])
        exponents = np.maximum(best, -most)
        units: Floats = made.unit * np.exp2(exponents.astype(np.float64))
        self._keep(name, kernel * made.unit / units, bias / units, -exponents)
        weights = self.arrays[f"{name}/kernel"].astype(np.int64).sum((0, 1))
        self.arrays[f"{name}/bias"] += (given.offset @ weights).astype(np.int32)
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
                values = values.reshape(-1, values.shape[-1])
                rows = generator.integers(0, len(values), SAMPLE // len(pictures) + 1)
                found[name].append(values[rows])
        return {name: np.concatenate(parts) for name, parts in found.items()}


_CODES = {"look", "clean_code_folded", "deep_up", "half_up", "full_up", "deep_clouds"}
_NOISE_UNIT = 4 / UNIT
_STREAM = 2.0**-numbers.STREAM_BITS
_FINEST = 12
"""Units are 2^-12 at least, for a channel that is zero, too."""


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


@dataclass(frozen=True)
class _Units:
    """What the codes of a tensor mean: a value is (code + offset) * unit, per channel."""

    unit: Floats
    offset: Any = None

    def __post_init__(self) -> None:
        if self.offset is None:
            object.__setattr__(self, "offset", np.zeros(len(self.unit), np.int64))

    @property
    def bits(self) -> Any:
        """Numbers n so that units are 2^-n, if they are powers of two."""
        return self.finer_than(1.0)

    def finer_than(self, unit: Any) -> Any:
        """Return by how many bits, per channel, these are finer than other units."""
        return np.rint(np.log2(unit / self.unit)).astype(int)

    def joined(self, other: _Units) -> _Units:
        return _Units(*(np.concatenate([getattr(x, y) for x in (self, other)]) for y in _PARTS))

    def repeated(self, count: int) -> _Units:
        return _Units(np.tile(self.unit, count), np.tile(self.offset, count))

    def losses(self, values: Array) -> Floats:
        """Return the mean squared error of each channel of values (N, C)."""
        scaled = values / self.unit
        limits = numbers.CODE_MIN, numbers.CODE_MAX
        kept = np.clip(np.rint(scaled - self.offset), *limits) + self.offset
        found: Floats = np.square(kept - scaled).mean(0) * np.square(self.unit)
        return found

    def loss(self, values: Array) -> float:
        return float(self.losses(values).sum())


_PARTS = ("unit", "offset")


def _best_units(values: Array, steps: Sequence[float] = (1.0,), offset: bool = False) -> _Units:
    """Return the units that keep values (N, C) best, with or without an offset.

    Args:
        values: A sample.
        steps: Units are powers of two times one of these.
        offset: Whether codes may have one.
    """
    wide = values.astype(np.float64)
    low, high = np.quantile(wide, (TAIL, 1 - TAIL), axis=0)
    if not offset:
        high = np.maximum(high, -low)
        low = -high
    whole = np.maximum((high - low) / (numbers.CODE_MAX - numbers.CODE_MIN), 2.0**-_FINEST)
    candidates = []
    for step in steps:
        exponents = numbers.power_of_two(whole / step)
        for less in (0, 1):  # a bit less holds fewer values, but these better
            unit = step * np.exp2((exponents - less).astype(np.float64))
            lowest = np.rint(low / unit) - numbers.CODE_MIN
            middle = np.rint((low + high) / 2 / unit)
            for place in (lowest, middle) if offset else (np.zeros_like(unit),):
                limits = numbers.CODE_MIN, numbers.CODE_MAX
                candidates.append(_Units(unit, np.clip(place, *limits).astype(np.int64)))
    best = np.argmin([units.losses(wide) for units in candidates], 0)
    channels = np.arange(wide.shape[1])
    unit, places = (np.stack([getattr(units, part) for units in candidates]) for part in _PARTS)
    return _Units(unit[best, channels], places[best, channels])


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
