"""Training of generators on pairs of map and aerial image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from maptile2sat.datasets.files import require_sound
from maptile2sat.device import load_tensorflow
from maptile2sat.errors import TrainingError
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.logs import Progress
from maptile2sat.training.loop import Stop, catching, run_steps, starting_palette
from maptile2sat.training.pairs import Pairs

__all__ = ["Progress", "TrainConfig", "train"]


def train(
    config: TrainConfig,
    run: Path,
    *,
    time_limit: float | None = None,
    checkpoint_every: int = 200,
    sample_every: int = 500,
    report: Callable[[Progress], None] = lambda progress: None,
) -> int:
    """Train a `local` generator, or go on with a run that was stopped.

    Args:
        config: What to train; a run that exists must have the same.
        run: Folder of the run: `config.json`, `checkpoints/`, `samples/`, `metrics.jsonl`.
        time_limit: Seconds after which to save and return.
        checkpoint_every: Steps between checkpoints.
        sample_every: Steps between sample sheets.
        report: Called every few steps.

    Returns:
        The number of steps done, `config.steps` if the run is complete.

    Raises:
        TrainingError: If the data cannot be used, the run is of another configuration, or
            training fails.
    """
    folder = Path(config.data)
    pairs = Pairs.find(folder / "train", config.map_side, config.resize)
    validation = Pairs.find(folder / "val", config.map_side, config.resize)
    require_sound(folder, 0 if config.resize else config.loss_crop)
    _claim(run, config)
    palette = starting_palette(run, pairs, config)
    # only now: importing TensorFlow takes seconds, and the data's errors should not wait
    load_tensorflow()
    from maptile2sat.networks.local import LocalConfig
    from maptile2sat.training.step import LocalTrainer

    architecture = LocalConfig(
        palette=palette, width=config.width, dilations=config.dilations, seed=config.seed
    )
    trainer = LocalTrainer(config, architecture)
    stop = Stop(time_limit)
    with catching(stop):
        return run_steps(
            trainer,
            run,
            pairs,
            validation,
            stop,
            checkpoint_every=checkpoint_every,
            sample_every=sample_every,
            report=report,
        )


def _claim(run: Path, config: TrainConfig) -> None:
    """Make the run's folder, or check that it is a run of the same configuration."""
    path = run / "config.json"
    if path.exists():
        differences = TrainConfig.load(path).differences(config)
        if differences:
            raise TrainingError(
                f"{run} is a run with other settings ({'; '.join(differences)}): "
                "repeat them, or give another --out"
            )
        return
    try:
        run.mkdir(parents=True, exist_ok=True)
        config.save(path)
    except OSError as error:
        raise TrainingError(
            f"the run's folder {run} cannot be made: {error.strerror or error}"
        ) from error
