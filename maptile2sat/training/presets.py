"""The recipes of `maptile2sat train --preset`: which numbers go with which networks."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maptile2sat.datasets.pairs import choose_map_side, list_pairs, stated_style
from maptile2sat.errors import UsageError
from maptile2sat.models.bundle import find_bundle
from maptile2sat.models.generator import architecture_of
from maptile2sat.models.networks.local import LocalConfig
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.data import epoch_steps

CLASSIC: dict[str, Any] = {
    "batch_size": 1,
    "crop": 256,
    "loss_crop": 256,
    "resize": 286,
    "mirror": True,
    "jitter": False,
    "critic_base": 64,
    "generator_rate": 2e-4,
    "critic_rate": 2e-4,
    "beta_1": 0.5,
    "beta_2": 0.999,
    "l1_weight": 0.0,
    "l1_pool": 1,
    "fine_l1_weight": 100.0,
    "feature_weight": 0.0,
    "ema": 0.0,
}
"""What both U-Net presets share (Isola et al. 2017, arXiv 1611.07004, section 3)."""

LOCAL: dict[str, Any] = {
    "annotate": 0.6,
    "cleaner": (1, 2, 4, 1),
    "width": 64,
    "dilations": (1, 2, 2, 1),
    "deep": (1, 1, 1, 1),
    "deep_width": 192,
    "critic_photo": True,
    "critic_sees": "late",
    "critic_translate": 4,
    "feature_weight": 10.0,
    "photo_weight": 1.5,
    "grid_weight": 5.0,
}
"""The generator behind the seamless renders, and how it learns."""

PRESETS: dict[str, dict[str, Any]] = {
    "local": LOCAL,
    "cleaner": {
        **LOCAL,
        "annotate": 0.9,
        "steps": 4000,
        # no contest with a discriminator, which a higher rate would upset
        "generator_rate": 1e-3,
        "beta_1": 0.9,
        # of the image, which is not made
        "critic_translate": 0,
        "grid_weight": 0.0,
    },
    # the authors' own later implementation lets the rate fall over the second half
    "pix2pix": {**CLASSIC, "decay_from": 0.5},
    "seed": {**CLASSIC, "decay_from": 1.0, "antialias": False},
}

EPOCHS = {"pix2pix": 200, "seed": 200}
"""Length of the presets that count in epochs; `local` counts in steps."""

SETTINGS = (
    *("width", "dilations", "smooth", "deep_noise", "coarse_rgb", "colours", "annotate"),
    *("cleaner", "cleaner_width", "deep", "deep_width", "exposure", "critic_photo", "photo_weight"),
    *("keep_cleaner", "jitter", "mirror"),
    *("critic_base", "critic_norm", "critic_rate", "critic_scales", "critic_sees"),
    *("critic_translate", "beta_1", "beta_2", "l1_weight", "l1_pool", "fine_l1_weight"),
    *("grid_weight", "feature_weight", "ema", "decay_from", "antialias", "unet_base"),
)
"""Fields of a recipe that have no option of their own: for experiments, by `--set`."""


LOCAL_ALONE = (
    *("width", "dilations", "smooth", "deep_noise", "coarse_rgb", "colours"),
    *("cleaner", "cleaner_width", "keep_cleaner", "deep", "deep_width"),
    *("critic_photo", "photo_weight", "critic_norm", "critic_scales", "critic_sees"),
    *("critic_translate", "l1_weight", "l1_pool", "feature_weight", "grid_weight"),
)
"""Fields that the classic networks have no use for."""

UNET_ALONE = ("unet_base",)
"""Fields that a `local` generator has no use for."""

CLEANER_IDLE = (
    *("exposure", "critic_rate", "critic_translate", "l1_weight", "l1_pool", "fine_l1_weight"),
    *("feature_weight", "photo_weight", "grid_weight"),
)
"""Fields of no use where no image is made."""


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Return fields by name from `NAME=VALUE`, as `train --set` takes them.

    Args:
        texts: A switch is `true` or `false`; lists such as `dilations` are parted by commas.

    Raises:
        UsageError: If a name is none of `SETTINGS` or a value is not of its kind.
    """
    kinds = {field.name: type(field.default) for field in dataclasses.fields(TrainConfig)}
    found: dict[str, Any] = {}
    for text in texts:
        name, mark, value = (part.strip() for part in text.partition("="))
        if name not in SETTINGS or not mark:
            raise UsageError(f"--set {text}: give NAME=VALUE, NAME one of {', '.join(SETTINGS)}")
        try:
            found[name] = _parsed(kinds[name], value)
        except ValueError as error:
            raise UsageError(f"--set {text}: {error}") from error
    return found


def _parsed(kind: type, value: str) -> Any:
    if kind is bool:
        if value not in ("true", "false"):
            raise ValueError(f"{value} is neither true nor false")
        return value == "true"
    if kind is tuple:
        return tuple(int(part) for part in value.split(",")) if value else ()
    return kind(value)


