"""Measure which half of a cleaner's work leaves how much of a label in the image.

    python bench/cleaner.py MODEL DATA [--pairs 8]

Held-out maps get the labels of `bench/labels.py`. What the cleaner makes of them is then put
together anew from its own work and the truth: labels found by it or all of them, filled by it or
with the bare map. Each figure is the mean difference in levels of 0..255 from the image of the
bare map, with the same noise; `found` and `false` are the shares of pixels under labels and
elsewhere that the cleaner replaces for the larger part.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from labels import STRIDE, Pixels, gap, labelled, spread

from maptile2sat.datasets.pairs import choose_map_side
from maptile2sat.geo.grid import Window
from maptile2sat.models.bundle import find_bundle
from maptile2sat.models.device import load_tensorflow
from maptile2sat.models.noise import noise
from maptile2sat.training.data import Pairs

Floats = npt.NDArray[np.float32]


class Halves:
    """A `local` generator cut in front of and behind its cleaner."""

    def __init__(self, name: str) -> None:
        load_tensorflow()
        import keras

        from maptile2sat.models.generator import build_generator

        model = build_generator(find_bundle(name), "float32")
        names = ("look", "clean_share", "clean_fill")
        try:
            outputs = [model.get_layer(layer).output for layer in names]
        except ValueError:
            raise SystemExit(f"{name} has no cleaner") from None
        self._front = keras.Model(model.inputs[0], outputs)
        behind = model.get_layer("cleaned").output
        self._behind = keras.Model([behind, *model.inputs[1:]], model.output)

    def parts(self, drawn: Pixels) -> tuple[Floats, Floats, Floats]:
        """Return a map's look, the share of each pixel that is replaced, and by what."""
        look, logits, made = (
            np.asarray(part) for part in self._front(drawn.astype(np.float32)[None], training=False)
        )
        # as networks.cleaning.Cleaned has it
        share = np.clip(1.2 / (1.0 + np.exp(-logits)) - 0.1, 0.0, 1.0)
        return look, share, made

    def paint(self, look: Floats, grains: Any) -> Pixels:
        """Return the image of a look."""
        inputs = [look, np.asarray(grains.fine)[None], np.asarray(grains.coarse)[None]]
        made = np.asarray(self._behind(inputs, training=False))[0]
        return np.clip(np.rint((made + 1.0) * 127.5), 0, 255).astype(np.uint8)


def measure(model: Halves, drawn: Pixels, number: int) -> dict[str, float]:
    """Return the figures of one map."""
    full = labelled(drawn, 0, number)
    under = (full != drawn).any(-1)
    grains = noise(0, Window(4096 * number, 0, drawn.shape[1], drawn.shape[0]))
    bare, bare_share, bare_made = model.parts(drawn)
    look, share, made = model.parts(full)
    cleaned = bare + bare_share * (bare_made - bare)
    pairs = {
        "no_cleaner": (bare, look),
        "found_and_filled": (cleaned, look + share * (made - look)),
        "found_by_it_bare_map_under": (cleaned, look + share * (bare - look)),
        "all_found_filled_by_it": (bare, np.where(under[None, ..., None], made, bare)),
    }
    images = {
        name: gap(*(model.paint(seen, grains) for seen in both)) for name, both in pairs.items()
    }
    hit = share[0, ..., 0] > 0.5
    return {**images, "found": float(hit[under].mean()), "false": float(hit[~under].mean())}


def main() -> None:
    """Run the measurement and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or folder of a model with a cleaner")
    parser.add_argument("data", type=Path, help="folder with val/, as for training")
    parser.add_argument("--map-side", help="left or right; default: as dataset.json says")
    parser.add_argument("--pairs", type=int, default=8)
    options = parser.parse_args()
    model, pairs = (
        Halves(options.model),
        Pairs.find(options.data / "val", choose_map_side(options.data, options.map_side)),
    )
    rows = []
    for number in spread(pairs, options.pairs):
        drawn = pairs[number].map
        side = drawn.shape[0] // STRIDE * STRIDE
        row = measure(model, drawn[:side, :side], number)
        if np.isfinite(row["found"]):  # no labels by chance: nothing to find
            rows.append(row)
    means = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}
    print(json.dumps({**means, "pairs": len(rows)}, indent=2))


if __name__ == "__main__":
    main()
