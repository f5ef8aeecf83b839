"""Where a run starts: the palette of its maps, and the model that it goes on from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maptile2sat.datasets.pairs import write_json
from maptile2sat.errors import BundleError, TrainingError
from maptile2sat.models.bundle import Bundle, find_bundle
from maptile2sat.models.generator import architecture_of
from maptile2sat.models.weights import Weights
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.data import Pairs, map_colours

if TYPE_CHECKING:
    from maptile2sat.training.trainer import Trainer

START = "start.json"
COLOUR = re.compile("#[0-9a-fA-F]{6}")


def starting_palette(run: Path, pairs: Pairs, config: TrainConfig) -> list[list[float]]:
    """Return the palette that the run starts from; found once, then kept in the run.

    A U-Net has none.
    """
    if config.kind == "unet":
        return []
    path = run / "palette.json"
    if path.exists():
        return [[float(value) for value in colour] for colour in _noted(path)]
    if config.init:
        colours: list[list[float]] = starting_bundle(config).description.architecture["palette"]
    else:
        colours = map_colours(pairs, config.colours, config.seed)
    write_json(path, colours)
    return colours


def starting_bundle(config: TrainConfig) -> Bundle:
    """Return the bundle that a run starts from.

    Raises:
        BundleError: If there is none, it is of another kind, or its description makes no sense.
    """
    bundle = find_bundle(config.init)
    kind = bundle.description.kind
    if kind != config.kind:
        raise BundleError(
            f"{config.init} is a {kind} generator, the preset {config.preset} trains a "
            f"{config.kind} one: give another bundle or preset"
        )
    architecture_of(bundle)
    return bundle


def start_of(run: Path) -> dict[str, Any]:
    """Return what `start_from_bundle` wrote down in a run.

    Returns:
        `before`: `command`, `steps` and `crops_of_256_px` of each run that this one builds on, the
        oldest first; `new`: what of its networks was new; `told`: the colours (`new`) that the
        bundle was told to look like others (`like`), which no pair has.
    """
    path = run / START
    none: dict[str, Any] = {"before": [], "new": [], "told": []}
    return none | dict(_noted(path)) if path.exists() else none


def _noted(path: Path) -> Any:
    """Return what a run has written down.

    Raises:
        TrainingError: If it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainingError(
            f"{path} is damaged ({error}): take it from a backup, or start another run (--out)"
        ) from error


def start_from_bundle(trainer: Trainer, run: Path) -> list[str]:
    """Set the weights to those of the bundle that the run starts from.

    What that was trained by is written down in the run: the bundle may be replaced by this
    run's own.

    Returns:
        What has new weights all the same: "cleaner" if that is what the run trains and the
        bundle's is of another make, "discriminator" if the bundle has none or one of another make.

    Raises:
        BundleError: If the generator is of another network.
    """
    bundle = starting_bundle(trainer.config)
    origin, weights, new = str(bundle.folder), bundle.weights(), []
    if trainer.config.preset == "cleaner" and not _has_cleaner_of(trainer.generator, weights):
        weights = _with_cleaner_of(trainer.generator, weights)
        new.append("cleaner")
    _set(trainer.generator, weights, origin)
    trainer.restart_average()
    judge = bundle.discriminator()
    try:
        _set(trainer.critic, judge or {}, origin)
    except BundleError:
        new.append("discriminator")
    _note(bundle, run, new)
    return new


def _note(bundle: Bundle, run: Path, new: list[str]) -> None:
    """Write down what a run starts from."""
    done = bundle.description.training
    last = {name: done.get(name) for name in ("command", "steps", "crops_of_256_px")}
    before = done.get("before", [])
    before = before if isinstance(before, list) else []
    told = done.get("colours_told", [])
    told = [pair for pair in told if _is_pair(pair)] if isinstance(told, list) else []
    write_json(run / START, {"before": [*before, last], "new": new, "told": told})


def _is_pair(pair: object) -> bool:
    """Return whether a bundle of unknown making names two colours there."""
    colours = [pair.get("new"), pair.get("like")] if isinstance(pair, dict) else [None]
    return all(isinstance(colour, str) and COLOUR.fullmatch(colour) for colour in colours)


def _set(model: Any, weights: Weights, origin: str) -> None:
    """Set a network's weights, all or none."""
    from maptile2sat.models.generator import set_weights

    # a bundle has no moving statistics; those of a new network will follow
    moving = {
        f"{layer.name}/{weight.name}": np.asarray(weight)
        for layer in model.layers
        for weight in layer.weights
        if weight.name.startswith("moving_")
    }
    set_weights(model, {**moving, **weights}, origin)


def _has_cleaner_of(model: Any, weights: Weights) -> bool:
    """Return whether the weights of the cleaner fit a generator."""
    mine, given = _cleaners(_weights_of(model)), _cleaners(weights)
    return {name: value.shape for name, value in mine.items()} == {
        name: value.shape for name, value in given.items()
    }


def _with_cleaner_of(model: Any, weights: Weights) -> Weights:
    """Return weights with a generator's own cleaner in the place of theirs."""
    theirs = _cleaners(weights)
    others = {name: value for name, value in weights.items() if name not in theirs}
    return {**others, **_cleaners(_weights_of(model))}


def _weights_of(model: Any) -> Weights:
    from maptile2sat.models.generator import get_weights

    return get_weights(model)


def _cleaners(weights: Weights) -> Weights:
    """Return the weights of a cleaner's layers."""
    from maptile2sat.models.networks.local import is_cleaner

    return {name: value for name, value in weights.items() if is_cleaner(name)}
