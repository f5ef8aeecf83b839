"""Whether the map of a render suits its model."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from maptile2sat.geo.cells import Cells
from maptile2sat.geo.crs import HALF_WORLD, WGS84, converted
from maptile2sat.geo.grid import MAX_ZOOM, TILE, Window
from maptile2sat.models.bundle import Bundle, shipped_bundles
from maptile2sat.rendering.job import Job
from maptile2sat.sources import Source

# Whether a map suits a model: its colours, its scale

NEAR = 7.0
"""Distance in RGB up to which a pixel counts as one of a style's colours."""

POOR = 0.4
"""Share of a map's pixels in the model's colours below which a user is warned, unless the model
fits clearly better than all others.

A style has more colours than a bundle names: on 37 held-out squares of 512 px, `osm`'s own share
was 45 % at the least and below 61 % on a quarter of them; on a block of the sample map it is 35 %.
"""

BETTER = 0.15
"""By how much another model's share must be higher for a user to be sent there.

On those and 45 of `maps` the wrong model's was never 0.1 higher than the right one's, and the right
one's was this much higher than the wrong one's on 59 % of `osm`'s and all of `maps`'s.
"""

SAMPLE = 512
SCALE = (0.5, 2.0)
"""Ground size of a pixel, over that of the training, outside of which a user is warned."""


def colour_share(
    image: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], palette: list[tuple[int, int, int]]
) -> float:
    """Return the share of valid pixels that are near a colour of `palette`, 0..1.

    Args:
        image: uint8 (height, width, 3).
        mask: uint8 (height, width), 0 where there is no map.
        palette: Colours of a map style.
    """
    pixels = image[mask > 0][::3].astype(np.float32)
    if not len(pixels) or not palette:
        return 1.0
    nearest = np.full(len(pixels), np.inf, np.float32)
    for colour in palette:
        nearest = np.minimum(nearest, ((pixels - np.array(colour, np.float32)) ** 2).sum(1))
    return float((nearest <= NEAR**2).mean())


def colour_warning(source: Source, window: Window, bundle: Bundle, others: list[Bundle]) -> str:
    """Look at the middle of `window`; return a warning if its colours are not the model's.

    Returns:
        The warning, or an empty text.
    """
    sample = Window(
        window.col + max(0, window.width - SAMPLE) // 2,
        window.row + max(0, window.height - SAMPLE) // 2,
        min(SAMPLE, window.width),
        min(SAMPLE, window.height),
    )
    image, mask = source.read(sample)
    share = colour_share(image, mask, bundle.description.palette)
    about = bundle.description
    fits = [
        (colour_share(image, mask, other.description.palette), other)
        for other in others
        if other.description.palette and other.description.style != about.style
    ]
    best = max(fits, key=lambda fit: fit[0], default=None)
    better = best is not None and best[0] >= share + BETTER
    alone = best is not None and share >= best[0] + BETTER
    if not better and (share >= POOR or alone):
        return ""
    advice = "expect poor results, or train a model on maps of this style"
    if best is not None and better:
        advice = f"the model '{best[1].description.name}' fits better (-m), {best[0]:.0%} of them"
    return (
        f"only {share:.0%} of the map's pixels have colours of the style '{about.style}' that "
        f"model '{about.name}' was trained on: {advice}"
    )


def scale_warning(source: Source, window: Window, bundle: Bundle) -> str:
    """Return a warning if the map's scale is far from the model's, or an empty text."""
    metres = sum(source.info.grid.metres_per_pixel(window)) / 2
    trained = bundle.description.metres_per_pixel
    if SCALE[0] <= metres / trained <= SCALE[1]:
        return ""
    read = "at that scale, if it has that zoom" if source.info.tiled else "at that scale"
    return (
        f"the map has {metres:.3g} m per pixel, model '{bundle.description.name}' was trained at "
        f"{trained:.3g}: say -z {_zoom_of(trained, source, window)} to read the map nearly {read}"
    )


def _zoom_of(metres: float, source: Source, window: Window) -> int:
    """Return the zoom whose pixels have nearly that size on the ground, in the middle of `window`.

    It is not everywhere the zoom that a model was trained at: pixels shrink towards the poles.
    """
    grid = source.info.grid
    x, y = grid.transform(window) @ (window.width / 2, window.height / 2)
    latitude = converted(grid.crs, WGS84, [x], [y])[1][0]
    at_zoom_0 = 2 * HALF_WORLD / TILE * max(math.cos(math.radians(latitude)), 1e-9)
    return min(max(round(math.log2(at_zoom_0 / metres)), 0), MAX_ZOOM)


def check_fit(job: Job, *, colours: bool = True) -> None:
    """Warn of a map whose scale or colours are not the model's.

    Args:
        job: The render.
        colours: Whether to read some of the map, in its middle or near, and compare colours.
    """
    found = [scale_warning(job.source, job.window, job.bundle)]
    if colours:
        others = [other for other in shipped_bundles() if other.folder != job.bundle.folder]
        found.append(colour_warning(job.source, _looked_at(job), job.bundle, others))
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
