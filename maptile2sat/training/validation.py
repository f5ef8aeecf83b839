"""A few figures of a bundle on held-out pairs: how far it is from the real images, pixel by pixel.

They tell a broken model from a sound one, but do not rank good ones: a blurred image scores
better than a sharp one whose trees stand elsewhere.
"""

from __future__ import annotations

import numpy as np

from maptile2sat.bundle import Bundle
from maptile2sat.datasets.layout import Pixels
from maptile2sat.grid import Window
from maptile2sat.noise import noise
from maptile2sat.training.painting import from_unet, middle
from maptile2sat.training.pairs import Pairs
from maptile2sat.training.sheet import Generate

STRIDE = 16

HELD_OUT = 640
"""Largest side in pixels of what a `local` model is tried on: memory grows with its square."""

POOL = 8
"""Side in pixels of the averages by which checkpoints are compared."""


def pooled_l1(generate: Generate, chosen: list[tuple[Pixels, Pixels]]) -> float:
    """Return the mean distance of `POOL` px averages from those of the real images.

    Averages say whether the right thing stands in the right place in the right colour, and leave
    aside texture, of which a blurred image would have the least error.

    Args:
        generate: Makes an image in -1..1 from a map and its number.
        chosen: Held-out (map, image) pairs of a side that it takes.
    """
    gaps = []
    for number, (drawn, image) in enumerate(chosen):
        gap = generate(drawn, number) - (image.astype(np.float32) / 127.5 - 1.0)
        side = gap.shape[0] // POOL
        blocks = gap[: side * POOL, : side * POOL].reshape(side, POOL, side, POOL, 3)
        gaps.append(float(np.abs(blocks.mean((1, 3))).mean()))
    return float(np.mean(gaps))


def validate(bundle: Bundle, pairs: Pairs, limit: int = 60) -> dict[str, float]:
    """Generate images for held-out maps and compare them with the real ones.

    Args:
        bundle: A model; the weights measured are those in its file. Of a larger pair a `unet` is
            given the middle window, a `local` one the middle `HELD_OUT` px.
        pairs: Held-out pairs; at most `limit` of them, evenly chosen, are used.
        limit: Most pairs to use.

    Returns:
        `val_l1` and `val_rmse` on the scale -1..1, `val_psnr` in dB, and `val_pairs`, their
        number. Images are compared at their own size, without a resize.
    """
    from maptile2sat.networks.generator import build_generator

    model = build_generator(bundle, "float32")
    absolute, squared = [], []
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(limit, len(pairs))).round().astype(int))
    for index in chosen:
        pair = pairs[int(index)]
        if bundle.description.kind == "local":
            side = pair.map.shape[0] // STRIDE * STRIDE
            whole, side = slice(side), min(side, HELD_OUT)
            drawn, image = (middle(part[whole, whole], side) for part in pair)
            grains = noise(0, Window(int(index) * 4096, 0, side, side))
            inputs = (drawn.astype(np.float32), grains.fine, grains.coarse)
            made = np.asarray(model([np.asarray(part)[None] for part in inputs], training=False))[0]
        else:
            side = int(model.input.shape[1])
            drawn, image = middle(pair.map, side), middle(pair.image, side)
            made = from_unet(model)(drawn, int(index))
        gap = made - (image.astype(np.float32) / 127.5 - 1.0)
        absolute.append(float(np.abs(gap).mean()))
        squared.append(float((gap**2).mean()))
    rmse = float(np.sqrt(np.mean(squared)))
    # the largest possible difference on this scale is 2
    psnr = float(20.0 * np.log10(2.0 / rmse)) if rmse else float("inf")
    return {
        "val_l1": round(float(np.mean(absolute)), 4),
        "val_rmse": round(rmse, 4),
        "val_psnr": round(psnr, 2),
        "val_pairs": len(chosen),
    }
