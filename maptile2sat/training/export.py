"""From a training run to a model bundle."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageColor

from maptile2sat._version import __version__
from maptile2sat.datasets.pairs import is_there, read_description
from maptile2sat.errors import BundleError, TrainingError, UsageError, refuse_undecodable
from maptile2sat.models.bundle import Bundle, check_place, open_bundle, redescribe, save_bundle
from maptile2sat.models.description import is_plain_name
from maptile2sat.models.device import load_tensorflow
from maptile2sat.models.generator import usual_cell
from maptile2sat.training import checkpoint
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.data import Pairs, dominant_colours
from maptile2sat.training.files import BUNDLE
from maptile2sat.training.loop import build_trainer, validate
from maptile2sat.training.presets import command
from maptile2sat.training.quantise import CROPS, with_integers
from maptile2sat.training.start import start_of, starting_palette

SHOWN_COLOURS = 16


@dataclasses.dataclass(frozen=True)
class About:
    """What a bundle says about itself that a run cannot know.

    Attributes:
        name: Short name of the model.
        zoom: Web mercator zoom of its training maps; None: what the data's `dataset.json` says,
            or 16.
        metres_per_pixel: Ground size of their pixels; None: likewise, or 1.8.
        data: What it was trained on, in words.
        licence: Terms of the weights.
        attribution: Who is to be named; None: likewise, or nobody.
        version: Version of the weights.
        notes: File in Markdown of what else is worth knowing, as on what looks wrong; becomes part
            of the card.
    """

    name: str
    zoom: int | None = None
    metres_per_pixel: float | None = None
    data: str = "pairs of map and aerial image given by the user"
    licence: str = "decided by whoever trained it; mind the terms of the training imagery"
    attribution: str | None = None
    version: str = __version__
    notes: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what no bundle can say, before a run is trained or read for it.

        Raises:
            UsageError: If a value makes no sense.
            TrainingError: If the name, which may be that of a folder, is not UTF-8.
        """
        refuse_undecodable(self.name, TrainingError)
        texts = {"data": self.data, "licence": self.licence, "attribution": self.attribution or ""}
        checks = {
            f"name '{self.name}' must be a plain file name in one line": (
                is_plain_name(self.name) and self.name.isprintable()
            ),
            "zoom must be in 0..30": self.zoom is None or self.zoom in range(31),
            "metres per pixel must be above 0, and less than a million": (
                self.metres_per_pixel is None or 0 < self.metres_per_pixel < 1e6
            ),
            **{f"{name} must be in one line": text.isprintable() for name, text in texts.items()},
        }
        for message, right in checks.items():
            if not right:
                raise UsageError(f"the model's {message}")


def export(
    run: Path,
    output: Path,
    about: About,
    *,
    best: bool = False,
    discriminator: bool = False,
    moved: Path | None = None,
) -> Bundle:
    """Write what a run's newest checkpoint would ship as a bundle.

    Args:
        run: Folder of a training run, complete or not.
        output: Folder of the bundle.
        about: What the bundle says about itself.
        best: Take the checkpoint that came nearest to held-out images instead of the newest.
        discriminator: Keep it in the bundle, for who trains on from it (`train --init`).
        moved: Where the pairs of the run are, if not where they were when it was trained.

    Raises:
        TrainingError: If the run has no checkpoint, or its pairs are gone.
        BundleError: If something other than a bundle is in `output`, or it cannot be written.
        UsageError: If the notes cannot be read, or there is no discriminator to keep.
    """
    check_place(output)
    notes = _read(about.notes)
    config = TrainConfig.load(run / "config.json")
    if moved is not None:
        config = dataclasses.replace(config, data=str(moved))
    elif not is_there(config.data):
        raise TrainingError(
            f"the pairs of {run} are no longer in {config.data}: say where they are, --pairs FOLDER"
        )
    start = start_of(run)
    if discriminator and config.preset == "cleaner" and "discriminator" in start["new"]:
        raise UsageError(
            f"{run} has no discriminator to keep: neither has {config.init}, and the preset "
            "cleaner trains none"
        )
    found = checkpoint.find(run / "checkpoints")
    if not found:
        raise TrainingError(f"{run} has no checkpoint yet: train it first")
    chosen = checkpoint.find_best(run / "checkpoints") if best else found[-1]
    if chosen is None:
        raise TrainingError(
            f"no checkpoint of {run} has been tried on held-out pairs yet: leave --best out, or "
            "train on (--checkpoint-every says how often that is done)"
        )
    pairs = Pairs.of(config, "train")
    load_tensorflow()
    from maptile2sat.models.generator import get_weights

    trainer = build_trainer(config, starting_palette(run, pairs, config))
    step = checkpoint.load(chosen, trainer.variables())
    stated = _stated(about, config)
    description = _describe(config, pairs, _resized(stated, config, pairs), step, start)
    description["notes"] = notes
    description["architecture"] = trainer.architecture()
    weights = get_weights(trainer.average)
    judge = get_weights(trainer.critic) if discriminator else None
    bundle = save_bundle(output, description, weights, judge)
    if bundle.description.kind == "local":
        maps = (pairs[index].map for index in np.linspace(0, len(pairs) - 1, CROPS, dtype=int))
        bundle = with_integers(bundle, list(maps))
    # measured on the weights as stored, which float16 has rounded
    return redescribe(bundle, metrics=validate(bundle, Pairs.of(config, "val")))


