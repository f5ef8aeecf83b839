"""Make a model's images a little brighter or darker.

    python examples/brightness.py MODEL AMOUNT -o OUTPUT

AMOUNT, such as -0.08, is added to each colour before the last tanh: middle tones change by it
times 127 levels, black and white hardly at all. For a model whose photos were lighter or darker
than those that it is measured on, which no training finds out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from maptile2sat.bundle import Bundle, find_bundle, save_variant

LAST = "rgb_full/bias"
"""What is added to the colours of a `local` generator (3,)."""


def toned(model: Bundle, amount: float, folder: Path) -> Bundle:
    """Write a model whose colours have `amount` added before the last tanh.

    Raises:
        SystemExit: If the model is not `local`.
    """
    about = model.description
    if about.kind != "local":
        raise SystemExit(f"{about.name} is no local model")
    weights = dict(model.weights())
    weights[LAST] = weights[LAST] + amount
    total = round(about.training.get("brightened", 0.0) + amount, 4)
    training = {**about.training, "brightened": total}
    return save_variant(model, folder, weights, model.discriminator(), training=training)


def main() -> None:
    """Change the tones of a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or folder of a local model")
    parser.add_argument("amount", type=float, help="above 0 is brighter, below darker")
    parser.add_argument("-o", "--output", type=Path, required=True, help="bundle to write")
    options = parser.parse_args()
    print(toned(find_bundle(options.model), options.amount, options.output).folder)


if __name__ == "__main__":
    main()
