"""Measuring one model on held-out pairs, beside the same measures of the real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from maptile2sat.bundle import Bundle
from maptile2sat.device import Device
from maptile2sat.evaluation.classes import Labels, find_style, label
from maptile2sat.evaluation.comparing import (
    by_class,
    compare_classes,
    compare_pixels,
    compare_sets,
)
from maptile2sat.evaluation.description import Description, describe
from maptile2sat.evaluation.fcn import Fcn
from maptile2sat.evaluation.generation import Generator
from maptile2sat.evaluation.halves import Figure, Halves, halve, on_all
from maptile2sat.evaluation.noise_response import noise_response
from maptile2sat.evaluation.samples import Pair, cut_squares
from maptile2sat.evaluation.seams import measure_steps, seam_ratio
from maptile2sat.evaluation.spectrum import decibels
from maptile2sat.noise import MAX_SEED

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and of how much."""

NOISE_SEEDS = 4
NOISE_PAIRS = 4
SEAM_PAIRS = 16
BETWEEN_BLOCKS = 4
STYLE_MAPS = 20

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Held:
    """The real side of a comparison, the same for every model.

    Attributes:
        pairs: The pairs.
        maps: Squares of the maps, uint8 (N, 256, 256, 3).
        real: The same squares of the photos.
        places: For each square the index of its pair.
        style: Style of the maps, None if it is none of those known.
        labels: Classes of the maps, uint8 (N, 256, 256); None without a style.
        halves: Disjoint halves of the squares.
        description: What is taken from the photos.
    """

    pairs: list[Pair]
    maps: Pixels
    real: Pixels
    places: list[int]
    style: str | None
    labels: Labels | None
    halves: list[Halves]
    description: Description


@dataclass(frozen=True)
class Measured:
    """What was measured of a model.

    Attributes:
        name: Short name, different from that of the model compared with.
        id: Name, version and hash of the weights.
        kind: `local` or `unet`.
        exact: Whether its pixels depend on the map around them alone.
        numerics: What its pixels are promised for.
        figures: By name, see `catalogue.METRICS`.
        classes: Figures by class of the map.
        noise: Response to the seed in levels: `all`, and by class.
        profile: Power in decibels at each radius of the spectrum.
    """

    name: str
    id: str
    kind: str
    exact: bool
    numerics: str
    figures: dict[str, Figure]
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)
    profile: list[float] = field(default_factory=list)


def prepare(pairs: list[Pair], fcn: Fcn, inception: Any, seed: int) -> Held:
    """Describe the real images once."""
    maps, places = cut_squares([pair.map for pair in pairs])
    real, _ = cut_squares([pair.real for pair in pairs])
    step = max(1, len(pairs) // STYLE_MAPS)
    style = find_style([pair.map for pair in pairs[::step]])
    labels = None if style is None else np.stack([label(drawn, style) for drawn in maps])
    description = describe(real, labels, fcn, inception, seed)
    halves = halve(places, seed)
    return Held(pairs, maps, real, places, style, labels, halves, description)


def measure(
    held: Held,
    bundle: Bundle,
    device: Device,
    name: str,
    fcn: Fcn,
    inception: Any,
    seed: int,
    progress: Progress,
) -> tuple[Measured, Pixels]:
    """Measure a model; return its figures and its squares, uint8 (N, 256, 256, 3)."""
    generator = Generator(bundle, device, max(pair.map.shape[0] for pair in held.pairs))
    whole = generator.pictures(
        held.pairs, seed, lambda done, total: progress(f"{name}: pictures", done, total)
    )
    made, _ = cut_squares(whole)
    stages = 3
    progress(f"{name}: figures", 0, stages)
    mine = describe(made, held.labels, fcn, inception, seed)
    progress(f"{name}: figures", 1, stages)
    figures = compare_sets(mine, held.description, held.halves, seed)
    figures |= compare_pixels(made, held.real, held.halves)
    if held.labels is not None:
        figures |= compare_classes(mine, held.description, held.labels, held.halves)
    progress(f"{name}: figures", 2, stages)
    noise = _noise(generator, held, seed)
    figures["seam"] = _seam_figure(generator, held.pairs, seed)
    figures["noise"] = Figure(noise["all"])
    progress(f"{name}: figures", stages, stages)
    measured = Measured(
        name=name,
        id=bundle.id,
        kind=bundle.description.kind,
        exact=generator.exact,
        numerics=device.fingerprint,
        figures=figures,
        classes={} if held.labels is None else by_class(mine, held.description, held.labels),
        noise=noise,
        profile=[round(float(value), 3) for value in decibels(mine.profiles)],
    )
    return measured, made


def _some(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Return at most `count` pairs, evenly chosen."""
    places = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)
    return [pairs[index] for index in places]


def _seam_figure(generator: Generator, pairs: Sequence[Pair], seed: int) -> Figure:
    mine, real = [], []
    for pair, picture, borders in generator.with_borders(_some(pairs, SEAM_PAIRS), seed):
        mine.append(measure_steps(picture, borders))
        # photos stored as JPEG have steps at every 8th pixel, where borders lie too
        real.append(measure_steps(pair.real, [border + BETWEEN_BLOCKS for border in borders]))
    halves = halve(range(len(mine)), seed)
    return on_all(
        lambda chosen: seam_ratio([mine[index] for index in chosen]), halves, seam_ratio(real)
    )


def _noise(generator: Generator, held: Held, seed: int) -> dict[str, float]:
    pairs = _some(held.pairs, NOISE_PAIRS)
    maps, _ = cut_squares([pair.map for pair in pairs])
    style = held.style
    labels = None if style is None else np.stack([label(drawn, style) for drawn in maps])
    seeds = [(seed + step) % (MAX_SEED + 1) for step in range(NOISE_SEEDS)]
    versions = [cut_squares(generator.pictures(pairs, each))[0] for each in seeds]
    return noise_response(versions, labels)
