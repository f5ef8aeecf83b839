"""The log of a run: means of its losses as JSON lines, and as reports to whoever watches."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maptile2sat.errors import TrainingError
from maptile2sat.training.config import TrainConfig

LOG_EVERY = 20


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


class Log:
    """Means of the losses, as JSON lines and as reports."""

    def __init__(self, path: Path, config: TrainConfig, report: Callable[[Progress], None]) -> None:
        self.path, self.config, self.report = path, config, report
        self.sums: dict[str, float] = {}
        self.count = 0
        self.since = time.monotonic()

    def add(self, step: int, losses: dict[str, Any]) -> None:
        """Take the losses of `step`; write their means every `LOG_EVERY` steps.

        Raises:
            TrainingError: If one is not finite.
        """
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
        """Write the means since the last line, if there is anything to write."""
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
