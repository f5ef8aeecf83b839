"""From a configuration to networks: the preset's trainer, and where its weights start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maptile2sat.bundle import Bundle, find_bundle
from maptile2sat.datasets.layout import write_json
from maptile2sat.errors import BundleError
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.devices import Devices
from maptile2sat.training.pairs import Pairs, map_colours
from maptile2sat.training.presets import SHAPE

if TYPE_CHECKING:
    from maptile2sat.training.adversarial import Trainer


def build_trainer(
    config: TrainConfig, palette: list[list[float]], devices: Devices | None = None
) -> Trainer:
    """Build the networks of a run; imports TensorFlow.

    Args:
        config: The run's configuration.
        palette: What `starting_palette` returned.
        devices: What it computes on; one CPU by default.
    """
    if config.kind == "unet":
        from maptile2sat.training.pix2pix import UnetTrainer

        return UnetTrainer(config, devices)
    from maptile2sat.networks.local import LocalConfig
    from maptile2sat.training.step import LocalTrainer

    shape = {name: getattr(config, name) for name in SHAPE}
    local = LocalConfig(palette=palette, seed=config.seed, **shape)
    return LocalTrainer(config, local, devices)


def starting_palette(run: Path, pairs: Pairs, config: TrainConfig) -> list[list[float]]:
    """Return the palette that the run starts from; found once, then kept in the run.

    A U-Net has none.
    """
    if config.kind == "unet":
        return []
    path = run / "palette.json"
    if path.exists():
        return [[float(value) for value in colour] for colour in json.loads(path.read_text())]
    if config.init:
        colours: list[list[float]] = starting_bundle(config).description.architecture["palette"]
    else:
        colours = map_colours(pairs, config.colours, config.seed)
    write_json(path, colours)
    return colours


def starting_bundle(config: TrainConfig) -> Bundle:
    """Return the bundle that a run starts from.

    Raises:
        BundleError: If there is none, or it is of another kind.
    """
    bundle = find_bundle(config.init)
    kind = bundle.description.kind
    if kind != config.kind:
        raise BundleError(
            f"{config.init} is a {kind} generator, the preset {config.preset} trains a "
            f"{config.kind} one: give another bundle or preset"
        )
    return bundle


def start_from_bundle(trainer: Trainer) -> None:
    """Set the generator's weights to those of the bundle that the run starts from.

    Raises:
        BundleError: If it is of another network.
    """
    from maptile2sat.networks.generator import set_weights

    bundle = starting_bundle(trainer.config)
    # a bundle has no moving statistics; those of a new network will follow
    moving = {
        f"{layer.name}/{weight.name}": np.asarray(weight)
        for layer in trainer.generator.layers
        for weight in layer.weights
        if weight.name.startswith("moving_")
    }
    set_weights(trainer.generator, {**moving, **bundle.weights()}, str(bundle.folder))
    trainer.restart_average()
