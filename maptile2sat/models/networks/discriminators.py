"""Discriminators: the seed's, the paper's, and the one that trains `local` generators."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from maptile2sat.models.networks.layers import BatchNorm, InstanceNorm, LeakyReLU
from maptile2sat.models.networks.photo_features import LEVELS, STRIDES

Tensor = Any

HEAD_WIDTH = 64
"""Channels of what judges photo features."""

ENTRY = 2
"""Layer of a patch discriminator, at a quarter of the resolution, where late classes enter."""


class SpectralConv(keras.layers.Layer):
    """Convolution whose kernel is divided by its largest singular value.

    The singular value is followed by one power iteration per training step (Miyato et al.
    2018, arXiv 1802.05957), kept as a vector of state that a checkpoint saves. The kernel
    itself is never overwritten: the division is part of the graph that gradients flow through.
    """

    def __init__(self, filters: int, size: int, strides: int, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.size, self.strides = filters, size, strides
        self.start = keras.initializers.GlorotUniform(seed=seed)
        self.direction = keras.initializers.RandomNormal(seed=seed + 1)

    def build(self, input_shape: Any) -> None:
        """Create kernel, bias and the power iteration's vector."""
        shape = (self.size, self.size, input_shape[-1], self.filters)
        # the singular value is taken in float32, whatever the convolution computes in
        self.kernel = self.add_weight(
            shape=shape, initializer=self.start, autocast=False, name="kernel"
        )
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")
        self.vector = self.add_weight(
            shape=(1, self.filters),
            initializer=self.direction,
            trainable=False,
            autocast=False,
            name="vector",
        )

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        """(N, H, W, C) to (N, H / strides, W / strides, filters), "same" padding."""
        kernel = tf.cast(self.kernel, tf.float32)
        matrix = tf.reshape(kernel, (-1, self.filters))
        fixed = tf.stop_gradient(matrix)
        left = tf.math.l2_normalize(tf.matmul(self.vector, fixed, transpose_b=True))
        right = tf.math.l2_normalize(tf.matmul(left, fixed))
        if training:
            self.vector.assign(right)
        largest = tf.matmul(tf.matmul(left, matrix), right, transpose_b=True)[0, 0]
        weights = tf.cast(kernel / largest, x.dtype)
        x = tf.nn.conv2d(x, weights, self.strides, "SAME")
        return tf.nn.bias_add(x, tf.cast(self.bias, x.dtype))


def build_patch_critic(
    channels: int,
    base: int = 48,
    norm: str = "instance",
    precision: str = "float32",
    seed: int = 0,
    scales: int = 1,
    late: int = 0,
    photo: bool = False,
) -> Any:
    """Build a 70 px PatchGAN, and what else is to judge beside it.

    Args:
        channels: Of the input: the image's 3, and those of the map if they stand beside it.
        base: Channels of the first layer; they double to eight times that.
        norm: `instance` (learns fast, does not see contrast) or `spectral` (sees it, learns
            slowly).
        precision: What convolutions compute in.
        seed: Seed of the initial weights.
        scales: 1, or 2 for a second PatchGAN that sees the input at half size, where a patch is
            140 px wide, so that layout counts (Wang et al. 2018, arXiv 1711.11585, section 3.2).
        late: Channels of a second input, the map's encoding, whose averages enter where features
            are 4 px wide: the first layers learn from the image alone what images look like.
        photo: Whether the image's `PhotoFeatures` are inputs too, each judged by a head of its own.

    Returns:
        A Keras model from (N, H, W, channels), or a list of it, of (N, H, W, late) if `late`, and
        of the features if `photo`, to a list: for each scale three feature maps (for feature
        matching), then float32 logits: for each scale (N, H/8, W/8, 1), half of that at half
        size, and for each of the photo features (N, H/stride, W/stride, 1).
    """
    policy = precision if precision == "float32" else f"mixed_{precision}"
    # taken in what it is computed in: a cast of so many channels costs as much as a layer
    dtype = keras.DTypePolicy(policy).compute_dtype
    image = keras.Input((None, None, channels), dtype=dtype)
    classes = keras.Input((None, None, late), dtype=dtype) if late else None
    levels = [
        keras.Input((None, None, channels), name=name)
        for name, channels in (LEVELS.items() if photo else ())
    ]
    given = [image, *([] if classes is None else [classes]), *levels]

    def told(side: int) -> Any:
        return None if classes is None else keras.layers.AveragePooling2D(side)(classes)

    features, logits = _patch_layers(image, told(4), base, norm, policy, seed, "")
    answers = [logits]
    if scales == 2:
        half = keras.layers.AveragePooling2D(2, name="half", dtype="float32")(image)
        more, logits = _patch_layers(half, told(8), base, norm, policy, seed + 100, "_half")
        features, answers = [*features, *more], [*answers, logits]
    for index, level in enumerate(levels):
        classes_there = told(STRIDES[level.name])
        answers.append(_head(level, classes_there, policy, seed + 200 + 10 * index))
    return keras.Model(given if len(given) > 1 else image, [*features, *answers], name="critic")


def _head(level: Any, classes: Any, policy: str, seed: int) -> Any:
    """Return the logits of one kind of photo features, and of the map's classes if not None.

    Spectral norms keep what starts from features that tell so much from being right at once.
    """
    name = level.name
    x = level if classes is None else keras.layers.Concatenate(dtype=policy)([level, classes])
    for index in range(2):
        x = SpectralConv(HEAD_WIDTH, 3, 1, seed + index, name=f"{name}{index}", dtype=policy)(x)
        x = LeakyReLU(0.2, name=f"{name}_act{index}", dtype=policy)(x)
    x = SpectralConv(1, 1, 1, seed + 2, name=f"{name}_logits", dtype=policy)(x)
    return keras.layers.Activation("linear", dtype="float32", name=f"{name}_out")(x)


