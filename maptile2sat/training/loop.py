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

from maptile2sat.errors import TrainingError
from maptile2sat.training import checkpoint, sheet
from maptile2sat.training.annotations import annotate
from maptile2sat.training.collapse import CollapseError, Watch
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.logs import Log, Progress
from maptile2sat.training.painting import middle
from maptile2sat.training.pairs import Batch, Pairs, make_batch
from maptile2sat.training.validation import HELD_OUT, pooled_l1

if TYPE_CHECKING:
    from maptile2sat.training.adversarial import Trainer

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
            figures = sheet.draw(generate, self.samples, picture, f"generated, step {step:,}")
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
        for drawn, image in sheet.choose(validation, count):
            whole, local = drawn.shape[0], self.config.kind == "local"
            side = min(whole, HELD_OUT) if local else self.config.crop
            made.append((middle(drawn, side), middle(image, side)))
        return made
