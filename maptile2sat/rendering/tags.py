"""What a render's files say of themselves."""

from __future__ import annotations

from pathlib import Path

from maptile2sat._version import __version__
from maptile2sat.device import INTEGER, Device
from maptile2sat.rendering.job import Job
from maptile2sat.translator import Translator


def tags_of(job: Job, device: Device, translator: Translator) -> dict[str, str]:
    """Return the output's metadata: what made it, and nothing that changes by the day."""
    about, info, grid = job.bundle.description, job.source.info, job.source.info.grid
    metres = sum(grid.metres_per_pixel(job.window)) / 2
    numerics = device.fingerprint
    if device.precision != INTEGER:
        together = f" x {translator.batch}" if translator.batch > 1 else ""
        numerics = f"{numerics}; cell {translator.cell}{together}"
    scale = {"METRES_PER_PIXEL": f"{metres:.4f}"} if grid.zoom is None else {"ZOOM": str(grid.zoom)}
    return {
        "TIFFTAG_SOFTWARE": f"maptile2sat {__version__}",
        "TIFFTAG_IMAGEDESCRIPTION": (
            "SYNTHETIC satellite-style imagery, generated from a map by a neural network; "
            "it does not show the real ground"
        ),
        "TIFFTAG_COPYRIGHT": attribution_of(job),
        "SYNTHETIC": "YES",
        "MODEL": about.name,
        "MODEL_VERSION": about.version,
        "MODEL_SHA256": about.identity,
        "SEED": str(job.options.seed),
        "PRECISION": device.precision,
        "NUMERICS": numerics,
        "EXACT": "YES" if translator.exact else "NO",
        "LABELS": "TAKEN OFF" if job.cleaned else "KEPT",
        # a local path would say where the file lay, and change the bytes with it
        "SOURCE": info.name if "://" in info.name else Path(info.name).name,
        **scale,
    }


def attribution_of(job: Job) -> str:
    """Return who is to be named for the map and the model."""
    owners = (job.source.info.attribution, job.bundle.description.attribution)
    return "; ".join(text for text in owners if text)
