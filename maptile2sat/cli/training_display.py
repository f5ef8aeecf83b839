"""How a training run shows where it is: a live bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from maptile2sat.cli.console import note

if TYPE_CHECKING:
    from maptile2sat.training import Progress

LINE_EVERY = 60.0
"""Seconds between lines where there is no terminal."""


@contextmanager
def training_display(verbosity: int) -> Iterator[Callable[[Progress], None]]:
    """Give a function that shows on stderr where a run is, unless the user asked for quiet."""
    if verbosity < 0:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _live() as show:
            yield show
    else:
        yield _lines(verbosity)


def describe(progress: Progress) -> str:
    """Return the speed and the time left in words."""
    from maptile2sat.training.report import spell_seconds

    words = f"{progress.crops_per_second:.1f} images/s"
    if progress.waiting >= 0.02:
        words += f", {progress.waiting:.0%} of the time waiting for data"
    left = progress.seconds_left
    return f"{words}, {spell_seconds(left)} left" if progress.step < progress.steps else words


def losses(progress: Progress) -> str:
    """Return the losses in words."""
    return ", ".join(f"{key} {value:.3f}" for key, value in progress.losses.items())


def _lines(verbosity: int) -> Callable[[Progress], None]:
    last = float("-inf")

    def show(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_EVERY or progress.step == progress.steps:
            last = now
            where = f"step {progress.step:,} of {progress.steps:,}"
            note(f"{where}: {describe(progress)}; {losses(progress)}", verbosity)

    return show


@contextmanager
def _live() -> Iterator[Callable[[Progress], None]]:
    from rich import progress as rich_progress
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    bar = rich_progress.Progress(
        "steps",
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[words]}", markup=False),
    )
    task = bar.add_task("", total=None, words="starting")
    under = Text(style="dim")
    console = Console(stderr=True)
    with Live(Group(bar, under), console=console, transient=True, redirect_stdout=False):

        def show(progress: Progress) -> None:
            words = describe(progress)
            bar.update(task, completed=progress.step, total=progress.steps, words=words)
            under.plain = losses(progress)

        yield show
