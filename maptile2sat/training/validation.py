"""A few figures of a bundle on held-out pairs: how far it is from the real images, pixel by pixel.

They tell a broken model from a sound one, but do not rank good ones: a blurred image scores
better than a sharp one whose trees stand elsewhere.
"""

from __future__ import annotations

import numpy as np

from maptile2sat.bundle import Bundle
from maptile2sat.grid import Window
from maptile2sat.noise import noise
from maptile2sat.training.pairs import Pairs

STRIDE = 16


def validate(bundle: Bundle, pairs: Pairs, limit: int = 60) -> dict[str, float]:
    """Generate images for held-out maps and compare them with the real ones.

    Args:
        bundle: A `local` model; the weights measured are those in its file.
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
        side = pair.map.shape[0] // STRIDE * STRIDE
        grains = noise(0, Window(int(index) * 4096, 0, side, side))
        inputs = (pair.map[:side, :side].astype(np.float32), grains.fine, grains.coarse)
        made = np.asarray(model([np.asarray(part)[None] for part in inputs], training=False))[0]
        gap = made - (pair.image[:side, :side].astype(np.float32) / 127.5 - 1.0)
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
