"""The adversarial training step of a `local` generator."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from maptile2sat.networks.discriminators import build_patch_critic
from maptile2sat.networks.local import LocalConfig, build_local
from maptile2sat.training.adversarial import Losses, Tensor, Trainer
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.devices import Devices
from maptile2sat.training.pairs import Batch
from maptile2sat.training.sheet import Generate, from_local


class LocalTrainer(Trainer):
    """Trains with hinge losses, L1, feature matching, and what the recipe adds to them.

    Unless it is to see the image alone, the discriminator sees it together with the map as the
    generator's palette encodes it, so that placement counts; gradients do not reach the palette
    through it. That map has no labels and no jitter, whatever the generator has to see through.
    """

    chance = 2.0

    def __init__(
        self, config: TrainConfig, local: LocalConfig, devices: Devices | None = None
    ) -> None:
        self.local = local
        super().__init__(config, devices or Devices())
        self.encode = self.generator.get_layer("palette")

    def build_generator(self) -> Any:
        """Build a `local` generator."""
        return build_local(self.local, self.config.precision)

    def build_critic(self) -> Any:
        """Build the 70 px PatchGAN that sees the encoded map, or the image alone."""
        sees, encoded = self.config.critic_sees, len(self.local.palette) + 1
        return build_patch_critic(
            3 + (encoded if sees == "palette" else 0),
            self.config.critic_base,
            self.config.critic_norm,
            self.config.precision,
            seed=self.config.seed + 1000,
            scales=self.config.critic_scales,
            late=encoded if sees == "late" else 0,
        )

    def architecture(self) -> dict[str, Any]:
        """Return the fields of `LocalConfig`."""
        return dataclasses.asdict(self.local)

    def generate(self) -> Generate:
        """Return how the weight average makes an image."""
        return from_local(self.average)

    def losses(self, batch: Batch, *, with_labels: bool) -> Losses:
        """Compute the losses on the middle of the crops, where padding is not seen."""
        drawn = tf.cast(batch.map, tf.float32)
        real = tf.cast(batch.image, tf.float32) / 127.5 - 1.0
        fake = self._core(self.generator([drawn, batch.fine, batch.coarse], training=True))
        encoded = self.encode(self._core(batch.clean))
        seen = tf.stop_gradient(tf.cast(encoded, self.critic.inputs[0].dtype))
        # both moved alike, because feature matching compares place by place
        real_seen, fake_seen = self._moved(self._shown(real, seen), self._shown(fake, seen), batch)
        real_features, real_logits = self._judged(real_seen, training=True)
        fake_features, fake_logits = self._judged(fake_seen, training=False)
        features = [
            _l1(f, tf.stop_gradient(r)) for r, f in zip(real_features, fake_features, strict=True)
        ]
        figures = {
            "critic_real": _mean([tf.nn.relu(1.0 - logits) for logits in real_logits]),
            "critic_fake": _mean([tf.nn.relu(1.0 + logits) for logits in fake_logits]),
            "adversarial": -_mean(fake_logits),
            "features": tf.add_n(features) / len(features),
            **self._distances(fake, real, batch, with_labels=with_labels),
        }
        return Losses(
            figures["critic_real"] + figures["critic_fake"], self._weighted(figures), figures
        )

    def _distances(
        self, fake: Tensor, real: Tensor, batch: Batch, *, with_labels: bool
    ) -> dict[str, Tensor]:
        """Return the distances that need no discriminator, those that count."""
        pool = self.config.l1_pool
        found = {"l1_pooled": _l1(_pooled(fake, pool), _pooled(real, pool)), "l1": _l1(fake, real)}
        if with_labels:
            bare = self.generator([batch.clean, batch.fine, batch.coarse], training=True)
            # what is made of the bare map is the aim, and not drawn to what labels make of it
            found["labels"] = _l1(fake, tf.stop_gradient(self._core(bare)))
        return found

    def _weighted(self, figures: dict[str, Tensor]) -> Tensor:
        """Return the generator's loss."""
        config = self.config
        weights = {
            "l1_pooled": config.l1_weight,
            "l1": config.fine_l1_weight,
            "features": config.feature_weight,
            "labels": config.label_weight,
        }
        parts = [weight * figures[name] for name, weight in weights.items() if name in figures]
        return figures["adversarial"] + tf.add_n(parts)

    def _core(self, crops: Tensor) -> Tensor:
        """Return the middle of whole crops, on which the losses are taken."""
        margin = (self.config.crop - self.config.loss_crop) // 2
        core = slice(margin, margin + self.config.loss_crop)
        return crops[:, core, core]

    def _shown(self, image: Tensor, seen: Tensor) -> list[Tensor]:
        """Return what the discriminator sees of an image, input by input."""
        image = tf.cast(image, seen.dtype)
        if self.config.critic_sees == "late":
            return [image, seen]
        return [image if self.config.critic_sees == "image" else tf.concat([image, seen], -1)]

    def _judged(self, shown: list[Tensor], training: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Return the discriminator's features and its logits, one for each scale."""
        answers = self.critic(shown if len(shown) > 1 else shown[0], training=training)
        scales = self.config.critic_scales
        return answers[:-scales], answers[-scales:]

    def _moved(
        self, real: list[Tensor], fake: list[Tensor], batch: Batch
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Move each crop at random, the same way in both, with zeros where nothing comes.

        How far follows from the crop's noise, so that a step stays a function of its batch.
        """
        most = self.config.critic_translate
        if not most:
            return real, fake
        side, both = self.config.loss_crop, tf.concat([*real, *fake], -1)
        padded = tf.pad(both, [[0, 0], [most, most], [most, most], [0, 0]])
        # the fine noise of two pixels is two hashes of place and seed
        top, left = tf.unstack(tf.cast(batch.fine[:, 0, :2, 0], tf.int32) % (2 * most + 1), axis=1)
        moved = tf.stack(
            [
                padded[i, top[i] : top[i] + side, left[i] : left[i] + side]
                for i in range(padded.shape[0])
            ]
        )
        moved.set_shape(both.shape)
        parts = tf.split(moved, [part.shape[-1] for part in (*real, *fake)], -1)
        return parts[: len(real)], parts[len(real) :]


def _mean(parts: list[Tensor]) -> Tensor:
    """Return the mean of each part's mean: every scale counts alike."""
    return tf.add_n([tf.reduce_mean(part) for part in parts]) / len(parts)


def _pooled(x: Tensor, side: int) -> Tensor:
    return tf.nn.avg_pool2d(x, side, side, "VALID")


def _l1(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean distance of `a`, towards which gradients flow, from `b`."""
    return tf.reduce_mean(tf.cast(tf.abs(a - b), tf.float32))
