"""The whole-number generator of `docs/whole-numbers.md`, in 64-bit integers alone.

Written from the specification, with nothing of the package: what the engines are tested against.
Planes lie by coordinates in the window, and what two of them have in common is worked out from
these, not from margins.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Architecture:
    """What the order of layers follows."""

    dilations: tuple[int, ...]
    deep: tuple[int, ...] = ()
    cleaner: tuple[int, ...] = ()
    deep_noise: bool = True
    smooth: bool = True
    coarse_rgb: bool = True


@dataclass(frozen=True)
class Plane:
    """Values (height, width, channels) whose first lies `top` and `left` pixels of theirs in."""

    values: Ints
    top: int = 0
    left: int = 0
    scale: int = 1

    @property
    def box(self) -> tuple[int, int, int, int]:
        height, width = self.values.shape[:2]
        ends = self.top, self.left, self.top + height, self.left + width
        return tuple(end * self.scale for end in ends)  # type: ignore[return-value]

    def cut(self, box: tuple[int, int, int, int]) -> Plane:
        top, left, bottom, right = (end // self.scale for end in box)
        rows, cols = slice(top - self.top, bottom - self.top), slice(left - self.left, None)
        values = self.values[rows, cols][:, : right - left]
        return Plane(values, top, left, self.scale)

    def holding(self, values: Ints) -> Plane:
        return Plane(values, self.top, self.left, self.scale)


def common(*planes: Plane) -> list[Plane]:
    """Cut planes to the pixels that all have, whole for the coarsest of them."""
    scale = max(plane.scale for plane in planes)
    boxes = [plane.box for plane in planes]
    top, left = (-(-max(box[side] for box in boxes) // scale) * scale for side in (0, 1))
    bottom, right = (min(box[side] for box in boxes) // scale * scale for side in (2, 3))
    return [plane.cut((top, left, bottom, right)) for plane in planes]


def rounded(values: Ints, shift: Any) -> Ints:
    """Divide by 2^shift, halves to even; multiply if it is negative."""
    shift = np.asarray(shift, np.int64)
    down, up = np.maximum(shift, 0), np.maximum(-shift, 0)
    values = values << up
    below = values >> down
    twice, whole = 2 * (values - (below << down)), np.int64(1) << down
    return below + ((twice > whole) | ((twice == whole) & (below % 2 == 1)))


def code(sums: Ints, shift: Any) -> Ints:
    return np.clip(rounded(sums, shift), -128, 127)


def leaky_code(sums: Ints, shift: Any, offset: Ints) -> Ints:
    """Multiply by 64 or, below zero, 13; then the shift is by six bits more."""
    bits = np.asarray(shift, np.int64) + 6 + 20  # finer than any unit, so that all is whole
    sums = np.where(sums < 0, 13, 64) * sums << 20
    return code(sums - np.where(bits >= 0, offset << np.maximum(bits, 0), 0), bits)


def stream(values: Ints) -> Ints:
    return np.clip(values, -32768, 32767)


def blurred(values: Ints) -> Ints:
    """Sum under [1 2 1] x [1 2 1]."""
    rows = values[:-2] + 2 * values[1:-1] + values[2:]
    return rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]


def doubled(plane: Plane) -> Plane:
    values = rounded(blurred(plane.values.repeat(2, 0).repeat(2, 1)), 4)
    return Plane(values, 2 * plane.top + 1, 2 * plane.left + 1, plane.scale // 2)


def shuffled(plane: Plane) -> Plane:
    """Put channel (2 row + column) * count + c into channel c of a pixel's block of four."""
    height, width, channels = plane.values.shape
    made = np.empty((2 * height, 2 * width, channels // 4), np.int64)
    for row in (0, 1):
        for column in (0, 1):
            first = (2 * row + column) * (channels // 4)
            part = plane.values[..., first : first + channels // 4]
            made[row::2, column::2] = part
    return Plane(made, 2 * plane.top, 2 * plane.left, plane.scale // 2)


@cache
def tanh_levels() -> Ints:
    """Return 127.5 (1 + tanh(v / 1024)), halves to even, for v of -4096..4096, by decimals."""
    with localcontext() as context:
        context.prec = 40
        one = (Decimal(1) / 512).exp()
        levels = []
        for value in range(-4096, 4097):
            grown = one**value
            levels.append(int((255 * grown / (grown + 1)).to_integral_value("ROUND_HALF_EVEN")))
    return np.array(levels)


class Reference:
    """Follows codes of a window through a model's arrays."""

    def __init__(self, arrays: Arrays, architecture: Architecture) -> None:
        self.arrays = {name: array.astype(np.int64) for name, array in arrays.items()}
        self.architecture = architecture

    def look(self, image: npt.NDArray[np.uint8]) -> Ints:
        """Return the codes of the look of each pixel, (..., channels), of colours (..., 3)."""
        get = self.arrays.__getitem__
        colours = image.astype(np.int64)
        away = 16 * colours[..., None, :] - get("palette/palette")
        nearness = -(((away**2).sum(-1) * get("palette/sharpness")) // (1 << 22))
        unknown = np.broadcast_to(get("palette/unknown"), (*colours.shape[:-1], 1))
        nearness = np.concatenate([nearness, unknown], -1)
        steps = np.minimum(nearness.max(-1, keepdims=True) - nearness, 12 * 256)
        weights = get("palette/exponentials")[steps]
        total = weights.sum(-1, keepdims=True)
        shares = (32768 * weights + total // 2) // total
        sums = np.concatenate([shares, colours], -1) @ get("look/weights") + get("look/bias")
        half = np.int64(1) << (get("look/shift") - 1)
        return np.clip((sums + half) >> get("look/shift"), -128, 127)

    @staticmethod
    def noise(raw: npt.NDArray[np.int16]) -> Ints:
        """Return a quarter of raw noise, halves up."""
        return np.minimum((raw.astype(np.int64) + 2) // 4, 127)

    def image(self, look: Ints, fine: Ints, coarse: Ints, *, clean: bool) -> Plane:
        """Return all levels that come of a window's codes, and where they lie in it."""
        shape = self.architecture
        seen, grain, clouds = Plane(look), Plane(fine), Plane(coarse, scale=4)
        if clean:
            seen = self.without_labels(seen)
        seen, grain = common(seen, grain)
        seen = seen.holding(np.concatenate([seen.values, grain.values], -1))
        quarter = self.norm(self.trunk(seen, clouds), "trunk_norm")
        half = self.up(quarter, "half")
        half = half.holding(self.leaky_of(half.values, "half_act"))
        half = self.leaky(self.sums(half, "half_conv"), "half_conv")
        up, skip = common(self.up(half, "full"), self.streamed(seen, "skip"))
        lifts = self.arrays["full_act/lift"], self.arrays["full_act/skip_lift"]
        sums = (up.values << lifts[0]) + (skip.values << lifts[1])
        full = up.holding(self.leaky_of(sums, "full_act"))
        full = self.leaky(self.sums(full, "full_conv"), "full_conv")
        if shape.coarse_rgb:
            rgb = doubled(self.streamed(quarter, "rgb_quarter"))
            rgb = doubled(self.added(rgb, self.sums(half, "rgb_half"), "rgb_half"))
            rgb = self.added(rgb, self.sums(full, "rgb_full"), "rgb_full")
        else:
            rgb = self.streamed(full, "rgb_full")
        return rgb.holding(tanh_levels()[np.clip(rgb.values, -4096, 4096) + 4096])

    def trunk(self, seen: Plane, clouds: Plane) -> Plane:
        shape = self.architecture
        x = self.streamed(seen, "stem", fold=4)
        for index, dilation in enumerate(shape.dilations):
            noisy = index == 0 or (shape.deep_noise and index % 2 == 0)
            x = self.block(x, f"block{index}", dilation, clouds if noisy else None)
            if shape.deep and index == (len(shape.dilations) - 1) // 2:
                x = self.deepened(x, clouds)
        return x

    def deepened(self, x: Plane, clouds: Plane) -> Plane:
        y = self.streamed(self.norm(x, "deep_norm"), "deep_stem", fold=2)
        far = self.sums(clouds, "deep_clouds", fold=2)
        far = far.holding(code(far.values, self.arrays["deep_clouds/shift"]))
        for index, dilation in enumerate(self.architecture.deep):
            y = self.block(y, f"deep{index}", dilation, far if index % 2 == 0 else None)
        return self.added(x, self.up(self.norm(y, "deep_out_norm"), "deep"), "deep_add")

    def block(self, x: Plane, name: str, dilation: int, clouds: Plane | None) -> Plane:
        y = self.sums(self.norm(x, f"{name}_norm"), f"{name}_conv", dilation)
        if clouds is not None:
            y, noise = common(y, self.sums(clouds, f"{name}_noise"))
            y = y.holding(y.values + (noise.values << self.arrays[f"{name}_noise/lift"]))
        y = self.leaky(y, f"{name}_conv")
        return self.added(x, self.sums(y, f"{name}_out"), f"{name}_out")

    def without_labels(self, look: Plane) -> Plane:
        get = self.arrays.__getitem__
        x = self.streamed(look, "clean_stem", fold=4)
        for index, dilation in enumerate(self.architecture.cleaner):
            x = self.block(x, f"clean{index}", dilation, None)
        x = self.sums(self.norm(x, "clean_norm"), "clean_code_folded")
        x = shuffled(x.holding(code(x.values, get("clean_code_folded/shift"))))
        x, look = common(doubled(x), look)
        classes = self.sums(x, "clean_classes").values
        best = np.zeros(classes.shape[:2], np.int64)
        for number in range(1, classes.shape[-1]):  # only what is larger is taken: first of equals
            current = np.take_along_axis(classes, best[..., None], -1)[..., 0]
            best = np.where(classes[..., number] > current, number, best)
        made = get("clean_made/looks")[best]
        other = code(self.sums(x, "clean_other").values, get("clean_other/shift"))
        unknown = best == classes.shape[-1] - 1
        made = np.where(unknown[..., None], np.clip(made + other, -128, 127), made)
        change = made - look.values
        differs = (abs(change) * get("clean_share/kernel")).sum(-1, keepdims=True)
        near = self.sums(x, "clean_near").values
        logits = (near << get("clean_near/lift")) + (differs << get("clean_share/lift"))
        share = np.clip(rounded(logits, get("clean_share/shift")) + 64, 0, 128)
        return look.holding(look.values + rounded(share * change, 7))

    def sums(self, x: Plane, name: str, dilation: int = 1, fold: int = 0) -> Plane:
        """Return the sums of a convolution where all that it looks at is there."""
        kernel, bias = self.arrays[f"{name}/kernel"], self.arrays[f"{name}/bias"]
        side = kernel.shape[0]
        if fold:
            assert side == fold
            top, left = -(-x.top // fold), -(-x.left // fold)
            values = x.values[top * fold - x.top :, left * fold - x.left :]
            height, width = values.shape[0] // fold, values.shape[1] // fold
            scale, step, apart = x.scale * fold, fold, 1
        else:
            reach = side // 2 * dilation
            top, left, values, scale = x.top + reach, x.left + reach, x.values, x.scale
            height, width = (length - 2 * reach for length in values.shape[:2])
            step, apart = 1, dilation
        total = np.broadcast_to(bias, (height, width, len(bias))).copy()
        for row in range(side):
            for column in range(side):
                part = values[row * apart :: step, column * apart :: step][:height, :width]
                total += part @ kernel[row, column]
        return Plane(total, top, left, scale)

    def streamed(self, x: Plane, name: str, fold: int = 0) -> Plane:
        x = self.sums(x, name, fold=fold)
        return x.holding(stream(rounded(x.values, self.arrays[f"{name}/shift"])))

    def leaky(self, x: Plane, name: str) -> Plane:
        return x.holding(self.leaky_of(x.values, name))

    def leaky_of(self, sums: Ints, name: str) -> Ints:
        return leaky_code(sums, self.arrays[f"{name}/shift"], self.arrays[f"{name}/offset"])

    def added(self, x: Plane, sums: Plane, name: str) -> Plane:
        x, sums = common(x, sums)
        return x.holding(stream(x.values + rounded(sums.values, self.arrays[f"{name}/shift"])))

    def norm(self, x: Plane, name: str) -> Plane:
        finer = self.arrays[f"{name}/finer"]
        roots = np.clip(rounded(x.values, self.arrays[f"{name}/shift"]), -255, 255)
        total = (roots**2).sum(-1, keepdims=True)
        row = np.where(
            total < 4096,
            total,
            np.where(
                total < 1 << 18, 4096 + (total - 4096) // 64, 8128 + (total - (1 << 18)) // 4096
            ),
        )
        return x.holding(code(x.values * self.arrays[f"{name}/gains"][row], 16 - finer))

    def up(self, x: Plane, name: str) -> Plane:
        """Return sums, 16 times what they mean if blurred."""
        x = self.sums(x, f"{name}_up")
        x = shuffled(x.holding(code(x.values, self.arrays[f"{name}_up/shift"])))
        if not self.architecture.smooth:
            return x
        return Plane(blurred(x.values), x.top + 1, x.left + 1, x.scale)
