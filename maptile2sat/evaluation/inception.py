"""Features of InceptionV3 trained on ImageNet, for FID and KID as the literature has them.

The network is that of keras.applications, whose weights are not those of the first FID papers:
figures are near theirs, not equal. The weights (84 MB) are not part of this package; they are
given as a file, or downloaded once.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import requests

from maptile2sat.errors import BundleError, Maptile2satError, UsageError
from maptile2sat.models.device import load_tensorflow
from maptile2sat.paths import cache_folder

Floats = npt.NDArray[np.float32]

NAME = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
URL = f"https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/{NAME}"
MD5 = "bcbd6486424b2319ff4ef7d526e38f63"
"""Hash by which Keras itself checks the file."""

SIDE = 299
BATCH = 16
CONNECT_SECONDS, READ_SECONDS = 5.0, 60.0


class LeftOutError(Maptile2satError):
    """The weights cannot be had; the message says why, for the report."""


def find_weights(wanted: str, url: str = URL) -> Path:
    """Return the weights' file.

    Args:
        wanted: A file; `auto` for the one that Keras or an earlier run downloaded, else to
            download it; `none`.
        url: Where to download from.

    Raises:
        UsageError: If a file is named that does not exist.
        LeftOutError: If there is none and none can be downloaded, or `none` was said.
    """
    if wanted == "none":
        raise LeftOutError("not asked for (--inception-weights none)")
    if wanted != "auto":
        path = Path(wanted)
        if not path.is_file():
            raise UsageError(f"the Inception weights {path} do not exist: give the .h5 file")
        return path
    ours = cache_folder() / "inception" / NAME
    places = (Path.home() / ".keras" / "models" / NAME, ours)
    found = next((path for path in places if path.is_file() and _md5(path) == MD5), None)
    return found or _download(url, ours)


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _download(url: str, target: Path) -> Path:
    """Download the weights, whole or not at all."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with requests.get(url, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as response:
            response.raise_for_status()
            with temporary.open("wb") as stream:
                for block in response.iter_content(1 << 20):
                    stream.write(block)
        if _md5(temporary) != MD5:
            raise LeftOutError(
                "the InceptionV3 weights that were downloaded are not the known ones"
            )
        temporary.replace(target)
    except (OSError, requests.RequestException) as error:
        # its text may be pages long, and names the address many times
        raise LeftOutError(
            f"the InceptionV3 weights could not be downloaded ({type(error).__name__}); "
            f"fetch {NAME} elsewhere and give it as --inception-weights FILE"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def load_inception(weights: Path) -> Any:
    """Return InceptionV3 without its top, pooled to 2,048 features.

    Raises:
        BundleError: If the file does not hold its weights.
    """
    load_tensorflow()
    import keras

    model = keras.applications.InceptionV3(include_top=False, weights=None, pooling="avg")
    try:
        model.load_weights(weights)
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(f"{weights} does not hold the weights of InceptionV3: {error}") from error
    return model


def inception_features(model: Any, pictures: npt.NDArray[np.uint8]) -> Floats:
    """Return features float32 (N, 2048) of pictures uint8 (N, H, W, 3)."""
    import tensorflow as tf

    found = []
    for first in range(0, len(pictures), BATCH):
        batch = pictures[first : first + BATCH].astype(np.float32)
        large = tf.image.resize(batch, (SIDE, SIDE), "bilinear", antialias=True)
        found.append(np.asarray(model(large / 127.5 - 1.0, training=False)))
    return np.concatenate(found)
