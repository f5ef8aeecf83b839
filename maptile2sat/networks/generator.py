"""From a bundle to a network with its weights, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from maptile2sat.bundle import Bundle
from maptile2sat.errors import BundleError
from maptile2sat.networks.local import LocalConfig, build_local
from maptile2sat.networks.unet import UnetConfig, build_unet
from maptile2sat.weights import Weights

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
