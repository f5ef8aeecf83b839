"""The integers that make a generator: what a bundle holds of them, and their bounds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from maptile2sat.errors import BundleError
from maptile2sat.models.integers import numbers
from maptile2sat.models.noise import COARSE_OCTAVES

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
"""Whole numbers by name `layer/array`."""


@dataclass(frozen=True)
class Shape:
    """What of an architecture the whole-number network follows; see `LocalConfig`."""

    classes: int
    dilations: tuple[int, ...]
    deep: tuple[int, ...]
    cleaner: tuple[int, ...]
    deep_noise: bool
    smooth: bool
    coarse_rgb: bool

    @classmethod
    def of(cls, architecture: dict[str, Any]) -> Shape:
        """Read it from a bundle's architecture, whose values have been checked."""
        return cls(
            classes=len(architecture["palette"]) + 1,
            dilations=tuple(architecture["dilations"]),
            deep=tuple(architecture.get("deep", ())),
            cleaner=tuple(architecture.get("cleaner", ())),
            deep_noise=architecture.get("deep_noise", True),
            smooth=architecture.get("smooth", True),
            coarse_rgb=architecture.get("coarse_rgb", True),
        )


@dataclass(frozen=True)
class Convolution:
    """A convolution of codes.

    Attributes:
        name: Of the layer.
        kernel: int8 (height, width, inputs, outputs).
        bias: int32 (outputs), in the unit of the sums.
        shift: int8 (outputs), bits by which a sum is shifted down for what it becomes.
    """

    name: str
    kernel: Array
    bias: Array
    shift: Array

    @property
    def bound(self) -> int:
        """The largest sum that any codes make."""
        products = np.abs(self.kernel.astype(np.int64)).sum((0, 1, 2)) * -numbers.CODE_MIN
        return int((products + np.abs(self.bias.astype(np.int64))).max())


class IntegerModel:
    """A generator's integers.

    Attributes:
        shape: What it is built like.
        arrays: Its integers by name.
    """

    def __init__(self, architecture: dict[str, Any], arrays: Arrays, origin: str) -> None:
        """Check that everything is there and that no sum can leave what float32 holds.

        Raises:
            BundleError: If something is missing, of a wrong shape, or too large.
        """
        self.shape = Shape.of(architecture)
        self.arrays = arrays
        self.origin = origin

    def array(self, name: str) -> Array:
        """Return an array by its name.

        Raises:
            BundleError: If there is none.
        """
        try:
            return self.arrays[name]
        except KeyError:
            raise BundleError(
                f"{self.origin}: the integers lack {name}; convert the model again"
            ) from None

    def number(self, name: str) -> int:
        """Return an array of one number."""
        values = self.array(name)
        if values.size != 1:
            raise BundleError(f"{self.origin}: {name} is not one number")
        return int(values.reshape(())[()])

    def convolution(self, name: str, inputs: int | None = None) -> Convolution:
        """Return a convolution, checked against the bound.

        Raises:
            BundleError: If its arrays do not fit each other or its sums may be too large.
        """
        kernel, bias, shift = (self.array(f"{name}/{part}") for part in ("kernel", "bias", "shift"))
        if (
            kernel.ndim != 4
            or bias.shape != shift.shape
            or bias.shape != kernel.shape[3:]
            or (inputs is not None and kernel.shape[2] != inputs)
            or kernel.dtype != np.int8
        ):
            raise BundleError(f"{self.origin}: the arrays of {name} do not fit each other")
        made = Convolution(name, kernel, bias, shift)
        if made.bound > numbers.MAX_SUM:
            raise BundleError(
                f"{self.origin}: sums of {name} may reach {made.bound:,}, "
                f"more than {numbers.MAX_SUM:,}"
            )
        if np.abs(kernel.astype(np.int16)).max(initial=0) > numbers.MAX_WEIGHT:
            raise BundleError(f"{self.origin}: weights of {name} are above {numbers.MAX_WEIGHT}")
        return made

    def shift(self, name: str, leaky: bool = False) -> Array:
        """Return by how many bits sums are shifted down to codes.

        Raises:
            BundleError: If they are too many: engines would round halves in different ways.
        """
        shift = self.array(f"{name}/shift")
        most = numbers.MAX_LEAKY_SHIFT if leaky else numbers.MAX_SHIFT
        if shift.max() > most:
            raise BundleError(f"{self.origin}: {name} shifts sums down by more than {most} bits")
        return shift

    def offset(self, name: str) -> Array:
        """Return what is added to codes of a leaky ReLU for what they mean.

        Raises:
            BundleError: If it is more than a code can be.
        """
        offset = self.array(f"{name}/offset")
        if offset.min() < numbers.CODE_MIN or offset.max() > numbers.CODE_MAX:
            raise BundleError(f"{self.origin}: offsets of {name} are not codes")
        return offset

    def finer(self, name: str) -> Array:
        """Return by how many bits the unit of each channel of a norm is finer than its table's.

        Raises:
            BundleError: If they are not 0 to `MAX_SHIFT`.
        """
        finer = self.array(f"{name}/finer")
        if finer.min() < 0 or finer.max() > numbers.MAX_SHIFT:
            raise BundleError(f"{self.origin}: {name}/finer is not in 0..{numbers.MAX_SHIFT}")
        return finer

    def lift(self, name: str, largest: int) -> Array:
        """Return by how many bits sums, none above `largest`, are shifted up to a finer unit.

        Raises:
            BundleError: If they may come to more than float32 holds exactly.
        """
        lift = self.array(name)
        if lift.min() < 0 or largest << int(lift.max()) > numbers.MAX_SUM:
            raise BundleError(f"{self.origin}: {name} may lift sums above {numbers.MAX_SUM:,}")
        return lift

    def gains(self, name: str) -> Array:
        """Return the table of gains of a norm.

        Raises:
            BundleError: If it is not one, or a gain has more than eight bits.
        """
        gains = self.array(f"{name}/gains").astype(np.int64)
        lowest = gains & -gains
        if gains.shape != (numbers.GAIN_ROWS,) or (gains >= np.maximum(lowest << 8, 1)).any():
            raise BundleError(f"{self.origin}: {name}/gains is not a table of gains of eight bits")
        return gains

    @cached_property
    def has_cleaner(self) -> bool:
        """Whether it takes labels off the map."""
        return bool(self.shape.cleaner)

    @property
    def look_channels(self) -> int:
        """Channels of the look of a pixel of map.

        Raises:
            BundleError: If palette and look do not fit each other.
        """
        weights, colours = self.array("look/weights"), self.shape.classes - 1
        parts = [self.array(f"look/{part}").shape for part in ("bias", "shift")]
        fits = (
            weights.shape[:-1] == (self.shape.classes + 3,)
            and parts == [weights.shape[1:]] * 2
            and self.array("palette/palette").shape == (colours, 3)
            and self.array("palette/sharpness").shape == (colours,)
            and self.array("palette/exponentials").shape == numbers.exp_table().shape
        )
        if not fits:
            raise BundleError(f"{self.origin}: palette and look are of another network")
        return int(weights.shape[1])

    @property
    def noise_channels(self) -> int:
        """Channels of coarse noise."""
        return len(COARSE_OCTAVES)

    def bounds(self) -> dict[str, int]:
        """Return the largest sum of every convolution."""
        names = sorted(name[: -len("/kernel")] for name in self.arrays if name.endswith("/kernel"))
        return {
            name: self.convolution(name).bound
            for name in names
            if f"{name}/bias" in self.arrays and f"{name}/shift" in self.arrays
        }
