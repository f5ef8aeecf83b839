"""Everything that is taken from a set of pictures before sets are compared."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maptile2sat.evaluation.classes import Labels
from maptile2sat.evaluation.fcn import Fcn, Reading
from maptile2sat.evaluation.inception import inception_features
from maptile2sat.evaluation.sliced_wasserstein import draw_patches
from maptile2sat.evaluation.spectrum import log_spectra, power_spectra, radial_profile
from maptile2sat.evaluation.texture import Texture, measure_texture

CHUNK = 32
"""Pictures whose spectra are in memory at once."""

Floats = npt.NDArray[Any]


class Description(NamedTuple):
    """What describes N pictures; the picture is the first axis everywhere.

    Attributes:
        patches: For each pyramid level, (N, patches, 7, 7, 3).
        profiles: Power by radius, (N, 128).
        logs: Logarithm of the power of every frequency, (N, 256, 256).
        reading: What the FCN reads.
        texture: By class; None if the maps' classes are not known.
        inception: Features (N, 2048); None if there are no weights.
    """

    patches: list[Floats]
    profiles: Floats
    logs: Floats
    reading: Reading
    texture: Texture | None
    inception: Floats | None


def describe(
    pictures: npt.NDArray[np.uint8], labels: Labels | None, fcn: Fcn, inception: Any, seed: int
) -> Description:
    """Describe pictures.

    Args:
        pictures: uint8 (N, 256, 256, 3).
        labels: Their maps' classes, uint8 (N, 256, 256), if known.
        fcn: The network that reads classes.
        inception: InceptionV3, or None.
        seed: Of the places of patches.
    """
    profiles, logs = [], []
    for first in range(0, len(pictures), CHUNK):
        spectra = power_spectra(pictures[first : first + CHUNK])
        profiles.append(radial_profile(spectra))
        logs.append(log_spectra(spectra))
    return Description(
        patches=draw_patches(pictures, seed),
        profiles=np.concatenate(profiles),
        logs=np.concatenate(logs),
        reading=fcn.read(pictures),
        texture=None if labels is None else measure_texture(pictures, labels),
        inception=None if inception is None else inception_features(inception, pictures),
    )
