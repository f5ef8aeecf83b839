"""The log of a run: losses and samples as JSON lines, curves, TensorBoard events and reports."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from maptile2sat.errors import TrainingError
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.curves import Line, draw_curves
from maptile2sat.training.tensorboard import EventWriter

LOG_EVERY = 20
METRICS = "metrics.jsonl"
VALIDATION = "validation.jsonl"
CURVES = "curves.png"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        step: Steps done.
        steps: Steps of the whole run.
        crops: Crops of 256 px, or their equal, seen so far.
        crops_per_second: Over the last `LOG_EVERY` steps.
        losses: Means over the last `LOG_EVERY` steps.
        seconds_left: Until the run is complete, at the mean speed since it was started.
        waiting: Share of the time that went by without a batch to train on, 0..1.
    """

    step: int
    steps: int
    crops: float
    crops_per_second: float
    losses: dict[str, float]
    seconds_left: float = 0.0
    waiting: float = 0.0


class Log:
    """Means of the losses every `LOG_EVERY` steps, and what the samples show.

    Use it as a context manager: what was not yet written is written at the end.

    Args:
        run: Folder of the run.
        config: Of the run.
        report: Called with every line.
        step: Steps done; lines of later ones, which a killed run has left, are dropped.
    """

    def __init__(
        self, run: Path, config: TrainConfig, report: Callable[[Progress], None], step: int
    ) -> None:
        self.run, self.config, self.report = run, config, report
        self.step = self.first = step
        lines = _keep(run / METRICS, step)
        _keep(run / VALIDATION, step)
        self.seconds = self.before = lines[-1].get("seconds", 0.0) if lines else 0.0
        self.sums: dict[str, float] = {}
        self.count = 0
        self.waited = 0.0
        self.since = time.monotonic()
        self._events: EventWriter | None = None

    def __enter__(self) -> Self:
        """Start the clock."""
        self.since = time.monotonic()
        return self

    def __exit__(self, *reason: object) -> None:
        """Write what is left, also if the run broke off."""
        news = self.step > self.first
        self.flush()
        if self._events is not None:
            self._events.close()
        if news:
            self._draw()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time in this block as spent waiting for data."""
        start = time.monotonic()
        yield
        self.waited += time.monotonic() - start

    def add(self, step: int, losses: Mapping[str, Any]) -> None:
        """Take the losses of `step`; write their means every `LOG_EVERY` steps.

        Raises:
            TrainingError: If one is not finite.
        """
        values = {name: float(value) for name, value in losses.items()}
        if not all(math.isfinite(value) for value in values.values()):
            raise TrainingError(
                f"a loss became infinite at step {step}: start another run (--out) with "
                "--precision float32 or a lower --learning-rate"
            )
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.step = step
        self.count += 1
        if step % LOG_EVERY == 0:
            self.flush()

    def sampled(self, step: int, figures: Mapping[str, float], picture: Path) -> None:
        """Take what the validation crops show: figures by name, and their sheet."""
        line = {"step": step, "crops": step * self.config.crops_per_step, **figures}
        _append(self.run / VALIDATION, line)
        self.events.scalars(step, {f"samples/{name}": value for name, value in figures.items()})
        self.events.picture(step, "samples/sheet", picture)
        self._draw()

    def flush(self) -> None:
        """Write the means since the last line, if there is anything to write."""
        if not self.count:
            return
        spent = time.monotonic() - self.since
        self.seconds += spent
        means = {name: round(total / self.count, 5) for name, total in self.sums.items()}
        rate = self.count * self.config.crops_per_step / spent
        crops = self.step * self.config.crops_per_step
        speed = {
            "crops_per_second": round(rate, 3),
            "seconds": round(self.seconds, 1),
            "waiting": round(min(1.0, self.waited / spent), 4),
        }
        _append(self.run / METRICS, {"step": self.step, "crops": crops, **speed, **means})
        self.events.scalars(self.step, {f"losses/{name}": value for name, value in means.items()})
        self.events.scalars(self.step, {f"speed/{name}": value for name, value in speed.items()})
        steps = self.config.steps
        per_step = (self.seconds - self.before) / (self.step - self.first)
        left = per_step * (steps - self.step)
        self.report(Progress(self.step, steps, crops, rate, means, left, speed["waiting"]))
        self.sums, self.count, self.waited, self.since = {}, 0, 0.0, time.monotonic()

    @property
    def events(self) -> EventWriter:
        """The event file of this start; made when there is something to write."""
        if self._events is None:
            self._events = EventWriter(self.run / TENSORBOARD, self.first)
        return self._events

    def _draw(self) -> None:
        metrics, validation = (read_lines(self.run / name) for name in (METRICS, VALIDATION))
        draw_curves(metrics, validation, self.run / CURVES)


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a log, up to the first that a killed run has left torn.

    A file that is missing has no lines.
    """
    lines: list[Line] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                break
            if not isinstance(line, dict) or "step" not in line:
                break
            lines.append(line)
    return lines


def _keep(path: Path, step: int) -> list[Line]:
    """Drop lines past `step` and a torn last one from a log; return the others."""
    lines = [line for line in read_lines(path) if line["step"] <= step]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(path)
    return lines


def _append(path: Path, line: Mapping[str, float]) -> None:
    with path.open("a") as stream:
        stream.write(json.dumps(line) + "\n")
