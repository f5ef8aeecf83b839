"""The training loop: resume, step, log, sample, checkpoint, stop on request."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maptile2sat.errors import TrainingError
from maptile2sat.training import checkpoint, sheet
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.pairs import Batch, Pairs, make_batch, map_colours

LOG_EVERY = 20
AHEAD = 3


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        step: Steps done.
        steps: Steps of the whole run.
        crops: Crops of 256 px, or their equal, seen so far.
        crops_per_second: Over the last `LOG_EVERY` steps.
        losses: Means over the last `LOG_EVERY` steps.
    """

    step: int
    steps: int
    crops: float
    crops_per_second: float
    losses: dict[str, float]


class Stop:
    """Set by SIGINT, SIGTERM or a time limit; the loop looks at it between steps."""

    def __init__(self, seconds: float | None) -> None:
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.asked = False

    def __bool__(self) -> bool:
        return self.asked or (self.deadline is not None and time.monotonic() > self.deadline)


@contextmanager
def catching(stop: Stop) -> Iterator[None]:
    """Let SIGINT and SIGTERM ask for a stop instead of killing the run."""

    def ask(number: int, frame: Any) -> None:
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


def starting_palette(run: Path, pairs: Pairs, config: TrainConfig) -> list[list[float]]:
    """Return the palette that the run starts from; found once, then kept in the run."""
    path = run / "palette.json"
    if path.exists():
        return [[float(value) for value in colour] for colour in json.loads(path.read_text())]
    colours = map_colours(pairs, config.colours, config.seed)
    path.write_text(json.dumps(colours) + "\n")
    return colours


def run_steps(
    trainer: Any,
    run: Path,
    pairs: Pairs,
    validation: Pairs,
    stop: Stop,
    *,
    checkpoint_every: int,
    sample_every: int,
    report: Callable[[Progress], None],
) -> int:
    """Train from the newest checkpoint of `run` until done or stopped.

    Returns:
        The number of steps done; all of them are in the newest checkpoint.

    Raises:
        TrainingError: If a loss is no longer finite; the last checkpoint stays.
    """
    config: TrainConfig = trainer.config
    variables = trainer.variables()
    found = checkpoint.find(run / "checkpoints")
    step = checkpoint.load(found[-1], variables) if found else 0
    saved = step if found else -1
    samples = sheet.choose(validation, 6)
    log = _Log(run / "metrics.jsonl", config, report)
    with ThreadPoolExecutor(2) as pool:
        ahead = [
            pool.submit(make_batch, pairs, config, number)
            for number in range(step, min(step + AHEAD, config.steps))
        ]
        while step < config.steps and not stop:
            batch: Batch = ahead.pop(0).result()
            if step + AHEAD < config.steps:
                ahead.append(pool.submit(make_batch, pairs, config, step + AHEAD))
            losses = trainer.step(batch, step)
            step += 1
            log.add(step, losses)
            if step % checkpoint_every == 0:
                checkpoint.save(run / "checkpoints", step, variables)
                saved = step
            if step % sample_every == 0 or step == config.steps:
                sheet.draw(trainer.average, samples, run / "samples" / f"step-{step:08d}.png")
        for future in ahead:
            future.cancel()
    log.flush(step)
    if saved != step:
        checkpoint.save(run / "checkpoints", step, variables)
    return step


class _Log:
    """Means of the losses, as JSON lines and as reports."""

    def __init__(self, path: Path, config: TrainConfig, report: Callable[[Progress], None]) -> None:
        self.path, self.config, self.report = path, config, report
        self.sums: dict[str, float] = {}
        self.count = 0
        self.since = time.monotonic()

    def add(self, step: int, losses: dict[str, Any]) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.count += 1
        if not all(math.isfinite(value) for value in self.sums.values()):
            raise TrainingError(
                f"a loss became infinite at step {step}: start another run (--out) with "
                "--precision float32 or a lower --learning-rate"
            )
        if step % LOG_EVERY == 0:
            self.flush(step)

    def flush(self, step: int) -> None:
        if not self.count:
            return
        seconds = time.monotonic() - self.since
        means = {name: round(total / self.count, 5) for name, total in self.sums.items()}
        rate = self.count * self.config.crops_per_step / seconds
        crops = step * self.config.crops_per_step
        line = {"step": step, "crops": crops, "crops_per_second": round(rate, 3), **means}
        with self.path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        self.report(Progress(step, self.config.steps, crops, rate, means))
        self.sums, self.count, self.since = {}, 0, time.monotonic()
