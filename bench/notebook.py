"""The two networks of the classic notebook, of Keras' own layers alone: what others run today."""

from __future__ import annotations

from typing import Any


def notebook_generator() -> Any:
    """Return the classic U-Net of Keras' own layers alone."""
    import keras

    start = keras.initializers.RandomNormal(0.0, 0.02)
    own = {"strides": 2, "padding": "same", "kernel_initializer": start}
    given = x = keras.Input((256, 256, 3))
    skips = []
    for index, filters in enumerate((64, 128, 256, 512, 512, 512, 512, 512)):
        x = keras.layers.Conv2D(filters, 4, use_bias=False, **own)(x)
        if index:
            x = keras.layers.BatchNormalization()(x)
        x = keras.layers.LeakyReLU(negative_slope=0.2)(x)
        skips.append(x)
    for index, filters in enumerate((512, 512, 512, 512, 256, 128, 64)):
        x = keras.layers.Conv2DTranspose(filters, 4, use_bias=False, **own)(x)
        x = keras.layers.BatchNormalization()(x)
        if index < 3:
            x = keras.layers.Dropout(0.5)(x)
        x = keras.layers.Concatenate()([keras.layers.ReLU()(x), skips[6 - index]])
    made = keras.layers.Conv2DTranspose(3, 4, activation="tanh", **own)(x)
    return keras.Model(given, made)


def notebook_discriminator() -> Any:
    """Return the classic discriminator of Keras' own layers alone."""
    import keras

    start = keras.initializers.RandomNormal(0.0, 0.02)
    own = {"strides": 2, "kernel_initializer": start}
    given = [keras.Input((256, 256, 3)) for _ in range(2)]
    x = keras.layers.Concatenate()(given)
    for index, filters in enumerate((64, 128, 256, 512)):
        x = keras.layers.Conv2D(filters, 4, padding="same", use_bias=False, **own)(x)
        if index:
            x = keras.layers.BatchNormalization()(x)
        x = keras.layers.LeakyReLU(negative_slope=0.2)(x)
    return keras.Model(given, keras.layers.Conv2D(1, 4, activation="sigmoid", **own)(x))
