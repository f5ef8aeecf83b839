"""The adversarial training step of a `local` generator."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from maptile2sat.models.networks.discriminators import build_patch_critic
from maptile2sat.models.networks.local import STRIDE, LocalConfig, build_local, is_cleaner
from maptile2sat.models.networks.photo_features import PhotoFeatures, load_weights
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.data import Batch
from maptile2sat.training.devices import Devices
from maptile2sat.training.samples import Generate, from_local
from maptile2sat.training.trainer import Losses, Tensor, Trainer

CLEANER = ("clean_share", "clean_fill", "clean_classes")
"""Layers with which a generator's cleaner ends."""

CLEANER_LOSSES = ("labels_found", "labels_classes", "labels_cleaned")
"""What alone moves the cleaner."""

SQUARE = 2 * STRIDE
"""Pixels that blocks at an eighth of the resolution have for one."""

CLEANER_WEIGHT = 10.0
"""Of these: any weight does for Adam."""

UNDER_LABELS = 30.0
"""How much more a pixel under a label counts for what is thought to be there: few are."""

OVERLOOKED = 3.0
"""How much more a label taken for the map counts than map taken for a label."""


class Answer(NamedTuple):
    """What a discriminator says of images.

    Attributes:
        features: Feature maps of its own.
        logits: One array for each part of it.
        photo: Features of the fixed network for photos, if it is used.
    """

    features: list[Tensor]
    logits: list[Tensor]
    photo: list[Tensor]


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
        self.photo = PhotoFeatures(load_weights()) if config.photo_features else None
        super().__init__(config, devices or Devices())
        layer = self.generator.get_layer
        classes, look = layer("palette").output, layer("look").output
        self.look = keras.Model(self.generator.inputs[0], [classes, look])
        learns = local.cleaner and not config.keep_cleaner
        parts = [layer(name).output for name in CLEANER] if learns else []
        self.whole = keras.Model(self.generator.inputs, [self.generator.outputs, parts])

    def build_generator(self) -> Any:
        """Build a `local` generator; its cleaner is trained unless it is to be kept."""
        model = build_local(self.local, self.config.precision)
        for layer in model.layers:
            layer.trainable = not (self.config.keep_cleaner and is_cleaner(layer.name))
        return model

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
            photo=self.config.critic_photo,
        )

    def architecture(self) -> dict[str, Any]:
        """Return the fields of `LocalConfig`."""
        return dataclasses.asdict(self.local)

    def generate(self) -> Generate:
        """Return how the weight average makes an image."""
        return from_local(self.average)

    def losses(self, batch: Batch) -> Losses:
        """Compute the losses on the middle of the crops, where padding is not seen."""
        real = tf.cast(batch.image, tf.float32) / 127.5 - 1.0
        inputs = [tf.cast(batch.map, tf.float32), batch.fine, batch.coarse]
        (image,), parts = self.whole(inputs, training=True)
        fake = self._core(image)
        bare = self.bare(batch)
        figures = self.cleaned(parts, bare, batch) if parts else {}
        seen = tf.stop_gradient(tf.cast(bare[0], self.critic.inputs[0].dtype))
        # both moved alike, because feature matching compares place by place
        real_seen, fake_seen = self._moved(self._shown(real, seen), self._shown(fake, seen), batch)
        real_answer = self._judged(real_seen, training=True)
        fake_answer = self._judged(fake_seen, training=False)
        figures |= {
            "critic_real": _mean([tf.nn.relu(1.0 - logits) for logits in real_answer.logits]),
            "critic_fake": _mean([tf.nn.relu(1.0 + logits) for logits in fake_answer.logits]),
            "adversarial": -_mean(fake_answer.logits),
            "features": _matched(fake_answer.features, real_answer.features),
            "l1_pooled": _l1(
                _pooled(fake, self.config.l1_pool), _pooled(real, self.config.l1_pool)
            ),
            "l1": _l1(fake, real),
        }
        if self.config.grid_weight:
            figures |= {"grid": grid_of(fake), "grid_photos": grid_of(real)}
            figures |= {"squares": squares_of(fake), "squares_photos": squares_of(real)}
        if self.photo is not None:
            figures["photo"] = _matched(fake_answer.photo, real_answer.photo)
        return Losses(
            figures["critic_real"] + figures["critic_fake"], self._weighted(figures), figures
        )

    def cleaned(self, parts: list[Tensor], bare: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return how well a cleaner finds labels, and what is under them.

        It is to say everywhere what the bare map is and looks like, and the look is not to make
        it easy.

        Args:
            parts: What the layers `CLEANER` make of the batch's maps.
            bare: What `bare` returns.
            batch: The batch.
        """
        classes, look = bare
        share, made, chosen, covered = (self._core(part) for part in (*parts, batch.covered))
        chosen, covered = tf.cast(chosen, tf.float32), tf.cast(covered, tf.float32)
        share, classes = tf.cast(share, tf.float32), tf.stop_gradient(classes)
        unsure = tf.nn.weighted_cross_entropy_with_logits(covered, share, OVERLOOKED)
        wrong = tf.nn.softmax_cross_entropy_with_logits(classes, chosen)[..., None]
        distance = tf.abs(tf.cast(made - tf.stop_gradient(look), tf.float32))
        weight = UNDER_LABELS * covered + 1.0
        return {
            "labels_found": tf.reduce_mean(unsure),
            "labels_classes": tf.reduce_mean(wrong * weight) / tf.reduce_mean(weight),
            "labels_cleaned": tf.reduce_mean(distance * weight) / tf.reduce_mean(weight),
        }

    def bare(self, batch: Batch) -> list[Tensor]:
        """Return classes and look of the bare maps, on the middle of the crops."""
        return self.look(tf.cast(self._core(batch.clean), tf.float32))  # type: ignore[no-any-return]

    def _weighted(self, figures: dict[str, Tensor]) -> Tensor:
        """Return the generator's loss."""
        config = self.config
        weights = {
            "l1_pooled": config.l1_weight,
            "l1": config.fine_l1_weight,
            "features": config.feature_weight,
            "photo": config.photo_weight,
            "grid": config.grid_weight,
            "squares": config.grid_weight,
            **dict.fromkeys(CLEANER_LOSSES, CLEANER_WEIGHT),
        }
        parts = [weight * figures[name] for name, weight in weights.items() if name in figures]
        return figures["adversarial"] + tf.add_n(parts)

    def _core(self, crops: Tensor) -> Tensor:
        """Return the middle of whole crops, on which the losses are taken."""
        side = self.config.loss_crop
        margin = (self.config.crop - side) // 2
        # of arrays this large, the gradient of a slice in brackets takes several times as long
        return tf.slice(crops, [0, margin, margin, 0], [-1, side, side, -1])

    def _shown(self, image: Tensor, seen: Tensor) -> list[Tensor]:
        """Return what the discriminator sees of an image, input by input."""
        image = tf.cast(image, seen.dtype)
        if self.config.critic_sees == "late":
            return [image, seen]
        return [image if self.config.critic_sees == "image" else tf.concat([image, seen], -1)]

    def _judged(self, shown: list[Tensor], training: bool) -> Answer:
        """Return what the discriminator says of an image and the map's classes."""
        image = tf.slice(shown[0], [0, 0, 0, 0], [-1, -1, -1, 3])
        photo = [] if self.photo is None else self.photo(image)
        given = [*shown, *(photo if self.config.critic_photo else [])]
        answers = self.critic(given if len(given) > 1 else given[0], training=training)
        scales = self.config.critic_scales + (len(photo) if self.config.critic_photo else 0)
        return Answer(answers[:-scales], answers[-scales:], photo)

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
                tf.slice(crop, [top[i], left[i], 0], [side, side, -1])
                for i, crop in enumerate(tf.unstack(padded))
            ]
        )
        moved.set_shape(both.shape)
        parts = tf.split(moved, [part.shape[-1] for part in (*real, *fake)], -1)
        return parts[: len(real)], parts[len(real) :]


