"""From a configuration to networks: the preset's trainer, and where its weights start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maptile2sat.bundle import Bundle, find_bundle
from maptile2sat.datasets.layout import write_json
from maptile2sat.errors import BundleError
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.devices import Devices
from maptile2sat.training.pairs import Pairs, map_colours
from maptile2sat.training.presets import SHAPE
from maptile2sat.weights import Weights

EARLIER = "earlier.json"

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


def earlier_runs(run: Path) -> list[dict[str, Any]]:
    """Return `command`, `steps` and `crops_of_256_px` of each run that this one builds on."""
    path = run / EARLIER
    return list(json.loads(path.read_text())) if path.exists() else []


def start_from_bundle(trainer: Trainer, run: Path) -> bool:
    """Set the weights to those of the bundle that the run starts from.

    What that was trained by is written down in the run: the bundle may be replaced by this
    run's own.

    Returns:
        Whether the discriminator is the bundle's too; else it is new: the bundle has none, or
        it is of another network.

    Raises:
        BundleError: If the generator is of another network.
    """
    bundle = starting_bundle(trainer.config)
    done = bundle.description.training
    last = {name: done.get(name) for name in ("command", "steps", "crops_of_256_px")}
    before = done.get("before", [])
    write_json(run / EARLIER, [*(before if isinstance(before, list) else []), last])
    _start(trainer.generator, bundle.weights(), str(bundle.folder))
    trainer.restart_average()
    judge = bundle.discriminator()
    if judge is None:
        return False
    try:
        _start(trainer.critic, judge, str(bundle.folder))
    except BundleError:
        return False
    return True


def _start(model: Any, weights: Weights, origin: str) -> None:
    """Set a network's weights, all or none."""
    from maptile2sat.networks.generator import set_weights

    # a bundle has no moving statistics; those of a new network will follow
    moving = {
        f"{layer.name}/{weight.name}": np.asarray(weight)
        for layer in model.layers
        for weight in layer.weights
        if weight.name.startswith("moving_")
    }
    set_weights(model, {**moving, **weights}, origin)
