"""The log of a run: losses and samples as JSON lines, curves, TensorBoard events and reports."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from PIL import Image

from maptile2sat.errors import TrainingError
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.files import (
    CURVES,
    METRICS,
    TENSORBOARD,
    VALIDATION,
    append_line,
    keep_lines,
    read_lines,
)
from maptile2sat.training.report import draw_curves, write_report

# Event files that TensorBoard reads, written without it

_VERSION = "brain.Event:2"


class EventWriter:
    """Appends scalars and pictures to one new event file.

    Args:
        folder: TensorBoard's log directory, made if missing.
        step: Steps that the run has done; what older files say of later ones is void.

    Raises:
        OSError: If the file cannot be written, by this or any method.
    """

    def __init__(self, folder: Path, step: int) -> None:
        import tensorflow as tf

        self._tf = tf
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names
        name = f"events.out.tfevents.{time.time_ns() // 1000:017d}.{socket.gethostname()}"
        self._path = folder / f"{name}.{os.getpid()}"
        with self._written():
            self._records = tf.io.TFRecordWriter(str(self._path))
        self._write(file_version=_VERSION)
        start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        self._write(step=step + 1, session_log=start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by tag; readers find them at once."""
        tf = self._tf
        parts = [
            tf.compat.v1.Summary.Value(
                tag=tag,
                tensor=tf.make_tensor_proto(value, tf.float32),
                metadata=self._metadata("scalars", "DATA_CLASS_SCALAR"),
            )
            for tag, value in values.items()
        ]
        self._write(step=step, summary=tf.compat.v1.Summary(value=parts))

    def picture(self, step: int, tag: str, path: Path) -> None:
        """Write a PNG file as it is."""
        tf = self._tf
        with Image.open(path) as picture:
            width, height = picture.size
        # the plugin's own order: width and height as text, then the encoded pictures
        content = [str(width).encode(), str(height).encode(), path.read_bytes()]
        part = tf.compat.v1.Summary.Value(
            tag=tag,
            tensor=tf.make_tensor_proto(content, tf.string),
            metadata=self._metadata("images", "DATA_CLASS_BLOB_SEQUENCE"),
        )
        self._write(step=step, summary=tf.compat.v1.Summary(value=[part]))

    def close(self) -> None:
        """Close the file."""
        with self._written():
            self._records.close()

    def _metadata(self, plugin: str, kind: str) -> Any:
        metadata = self._tf.compat.v1.SummaryMetadata()
        metadata.plugin_data.plugin_name = plugin
        metadata.data_class = (
            metadata.DESCRIPTOR.fields_by_name["data_class"].enum_type.values_by_name[kind].number
        )
        return metadata

    def _write(self, **fields: Any) -> None:
        event = self._tf.compat.v1.Event(wall_time=time.time(), **fields)
        with self._written():
            self._records.write(event.SerializeToString())
            self._records.flush()

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Let what TensorFlow says of a file be what Python says: a full disk is no lack of memory.

        Raises:
            OSError: If it cannot be written.
        """
        try:
            yield
        except self._tf.errors.OpError as error:
            raise OSError(f"{self._path}: {error.message}") from error


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
        lines = keep_lines(run / METRICS, step)
        keep_lines(run / VALIDATION, step)
        self.seconds = self.before = lines[-1].get("seconds", 0.0) if lines else 0.0
        self.values: dict[str, list[float]] = {}
        self.count = 0
        self.waited = 0.0
        self.since = time.monotonic()
        self._events: EventWriter | None = None

    def __enter__(self) -> Self:
        """Start the clock."""
        self.since = time.monotonic()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Write what is left, curves and report, also of a run that broke off."""
        news = self.step > self.first
        try:
            self.flush()
        finally:
            if self._events is not None:
                self._events.close()
        if news and (error is None or isinstance(error, TrainingError)):
            self._draw()
            write_report(self.run, "" if error is None else str(error))

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
            self.values.setdefault(name, []).append(value)
        self.step = step
        self.count += 1
        if step % LOG_EVERY == 0:
            self.flush()

    def sampled(self, step: int, figures: Mapping[str, float], picture: Path) -> None:
        """Take what the validation crops show: figures by name, and their sheet."""
        line = {"step": step, "crops": step * self.config.crops_per_step, **figures}
        append_line(self.run / VALIDATION, line)
        self.events.scalars(step, {f"samples/{name}": value for name, value in figures.items()})
        self.events.picture(step, "samples/sheet", picture)
        self._draw()

    def flush(self) -> None:
        """Write the means since the last line, if there is anything to write."""
        if not self.count:
            return
        spent = time.monotonic() - self.since
        self.seconds += spent
        # a loss that begins later has fewer values
        means = {name: round(fmean(values), 5) for name, values in self.values.items()}
        rate = self.count * self.config.crops_per_step / spent
        crops = self.step * self.config.crops_per_step
        speed = {
            "crops_per_second": round(rate, 3),
            "seconds": round(self.seconds, 1),
            "waiting": round(min(1.0, self.waited / spent), 4),
        }
        # before anything is written: what fails half-way must not be written again
        self.values, self.count, self.waited, self.since = {}, 0, 0.0, time.monotonic()
        append_line(self.run / METRICS, {"step": self.step, "crops": crops, **speed, **means})
        self.events.scalars(self.step, {f"losses/{name}": value for name, value in means.items()})
        self.events.scalars(self.step, {f"speed/{name}": value for name, value in speed.items()})
        steps = self.config.steps
        per_step = (self.seconds - self.before) / (self.step - self.first)
        left = per_step * (steps - self.step)
        self.report(Progress(self.step, steps, crops, rate, means, left, speed["waiting"]))

    @property
    def events(self) -> EventWriter:
        """The event file of this start; made when there is something to write."""
        if self._events is None:
            self._events = EventWriter(self.run / TENSORBOARD, self.first)
        return self._events

    def _draw(self) -> None:
        metrics, validation = (read_lines(self.run / name) for name in (METRICS, VALIDATION))
        draw_curves(metrics, validation, self.run / CURVES)