def exported(run: Path) -> Bundle | None:
    """Return the bundle in a run's folder if it is whole and of the complete run, else None."""
    try:
        config = TrainConfig.load(run / "config.json")
        found = checkpoint.find(run / "checkpoints")
        bundle = open_bundle(run / BUNDLE)
        bundle.weights()
    except (TrainingError, BundleError):
        return None
    about = bundle.description
    done = {checkpoint.step_of(path) for path in found[-1:]}
    complete = done == {config.steps} == {about.training.get("steps")}
    return bundle if complete and about.metrics else None  # figures are the last that it gets


def _read(notes: Path | None) -> str:
    try:
        return "" if notes is None else notes.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"the notes {notes} cannot be read: {error}") from error


def _stated(about: About, config: TrainConfig) -> About:
    """Return what the bundle says, with what only the data set says of itself."""
    said = {"zoom": 16, "metres_per_pixel": 1.8, "attribution": ""}
    said |= {key: value for key, value in read_description(Path(config.data)).items() if value}
    kinds = {"zoom": int, "metres_per_pixel": int | float, "attribution": str}
    unknown: dict[str, Any] = {name: said[name] for name in kinds if getattr(about, name) is None}
    wrong = [name for name, value in unknown.items() if not isinstance(value, kinds[name])]
    if wrong:
        raise TrainingError(
            f"{wrong[0]} in dataset.json of {config.data} makes no sense: correct it there, or "
            f"pass --{wrong[0].replace('_', '-')} in 'maptile2sat export'"
        )
    return dataclasses.replace(about, **unknown)


def _resized(about: About, config: TrainConfig, pairs: Pairs) -> About:
    """Return what the bundle says if pairs were resized, which changes their scale."""
    if not config.resize:
        return about
    assert about.zoom is not None  # `_stated` has been here
    assert about.metres_per_pixel is not None
    own = Pairs(pairs.files, config.map_side)[0].map.shape[0]
    metres = about.metres_per_pixel * own / config.resize
    zoom = about.zoom - round(math.log2(own / config.resize))
    return dataclasses.replace(about, zoom=zoom, metres_per_pixel=round(metres, 4))


def _describe(
    config: TrainConfig, pairs: Pairs, about: About, step: int, start: dict[str, Any]
) -> dict[str, Any]:
    """Return a bundle's description, but for its architecture and metrics."""
    colours, told = dominant_colours(pairs, SHOWN_COLOURS), start["told"]
    return {
        **dataclasses.asdict(about),
        "kind": config.kind,
        "cell": usual_cell(config.crop if config.kind == "unet" else 0),
        "fill": colours[0],
        "style": config.style,
        "palette": [*colours, *(list(ImageColor.getrgb(pair["new"])[:3]) for pair in told)],
        "precision": config.precision,
        "training": {
            "command": command(config),
            "steps": step,
            "of_steps": config.steps,
            "crops_of_256_px": round(step * config.crops_per_step),
            "pairs": len(pairs),
            "before": start["before"],
            **({"colours_told": told} if told else {}),
            "settings": {
                key: value
                for key, value in dataclasses.asdict(config).items()
                if key not in ("data", "steps")
            },
        },
    }