def preset_config(
    preset: str,
    data: Path,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    **changes: Any,
) -> TrainConfig:
    """Return the configuration of a preset with what the user changed.

    Args:
        preset: One of `PRESETS`.
        data: Folder with `train` and `val`.
        steps: Length of the run, if not the preset's.
        epochs: The same in epochs; at most one of the two.
        learning_rate: Of the generator; the discriminator's keeps its ratio to it, unless
            `critic_rate` is among the changes.
        changes: Other fields; None stands for the preset's value, and for `map_side` and `style`
            for what `dataset.json` of the data says.

    Raises:
        UsageError: If a value makes no sense.
        TrainingError: If the data has no pairs and their number is needed, or its `dataset.json`
            cannot be read.
        BundleError: If the bundle to start from cannot be used.
    """
    if preset not in PRESETS:
        raise UsageError(f"preset '{preset}' is not one of {', '.join(PRESETS)}")
    if steps is not None and epochs is not None:
        raise UsageError("give --epochs or --steps, not both")
    values = {"preset": preset, "data": str(data), **PRESETS[preset]}
    if changes.get("map_side") is None:
        values["map_side"] = choose_map_side(data)
    if changes.get("style") is None and (style := stated_style(data)) is not None:
        values["style"] = style
    values.update({key: value for key, value in changes.items() if value is not None})
    if values.get("init"):
        values.update(_shape(values["init"], changes, preset))
    start = TrainConfig(**values)
    _refuse_idle(start, changes)
    if learning_rate is not None:
        values["generator_rate"] = learning_rate
        if changes.get("critic_rate") is None:
            ratio = start.critic_rate / start.generator_rate
            values["critic_rate"] = ratio * learning_rate
    if steps is None and (epochs is not None or preset in EPOCHS):
        epochs = EPOCHS[preset] if epochs is None else epochs
        steps = epochs * epoch_steps(len(list_pairs(data / "train")), start.batch_size)
    if steps is not None:
        values["steps"] = steps
    return TrainConfig(**values)


def _refuse_idle(config: TrainConfig, changes: dict[str, Any]) -> None:
    """Refuse to change what would change nothing.

    Raises:
        UsageError: If one of the changes is such.
    """
    usual = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    usual |= PRESETS[config.preset]
    for name in UNET_ALONE if config.kind == "local" else LOCAL_ALONE:
        if changes.get(name) not in (None, usual[name]):
            raise UsageError(
                f"--set {name}={_written(changes[name])}: networks of the preset {config.preset} "
                "have no such part"
            )
    for name in CLEANER_IDLE if config.preset == "cleaner" else ():
        if changes.get(name) not in (None, usual[name]):
            raise UsageError(
                f"--set {name}={_written(changes[name])}: the preset cleaner makes no image, "
                "so that this would change nothing"
            )
    if config.init and changes.get("colours") not in (None, config.colours):
        raise UsageError(
            f"--set colours={changes['colours']}: the palette of {config.init} has "
            f"{config.colours} colours, and goes on with them"
        )


def command(config: TrainConfig) -> str:
    """Return the command of a run, its data called DATA, its folder RUN.

    Args:
        config: The run's configuration; `precision` and `steps` are as agreed when it began.
    """
    origin = "any" if config.init else ""  # some presets need one
    usual = dataclasses.asdict(
        TrainConfig(data="", preset=config.preset, init=origin, **PRESETS[config.preset])
    )
    if config.generator_rate != usual["generator_rate"]:  # which moves the discriminator's
        ratio = usual["critic_rate"] / usual["generator_rate"]
        usual["critic_rate"] = ratio * config.generator_rate
    values = dataclasses.asdict(config)
    words = f"maptile2sat train DATA --out RUN --preset {config.preset} --steps {config.steps}"
    for name, value in values.items():
        if value == usual[name] or name in ("data", "preset", "steps", "precision"):
            continue
        if name in SETTINGS:
            words += f" --set {name}={_written(value)}"
        elif name == "generator_rate":
            words += f" --learning-rate {value}"
        else:
            option = f" --{name.replace('_', '-')}"
            words += option if value is True else f"{option} {shlex.quote(str(value))}"
    return words


def _written(value: Any) -> str:
    """Return a value as `--set` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


SHAPE = (
    *("width", "dilations", "smooth", "deep_noise", "coarse_rgb"),
    *("cleaner", "cleaner_width", "deep", "deep_width"),
)
"""Fields of a recipe that a generator's architecture has under the same name."""


def _defaults() -> dict[str, Any]:
    """Return the fields of a `local` generator that a description may leave out."""
    return {field.name: field.default for field in dataclasses.fields(LocalConfig)}


def _shape(init: str, changes: dict[str, Any], preset: str) -> dict[str, Any]:
    """Return what a run takes over from the bundle that it starts from, unless told otherwise."""
    bundle = find_bundle(init)
    architecture_of(bundle)  # refuses what makes no sense
    description = bundle.description
    architecture = description.architecture
    # what an older description does not name, its network has not
    given = {**_defaults(), **architecture} if description.kind == "local" else architecture
    taken = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if name in SHAPE
    }
    if preset == "cleaner" and not taken.get("cleaner"):  # it is to get one
        taken.pop("cleaner", None)
    if isinstance(architecture.get("base"), int):
        taken["unet_base"] = architecture["base"]
    taken = {name: value for name, value in taken.items() if changes.get(name) is None}
    if isinstance(architecture.get("palette"), list):  # a run starts from it, whatever is said
        taken["colours"] = len(architecture["palette"])
    return taken
