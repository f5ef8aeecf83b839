"""Keeping no work that a server's error pictures are in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from maptile2sat import mosaic
from maptile2sat.grid import Window
from maptile2sat.partial import Partial
from maptile2sat.rendering.job import Job
from maptile2sat.sources import takes_any
from maptile2sat.translator import Translator


@contextmanager
def without_error_pictures(job: Job, translator: Translator, partial: Partial) -> Iterator[None]:
    """Have the cells made that error pictures turn out to be in count as not done.

    An error picture is known as one at some place only; cells with the places before are on disk
    by then.

    Raises:
        ErrorPictureError: If any was noticed, whether or not anybody was told.
    """
    cells = mosaic.cells_of(job.window, translator)

    def holds_any(col: int, row: int) -> bool:
        cell = cells.at(*cells.place(Window(col, row, 1, 1)))
        return takes_any(job.source, mosaic.context_of(job.window, translator, cell), tiles)

    try:
        yield
        job.repeats.refuse()
    finally:
        if tiles := job.repeats.found:
            partial.forget(holds_any)
