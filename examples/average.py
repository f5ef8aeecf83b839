"""Mix the weights of a model with those of an earlier stage of its training.

    python examples/average.py MODEL EARLIER SHARE -o FOLDER

The generator's weights are `1 - SHARE` times those of MODEL and SHARE times those of EARLIER, but
for the part that takes labels off maps, which stays MODEL's, as its discriminator does. One model
must have been trained from the other: then what lies between their weights is a model too, and
between them in what it makes (Wortsman et al. 2021, arXiv 2109.01903). Figures are of the weights
that were measured, so the new bundle has none: `maptile2sat evaluate --record` measures it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from maptile2sat.errors import Maptile2satError
from maptile2sat.models.bundle import Bundle, find_bundle, save_variant
from maptile2sat.models.networks.local import is_cleaner
from maptile2sat.models.weights import Weights

COLOURS = "palette/palette"
"""The colours (classes, 3) that a model knows."""


def mixed(model: Weights, earlier: Weights, share: float) -> Weights:
    """Return weights between those of two models, the cleaner's being the first one's.

    Raises:
        SystemExit: If they are of different networks, or know different colours.
    """
    if len(model.get(COLOURS, ())) != len(earlier.get(COLOURS, ())):
        raise SystemExit(
            f"the models know {len(model.get(COLOURS, ()))} and {len(earlier.get(COLOURS, ()))} "
            "colours: two stages of one model differ so if one was told more; tell the other the "
            "same with another_colour.py first"
        )
    for name, value in model.items():
        if not is_cleaner(name) and (name not in earlier or earlier[name].shape != value.shape):
            raise SystemExit(f"the models are of different networks: {name}")
    return {
        name: value if is_cleaner(name) else (1.0 - share) * value + share * earlier[name]
        for name, value in model.items()
    }


def average(model: Bundle, earlier: Bundle, share: float, folder: Path) -> Bundle:
    """Write the mixed model as a bundle."""
    training = {**model.description.training, "averaged": {"with": earlier.id, "share": share}}
    weights = mixed(model.weights(), earlier.weights(), share)
    return save_variant(model, folder, weights, model.discriminator(), training=training)


def main() -> None:
    """Mix two models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or folder of a local model")
    parser.add_argument("earlier", help="name or folder of an earlier stage of it")
    parser.add_argument("share", type=float, help="of the earlier one, 0..1")
    parser.add_argument("-o", "--output", type=Path, required=True, help="bundle to write")
    options = parser.parse_args()
    if not 0.0 <= options.share <= 1.0:
        parser.error("SHARE must be 0 to 1")
    try:
        pair = find_bundle(options.model), find_bundle(options.earlier)
        print(average(*pair, options.share, options.output).folder)
    except Maptile2satError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
