"""Have a model see more map colours, each as one that it knows.

    python examples/another_colour.py MODEL NEW=LIKE [NEW=LIKE ...] -o OUTPUT

Styles change: OpenStreetMap's water was #b5d0d0 and is #aad3df. Who has no pairs of the new style
need not train anew. Each colour NEW gets a class of its own, whose weights say that it looks like
LIKE; what is made of all other colours stays, but where they are nearly NEW. A cleaner goes on
putting LIKE under labels, which looks the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ImageColor

from maptile2sat.errors import Maptile2satError
from maptile2sat.models.bundle import Bundle, find_bundle, save_variant
from maptile2sat.models.weights import Weights

TOLD = ("conv2", "conv2_half", "quarter0", "eighth0", "sixteenth0")
"""Layers of a discriminator that are told the classes, after what else they see."""

NEVER = -30.0
"""Logit of a class that a cleaner is not to choose."""

SPILL = 0.001
"""Most that the colour of another class may count as a new one."""

SHARPNESS = (0.05, 8.0)
"""Between what a class's sharpness is held (`networks.layers.PaletteEncoding`)."""

Floats = npt.NDArray[np.float32]


def classes_of(weights: Weights, colour: Floats) -> Floats:
    """Return what a generator takes a colour (3,) for: the share (classes + 1,) of each class.

    As `networks.layers.PaletteEncoding`, "unknown" last.
    """
    sharp = np.clip(weights["palette/sharpness"], *SHARPNESS)
    distance = (((weights["palette/palette"] - colour) / 8) ** 2).sum(-1)
    logits = np.append(-sharp * distance, weights["palette/unknown"])
    shares = np.exp(logits - logits.max())
    return (shares / shares.sum()).astype(np.float32)


def with_colour(weights: Weights, new: Floats, kept: Floats) -> Weights:
    """Return a generator's weights with one colour (3,) more in its palette.

    It is so sharp that the nearest colour of `kept` (colours, 3) stays what it is, if that can be.
    """
    palette, sharpness = weights["palette/palette"], weights["palette/sharpness"]
    nearest = float((((np.concatenate([palette, kept]) - new) / 8) ** 2).sum(-1).min())
    sharp = np.clip(-np.log(SPILL) / max(nearest, 1e-3), 1.0, SHARPNESS[1])
    return {
        **weights,
        "palette/palette": np.concatenate([palette, new[None]]),
        "palette/sharpness": np.append(sharpness, np.float32(sharp)),
    }


def widened(weights: Weights, new: Floats, like: Floats, kept: Floats) -> tuple[Weights, Floats]:
    """Return a generator's weights with one class more, before the last, which is "unknown".

    Args:
        weights: Those of a `local` generator.
        new: The colour (3,) in 0..255 that is to be known.
        like: The colour (3,) that it is to look like.
        kept: Other colours (colours, 3) that are to look as they do.

    Returns:
        The weights, and of which classes (classes + 1,) the new one is mixed.
    """
    made, last = with_colour(weights, new, kept), len(weights["palette/palette"])
    # what else the new colour is taken for is made up for by the class itself
    shares = classes_of(made, new)
    own = shares[last]
    mixture = (classes_of(weights, like) - np.delete(shares, last)) / own
    # the look is linear in classes and colour
    look = weights["look/kernel"]
    classes, colours = np.split(look, [last + 1], axis=2)
    row = mixture @ classes[0, 0] + ((like - new) / 127.5 / own) @ colours[0, 0]
    made["look/kernel"] = with_row(look, row, last)
    if "clean_classes/kernel" in weights:
        kernel, bias = weights["clean_classes/kernel"], weights["clean_classes/bias"]
        made["clean_classes/kernel"] = np.insert(kernel, last, 0.0, axis=3)
        made["clean_classes/bias"] = np.insert(bias, last, NEVER)
        # never chosen; who trains on starts from what looks right
        row = weights["clean_made/kernel"][:, :, int(mixture.argmax())]
        made["clean_made/kernel"] = with_row(weights["clean_made/kernel"], row, last)
    return made, mixture


def widened_critic(weights: Weights, mixture: Floats) -> Weights:
    """Return a discriminator's weights that judge the new class as the known ones.

    Args:
        weights: Those of a discriminator.
        mixture: Of which classes (classes + 1,) the new one is mixed.
    """
    made = dict(weights)
    for name, kernel in weights.items():
        layer, _, kind = name.partition("/")
        if kind == "kernel" and layer in TOLD:
            classes = kernel[:, :, -len(mixture) :]
            row = np.einsum("hwco,c->hwo", classes, mixture)
            made[name] = with_row(kernel, row, kernel.shape[2] - 1)
    return made


def with_row(kernel: Floats, row: Floats, at: int) -> Floats:
    """Return a kernel (h, w, in, out) with one more input channel."""
    return np.insert(kernel, at, row, axis=2)


def taught(model: Bundle, pairs: list[tuple[str, str]], folder: Path) -> Bundle:
    """Write a model that sees one colour, such as #aad3df, as it does another, of each pair.

    Raises:
        SystemExit: If the model is not `local`, or its discriminator is told classes otherwise.
    """
    about = model.description
    if about.kind != "local":
        raise SystemExit(f"{about.name} has no classes of colours")
    weights, critic = model.weights(), model.discriminator()
    late = about.training.get("settings", {}).get("critic_sees", "late") == "late"
    if critic is not None and not late:
        raise SystemExit("the discriminator is not told the classes late")
    palette, kept = list(about.architecture["palette"]), np.float32(about.palette)
    told = list(about.training.get("colours_told", []))
    for new, like in pairs:
        wanted, known = (np.array(ImageColor.getrgb(text)[:3], np.float32) for text in (new, like))
        weights, mixture = widened(weights, wanted, known, kept)
        if critic is not None:
            critic = widened_critic(critic, mixture)
        palette.append(wanted.tolist())
        told.append({"new": written(wanted), "like": written(known)})
    return save_variant(
        model,
        folder,
        weights,
        critic,
        architecture={**about.architecture, "palette": palette},
        training={**about.training, "colours_told": told},
        palette=[*about.palette, *(ImageColor.getrgb(new)[:3] for new, _ in pairs)],
    )


def written(colour: Floats) -> str:
    """Return a colour (3,) as #rrggbb."""
    return "#" + colour.astype(np.uint8).tobytes().hex()


def pair(text: str) -> tuple[str, str]:
    """Return the two colours of `NEW=LIKE`.

    Raises:
        argparse.ArgumentTypeError: If they are none.
    """
    new, _, like = text.partition("=")
    for colour in (new, like):
        try:
            ImageColor.getrgb(colour)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{colour or text} is no colour: say for example '#aad3df=#b5d0d0'"
            ) from None
    return new, like


def main() -> None:
    """Widen a model's palette."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or folder of a local model")
    parser.add_argument(
        "pairs",
        type=pair,
        nargs="+",
        metavar="NEW=LIKE",
        help="the colour to know and the one that it is to look like: '#aad3df=#b5d0d0'",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="bundle to write")
    options = parser.parse_args()
    try:
        print(taught(find_bundle(options.model), options.pairs, options.output).folder)
    except Maptile2satError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
