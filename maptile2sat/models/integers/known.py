"""The known-answer test: a fixed input whose image every engine must make to the last bit.

The input repeats after `PERIOD` pixels, and so does the image: whatever the shape of a window, all
of its pixels are known. It holds the largest codes there are beside middling ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from maptile2sat.geo.grid import Window
from maptile2sat.models.integers.model import IntegerModel
from maptile2sat.models.integers.network import halo_of
from maptile2sat.models.noise import COARSE_STEP, noise

PERIOD = 64
"""Pixels after which the input repeats; a multiple of `network.STEP` and `COARSE_STEP`."""

Codes = npt.NDArray[np.uint8]
Run = Callable[[Codes, Codes, Codes], npt.NDArray[np.uint8]]
"""Levels (H', W', 3) from look, fine and coarse codes + 128, uint8 (1, H, W, C)."""


def known_input(model: IntegerModel, height: int, width: int) -> tuple[Codes, Codes, Codes]:
    """Return look, fine and coarse codes + 128, uint8 (1, height, width, channels)."""
    across = Window(0, 0, PERIOD, PERIOD)
    look = np.stack([_codes(noise(7 + index, across).fine) for index in range(model.look_channels)])
    fine = _codes(noise(5, across).fine)[..., None]
    steps = PERIOD // COARSE_STEP
    coarse = np.stack(
        [
            _codes(noise(3 + index, Window(0, 0, steps, steps)).fine)
            for index in range(model.noise_channels)
        ]
    )
    planes = np.moveaxis(look, 0, -1), fine, np.moveaxis(coarse, 0, -1)
    shapes = (height, width), (height, width), (height // COARSE_STEP, width // COARSE_STEP)
    look, fine, coarse = (
        _tiled(plane, *shape)[None] for plane, shape in zip(planes, shapes, strict=True)
    )
    return look, fine, coarse


def _codes(raw: npt.NDArray[np.int16]) -> Codes:
    """Return codes + 128, every other block of 8 x 8 pixels of nothing but the largest."""
    plane = raw[..., 0].astype(np.int64)
    middling = np.clip((plane >> 2) + 128, 0, 255)
    rows, cols = np.indices(plane.shape) // 8
    return np.where((rows + cols) % 2 == 0, middling, np.where(plane < 0, 0, 255)).astype(np.uint8)


def _tiled(plane: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    times = -(-height // plane.shape[0]), -(-width // plane.shape[1]), 1
    return np.ascontiguousarray(np.tile(plane, times)[:height, :width])


def answer(model: IntegerModel, run: Run, clean: bool) -> npt.NDArray[np.uint8]:
    """Return what a generator makes of one period of the fixed input, uint8 (64, 64, 3)."""
    halo = halo_of(model, clean)
    made = run(*known_input(model, PERIOD + 2 * halo, PERIOD + 2 * halo))
    return np.roll(made, (halo % PERIOD, halo % PERIOD), (0, 1))


def agrees(model: IntegerModel, run: Run, clean: bool, height: int, width: int) -> bool:
    """Return whether a generator makes the known image in windows of a shape, halo included."""
    halo = halo_of(model, clean)
    expected = np.roll(model.array(name_of(clean)), (-halo % PERIOD, -halo % PERIOD), (0, 1))
    made = run(*known_input(model, height, width))
    return np.array_equal(made, _tiled(expected, height - 2 * halo, width - 2 * halo))


def name_of(clean: bool) -> str:
    """Return the name of the array that holds the known image, with labels taken off or not."""
    return f"golden/{'clean' if clean else 'plain'}"


def golden_hash(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the sha256 of the known images of a model."""
    images = (arrays[name].tobytes() for name in sorted(arrays) if name.startswith("golden/"))
    return hashlib.sha256(b"".join(images)).hexdigest()
