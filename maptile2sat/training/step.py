"""One adversarial training step of a `local` generator, and all state that it changes."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from maptile2sat.networks.discriminators import build_patch_critic
from maptile2sat.networks.local import LocalConfig, build_local
from maptile2sat.training.config import TrainConfig

Tensor = Any


class LocalTrainer:
    """Generator, its weight average, discriminator and optimizers.

    The discriminator sees the image together with the map as the generator's palette encodes
    it, so that placement counts; gradients do not reach the palette through it.
    """

    def __init__(self, config: TrainConfig, architecture: LocalConfig) -> None:
        self.config = config
        self.architecture = architecture
        self.generator = build_local(architecture, config.precision)
        self.average = build_local(architecture, config.precision)
        self.average.set_weights(self.generator.get_weights())
        channels = 3 + len(architecture.palette) + 1
        self.critic = build_patch_critic(
            channels,
            config.critic_base,
            config.critic_norm,
            config.precision,
            seed=config.seed + 1000,
        )
        self.encode = self.generator.get_layer("palette")
        betas = {"beta_1": config.beta_1, "beta_2": config.beta_2}
        # names are part of a checkpoint's; Keras would count them up within a process
        self.generator_optimizer = keras.optimizers.Adam(
            config.generator_rate, **betas, name="adam"
        )
        self.critic_optimizer = keras.optimizers.Adam(config.critic_rate, **betas, name="adam_1")
        self.generator_optimizer.build(self.generator.trainable_variables)
        self.critic_optimizer.build(self.critic.trainable_variables)
        self._compiled = tf.function(self._step)

    def variables(self) -> dict[str, Any]:
        """Return every variable of the run's state under a stable name."""
        parts = {
            "generator": self.generator.weights,
            "average": self.average.weights,
            "critic": self.critic.weights,
            "generator_optimizer": self.generator_optimizer.variables,
            "critic_optimizer": self.critic_optimizer.variables,
        }
        return {
            f"{part}/{index:03d}/{variable.path}": variable
            for part, variables in parts.items()
            for index, variable in enumerate(variables)
        }

    def step(self, batch: Any, number: int) -> dict[str, Tensor]:
        """Train on `batch` as step `number`; return the losses as scalar tensors."""
        scale = self.config.learning_scale(number)
        self.generator_optimizer.learning_rate = self.config.generator_rate * scale
        self.critic_optimizer.learning_rate = self.config.critic_rate * scale
        # the average follows closely at first, so that early samples are not the start
        decay = min(self.config.ema, (number + 1) / (number + 10))
        return self._compiled(*batch, tf.constant(decay, tf.float32))  # type: ignore[no-any-return]

    def _step(
        self, drawn: Tensor, image: Tensor, fine: Tensor, coarse: Tensor, decay: Tensor
    ) -> dict[str, Tensor]:
        margin = (self.config.crop - self.config.loss_crop) // 2
        core = slice(margin, margin + self.config.loss_crop)
        drawn = tf.cast(drawn, tf.float32)
        real = tf.cast(image, tf.float32) / 127.5 - 1.0
        with tf.GradientTape(persistent=True) as tape:
            fake = self.generator([drawn, fine, coarse], training=True)[:, core, core]
            seen = tf.stop_gradient(self.encode(drawn[:, core, core]))
            *real_features, real_logits = self.critic(tf.concat([real, seen], -1), training=True)
            fixed = tf.concat([fake, seen], -1)
            *fake_features, fake_logits = self.critic(fixed, training=False)
            losses = {
                "critic_real": tf.reduce_mean(tf.nn.relu(1.0 - real_logits)),
                "critic_fake": tf.reduce_mean(tf.nn.relu(1.0 + fake_logits)),
                "adversarial": -tf.reduce_mean(fake_logits),
                "l1_pooled": _l1(
                    _pooled(fake, self.config.l1_pool), _pooled(real, self.config.l1_pool)
                ),
                "l1": _l1(fake, real),
                "features": tf.add_n(
                    [
                        _l1(tf.stop_gradient(r), f)
                        for r, f in zip(real_features, fake_features, strict=True)
                    ]
                )
                / len(real_features),
            }
            critic_loss = losses["critic_real"] + losses["critic_fake"]
            generator_loss = (
                losses["adversarial"]
                + self.config.l1_weight * losses["l1_pooled"]
                + self.config.fine_l1_weight * losses["l1"]
                + self.config.feature_weight * losses["features"]
            )
        self._apply(tape, critic_loss, self.critic, self.critic_optimizer)
        self._apply(tape, generator_loss, self.generator, self.generator_optimizer)
        for mean, weight in zip(self.average.weights, self.generator.weights, strict=True):
            mean.assign(weight + decay * (mean - weight))
        return losses

    def _apply(self, tape: Any, loss: Tensor, model: Any, optimizer: Any) -> None:
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)


def _pooled(x: Tensor, side: int) -> Tensor:
    return tf.nn.avg_pool2d(x, side, side, "VALID")


def _l1(a: Tensor, b: Tensor) -> Tensor:
    return tf.reduce_mean(tf.abs(tf.cast(a, tf.float32) - tf.cast(b, tf.float32)))
