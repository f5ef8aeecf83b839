"""Trains the part of a `local` generator alone that takes labels off the map."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from maptile2sat.networks.local import LocalConfig, is_cleaner
from maptile2sat.training.adversarial import Losses
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.devices import Devices
from maptile2sat.training.pairs import Batch
from maptile2sat.training.step import CLEANER, CLEANER_LOSSES, LocalTrainer


class CleanerTrainer(LocalTrainer):
    """Trains a cleaner; all other weights stay as they are, the discriminator's too.

    No image is made, so that a step takes a fraction of the time, and what the cleaner has to
    imitate, the look of a bare map, does not change meanwhile.
    """

    def __init__(
        self, config: TrainConfig, local: LocalConfig, devices: Devices | None = None
    ) -> None:
        super().__init__(config, local, devices)
        layers = [self.generator.get_layer(name).output for name in CLEANER]
        self.parts = keras.Model(self.generator.inputs[0], layers)

    def build_generator(self) -> Any:
        """Build a `local` generator of which the cleaner alone is trained."""
        model = super().build_generator()
        for layer in model.layers:
            layer.trainable = is_cleaner(layer.name)
        return model

    def build_critic(self) -> Any:
        """Build the discriminator, for whoever trains on."""
        model = super().build_critic()
        model.trainable = False
        return model

    def losses(self, batch: Batch) -> Losses:
        """Compute the cleaner's losses."""
        parts = self.parts(tf.cast(batch.map, tf.float32), training=True)
        figures = self.cleaned(parts, self.bare(batch), batch)
        return Losses(tf.zeros(()), tf.add_n([figures[name] for name in CLEANER_LOSSES]), figures)
