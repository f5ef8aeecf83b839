"""Giving a bundle its whole-number form: calibrated on training maps, with the known answer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from maptile2sat.datasets.pairs import choose_map_side, list_pairs, read_pair, spread
from maptile2sat.errors import BundleError, TrainingError
from maptile2sat.models.bundle import Bundle, check_place, find_bundle, open_bundle, save_integers
from maptile2sat.models.description import SPECIFICATION
from maptile2sat.models.device import load_tensorflow
from maptile2sat.models.integers import known
from maptile2sat.models.integers.network import STEP, generate

CROPS = 16
"""Training maps that scales are chosen by."""

LARGEST = 592
"""Side in pixels of what is used of each."""


def quantise(
    model: str,
    data: Path,
    output: Path | None = None,
    *,
    crops: int = CROPS,
    map_side: str | None = None,
) -> Bundle:
    """Give a bundle its whole-number form, with which it renders the same bits everywhere.

    Args:
        model: Name of a shipped model or folder of a bundle of a `local` generator.
        data: A data set of pairs; maps of its training part choose the scales.
        output: Folder of the new bundle; None: the model's own folder gets the form.
        crops: How many maps.
        map_side: `left` or `right`; default: what `dataset.json` says, else `right`.

    Returns:
        The bundle with both forms.

    Raises:
        TrainingError: If there are no pairs.
        BundleError: If the model is a U-Net, or the folder cannot be written.
    """
    bundle = find_bundle(model)
    _refuse_unet(bundle)
    side = choose_map_side(data, map_side)
    folder = data / "train"
    files = spread(list_pairs(folder), crops)
    if not files:
        raise TrainingError(f"no pairs in {folder}")
    maps = [read_pair(path, side)[0] for path in files]
    if output is None or output.resolve() == bundle.folder.resolve():
        return with_integers(bundle, maps)
    check_place(output)
    new = not output.exists()
    try:
        shutil.copytree(bundle.folder, output, dirs_exist_ok=True)
        return with_integers(open_bundle(output), maps)
    except OSError as error:
        raise BundleError(f"{output} cannot be written: {error}") from error
    except BundleError:
        if new:  # nothing half-made stays
            shutil.rmtree(output, ignore_errors=True)
        raise


def with_integers(bundle: Bundle, maps: Sequence[npt.NDArray[np.uint8]]) -> Bundle:
    """Add to a bundle its whole-number form.

    Args:
        bundle: Of a `local` generator.
        maps: Training maps, uint8 (H, W, 3).

    Raises:
        BundleError: If it is a U-Net, a sum may leave what float32 holds exactly, or the folder
            cannot be written.
    """
    about = bundle.description
    _refuse_unet(bundle)
    tf = load_tensorflow()
    from maptile2sat.models.generator import build_generator
    from maptile2sat.models.integers.calibrate import calibrated
    from maptile2sat.models.integers.tensorflow import TensorFlowOperations

    with tf.device("/CPU:0"):
        floats = build_generator(bundle, "float32")
        model = calibrated(about.architecture, floats, _crops(maps), str(bundle.folder))
        golden = {}
        for clean in (False, True) if model.has_cleaner else (False,):

            def run(*codes: known.Codes, clean: bool = clean) -> npt.NDArray[np.uint8]:
                given = (part.astype(np.float32) - 128.0 for part in codes)
                made = generate(TensorFlowOperations(plain=True), model, *given, clean=clean)
                levels: npt.NDArray[np.uint8] = made.numpy()[0]
                return levels

            golden[known.name_of(clean)] = known.answer(model, run, clean)
    arrays = model.arrays | golden
    return save_integers(
        bundle,
        arrays,
        specification=SPECIFICATION,
        golden=known.golden_hash(arrays),
        bound=max(model.bounds().values()),
        calibrated_on=len(maps),
    )


def _refuse_unet(bundle: Bundle) -> None:
    kind = bundle.description.kind
    if kind != "local":
        raise BundleError(
            f"{bundle.folder} is a {kind}, whose windows are blended: only 'local' generators have "
            "a whole-number form"
        )


def _crops(maps: Sequence[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.uint8]]:
    for image in maps:
        height, width = (min(side, LARGEST) // STEP * STEP for side in image.shape[:2])
        yield np.ascontiguousarray(image[:height, :width])