def _patch_layers(
    x: Any, classes: Any, base: int, norm: str, policy: str, seed: int, suffix: str
) -> tuple[list[Any], Any]:
    """Return the last three feature maps and the logits of one scale.

    `classes`, if not None, enter at `ENTRY`.
    """
    features = []
    for index, (filters, strides) in enumerate([(1, 2), (2, 2), (4, 2), (8, 1)]):
        width, start = base * filters, seed + 10 * index
        if index == ENTRY and classes is not None:
            x = keras.layers.Concatenate(name=f"told{suffix}", dtype=policy)([x, classes])
        if norm == "spectral":
            conv = SpectralConv(width, 4, strides, start, name=f"conv{index}{suffix}", dtype=policy)
            x = conv(x)
        else:
            x = keras.layers.Conv2D(
                width,
                4,
                strides,
                "same",
                use_bias=not index,  # the norm takes a bias away again
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.02, seed=start),
                name=f"conv{index}{suffix}",
                dtype=policy,
            )(x)
            if index:
                x = InstanceNorm(name=f"norm{index}{suffix}", dtype=policy)(x)
        act = LeakyReLU(0.2, name=f"act{index}{suffix}", dtype=policy)
        x = act(x)
        features.append(x)
    if norm == "spectral":
        x = SpectralConv(1, 4, 1, seed + 90, name=f"logits{suffix}", dtype=policy)(x)
    else:
        x = keras.layers.Conv2D(
            1,
            4,
            1,
            "same",
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.02, seed=seed + 90),
            name=f"logits{suffix}",
            dtype=policy,
        )(x)
    logits = keras.layers.Activation("linear", dtype="float32", name=f"out{suffix}")(x)
    return features[1:], logits


def build_pix2pix_critic(
    base: int = 64, precision: str = "float32", side: int = 256, seed: int = 0
) -> Any:
    """Build the discriminator of the pix2pix paper: 256 px pairs to 30x30 logits of 70 px.

    concat(map, image) -> C64 (no norm) - C128 - C256 - C512 at stride 1 - 1, each 4x4 with a
    border of one zero; statistics per image (Isola et al. 2017, arXiv 1611.07004, 6.1.2).

    Args:
        base: Channels of the first layer.
        precision: What convolutions compute in.
        side: Side of its input in pixels.
        seed: Seed of the initial weights.

    Returns:
        A Keras model from two images (N, side, side, 3) in -1..1, map first, to float32 logits.
    """
    policy = precision if precision == "float32" else f"mixed_{precision}"
    drawn = keras.Input((side, side, 3), name="map")
    image = keras.Input((side, side, 3), name="image")
    x = keras.layers.Concatenate(dtype=policy)([drawn, image])
    plan = [(base, 2), (2 * base, 2), (4 * base, 2), (8 * base, 1), (1, 1)]
    for index, (filters, strides) in enumerate(plan):
        last = index == len(plan) - 1
        x = keras.layers.ZeroPadding2D(dtype=policy)(x)
        x = keras.layers.Conv2D(
            filters,
            4,
            strides,
            use_bias=index == 0 or last,  # a norm takes a bias away again
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.02, seed=seed + index),
            name="logits" if last else f"conv{index}",
            dtype=policy,
        )(x)
        if index and not last:
            x = InstanceNorm(name=f"norm{index}", dtype=policy)(x)
        if not last:
            x = LeakyReLU(negative_slope=0.2, dtype=policy)(x)
    logits = keras.layers.Activation("linear", dtype="float32", name="out")(x)
    return keras.Model([drawn, image], logits, name="pix2pix_critic")


def build_seed_discriminator(
    precision: str = "float32",
    side: int = 256,
    *,
    base: int = 64,
    synchronized: bool = False,
    seed: int = 0,
) -> Any:
    """Build the discriminator of the classic notebook: 256 px pairs to 7x7 probabilities.

    concat(map, image) -> C64 (no norm) - C128 - C256 - C512, then a 4x4 stride-2 valid
    convolution to 1 and a sigmoid; 2,770,433 parameters, 1,792 of them not trainable.

    Args:
        precision: What convolutions compute in.
        side: Side of its input in pixels.
        base: Channels of the first layer.
        synchronized: Whether batch statistics are taken over the devices of a strategy.
        seed: Seed of the initial weights.
    """
    policy = precision if precision == "float32" else f"mixed_{precision}"

    def start(number: int) -> Any:
        return keras.initializers.RandomNormal(stddev=0.02, seed=seed + number)

    drawn = keras.Input((side, side, 3), name="map")
    image = keras.Input((side, side, 3), name="image")
    x = keras.layers.Concatenate(dtype=policy)([drawn, image])
    for index, ratio in enumerate((1, 2, 4, 8)):
        x = keras.layers.Conv2D(
            ratio * base,
            4,
            2,
            "same",
            use_bias=False,
            kernel_initializer=start(index),
            name=f"conv{index}",
            dtype=policy,
        )(x)
        if index:
            x = BatchNorm(name=f"norm{index}", dtype=policy, synchronized=synchronized)(x)
        x = LeakyReLU(negative_slope=0.2, dtype=policy)(x)
    x = keras.layers.Conv2D(1, 4, 2, kernel_initializer=start(4), name="told", dtype=policy)(x)
    told = keras.layers.Activation("sigmoid", dtype="float32", name="out")(x)
    return keras.Model([drawn, image], told, name="seed_discriminator")
