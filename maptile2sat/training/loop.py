"""The training loop: resume, step, log, sample, checkpoint, stop on request."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from maptile2sat.datasets.pairs import Pixels
from maptile2sat.errors import TrainingError
from maptile2sat.geo.grid import Window
from maptile2sat.models.bundle import Bundle
from maptile2sat.models.noise import noise
from maptile2sat.training import checkpoint, samples
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.data import Batch, Pairs, make_batch
from maptile2sat.training.devices import Devices
from maptile2sat.training.labels.draw import annotate
from maptile2sat.training.log import Log, Progress
from maptile2sat.training.painting import from_unet, middle
from maptile2sat.training.presets import SHAPE
from maptile2sat.training.samples import Generate

if TYPE_CHECKING:
    from maptile2sat.training.trainer import Trainer

# Notices a discriminator that no longer teaches the generator anything

PATIENCE = 500
"""Steps that it must last."""

SMOOTHING = 0.99
"""Decay per step of the means that are looked at; one lucky batch decides nothing."""

WON = 0.005
"""Loss, as a share of that of guessing, below which it is always right."""

LOST = 0.001
"""Distance from the loss of guessing, as a share of it, below which it does nothing but guess."""


class CollapseError(TrainingError):
    """The discriminator has collapsed; what was saved since it began is of no use."""


class Watch:
    """Follows the discriminator's loss from step to step.

    It has collapsed when for `PATIENCE` steps it was always right, which leaves the generator
    without a gradient that means anything, or did nothing but guess. A resumed run watches anew.

    Args:
        chance: The loss of guessing.
        patience: Steps.

    Attributes:
        since: Step before which it was last well, if it seems to be collapsing.
    """

    def __init__(self, chance: float, patience: int = PATIENCE) -> None:
        self.chance, self.patience = chance, patience
        self.loss, self.distance = 1.0, 1.0
        self.since: int | None = None

    def add(self, step: int, loss: float) -> None:
        """Take the loss of `step`.

        Raises:
            CollapseError: If the discriminator has collapsed.
        """
        share = loss / self.chance
        self.loss += (1.0 - SMOOTHING) * (share - self.loss)
        self.distance += (1.0 - SMOOTHING) * (abs(share - 1.0) - self.distance)
        if self.loss >= WON and self.distance >= LOST:
            self.since = None
            return
        if self.since is None:
            self.since = step - 1
        if step - self.since >= self.patience:
            how = "every" if self.loss < WON else "no"
            raise CollapseError(
                f"the discriminator has collapsed: for {step - self.since} steps, up to step "
                f"{step}, it told {how} generated image from a real one; start another run "
                "(--out) with another --learning-rate or --seed"
            )


# A few figures of a bundle on held-out pairs: how far it is from the real images, pixel by pixel

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
    from maptile2sat.models.generator import build_generator

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


AHEAD = 3
SAMPLES = 6
SCORED = 12
"""Held-out pairs by which the best checkpoint is chosen."""


class Stop:
    """Set by SIGINT, SIGTERM or a time limit; the loop looks at it between steps."""

    def __init__(self, seconds: float | None) -> None:
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.asked = False

    def __bool__(self) -> bool:
        return self.asked or (self.deadline is not None and time.monotonic() > self.deadline)


@contextmanager
def catching(stop: Stop) -> Iterator[None]:
    """Let SIGINT and SIGTERM ask for a stop; a second one does not wait for it."""

    def ask(number: int, frame: Any) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield  # Python takes signals in its main thread only
        return
    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Rhythm:
    """How often what happens; none of it changes what is learned.

    Attributes:
        checkpoint: Steps between checkpoints.
        sample: Steps between sample sheets.
        epoch: Steps of an epoch.
        seconds: A checkpoint is written after this long at the latest, unless saving is slow.
    """

    checkpoint: int
    sample: int
    epoch: int
    seconds: float = 60.0


class Feed:
    """Batches in the order of their steps, made ahead in other threads."""

    def __init__(self, pairs: Pairs, config: TrainConfig, step: int) -> None:
        self.pairs, self.config, self.step = pairs, config, step
        self.pool = ThreadPoolExecutor(2)
        self.ahead: list[Future[Batch]] = []

    def __enter__(self) -> Self:
        for _ in range(AHEAD):
            self._order()
        return self

    def __exit__(self, *reason: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def _order(self) -> None:
        if self.step < self.config.steps:
            self.ahead.append(self.pool.submit(make_batch, self.pairs, self.config, self.step))
            self.step += 1

    def take(self) -> Batch:
        """Return the next batch."""
        batch = self.ahead.pop(0).result()
        self._order()
        return batch


class Loop:
    """Trains from the newest checkpoint of a run until done or stopped.

    Args:
        trainer: What is trained.
        run: Folder of the run.
        pairs: What it is trained on.
        validation: Held-out pairs.
        rhythm: How often what happens.
        say: Called with what is worth a line.
    """

    def __init__(
        self,
        trainer: Trainer,
        run: Path,
        pairs: Pairs,
        validation: Pairs,
        rhythm: Rhythm,
        say: Callable[[str], None],
    ) -> None:
        self.trainer, self.config, self.run, self.pairs = trainer, trainer.config, run, pairs
        self.rhythm, self.say = rhythm, say
        self.folder = run / "checkpoints"
        self.variables = trainer.variables()
        self.watch = Watch(trainer.chance)
        self.samples = self._held_out(validation, SAMPLES)
        self.scored = self._held_out(validation, SCORED)
        self.scored_maps = checkpoint.BARE
        if self.config.preset == "cleaner":  # of bare maps there is nothing to take off
            self.scored_maps = checkpoint.LABELLED
            self.scored = [
                (annotate(drawn, np.random.default_rng(number)), image)
                for number, (drawn, image) in enumerate(self.scored)
            ]
        self.saved, self.saved_at, self.save_seconds = -1, time.monotonic(), 0.0
        self.epoch_start = (0, time.monotonic())

    def train(self, stop: Stop, report: Callable[[Progress], None]) -> int:
        """Train, and save at the end.

        Returns:
            The number of steps done; all of them are in the newest checkpoint.

        Raises:
            TrainingError: If a loss is no longer finite or the discriminator has collapsed; the
                last good checkpoint stays.
        """
        step = self._resume()
        with (
            Log(self.run, self.config, report, step) as log,
            Feed(self.pairs, self.config, step) as feed,
        ):
            while step < self.config.steps and not stop:
                with log.waiting():
                    batch = feed.take()
                losses = self.trainer.step(batch, step)
                step += 1
                self._look(step, losses, log)
                self._after(step, log)
            if self.saved != step:  # before the log closes, which draws and may fail
                self._save(step)
        return step

    def _resume(self) -> int:
        found = checkpoint.find(self.folder)
        if not found:
            return 0
        self.saved = checkpoint.load(found[-1], self.variables)
        self.epoch_start = (self.saved, time.monotonic())
        self.say(f"going on after step {self.saved:,} of {self.config.steps:,}")
        return self.saved

    def _look(self, step: int, losses: dict[str, Any], log: Log) -> None:
        """Log the losses; stop if they make no sense, and say which checkpoint is good.

        Those saved since a discriminator began to collapse are not; weights that are not
        finite are never saved.
        """
        try:
            log.add(step, losses)
            if "critic_real" in losses:
                self.watch.add(step, float(losses["critic_real"]) + float(losses["critic_fake"]))
        except TrainingError as error:
            last = step
            if isinstance(error, CollapseError) and self.watch.since is not None:
                last = self.watch.since
            good = checkpoint.drop_after(self.folder, last)
            kept = "there is no checkpoint from before" if good is None else f"{good} is kept"
            raise type(error)(f"{error}; {kept}") from error

    def _after(self, step: int, log: Log) -> None:
        """Save, draw and say what is due after `step`."""
        # so that saving never takes more than a fiftieth of the time
        pause = max(self.rhythm.seconds, 50 * self.save_seconds)
        late = time.monotonic() - self.saved_at > pause
        if step % self.rhythm.checkpoint == 0 or step == self.config.steps:
            path = self._save(step)
            if checkpoint.mark_best(self.folder, path, self._score(), self.scored_maps):
                self.say(f"the checkpoint of step {step:,} is the best so far")
        elif late:
            self._save(step)
        if step % self.rhythm.sample == 0 or step == self.config.steps:
            picture = self.run / "samples" / f"step-{step:08d}.png"
            generate = self.trainer.generate()
            figures = samples.draw(generate, self.samples, picture, f"generated, step {step:,}")
            log.sampled(step, figures, picture)
        if step % self.rhythm.epoch == 0:
            self._say_epoch(step)

    def _say_epoch(self, step: int) -> None:
        first, since = self.epoch_start
        seconds = time.monotonic() - since
        images = (step - first) * self.config.batch_size
        self.say(
            f"epoch {step // self.rhythm.epoch} of "
            f"{-(-self.config.steps // self.rhythm.epoch)}: {seconds / 60:.1f} minutes, "
            f"{seconds / images:.3f} s per image"
        )
        self.epoch_start = (step, time.monotonic())

    def _save(self, step: int) -> Path:
        start = time.monotonic()
        path = checkpoint.save(self.folder, step, self.variables, well=self.watch.since)
        self.saved, self.saved_at = step, time.monotonic()
        self.save_seconds = self.saved_at - start
        return path

    def _score(self) -> float:
        return pooled_l1(self.trainer.generate(), self.scored)

    def _held_out(self, validation: Pairs, count: int) -> list[tuple[Any, Any]]:
        """Return fixed held-out pairs, or their middles, of a size that the generator takes."""
        made = []
        for drawn, image in samples.choose(validation, count):
            whole, local = drawn.shape[0], self.config.kind == "local"
            side = min(whole, HELD_OUT) if local else self.config.crop
            made.append((middle(drawn, side), middle(image, side)))
        return made


# From a configuration to networks: the preset's trainer


def build_trainer(
    config: TrainConfig, palette: list[list[float]], devices: Devices | None = None
) -> Trainer:
    """Build the networks of a run; imports TensorFlow.

    Args:
        config: The run's configuration.
        palette: What `starting.starting_palette` returned.
        devices: What it computes on; one CPU by default.
    """
    if config.kind == "unet":
        from maptile2sat.training.pix2pix import UnetTrainer

        return UnetTrainer(config, devices)
    from maptile2sat.models.networks.local import LocalConfig
    from maptile2sat.training.local import LocalTrainer

    shape = {name: getattr(config, name) for name in SHAPE}
    local = LocalConfig(palette=palette, seed=config.seed, **shape)
    if config.preset == "cleaner":
        from maptile2sat.training.local import CleanerTrainer

        return CleanerTrainer(config, local, devices)
    return LocalTrainer(config, local, devices)
