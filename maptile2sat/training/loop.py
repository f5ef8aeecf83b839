"""The training loop: resume, step, log, sample, checkpoint, stop on request."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maptile2sat.training import checkpoint, sheet
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.logs import Log, Progress
from maptile2sat.training.pairs import Batch, Pairs, make_batch, map_colours

AHEAD = 3


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
    with Log(run, config, report, step) as log, ThreadPoolExecutor(2) as pool:
        ahead = [
            pool.submit(make_batch, pairs, config, number)
            for number in range(step, min(step + AHEAD, config.steps))
        ]
        while step < config.steps and not stop:
            with log.waiting():
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
                picture = run / "samples" / f"step-{step:08d}.png"
                generate = sheet.from_local(trainer.average)
                figures = sheet.draw(generate, samples, picture, f"generated, step {step:,}")
                log.sampled(step, figures, picture)
        for future in ahead:
            future.cancel()
    if saved != step:
        checkpoint.save(run / "checkpoints", step, variables)
    return step
