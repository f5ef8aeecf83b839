"""Have a model see one more map colour, as one that it knows.

    python examples/another_colour.py MODEL NEW LIKE -o OUTPUT

Styles change: OpenStreetMap's water was #b5d0d0 and is #aad3df. Who has no pairs of the new style
need not train anew. The colour NEW gets a class of its own, whose weights say that it looks like
LIKE; what is made of all other colours stays, but where they are nearly NEW. A cleaner goes on
putting LIKE under labels, which looks the same.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ImageColor

from maptile2sat.bundle import Bundle, find_bundle, save_bundle
from maptile2sat.weights import Weights

HASHES = ("format", "weights_sha256", "discriminator_sha256")
"""What a bundle says of itself that follows from its files."""

NEVER = -30.0
"""Logit of a class that a cleaner is not to choose."""

Floats = npt.NDArray[np.float32]


def widened(weights: Weights, new: Floats, like: Floats) -> Weights:
    """Return a generator's weights with one class more, before the last, which is "unknown".

    Args:
        weights: Those of a `local` generator.
        new: The colour (3,) in 0..255 that is to be known.
        like: The colour (3,) that it is to look like.
    """
    made = dict(weights)
    palette = weights["palette/palette"]
    known = nearest(palette, like)
    made["palette/palette"] = np.concatenate([palette, new[None]])
    sharpness = weights["palette/sharpness"]
    made["palette/sharpness"] = np.append(sharpness, sharpness[known])
    # the look is linear in classes and colour: the class makes up for what the colour says
    colours = weights["look/kernel"][0, 0, len(palette) + 1 :]
    row = weights["look/kernel"][:, :, known] + ((like - new) / 127.5) @ colours
    made["look/kernel"] = with_row(weights["look/kernel"], row, len(palette))
    if "clean_classes/kernel" in weights:
        kernel, bias = weights["clean_classes/kernel"], weights["clean_classes/bias"]
        made["clean_classes/kernel"] = np.insert(kernel, len(palette), 0.0, axis=3)
        made["clean_classes/bias"] = np.insert(bias, len(palette), NEVER)
        row = weights["clean_made/kernel"][:, :, known]
        made["clean_made/kernel"] = with_row(weights["clean_made/kernel"], row, len(palette))
    return made


def widened_critic(weights: Weights, known: int, classes: int) -> Weights:
    """Return a discriminator's weights that judge the new class as the known one.

    It must be told the classes late: they come last in the input of the third layer and of the
    first of each head.
    """
    made = dict(weights)
    for name, kernel in weights.items():
        layer, _, kind = name.partition("/")
        if kind == "kernel" and (
            layer == "conv2" or layer in ("quarter0", "eighth0", "sixteenth0")
        ):
            first = kernel.shape[2] - classes
            made[name] = with_row(kernel, kernel[:, :, first + known], kernel.shape[2] - 1)
    return made


def nearest(palette: Floats, colour: Floats) -> int:
    """Return the index of the class whose colour is nearest."""
    return int(np.abs(palette - colour).sum(-1).argmin())


def with_row(kernel: Floats, row: Floats, at: int) -> Floats:
    """Return a kernel (h, w, in, out) with one more input channel."""
    return np.insert(kernel, at, row, axis=2)


def taught(model: Bundle, new: str, like: str, folder: Path) -> Bundle:
    """Write a model that sees `new`, a colour such as #aad3df, as it does `like`.

    Raises:
        SystemExit: If the model is not `local`, or its discriminator is told classes otherwise.
    """
    about = dataclasses.asdict(model.description)
    if about["kind"] != "local":
        raise SystemExit(f"{about['name']} has no classes of colours")
    wanted, known = (np.array(ImageColor.getrgb(text)[:3], np.float32) for text in (new, like))
    weights, critic = model.weights(), model.discriminator()
    classes = len(weights["palette/palette"]) + 1
    if critic is not None:
        if about["training"].get("settings", {}).get("critic_sees", "late") != "late":
            raise SystemExit("the discriminator is not told the classes late")
        critic = widened_critic(critic, nearest(weights["palette/palette"], known), classes)
    described = {name: value for name, value in about.items() if name not in HASHES}
    architecture = {**about["architecture"]}
    architecture["palette"] = [*architecture["palette"], wanted.tolist()]
    told = [*about["training"].get("colours_told", []), {"new": new, "like": like}]
    training = {**about["training"], "colours_told": told}
    described |= {"architecture": architecture, "training": training}
    described |= {"evaluation": {}, "metrics": {}}
    return save_bundle(folder, described, widened(weights, wanted, known), critic)


def main() -> None:
    """Widen a model's palette."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or folder of a local model")
    parser.add_argument("new", help="the colour to know, such as '#aad3df'")
    parser.add_argument("like", help="the colour that it is to look like")
    parser.add_argument("-o", "--output", type=Path, required=True, help="bundle to write")
    options = parser.parse_args()
    for text in (options.new, options.like):
        try:
            ImageColor.getrgb(text)
        except ValueError:
            parser.error(f"{text} is no colour: say for example '#aad3df'")
    print(taught(find_bundle(options.model), options.new, options.like, options.output).folder)


if __name__ == "__main__":
    main()
