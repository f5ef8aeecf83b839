"""From a cell of map pixels to a cell of image pixels, whatever the kind of generator."""

from __future__ import annotations

import dataclasses
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from maptile2sat.errors import BundleError, DeviceError, UsageError
from maptile2sat.geo.grid import Window
from maptile2sat.models.bundle import Bundle
from maptile2sat.models.colour_table import ColourTable, colour_table
from maptile2sat.models.device import INTEGER, Device, load_tensorflow, memory_errors
from maptile2sat.models.integers.engine import choose_engine
from maptile2sat.models.integers.look import look_of, noise_codes, spread
from maptile2sat.models.integers.model import IntegerModel
from maptile2sat.models.integers.network import STEP, halo_of
from maptile2sat.models.networks.local import LocalConfig, build_local
from maptile2sat.models.networks.unet import UnetConfig, build_unet
from maptile2sat.models.noise import COARSE_STEP, Noise, noise
from maptile2sat.models.weights import Weights

Pixels = npt.NDArray[np.uint8]
MIN_CELL, USUAL_CELL, MAX_CELL = 256, 2048, 8192
MASK_BLOCK = 64
"""Side of the world's blocks that are filled where they hold no map."""

KEPT = 4
"""Generators that stay built: a second render of a process starts at once."""


class Translator(Protocol):
    """Generates cells.

    Attributes:
        cell: Largest side of a cell in pixels.
        step: Cells begin and end at multiples of so many pixels: `cell` where they are fixed.
        batch: Cells generated at once.
        overlap: Batches to start before the first is waited for: 1 where a GPU works alone.
        halo: Pixels of map needed around it on every side.
        reach: Pixels of map on every side that a pixel of the image depends on.
        exact: Whether a pixel depends on the map around it alone, as against being blended.
    """

    cell: int
    step: int
    batch: int
    overlap: int
    halo: int
    reach: int
    exact: bool

    @property
    def engine_name(self) -> str:
        """What computes, in words."""

    def pack(self, image: Pixels, grains: Noise) -> Any:
        """Bring map pixels of a cell and its halo, and noise, to what `start` takes.

        May be called ahead, from other threads.
        """

    def start(self, packed: Sequence[Any]) -> Any:
        """Begin to generate 1 to `batch` cells from what `pack` returned; a GPU goes on alone."""

    def finish(self, started: Any) -> list[Pixels]:
        """Wait for what `start` returned: image pixels, uint8 (height, width, 3), of each."""

    def prepare(self, cell: Window) -> list[str]:
        """Make ready for cells of that shape, which takes up to a second where shapes differ.

        Returns:
            What the user should know: faster ways to compute that gave another answer here.
        """


class NetworkTranslator(Translator, Protocol):
    """One that holds a network, which takes cells of any side."""

    def resized(self, cell: int) -> Self:
        """Return a translator with this network for cells of that side, or a little more."""


_kept: dict[Any, NetworkTranslator] = {}
_keeping = threading.Lock()


def generate(translator: Translator, packed: Any) -> Pixels:
    """Turn what `pack` returned into image pixels, uint8 (height, width, 3)."""
    return translator.finish(translator.start([packed]))[0]


def load_translator(
    bundle: Bundle,
    device: Device,
    *,
    cell: int | None = None,
    batch_size: int = 8,
    cells: int = 1,
    engine: str = "auto",
    clean: bool = True,
) -> NetworkTranslator:
    """Build a bundle's generator on a device, or take the one of an earlier call.

    Args:
        bundle: The model.
        device: Where and how it computes.
        cell: Side of a cell in pixels, if not the bundle's; a multiple of 256.
        batch_size: Windows that a `unet` generates at once; changes no pixel.
        cells: Most cells that a GPU generates at once, if its memory holds them. A processor
            has enough to do with one.
        engine: What computes whole numbers: one of `integers.engine.ENGINES`; changes no pixel.
        clean: Whether a whole-number model takes labels off the map, if it can.

    Raises:
        UsageError: If cell or batch size are out of range.
        BundleError: If the bundle is damaged.
    """
    whole = device.precision == INTEGER
    side = bundle.description.cell if cell is None else cell
    check_cell(side)
    if min(batch_size, cells) < 1:
        raise UsageError(f"batch size {min(batch_size, cells)} is below 1")
    cells = cells if device.is_gpu else 1
    how = (engine, clean) if whole else (batch_size, cells)
    key = (bundle.folder.resolve(), repr(bundle.description), device, side, *how)
    with _keeping:
        if key not in _kept:
            _kept[key] = (
                WholeTranslator(bundle, device, side, engine, clean)
                if whole
                else _build(bundle, device, side, batch_size, cells)
            )
            while len(_kept) > KEPT:
                del _kept[next(iter(_kept))]
        return _kept[key]


