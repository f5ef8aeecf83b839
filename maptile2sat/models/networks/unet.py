"""The classic pix2pix U-Net generator (Isola et al. 2017, arXiv 1611.07004).

Its receptive field is wider than any halo that one would pay for, so renders with it blend
overlapping windows and are not exact.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

DOWN = (1, 2, 4, 8, 8, 8, 8, 8)
UP = (8, 8, 8, 8, 4, 2, 1)
"""Channels of the layers, as multiples of the first one's."""

DROPOUTS = 3
PRODUCTS_DOWN = (4, 5, 6, 7)
PRODUCTS_UP = (0, 1, 2, 3, 4)
"""Layers that are computed as matrix products: those of at most 16 px where windows are 256."""


@dataclass(frozen=True)
class UnetConfig:
    """Architecture of a `unet` generator.

    Attributes:
        size: Side of its square input in pixels; a multiple of 256.
        norm: `batch` for the classic one (moving statistics are saved but a render takes each
            window's own, as the paper does), `instance` to normalise per image in training too.
        bottleneck_norm: Whether the innermost encoder layer is normalised. The classic one
            is, which zeroes it at batch 1 (erratum of the paper).
        base: Channels of the first layer, 64 in the classic one; the others keep their ratio.
    """

    size: int = 256
    norm: str = "batch"
    bottleneck_norm: bool = True
    base: int = 64


def build_unet(
    config: UnetConfig | None = None,
    precision: str = "float32",
    *,
    synchronized: bool = False,
    seed: int = 0,
) -> Any:
    """Build the generator.

    Args:
        config: Its architecture; the classic one by default.
        precision: What convolutions compute in.
        synchronized: Whether batch statistics are taken over the devices of a strategy.
        seed: Seed of the initial weights and of dropout.

    Returns:
        A functional Keras model from `map` (N, size, size, 3) in -1..1 to (N, size, size, 3)
        float32 in -1..1. With `norm="batch"`: 54,425,859 parameters, 10,880 not trainable.
    """
    import keras

    from maptile2sat.models.networks.layers import BatchNorm, InstanceNorm, LeakyReLU
    from maptile2sat.models.networks.products import ProductConv2D, ProductConv2DTranspose

    config = config or UnetConfig()
    policy = precision if precision == "float32" else f"mixed_{precision}"

    seeds = itertools.count(100 * seed)

    def start() -> Any:
        return keras.initializers.RandomNormal(stddev=0.02, seed=next(seeds))

    def down(index: int, filters: int) -> Any:
        named = {"name": f"down{index}", "kernel_initializer": start(), "dtype": policy}
        if index in PRODUCTS_DOWN:
            return ProductConv2D(filters, **named)
        return keras.layers.Conv2D(filters, 4, 2, "same", use_bias=False, **named)

    def up(index: int, filters: int) -> Any:
        named = {"name": f"up{index}", "kernel_initializer": start(), "dtype": policy}
        if index in PRODUCTS_UP:
            return ProductConv2DTranspose(filters, **named)
        return keras.layers.Conv2DTranspose(filters, 4, 2, "same", use_bias=False, **named)

    def norm(name: str) -> Any:
        if config.norm == "instance":
            return InstanceNorm(name=name, dtype=policy)
        return BatchNorm(name=name, dtype=policy, synchronized=synchronized)

    image = keras.Input((config.size, config.size, 3), name="map")
    x = image
    skips = []
    for index, filters in enumerate(DOWN):
        x = down(index, filters * config.base)(x)
        innermost = index == len(DOWN) - 1
        if index and (config.bottleneck_norm or not innermost):
            x = norm(f"down{index}_norm")(x)
        x = LeakyReLU(negative_slope=0.2, dtype=policy)(x)
        skips.append(x)
    for index, (filters, skip) in enumerate(zip(UP, reversed(skips[:-1]), strict=True)):
        x = up(index, filters * config.base)(x)
        x = norm(f"up{index}_norm")(x)
        if index < DROPOUTS:
            x = keras.layers.Dropout(0.5, seed=next(seeds), dtype=policy)(x)
        x = keras.layers.ReLU(dtype=policy)(x)
        x = keras.layers.Concatenate(dtype=policy)([x, skip])
    x = keras.layers.Conv2DTranspose(
        3, 4, 2, "same", kernel_initializer=start(), name="rgb", dtype=policy
    )(x)
    out = keras.layers.Activation("tanh", dtype="float32", name="image")(x)
    return keras.Model(image, out, name="unet")
