"""A small fully convolutional network that reads a map's classes from an aerial image.

It judges pictures as the FCN-score of Isola et al. (2017, arXiv 1611.07004) does: a generated
image is good if a network that learned from real images finds in it what the map says. Its
inner features also serve as the space of a kernel distance (`kernel.py`). It is trained once,
by `train_fcn.py`, and is the same for every model, so that figures compare.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maptile2sat.device import load_tensorflow
from maptile2sat.errors import BundleError
from maptile2sat.evaluation.classes import CLASSES, PALETTES
from maptile2sat.resources import models_folder
from maptile2sat.weights import Weights, file_sha256, read_arrays

FORMAT = 1
DESCRIPTION = "fcn.json"
WEIGHTS = "fcn.weights.h5"
CARD = "README.md"
FEATURES = 112
"""Length of a picture's feature vector."""

STRIDE = 8
"""Sides of the pictures that it reads are multiples of this."""

BATCH = 8

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def build_fcn() -> Any:
    """Build the network, about 0.2 M parameters, with random weights.

    Returns:
        A Keras model: uint8 or float (N, H, W, 3) in 0..255 to logits (N, H/2, W/2, classes)
        and features (N, 112), the means over the picture of the layers at 1/4 and 1/8.
    """
    load_tensorflow()
    import keras

    layers = keras.layers

    def block(x: Any, width: int, name: str, stride: int = 1, dilation: int = 1) -> Any:
        x = layers.Conv2D(
            width, 3, stride, "same", dilation_rate=dilation, use_bias=False, name=name
        )(x)
        x = layers.BatchNormalization(momentum=0.98, name=f"{name}_norm")(x)
        return layers.LeakyReLU(negative_slope=0.1)(x)

    picture = keras.Input((None, None, 3))
    scaled = layers.Rescaling(1 / 127.5, -1.0)(picture)
    half = block(scaled, 24, "half", stride=2)
    quarter = block(block(half, 48, "quarter", stride=2), 48, "quarter_2")
    eighth = block(quarter, 64, "eighth", stride=2)
    for dilation in (1, 2, 4):
        eighth = layers.Add()([eighth, block(eighth, 64, f"eighth_{dilation}", dilation=dilation)])
    up = layers.UpSampling2D(interpolation="bilinear")(eighth)
    up = block(layers.Concatenate()([up, quarter]), 32, "up_quarter")
    up = layers.UpSampling2D(interpolation="bilinear")(up)
    up = block(layers.Concatenate()([up, half]), 24, "up_half")
    logits = layers.Conv2D(len(CLASSES), 1, name="logits")(up)
    pooled = [layers.GlobalAveragePooling2D()(part) for part in (quarter, eighth)]
    return keras.Model(picture, [logits, layers.Concatenate()(pooled)])


def get_weights(model: Any) -> Weights:
    """Return a network's weights by name `layer/weight`."""
    return {
        f"{layer.name}/{weight.name}": np.asarray(weight, np.float32)
        for layer in model.layers
        for weight in layer.weights
    }


@dataclass(frozen=True)
class Reading:
    """What the network reads from pictures.

    Attributes:
        classes: uint8 (N, H, W), an index into `CLASSES`.
        features: float32 (N, 112), of mean 0 and variance 1 over real training pictures.
    """

    classes: npt.NDArray[np.uint8]
    features: Floats


class Fcn:
    """The trained network.

    Attributes:
        about: What its description says.
    """

    def __init__(self, about: dict[str, Any], model: Any, mean: Floats, spread: Floats) -> None:
        self.about = about
        self._model, self._mean, self._spread = model, mean, spread

    @property
    def id(self) -> str:
        """Start of the hash of its weights: figures compare between equal ones only."""
        return str(self.about["weights_sha256"])[:12]

    def read(self, pictures: Sequence[Pixels] | Pixels) -> Reading:
        """Read pictures of one size, sides multiples of 8.

        Args:
            pictures: uint8 (N, H, W, 3).
        """
        import tensorflow as tf

        classes, features = [], []
        for first in range(0, len(pictures), BATCH):
            batch = np.stack(list(pictures[first : first + BATCH])).astype(np.float32)
            logits, found = self._model(batch, training=False)
            wide = tf.image.resize(logits, batch.shape[1:3], "bilinear")
            classes.append(np.asarray(tf.argmax(wide, -1)).astype(np.uint8))
            features.append(np.asarray(found, np.float32))
        scaled = (np.concatenate(features) - self._mean) / self._spread
        return Reading(np.concatenate(classes), scaled)


def load_fcn(folder: Path | None = None) -> Fcn:
    """Load the shipped network, or the one in a folder.

    Raises:
        BundleError: If it is missing, damaged, or of another build.
    """
    folder = models_folder() / "fcn" if folder is None else folder
    about = _description(folder / DESCRIPTION)
    path = folder / WEIGHTS
    if file_sha256(path) != about.get("weights_sha256"):
        raise BundleError(f"{path} is damaged: its sha256 is not that of {DESCRIPTION}")
    weights = read_arrays(path)
    mean, spread = weights.pop("features/mean", None), weights.pop("features/std", None)
    model = build_fcn()
    expected = {name: array.shape for name, array in get_weights(model).items()}
    found = {name: array.shape for name, array in weights.items()}
    if mean is None or spread is None or expected != found:
        raise BundleError(f"{path} holds the weights of another network: reinstall maptile2sat")
    for layer in model.layers:
        for weight in layer.weights:
            weight.assign(weights[f"{layer.name}/{weight.name}"])
    return Fcn(about, model, mean, spread)


def _description(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read ({error}): reinstall maptile2sat") from error
    if (
        not isinstance(about, dict)
        or about.get("format") != FORMAT
        or about.get("classes") != list(CLASSES)
        or about.get("palettes_sha256") != palettes_sha256()
    ):
        raise BundleError(f"{path} is of another version of maptile2sat: reinstall it")
    return about


def palettes_sha256() -> str:
    """Return the hash of the colours from which labels are made."""
    return hashlib.sha256(json.dumps(PALETTES, sort_keys=True).encode()).hexdigest()
