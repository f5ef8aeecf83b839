"""Make a model's images a little brighter or darker, or give them more contrast.

    python examples/brightness.py MODEL AMOUNT [--contrast 1.1] -o OUTPUT

Each colour is multiplied by the contrast before the last tanh, and AMOUNT, such as -0.08, is added
to it: middle tones change by it times 127 levels, black and white hardly at all. For a model whose
photos were lighter or darker than those that it is measured on, which no training finds out;
`bench/tones.py` shows the tones of both.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from maptile2sat.errors import Maptile2satError
from maptile2sat.models.bundle import Bundle, find_bundle, save_variant

LAST = "rgb_full/bias"
"""What is added to the colours of a `local` generator (3,)."""

USUAL = {"brightened": 0.0, "contrast": 1.0}
"""What a model's description says of its tones, and what that is unless it says so."""

SUMMED = "rgb_"
"""How the layers are called whose sum the colours are, before the last tanh."""


def toned(model: Bundle, amount: float, contrast: float, folder: Path) -> Bundle:
    """Write a model whose colours are `contrast` times what they were, plus `amount`.

    Raises:
        SystemExit: If the model is not `local`.
    """
    about = model.description
    if about.kind != "local":
        raise SystemExit(f"{about.name} is no local model")
    weights = {
        name: contrast * value if name.startswith(SUMMED) else value
        for name, value in model.weights().items()
    }
    weights[LAST] = weights[LAST] + amount
    before, gain = (about.training.get(name, usual) for name, usual in USUAL.items())
    changed = {"brightened": round(contrast * before + amount, 4)}
    changed |= {"contrast": round(contrast * gain, 4)}
    training = {**about.training, **changed}
    return save_variant(model, folder, weights, model.discriminator(), training=training)


def main() -> None:
    """Change the tones of a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or folder of a local model")
    parser.add_argument("amount", type=float, help="above 0 is brighter, below darker")
    parser.add_argument("--contrast", type=float, default=1.0, help="above 1 is more")
    parser.add_argument("-o", "--output", type=Path, required=True, help="bundle to write")
    options = parser.parse_args()
    if not 0 < options.contrast < math.inf:
        parser.error("--contrast must be above 0")
    if not math.isfinite(options.amount):
        parser.error("AMOUNT must be a number")
    try:
        model = find_bundle(options.model)
        print(toned(model, options.amount, options.contrast, options.output).folder)
    except Maptile2satError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
