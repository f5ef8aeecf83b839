"""From a configuration to networks: the preset's trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maptile2sat.training.config import TrainConfig
from maptile2sat.training.devices import Devices
from maptile2sat.training.presets import SHAPE

if TYPE_CHECKING:
    from maptile2sat.training.adversarial import Trainer


def build_trainer(
    config: TrainConfig, palette: list[list[float]], devices: Devices | None = None
) -> Trainer:
    """Build the networks of a run; imports TensorFlow.

    Args:
        config: The run's configuration.
        palette: What `starting.starting_palette` returned.
        devices: What it computes on; one CPU by default.
    """
    if config.kind == "unet":
        from maptile2sat.training.pix2pix import UnetTrainer

        return UnetTrainer(config, devices)
    from maptile2sat.networks.local import LocalConfig
    from maptile2sat.training.step import LocalTrainer

    shape = {name: getattr(config, name) for name in SHAPE}
    local = LocalConfig(palette=palette, seed=config.seed, **shape)
    if config.preset == "cleaner":
        from maptile2sat.training.cleaner import CleanerTrainer

        return CleanerTrainer(config, local, devices)
    return LocalTrainer(config, local, devices)