def computing_threads() -> int:
    """Return on how many threads a processor computes here: those that this process may use."""
    wanted = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    if wanted.isascii() and wanted.isdigit() and int(wanted):
        return int(wanted)
    available = getattr(os, "sched_getaffinity", None)
    return len(available(0)) if available else os.cpu_count() or 1


def smallest_cell(window: int = 0) -> int:
    """Return the smallest side of a cell that a generator can be rendered in.

    Args:
        window: Side of a U-Net's windows; 0 for a `local` generator. Windows begin at multiples
            of half of it.
    """
    return math.lcm(MIN_CELL, window // 2) if window else MIN_CELL


def usual_cell(window: int = 0) -> int:
    """Return the side of the cells that a new bundle is to be rendered in.

    Args:
        window: As for `smallest_cell`.
    """
    unit = smallest_cell(window)
    return max(USUAL_CELL // unit, 1) * unit


def check_cell(side: int) -> None:
    """Refuse a side of cells that no generator takes.

    Raises:
        UsageError: If it is such.
    """
    if side % MIN_CELL or not MIN_CELL <= side <= MAX_CELL:
        raise UsageError(f"cell {side} is not a multiple of {MIN_CELL} up to {MAX_CELL}")


def _build(
    bundle: Bundle, device: Device, side: int, batch_size: int, cells: int
) -> NetworkTranslator:
    tf = load_tensorflow()

    with tf.device(device.name):
        model = build_generator(bundle, device.precision)
    if bundle.description.kind == "local":
        return LocalTranslator(model, device, side, cells)
    return UnetTranslator(model, device, side, batch_size)


class WholeTranslator:
    """Runs a whole-number generator over windows of any size, to the same bits everywhere."""

    exact = True
    batch = 1

    def __init__(self, bundle: Bundle, device: Device, cell: int, engine: str, clean: bool) -> None:
        """Read the integers and choose what computes them."""
        architecture_of(bundle)  # within limits, whatever the file says
        self._model = IntegerModel(
            bundle.description.architecture, bundle.integers(), str(bundle.folder)
        )
        clean = clean and self._model.has_cleaner
        self.cell, self.step, self.overlap = cell, STEP, 0
        self._halo = halo_of(self._model, clean)
        # the world's blocks that hold a cell's pixels end at most so far from it
        self.halo = self.reach = max(self._halo, MASK_BLOCK - STEP)
        self.engine = choose_engine(self._model, engine, clean, device.name, computing_threads())

    @property
    def engine_name(self) -> str:
        """What computes, in words."""
        return self.engine.form.how

    def pack(self, image: Pixels, grains: Noise) -> tuple[Pixels, Pixels, Pixels]:
        """Look up what each pixel of map looks like to the generator."""
        spare = self.halo - self._halo
        if spare:
            image = image[spare:-spare, spare:-spare]
            coarser = spare // COARSE_STEP
            fine, coarse = grains
            grains = Noise(
                fine[spare:-spare, spare:-spare], coarse[coarser:-coarser, coarser:-coarser]
            )
        table = colour_table(image)
        codes = noise_codes(grains)
        look = spread(table, look_of(self._model, table.colours))
        return look[None], codes[0][None], codes[1][None]

    def start(self, packed: Sequence[tuple[Pixels, Pixels, Pixels]]) -> list[Pixels]:
        """Generate cells."""
        return [self.engine(*codes) for codes in packed]

    def finish(self, started: list[Pixels]) -> list[Pixels]:
        """Return what `start` made."""
        return started

    def resized(self, cell: int) -> Self:
        """Take cells of another side."""
        other = copy(self)
        other.cell = cell
        return other

    def prepare(self, cell: Window) -> list[str]:
        """Compile for cells of that shape, and try the known answer."""
        window = cell.grown(self._halo)
        self.engine.ready(window.height, window.width)
        return [f"computed by {self.engine_name}, since {text}" for text in self.engine.failed]


class LocalTranslator:
    """Runs a `local` generator in floating point over whole cells with their halo."""

    exact = True
    engine_name = "TensorFlow"

    def __init__(self, model: Any, device: Device, cell: int, cells: int = 1) -> None:
        """Trace the generator for as many cells at once, `cells` at most, as memory holds."""
        from maptile2sat.models.networks.local import split_at_look
        from maptile2sat.models.networks.receptive_field import receptive_field

        self.cell, self.halo = cell, receptive_field(model).halo
        self.step = cell
        self.reach = self.halo
        self.overlap = int(device.is_gpu)
        self._device = device.name
        self._parts = split_at_look(model)
        self.batch = cells
        self._run = self._traced()
        while self.batch > 1:
            try:
                self.finish(self.start([self._blank()]))
            except DeviceError:
                self.batch //= 2
                self._run = self._traced()
            else:
                break

    def _traced(self) -> Any:
        """Return the generator as a function of one shape: a batch of cells and their halos."""
        import tensorflow as tf

        look, rest = self._parts
        core = slice(self.halo, self.halo + self.cell)

        def run(colours: Any, places: Any, fine: Any, coarse: Any) -> Any:
            looks = look(colours[None, :, None], training=False)[0, :, 0]
            seen = tf.gather(looks, places)
            return _to_bytes(tf, rest([seen, fine, coarse], training=False)[:, core, core])

        batch, side = self.batch, self.cell + 2 * self.halo
        return tf.function(
            run,
            input_signature=[
                tf.TensorSpec((None, 3), tf.uint8),
                tf.TensorSpec((batch, side, side), tf.int32),
                tf.TensorSpec((batch, side, side, 1), tf.int16),
                tf.TensorSpec((batch, side // 4, side // 4, 3), tf.int16),
            ],
        )

    def _blank(self) -> tuple[ColourTable, Noise]:
        """Return a cell of one colour, to see what memory holds."""
        window = Window(0, 0, self.cell, self.cell).grown(self.halo)
        image = np.zeros((window.height, window.width, 3), np.uint8)
        return self.pack(image, noise(0, window))

    def pack(self, image: Pixels, grains: Noise) -> tuple[ColourTable, Noise]:
        """Count the colours of a cell of map with its halo."""
        return colour_table(image), grains

    def start(self, packed: Sequence[tuple[ColourTable, Noise]]) -> tuple[int, Any]:
        """Begin to generate cells from their maps with halo.

        A batch is always whole, its last cell repeated: another shape might have other kernels,
        and so other roundings.
        """
        import tensorflow as tf

        tables, noises = zip(*packed, *[packed[-1]] * (self.batch - len(packed)), strict=True)
        colours = np.concatenate([table.colours for table in tables])
        firsts = np.cumsum([0, *(len(table.colours) for table in tables)], dtype=np.int32)
        places = _stacked(
            [
                table.places + first if first else table.places
                for table, first in zip(tables, firsts, strict=False)
            ]
        )
        fine = _stacked([grain.fine for grain in noises])
        coarse = _stacked([grain.coarse for grain in noises])
        with memory_errors(tf), tf.device(self._device):
            return len(packed), self._run(colours, places, fine, coarse)

    def finish(self, started: tuple[int, Any]) -> list[Pixels]:
        """Wait for cells of image."""
        import tensorflow as tf

        count, made = started
        with memory_errors(tf):
            return list(np.asarray(made)[:count])

    def resized(self, cell: int) -> Self:
        """Trace the generator anew for cells of another side."""
        other = copy(self)
        other.cell = other.step = cell
        other._run = other._traced()
        return other

    def prepare(self, cell: Window) -> list[str]:
        """Do nothing: it was traced for the only shape there is."""
        return []


class UnetTranslator:
    """Runs a `unet` generator over overlapping windows and blends them.

    Windows lie at fixed places of the world, half a window apart, and are weighted with a
    Hann window. Its weights add up to 1 everywhere, so a constant stays constant.
    """

    exact = False
    batch = 1
    overlap = 0
    engine_name = "TensorFlow"

    def __init__(self, model: Any, device: Device, cell: int, batch_size: int) -> None:
        import tensorflow as tf

        self.cell = self.step = cell
        self.window = int(model.input.shape[1])
        self.halo = self.window // 2
        self.reach = self.window  # a pixel at the end of a window depends on its other end
        if cell % self.halo:
            raise UsageError(
                f"cell {cell} is not a multiple of {self.halo}, half a unet window: "
                f"{usual_cell(self.window)} is (--cell)"
            )
        self._windows = batch_size
        self._device = device.name

        def run(image: Any) -> Any:
            return model(tf.cast(image, tf.float32) / 127.5 - 1.0, training=False)

        shape = (batch_size, self.window, self.window, 3)
        self._run = tf.function(run, input_signature=[tf.TensorSpec(shape, tf.uint8)])
        # the half-pixel shift makes it symmetric; w(n) + w(n + half) = 1 still holds
        place = (np.arange(self.window) + 0.5) / self.window
        ramp = np.sin(np.pi * place) ** 2
        self._weight = (ramp[:, None] * ramp)[..., None].astype(np.float64)

    def pack(self, image: Pixels, grains: Noise) -> Pixels:
        """Leave out the noise, which is not used."""
        return image

    def start(self, packed: Sequence[Pixels]) -> Pixels:
        """Take a cell of map with its halo."""
        return packed[0]

    def finish(self, started: Pixels) -> list[Pixels]:
        """Generate a cell of image."""
        import tensorflow as tf

        side = self.cell + 2 * self.halo
        total = np.zeros((side, side, 3), np.float64)
        starts = range(0, side - self.halo, self.halo)
        places = [(row, col) for row in starts for col in starts]
        for first in range(0, len(places), self._windows):
            group = places[first : first + self._windows]
            windows = np.zeros((self._windows, self.window, self.window, 3), np.uint8)
            for index, (row, col) in enumerate(group):
                windows[index] = started[row : row + self.window, col : col + self.window]
            with memory_errors(tf), tf.device(self._device):
                made = np.asarray(self._run(windows))
            for (row, col), picture in zip(group, made, strict=False):
                total[row : row + self.window, col : col + self.window] += self._weight * picture
        core = slice(self.halo, self.halo + self.cell)
        levels = np.rint((total[core, core] + 1.0) * 127.5)
        return [np.clip(levels, 0, 255).astype(np.uint8)]

    def resized(self, cell: int) -> Self:
        """Take cells of that side, or the next into which windows fit."""
        other = copy(self)
        other.cell = other.step = -(-cell // self.halo) * self.halo
        return other

    def prepare(self, cell: Window) -> list[str]:
        """Do nothing: its windows all have one shape."""
        return []


def _stacked(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return arrays as one of a dimension more, without copying if there is one alone."""
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


def _to_bytes(tf: Any, made: Any) -> Any:
    """Bring -1..1 to whole levels 0..255."""
    return tf.cast(tf.clip_by_value(tf.round((made + 1.0) * 127.5), 0.0, 255.0), tf.uint8)


# From a bundle to a network with its weights, and back

# keeps what a description alone may allocate below half a gigabyte
MAX_WIDTH = 512
MAX_BLOCKS = 32
MAX_COLOURS = 256
MAX_DILATION = 64
MAX_UNET_BASE = 96


def build_generator(bundle: Bundle, precision: str) -> Any:
    """Build a bundle's generator and set its weights.

    Args:
        bundle: An opened bundle.
        precision: `float32`, `bfloat16` or `float16`: what convolutions compute in.

    Raises:
        BundleError: If the architecture makes no sense or the weights do not fit it.
    """
    config = architecture_of(bundle)
    with _described(bundle):
        if isinstance(config, LocalConfig):
            model = build_local(config, precision)
        else:
            # batch statistics of one window are instance statistics: as at training's batch 1,
            # and no tile influences another in the batch
            model = build_unet(dataclasses.replace(config, norm="instance"), precision)
    set_weights(model, bundle.weights(), str(bundle.folder))
    return model


def architecture_of(bundle: Bundle) -> LocalConfig | UnetConfig:
    """Return the architecture that a bundle describes; TensorFlow is not needed.

    Raises:
        BundleError: If it makes no sense.
    """
    about = bundle.description
    with _described(bundle):
        if about.kind == "local":
            return _local_config(about.architecture)
        config = UnetConfig(**about.architecture)
        if config.size % 256 or not 256 <= config.size <= 2048:
            raise BundleError(f"{bundle.folder}: a unet's size is a multiple of 256 to 2048")
        if not 1 <= config.base <= MAX_UNET_BASE:
            raise BundleError(f"{bundle.folder}: a unet's base is 1 to {MAX_UNET_BASE}")
        return config


@contextmanager
def _described(bundle: Bundle) -> Iterator[None]:
    """Say whose description it is that makes no sense."""
    try:
        yield
    except KeyError as error:
        raise BundleError(f"{bundle.folder}: the architecture lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise BundleError(f"{bundle.folder}: the architecture is not valid: {error}") from error


def _local_config(architecture: dict[str, Any]) -> LocalConfig:
    """Return the configuration that a description holds, within sane limits."""
    given = dict(architecture)
    for name in {"cleaner", "deep"} & given.keys() | {"dilations"}:
        given[name] = tuple(given[name])
    config = LocalConfig(**given)
    palette = np.asarray(config.palette, np.float32)
    widths = (
        *(config.width, config.half_width, config.full_width),
        *(config.cleaner_width, config.deep_width),
    )
    blocks = (*config.dilations, *config.cleaner, *config.deep)
    right = (
        all(isinstance(number, int) for number in (*widths, *blocks))
        and palette.ndim == 2
        and palette.shape[1] == 3
        and 1 <= len(palette) <= MAX_COLOURS
        and all(1 <= width <= MAX_WIDTH for width in widths)
        and len(config.dilations) >= 1
        and len(blocks) <= MAX_BLOCKS
        and all(1 <= dilation <= MAX_DILATION for dilation in blocks)
    )
    if not right:
        raise ValueError("palette, widths or dilations are out of range")
    switches = (config.smooth, config.deep_noise, config.coarse_rgb)
    if not all(isinstance(switch, bool) for switch in switches):
        raise ValueError("smooth, deep_noise and coarse_rgb must be true or false")
    return config


def get_weights(model: Any) -> Weights:
    """Return a model's weights by name `layer/weight`, moving statistics left out."""
    return {
        name: np.asarray(weight, np.float32)
        for name, weight in _named(model).items()
        if not name.split("/")[-1].startswith("moving_")
    }


def set_weights(model: Any, weights: Weights, origin: str) -> None:
    """Set a model's weights by name.

    Raises:
        BundleError: If a weight is missing, left over, or of another shape; none is set then.
    """
    named = _named(model)
    missing, extra = sorted(named.keys() - weights.keys()), sorted(weights.keys() - named.keys())
    if missing or extra:
        raise BundleError(
            f"the weights of {origin} are of another network: "
            f"missing {missing[:3]}, unknown {extra[:3]}"
        )
    for name, weight in named.items():
        if tuple(weight.shape) != weights[name].shape:
            raise BundleError(
                f"the weights of {origin} are of another network: {name} is "
                f"{weights[name].shape}, expected {tuple(weight.shape)}"
            )
    for name, weight in named.items():
        weight.assign(weights[name])


def _named(model: Any) -> dict[str, Any]:
    return {
        f"{layer.name}/{weight.name}": weight for layer in model.layers for weight in layer.weights
    }
