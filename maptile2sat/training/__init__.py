"""Training of generators on pairs of map and aerial image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from maptile2sat.datasets.pairs import doubt_of_side, is_there, require_sound
from maptile2sat.errors import TrainingError, UsageError, refuse_undecodable
from maptile2sat.training import checkpoint
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.data import Pairs, epoch_steps
from maptile2sat.training.devices import (
    Devices,
    check_devices,
    choose_devices,
    memory_errors,
    resolve_precision,
)
from maptile2sat.training.log import Progress
from maptile2sat.training.loop import Loop, Rhythm, Stop, build_trainer, catching
from maptile2sat.training.presets import preset_config
from maptile2sat.training.start import start_from_bundle, starting_bundle, starting_palette

__all__ = ["Progress", "TrainConfig", "preset_config", "train"]

LOCK = ".lock"


def train(
    config: TrainConfig,
    run: Path,
    *,
    devices: str = "auto",
    time_limit: float | None = None,
    checkpoint_every: int | None = None,
    sample_every: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """Train a generator, or go on with a run that was stopped or killed.

    Args:
        config: What to train; a run that exists must have the same.
        run: Folder of the run: `config.json`, `checkpoints/`, `samples/`, `metrics.jsonl`,
            `validation.jsonl`, `curves.png`, `tensorboard/`, and `report.html` at every stop.
        devices: What to compute on (`devices.choose_devices`).
        time_limit: Seconds after which to save and return.
        checkpoint_every: Steps between checkpoints; by default 200, or 10 epochs of a U-Net.
        sample_every: Steps between sample sheets; by default 500, or an epoch of a U-Net.
        report: Called every few steps.
        say: Called with what is worth a line.

    Returns:
        The number of steps done, `config.steps` if the run is complete.

    Raises:
        UsageError: If the request makes no sense.
        TrainingError: If the data cannot be used, the run is of another configuration or another
            process trains in its folder, or training fails.
        BundleError: If the bundle to start from cannot be used.
        DeviceError: If the memory does not suffice; checkpoints stay.
    """
    check_devices(devices)
    for folder in (config.data, run):  # what a run writes is text, names of folders in it too
        refuse_undecodable(folder, TrainingError)
    pairs, validation = Pairs.of(config, "train"), Pairs.of(config, "val")
    least = 0 if config.resize else config.loss_crop
    require_sound(Path(config.data), least, instead=config.words_for_small_pairs)
    if config.init:
        starting_bundle(config)
    config = _agreed(run, config, say)
    # only now: importing TensorFlow takes seconds, and the errors above should not wait
    chosen = choose_devices(devices, deterministic=config.deterministic)
    config = _fitting(config, chosen)
    epoch = epoch_steps(len(pairs), config.batch_size)
    classic = config.kind == "unet"
    rhythm = Rhythm(
        checkpoint_every or (10 * epoch if classic else 200),
        sample_every or (epoch if classic else 500),
        epoch,
    )
    with _alone(run), memory_errors():
        _note(run, config)
        trainer = build_trainer(config, starting_palette(run, pairs, config), chosen)
        for name, (total, trained) in trainer.parameters().items():
            say(f"{name}: {total:,} parameters, {trained:,} of them trained")
        begins = not checkpoint.find(run / "checkpoints")
        if begins and (doubt := doubt_of_side(pairs.files, config.map_side)):
            say(f"{doubt}, with another --out")
        if config.init and begins:
            new = "".join(f", with a new {part}" for part in start_from_bundle(trainer, run))
            say(f"starting from {config.init}{new}")
        stop = Stop(time_limit)
        with catching(stop):
            return Loop(trainer, run, pairs, validation, rhythm, say).train(stop, report)


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Make the run's folder, and keep other processes from training in it.

    Raises:
        TrainingError: If one does, or a file of the run cannot be read or written meanwhile.
    """
    lock = FileLock(run / LOCK, timeout=0)
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise TrainingError(
            f"another process trains in {run}: wait for it, or give another --out"
        ) from error
    except OSError as error:
        raise _unmade(run, error) from error
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"training in {run} broke off: {error}; run the same command "
            "again to go on from its last checkpoint"
        ) from error
    finally:
        lock.release()


def _agreed(
    run: Path, config: TrainConfig, say: Callable[[str], None] = lambda line: None
) -> TrainConfig:
    """Check that a run that exists has the same configuration, and return that.

    Its precision and style are kept where nobody says them, and its pairs may have moved. Its
    length may change as long as every step done so far was the same under both: the result is that
    of a run which had the new length from the start.
    """
    path = run / "config.json"
    try:
        begun = path.exists()
    except OSError as error:  # a name longer than the file system takes, for example
        raise _unmade(run, error) from error
    if not begun:
        return config
    old = TrainConfig.load(path)
    if config.precision == "auto":
        config = dataclasses.replace(config, precision=old.precision)
    found = checkpoint.find(run / "checkpoints")
    done = checkpoint.step_of(found[-1]) if found else 0
    same_so_far = done <= config.steps and all(
        old.learning_scale(step) == config.learning_scale(step) for step in range(done)
    )
    if old.steps != config.steps and same_so_far:
        old = dataclasses.replace(old, steps=config.steps)
    if config.style == "own":  # nobody has said one
        config = dataclasses.replace(config, style=old.style)
    left = old.data
    if not is_there(left):  # the same pairs have moved, or came with the run
        old = dataclasses.replace(old, data=config.data)
    differences = old.differences(config)
    if differences:
        reason = "" if same_so_far else " (steps decide the learning rate of those already done)"
        raise TrainingError(
            f"{run} is a run with other settings ({'; '.join(differences)}){reason}: "
            "repeat them, or give another --out"
        )
    if old.data != left:
        say(f"the pairs are no longer in {left}: going on with those of {config.data}")
    return config


def _fitting(config: TrainConfig, devices: Devices) -> TrainConfig:
    """Return the configuration with its precision decided, if the devices can share its batch."""
    count = len(devices.names)
    if config.deterministic and count > 1:
        raise UsageError("--deterministic computes on one device: pass --devices cpu or 1")
    if config.batch_size % count:
        raise UsageError(
            f"a batch of {config.batch_size} cannot be shared out among {count} devices: "
            "give a --batch-size that is a multiple of it, or fewer --devices"
        )
    return dataclasses.replace(config, precision=resolve_precision(config.precision, devices))


def _note(run: Path, config: TrainConfig) -> None:
    """Write the configuration down, if it is not what stands there."""
    path = run / "config.json"
    try:
        if not path.exists() or TrainConfig.load(path) != config:
            config.save(path)
    except OSError as error:
        raise _unmade(run, error) from error


def _unmade(run: Path, error: OSError) -> TrainingError:
    return TrainingError(f"the run's folder {run} cannot be made: {error.strerror or error}")
