"""From a cell of map pixels to a cell of image pixels, whatever the kind of generator."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from maptile2sat.bundle import Bundle
from maptile2sat.colour_table import ColourTable, colour_table
from maptile2sat.device import Device, load_tensorflow
from maptile2sat.errors import DeviceError, UsageError
from maptile2sat.grid import Window
from maptile2sat.noise import Noise, noise

Pixels = npt.NDArray[np.uint8]
MIN_CELL, USUAL_CELL, MAX_CELL = 256, 2048, 8192
KEPT = 4
"""Generators that stay built: a second render of a process starts at once."""


class Translator(Protocol):
    """Generates cells.

    Attributes:
        cell: Side of a cell in pixels.
        batch: Cells generated at once.
        overlap: Batches to start before the first is waited for: 1 where a GPU works alone.
        halo: Pixels of map needed around it on every side.
        reach: Pixels of map on every side that a pixel of the image depends on.
        exact: Whether a pixel depends on the map around it alone, as against being blended.
    """

    cell: int
    batch: int
    overlap: int
    halo: int
    reach: int
    exact: bool

    def pack(self, image: Pixels, grains: Noise) -> Any:
        """Bring map pixels (cell + 2 halo, cell + 2 halo, 3) and noise to what `start` takes.

        May be called ahead, from other threads.
        """

    def start(self, packed: Sequence[Any]) -> Any:
        """Begin to generate 1 to `batch` cells from what `pack` returned; a GPU goes on alone."""

    def finish(self, started: Any) -> list[Pixels]:
        """Wait for what `start` returned: image pixels, uint8 (cell, cell, 3), of each cell."""


class NetworkTranslator(Translator, Protocol):
    """One that holds a network, which takes cells of any side."""

    def resized(self, cell: int) -> Self:
        """Return a translator with this network for cells of that side, or a little more."""


_kept: dict[Any, NetworkTranslator] = {}
_keeping = threading.Lock()


def generate(translator: Translator, packed: Any) -> Pixels:
    """Turn what `pack` returned into image pixels, uint8 (cell, cell, 3)."""
    return translator.finish(translator.start([packed]))[0]


def load_translator(
    bundle: Bundle,
    device: Device,
    *,
    cell: int | None = None,
    batch_size: int = 8,
    cells: int = 1,
) -> NetworkTranslator:
    """Build a bundle's generator on a device, or take the one of an earlier call.

    Args:
        bundle: The model.
        device: Where and how it computes.
        cell: Side of a cell in pixels, if not the bundle's; a multiple of 256.
        batch_size: Windows that a `unet` generates at once; changes no pixel.
        cells: Most cells that a GPU generates at once, if its memory holds them. A processor
            has enough to do with one.

    Raises:
        UsageError: If cell or batch size are out of range.
        BundleError: If the bundle is damaged.
    """
    side = bundle.description.cell if cell is None else cell
    check_cell(side)
    if min(batch_size, cells) < 1:
        raise UsageError(f"batch size {min(batch_size, cells)} is below 1")
    cells = cells if device.is_gpu else 1
    key = (bundle.folder.resolve(), repr(bundle.description), device, side, batch_size, cells)
    with _keeping:
        if key not in _kept:
            _kept[key] = _build(bundle, device, side, batch_size, cells)
            while len(_kept) > KEPT:
                del _kept[next(iter(_kept))]
        return _kept[key]


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
    from maptile2sat.networks.generator import build_generator

    with tf.device(device.name):
        model = build_generator(bundle, device.precision)
    if bundle.description.kind == "local":
        return LocalTranslator(model, device, side, cells)
    return UnetTranslator(model, device, side, batch_size)


class LocalTranslator:
    """Runs a `local` generator over whole cells with their halo."""

    exact = True

    def __init__(self, model: Any, device: Device, cell: int, cells: int = 1) -> None:
        """Trace the generator for as many cells at once, `cells` at most, as memory holds."""
        from maptile2sat.networks.local import split_at_look
        from maptile2sat.networks.receptive_field import receptive_field

        self.cell, self.halo = cell, receptive_field(model).halo
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
        with _memory_errors(tf), tf.device(self._device):
            return len(packed), self._run(colours, places, fine, coarse)

    def finish(self, started: tuple[int, Any]) -> list[Pixels]:
        """Wait for cells of image."""
        import tensorflow as tf

        count, made = started
        with _memory_errors(tf):
            return list(np.asarray(made)[:count])

    def resized(self, cell: int) -> Self:
        """Trace the generator anew for cells of another side."""
        other = copy(self)
        other.cell = cell
        other._run = other._traced()
        return other


class UnetTranslator:
    """Runs a `unet` generator over overlapping windows and blends them.

    Windows lie at fixed places of the world, half a window apart, and are weighted with a
    Hann window. Its weights add up to 1 everywhere, so a constant stays constant.
    """

    exact = False
    batch = 1
    overlap = 0

    def __init__(self, model: Any, device: Device, cell: int, batch_size: int) -> None:
        import tensorflow as tf

        self.cell = cell
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
            with _memory_errors(tf), tf.device(self._device):
                made = np.asarray(self._run(windows))
            for (row, col), picture in zip(group, made, strict=False):
                total[row : row + self.window, col : col + self.window] += self._weight * picture
        core = slice(self.halo, self.halo + self.cell)
        levels = np.rint((total[core, core] + 1.0) * 127.5)
        return [np.clip(levels, 0, 255).astype(np.uint8)]

    def resized(self, cell: int) -> Self:
        """Take cells of that side, or the next into which windows fit."""
        other = copy(self)
        other.cell = -(-cell // self.halo) * self.halo
        return other


def _stacked(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return arrays as one of a dimension more, without copying if there is one alone."""
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


@contextmanager
def _memory_errors(tf: Any) -> Iterator[None]:
    """Say what to lower when the memory does not suffice."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise DeviceError(
            "the memory does not suffice for the generator: say --device cpu instead of a GPU, end "
            "other programs, or with render say a smaller --cell (a multiple of 256), for a unet "
            "a smaller --batch-size"
        ) from error


def _to_bytes(tf: Any, made: Any) -> Any:
    """Bring -1..1 to whole levels 0..255."""
    return tf.cast(tf.clip_by_value(tf.round((made + 1.0) * 127.5), 0.0, 255.0), tf.uint8)
