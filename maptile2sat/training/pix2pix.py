"""The adversarial training step of the classic U-Net: presets `seed` and `pix2pix`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf

from maptile2sat.models.networks.discriminators import (
    build_pix2pix_critic,
    build_seed_discriminator,
)
from maptile2sat.models.networks.unet import UnetConfig, build_unet
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.data import Batch
from maptile2sat.training.devices import Devices
from maptile2sat.training.painting import from_unet
from maptile2sat.training.samples import Generate
from maptile2sat.training.trainer import Losses, Tensor, Trainer

EPSILON = 1e-7
"""Probabilities are kept this far from 0 and 1 (Keras' own value)."""


class UnetTrainer(Trainer):
    """Trains with binary cross-entropy and L1 (Isola et al. 2017, arXiv 1611.07004).

    `seed` has batch statistics, a normalised bottleneck and a discriminator of 7x7
    probabilities; `pix2pix` has statistics per image, none on the bottleneck, and the paper's
    70 px PatchGAN with logits.
    """

    chance = 2.0 * math.log(2.0)

    def __init__(self, config: TrainConfig, devices: Devices | None = None) -> None:
        classic = config.preset == "seed"
        self.classic = classic
        self.unet = UnetConfig(
            config.crop, "batch" if classic else "instance", classic, config.unet_base
        )
        self._shown: Any = None
        super().__init__(config, devices or Devices())

    def build_generator(self) -> Any:
        """Build the U-Net."""
        config = self.config
        return build_unet(
            self.unet, config.precision, synchronized=self.replicas > 1, seed=config.seed
        )

    def build_critic(self) -> Any:
        """Build the preset's discriminator."""
        config, side = self.config, self.config.crop
        seed = config.seed + 1000
        if self.classic:
            return build_seed_discriminator(
                config.precision,
                side,
                base=config.critic_base,
                synchronized=self.replicas > 1,
                seed=seed,
            )
        return build_pix2pix_critic(config.critic_base, config.precision, side, seed=seed)

    def architecture(self) -> dict[str, Any]:
        """Return the fields of `UnetConfig`."""
        return dataclasses.asdict(self.unet)

    def generate(self) -> Generate:
        """Return how the weights make an image when rendered: with statistics per image."""
        if self.unet.norm == "instance":
            return from_unet(self.average)
        if self._shown is None:
            self._shown = build_unet(dataclasses.replace(self.unet, norm="instance"))
        values = {weight.path: weight for weight in self.average.weights}
        for weight in self._shown.weights:
            weight.assign(values[weight.path])
        return from_unet(self._shown)

    def losses(self, batch: Batch) -> Losses:
        """Compute the losses; the discriminator sees the map, without labels, beside the image."""
        parts = (batch.map, batch.image, batch.clean)
        drawn, real, clean = (tf.cast(part, tf.float32) / 127.5 - 1.0 for part in parts)
        fake = self.generator(drawn, training=True)
        # two calls, since batch statistics of real and fake images must not mix
        told_real = self.critic([clean, real], training=True)
        told_fake = self.critic([clean, fake], training=True)
        figures = {
            "critic_real": self._cross_entropy(told_real, 1.0),
            "critic_fake": self._cross_entropy(told_fake, 0.0),
            "adversarial": self._cross_entropy(told_fake, 1.0),
            "l1": tf.reduce_mean(tf.abs(fake - real)),
        }
        generator = figures["adversarial"] + self.config.fine_l1_weight * figures["l1"]
        return Losses(figures["critic_real"] + figures["critic_fake"], generator, figures)

    def _cross_entropy(self, told: Tensor, truth: float) -> Tensor:
        """Return the mean binary cross-entropy of probabilities (`seed`) or logits."""
        if not self.classic:
            labels = tf.fill(tf.shape(told), truth)
            return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, told))
        right = told if truth else 1.0 - told
        return -tf.reduce_mean(tf.math.log(tf.clip_by_value(right, EPSILON, 1.0 - EPSILON)))
