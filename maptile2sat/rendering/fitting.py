"""Whether the map of a render suits its model."""

from __future__ import annotations

from maptile2sat import fit
from maptile2sat.bundle import shipped_bundles
from maptile2sat.cells import Cells
from maptile2sat.grid import Window
from maptile2sat.rendering.job import Job


def check_fit(job: Job, *, colours: bool = True) -> None:
    """Warn of a map whose scale or colours are not the model's.

    Args:
        job: The render.
        colours: Whether to read some of the map, in its middle or near, and compare colours.
    """
    found = [fit.scale_warning(job.source, job.window, job.bundle)]
    if colours:
        others = [other for other in shipped_bundles() if other.folder != job.bundle.folder]
        found.append(fit.colour_warning(job.source, _looked_at(job), job.bundle, others))
    for text in found:
        if text:
            job.notices.add(text)


def _looked_at(job: Job) -> Window:
    """Return in the middle of what to compare colours: only what is generated is read of a map."""
    window, side = job.window, job.options.cell or job.bundle.description.cell
    cells = Cells.of(window, side, side)
    near = job.area.wanted(cells)
    if near is None:
        return window

    def from_middle(cell: Window) -> int:
        across = 2 * cell.col + side - 2 * window.col - window.width
        down = 2 * cell.row + side - 2 * window.row - window.height
        return across**2 + down**2

    cell = min(filter(near, cells), key=from_middle, default=window)
    return cell.intersection(window)