def grid_of(image: Tensor) -> Tensor:
    """Return how far the average pixel depends on its place in the generator's squares.

    Pixel (row, col) has place (row % STRIDE, col % STRIDE). What upsampling adds to every pixel of
    one place is a grid too faint for a discriminator to mind. Slopes do not count. Texture does: a
    place's mean is taken over a finite number of squares, so that photos score above zero, the
    more the smaller they are. And a grid on few pixels of an image, such as its water, hardly
    shows.

    Args:
        image: (N, H, W, channels), sides multiples of `STRIDE`.

    Returns:
        The mean distance, over images, places and channels, of a place's mean from all pixels'.
    """
    around = tf.nn.avg_pool2d(image, STRIDE, 1, "VALID")
    height, width = image.shape[1] - STRIDE, image.shape[2] - STRIDE
    # the window of an even side has no middle pixel: a constant slope is off by the same everywhere
    start = STRIDE // 2
    fine = image[:, start : start + height, start : start + width] - around[:, :height, :width]
    parts = (-1, height // STRIDE, STRIDE, width // STRIDE, STRIDE, image.shape[3])
    places = tf.reduce_mean(tf.reshape(tf.cast(fine, tf.float32), parts), (1, 3))
    return tf.reduce_mean(tf.abs(places - tf.reduce_mean(places, (1, 2), keepdims=True)))


def squares_of(images: Tensor) -> Tensor:
    """Return how far the step from pixel to pixel depends on its place in squares of 8 px.

    Blocks at an eighth of the resolution can leave edges between their squares, brighter on this
    side in one place and on that in another. Their mean is nothing, so `grid_of` does not see
    them; but the steps across them are larger than others. Photos score above zero, because a
    place's mean is taken over a finite number of steps.

    Args:
        images: (N, H, W, channels), sides of at least two squares.

    Returns:
        The mean distance of a place's mean step, over all images and channels, from that of all
        places; the mean over places and both directions.
    """
    parts = []
    for axis in (1, 2):
        ahead, behind = (_without(images, axis, first) for first in (True, False))
        steps = tf.reduce_mean(tf.abs(tf.cast(ahead - behind, tf.float32)), (0, 3 - axis, 3))
        whole = steps[: steps.shape[0] // SQUARE * SQUARE]
        places = tf.reduce_mean(tf.reshape(whole, (-1, SQUARE)), 0)
        parts.append(tf.reduce_mean(tf.abs(places - tf.reduce_mean(places))))
    return tf.add_n(parts) / len(parts)


def _without(images: Tensor, axis: int, first: bool) -> Tensor:
    """Return images without their first, or last, row (axis 1) or column (axis 2)."""
    begin = [0, 0, 0, 0]
    begin[axis] = int(first)
    size = [-1, *images.shape[1:]]
    size[axis] -= 1
    return tf.slice(images, begin, size)


def _mean(parts: list[Tensor]) -> Tensor:
    """Return the mean of each part's mean: every scale counts alike."""
    return tf.add_n([tf.reduce_mean(part) for part in parts]) / len(parts)


def _matched(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Return the mean distance of feature maps from those of real images, which stay."""
    parts = [_l1(f, tf.stop_gradient(r)) for f, r in zip(fake, real, strict=True)]
    return tf.add_n(parts) / len(parts)


def _pooled(x: Tensor, side: int) -> Tensor:
    return tf.nn.avg_pool2d(x, side, side, "VALID")


def _l1(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean distance of `a`, towards which gradients flow, from `b`."""
    return tf.reduce_mean(tf.cast(tf.abs(a - b), tf.float32))


# Trains the part of a `local` generator alone that takes labels off the map


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
