"""From a cell of map pixels to a cell of image pixels, whatever the kind of generator."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from maptile2sat.bundle import Bundle
from maptile2sat.colour_table import ColourTable, colour_table
from maptile2sat.device import Device, load_tensorflow
from maptile2sat.errors import DeviceError, UsageError
from maptile2sat.noise import Noise

Pixels = npt.NDArray[np.uint8]
MIN_CELL, MAX_CELL = 256, 8192
KEPT = 4
"""Generators that stay built: a second render of a process starts at once."""


class Translator(Protocol):
    """Generates one cell at a time.

    Attributes:
        cell: Side of a cell in pixels.
        halo: Pixels of map needed around it on every side.
        reach: Pixels of map on every side that a pixel of the image depends on.
        exact: Whether a pixel depends on the map around it alone, as against being blended.
    """

    cell: int
    halo: int
    reach: int
    exact: bool

    def pack(self, image: Pixels, noise: Noise) -> Any:
        """Bring map pixels (cell + 2 halo, cell + 2 halo, 3) and noise to what `generate` takes.

        May be called ahead, from other threads.
        """

    def generate(self, packed: Any) -> Pixels:
        """Turn what `pack` returned into image pixels, uint8 (cell, cell, 3)."""


_kept: dict[Any, Translator] = {}
_keeping = threading.Lock()


def load_translator(
    bundle: Bundle, device: Device, *, cell: int | None = None, batch_size: int = 8
) -> Translator:
    """Build a bundle's generator on a device, or take the one of an earlier call.

    Args:
        bundle: The model.
        device: Where and how it computes.
        cell: Side of a cell in pixels, if not the bundle's; a multiple of 256.
        batch_size: Windows that a `unet` generates at once; changes no pixel.

    Raises:
        UsageError: If cell or batch size are out of range.
        BundleError: If the bundle is damaged.
    """
    side = bundle.description.cell if cell is None else cell
    if side % MIN_CELL or not MIN_CELL <= side <= MAX_CELL:
        raise UsageError(f"cell {side} is not a multiple of {MIN_CELL} up to {MAX_CELL}")
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size} is below 1")
    key = (bundle.folder.resolve(), repr(bundle.description), device, side, batch_size)
    with _keeping:
        if key not in _kept:
            _kept[key] = _build(bundle, device, side, batch_size)
            while len(_kept) > KEPT:
                del _kept[next(iter(_kept))]
        return _kept[key]


def _build(bundle: Bundle, device: Device, side: int, batch_size: int) -> Translator:
    tf = load_tensorflow()
    from maptile2sat.networks.generator import build_generator

    with tf.device(device.name):
        model = build_generator(bundle, device.precision)
    if bundle.description.kind == "local":
        return LocalTranslator(model, device, side)
    return UnetTranslator(model, device, side, batch_size)


class LocalTranslator:
    """Runs a `local` generator over a whole cell with its halo."""

    exact = True

    def __init__(self, model: Any, device: Device, cell: int) -> None:
        import tensorflow as tf

        from maptile2sat.networks.local import split_at_look
        from maptile2sat.networks.receptive_field import receptive_field

        self.cell, self.halo = cell, receptive_field(model).halo
        self.reach = self.halo
        side = cell + 2 * self.halo
        core = slice(self.halo, self.halo + cell)

        look, rest = split_at_look(model)

        def run(colours: Any, places: Any, fine: Any, coarse: Any) -> Any:
            looks = look(colours[None, :, None], training=False)[0, :, 0]
            seen = tf.gather(looks, places)
            return _to_bytes(tf, rest([seen, fine, coarse], training=False)[:, core, core])

        self._device = device.name
        # one traced shape: a cell and its halo
        self._run = tf.function(
            run,
            input_signature=[
                tf.TensorSpec((None, 3), tf.uint8),
                tf.TensorSpec((1, side, side), tf.int32),
                tf.TensorSpec((1, side, side, 1), tf.int16),
                tf.TensorSpec((1, side // 4, side // 4, 3), tf.int16),
            ],
        )

    def pack(self, image: Pixels, noise: Noise) -> tuple[ColourTable, Noise]:
        """Count the colours of a cell of map with its halo."""
        return colour_table(image), noise

    def generate(self, packed: tuple[ColourTable, Noise]) -> Pixels:
        """Turn a cell of map with its halo into a cell of image."""
        import tensorflow as tf

        (colours, places), noise = packed
        with _memory_errors(tf), tf.device(self._device):
            made = self._run(colours, places[None], noise.fine[None], noise.coarse[None])
        picture: Pixels = np.asarray(made)[0]
        return picture


class UnetTranslator:
    """Runs a `unet` generator over overlapping windows and blends them.

    Windows lie at fixed places of the world, half a window apart, and are weighted with a
    Hann window. Its weights add up to 1 everywhere, so a constant stays constant.
    """

    exact = False

    def __init__(self, model: Any, device: Device, cell: int, batch_size: int) -> None:
        import tensorflow as tf

        self.cell = cell
        self.window = int(model.input.shape[1])
        self.halo = self.window // 2
        self.reach = self.window  # a pixel at the end of a window depends on its other end
        if cell % self.halo:
            raise UsageError(f"cell {cell} is not a multiple of {self.halo}, half a unet window")
        self._batch = batch_size
        self._device = device.name

        def run(image: Any) -> Any:
            return model(tf.cast(image, tf.float32) / 127.5 - 1.0, training=False)

        shape = (batch_size, self.window, self.window, 3)
        self._run = tf.function(run, input_signature=[tf.TensorSpec(shape, tf.uint8)])
        # the half-pixel shift makes it symmetric; w(n) + w(n + half) = 1 still holds
        place = (np.arange(self.window) + 0.5) / self.window
        ramp = np.sin(np.pi * place) ** 2
        self._weight = (ramp[:, None] * ramp)[..., None].astype(np.float64)

    def pack(self, image: Pixels, noise: Noise) -> Pixels:
        """Leave out the noise, which is not used."""
        return image

    def generate(self, packed: Pixels) -> Pixels:
        """Turn a cell of map with its halo into a cell of image."""
        import tensorflow as tf

        side = self.cell + 2 * self.halo
        total = np.zeros((side, side, 3), np.float64)
        starts = range(0, side - self.halo, self.halo)
        places = [(row, col) for row in starts for col in starts]
        for first in range(0, len(places), self._batch):
            group = places[first : first + self._batch]
            windows = np.zeros((self._batch, self.window, self.window, 3), np.uint8)
            for index, (row, col) in enumerate(group):
                windows[index] = packed[row : row + self.window, col : col + self.window]
            with _memory_errors(tf), tf.device(self._device):
                made = np.asarray(self._run(windows))
            for (row, col), picture in zip(group, made, strict=False):
                total[row : row + self.window, col : col + self.window] += self._weight * picture
        core = slice(self.halo, self.halo + self.cell)
        levels = np.rint((total[core, core] + 1.0) * 127.5)
        return np.clip(levels, 0, 255).astype(np.uint8)


@contextmanager
def _memory_errors(tf: Any) -> Iterator[None]:
    """Say what to lower when the memory does not suffice."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise DeviceError(
            "the memory does not suffice for the generator: say a smaller --cell (a multiple of "
            "256), for a unet a smaller --batch-size, or --device cpu instead of a GPU"
        ) from error


def _to_bytes(tf: Any, made: Any) -> Any:
    """Bring -1..1 to whole levels 0..255."""
    return tf.cast(tf.clip_by_value(tf.round((made + 1.0) * 127.5), 0.0, 255.0), tf.uint8)
