"""A small fully convolutional network that reads a map's classes from an aerial image.

It judges pictures as the FCN-score of Isola et al. (2017, arXiv 1611.07004) does: a generated
image is good if a network that learned from real images finds in it what the map says. Its
inner features also serve as the space of a kernel distance (`metrics.py`). It is trained once,
by `train_fcn.py`, and is the same for every model, so that figures compare.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maptile2sat.errors import BundleError
from maptile2sat.models.device import load_tensorflow
from maptile2sat.models.weights import Weights, file_sha256, read_arrays
from maptile2sat.paths import models_folder

# What a map says is on the ground: a few classes that every map style shares

Labels = npt.NDArray[np.uint8]
"""uint8 (height, width): an index into `CLASSES`, or `NONE`."""

CLASSES = ("ground", "water", "green", "road", "building")
NONE = 255
"""Label of pixels that are of no class."""

REACH = 11.0
"""Largest Euclidean distance in RGB to a class's colour; JPEG moves flat colours by about 6."""

MIN_COVER = 0.35
"""Share of pixels with a class below which a style is not taken to be the map's."""

PALETTES: dict[str, dict[str, tuple[str, ...]]] = {
    "maps": {
        "ground": ("eae6de", "e5e2da", "dedad4", "e8dcc4", "e4e4e4"),
        "water": ("b2d2fe", "abc9ff"),
        "green": ("cadeae", "c9e1ab", "bad2ba", "cfe1ab"),
        "road": ("fefefe", "f8a030", "fedb62", "fde293"),
        "building": ("f2f2ea",),
    },
    "osm": {
        "ground": ("f2efe9", "e0dfdf", "f2dad9", "ebdbe8", "eedbc8", "eef0d5", "f2f0e6"),
        "water": ("aad3df", "b5d0d0"),
        "green": (
            "add19e",
            "cdf7c9",
            "c8facc",
            "b7e1b7",
            "cdebb0",
            "aae0cb",
            "c8d7ab",
            "b0cf9f",
            "9dca8a",
            "def6c0",
        ),
        "road": ("fefefe", "f7fabf", "fcd6a4", "f9b29c", "e892a2"),
        "building": ("d9d0c9", "c6b2b0", "bfb0ad"),
    },
}
"""Colours of each class in each style."""


def label(drawn: Pixels, style: str) -> Labels:
    """Return the class of every pixel of a map.

    Args:
        drawn: uint8 (height, width, 3).
        style: A key of `PALETTES`.
    """
    colours, owners = _colours(style)
    packed = drawn.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    found, place = np.unique(packed, return_inverse=True)
    rgb = np.stack([found >> 16, found >> 8 & 255, found & 255], -1).astype(np.float64)
    gap = np.linalg.norm(rgb[:, None] - colours, axis=-1)
    nearest = np.where(gap.min(1) <= REACH, owners[gap.argmin(1)], NONE).astype(np.uint8)
    return _without_edges(nearest[place].reshape(drawn.shape[:2]))


def find_style(maps: Sequence[Pixels]) -> str | None:
    """Return the style whose colours explain most of these maps, None if none does."""
    cover = {
        style: float(np.mean([(label(drawn, style) != NONE).mean() for drawn in maps]))
        for style in PALETTES
    }
    best = max(cover, key=lambda style: cover[style])
    return best if cover[best] >= MIN_COVER else None


def _colours(style: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Return the colours of a style, (N, 3), and the class of each, (N,)."""
    given = [
        (bytes.fromhex(text), CLASSES.index(name))
        for name, texts in PALETTES[style].items()
        for text in texts
    ]
    colours = np.array([list(colour) for colour, _ in given], np.float64)
    return colours, np.array([owner for _, owner in given], np.uint8)


def _without_edges(labels: Labels) -> Labels:
    """Take the label from every pixel whose eight neighbours do not all share it."""
    wide = np.pad(labels, 1, mode="edge")
    high, width = labels.shape
    same = np.ones(labels.shape, bool)
    for down in range(3):
        for across in range(3):
            same &= wide[down : down + high, across : across + width] == labels
    return np.where(same, labels, NONE).astype(np.uint8)


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


# FCN-score: does a network that knows real images find in a picture what its map says?

MIN_PIXELS = 1000
"""A class with fewer pixels in the maps has no intersection over union: too few to say."""


class Score(NamedTuple):
    """How well classes were found.

    Attributes:
        accuracy: Share of labelled pixels with the map's class, 0..1.
        mean_iou: Mean of `iou`, 0..1.
        iou: Intersection over union by class.
    """

    accuracy: float
    mean_iou: float
    iou: dict[str, float]


class Confusion:
    """Counts of (class of the map, class read from the picture)."""

    def __init__(self) -> None:
        self._counts: npt.NDArray[np.int64] = np.zeros((len(CLASSES), len(CLASSES)), np.int64)

    def add(self, labels: Labels, found: Labels) -> None:
        """Count pictures, uint8 of one shape; pixels that the map gives no class are left out."""
        known = labels != NONE
        pairs = labels[known].astype(np.int64) * len(CLASSES) + found[known]
        counts = np.bincount(pairs, minlength=self._counts.size)
        self._counts += counts.reshape(self._counts.shape)

    def score(self) -> Score:
        """Return the score of what was counted; nan where nothing was."""
        right, mapped = np.diag(self._counts), self._counts.sum(1)
        either = mapped + self._counts.sum(0) - right
        iou = {
            name: float(right[index] / either[index])
            for index, name in enumerate(CLASSES)
            if mapped[index] >= MIN_PIXELS
        }
        total = int(mapped.sum())
        accuracy = float(right.sum() / total) if total else float("nan")
        mean = float(np.mean(list(iou.values()))) if iou else float("nan")
        return Score(accuracy, mean, iou)
