"""Measuring one model on held-out pairs, beside the same measures of the real images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maptile2sat.evaluation.catalogue import METRICS, RANKING
from maptile2sat.evaluation.fcn import (
    CLASSES,
    Confusion,
    Fcn,
    Labels,
    Reading,
    Score,
    find_style,
    label,
)
from maptile2sat.evaluation.inception import inception_features
from maptile2sat.evaluation.metrics import (
    LUMA,
    Texture,
    class_means,
    correlation_distance,
    decibels,
    draw_patches,
    frechet_distance,
    kernel_distance,
    log_spectra,
    measure_distortion,
    measure_steps,
    measure_texture,
    noise_response,
    peak,
    power_spectra,
    radial_profile,
    seam_ratio,
    sliced_wasserstein,
    spectrum_distance,
    std_distance,
)
from maptile2sat.evaluation.samples import Generator, Pair, cut_squares
from maptile2sat.models.bundle import Bundle
from maptile2sat.models.device import Device
from maptile2sat.models.noise import MAX_SEED

# Everything that is taken from a set of pictures before sets are compared

CHUNK = 32
"""Pictures whose spectra are in memory at once."""


class Description(NamedTuple):
    """What describes N pictures; the picture is the first axis everywhere.

    Attributes:
        patches: For each pyramid level, (N, patches, 7, 7, 3).
        profiles: Power by radius, (N, 128).
        logs: Logarithm of the power of every frequency, (N, 256, 256).
        reading: What the FCN reads.
        texture: By class; None if the maps' classes are not known.
        inception: Features (N, 2048); None if there are no weights.
    """

    patches: list[Floats]
    profiles: Floats
    logs: Floats
    reading: Reading
    texture: Texture | None
    inception: Floats | None


def describe(
    pictures: npt.NDArray[np.uint8], labels: Labels | None, fcn: Fcn, inception: Any, seed: int
) -> Description:
    """Describe pictures.

    Args:
        pictures: uint8 (N, 256, 256, 3).
        labels: Their maps' classes, uint8 (N, 256, 256), if known.
        fcn: The network that reads classes.
        inception: InceptionV3, or None.
        seed: Of the places of patches.
    """
    profiles, logs = [], []
    for first in range(0, len(pictures), CHUNK):
        spectra = power_spectra(pictures[first : first + CHUNK])
        profiles.append(radial_profile(spectra))
        logs.append(log_spectra(spectra))
    return Description(
        patches=draw_patches(pictures, seed),
        profiles=np.concatenate(profiles),
        logs=np.concatenate(logs),
        reading=fcn.read(pictures),
        texture=None if labels is None else measure_texture(pictures, labels),
        inception=None if inception is None else inception_features(inception, pictures),
    )


# Comparing sets of pictures fairly: the same places are never on both sides

SPLITS = 3
"""Ways of halving the places; figures are means over them."""

Indices = npt.NDArray[np.int64]
Distance = Callable[[Any, Any], float]


class Halves(NamedTuple):
    """Indices of the pictures of either half."""

    first: Indices
    second: Indices


class Figure(NamedTuple):
    """A measured value.

    Attributes:
        value: Of the generated pictures.
        floor: The same of real pictures, the best that can be hoped for; None if there is none.
        spread: Standard deviation over halves of the places.
        samples: The values on these halves, which are the same for every model: differences
            between two models vary less than the values do.
    """

    value: float
    floor: float | None = None
    spread: float | None = None
    samples: tuple[float, ...] = ()


def halve(places: Sequence[int], seed: int, splits: int = SPLITS) -> list[Halves]:
    """Cut pictures into two disjoint halves, in several ways.

    Args:
        places: Where each picture was taken; pictures of one place stay together.
        seed: Of the cuts.
        splits: How many ways.

    Returns:
        The halves; both have pictures if there are two places.
    """
    given = np.asarray(places)
    known = np.unique(given)
    found = []
    for number in range(splits):
        order = np.random.default_rng([seed, 10, number]).permutation(known)
        first = np.isin(given, order[: len(order) // 2])
        found.append(Halves(np.flatnonzero(first), np.flatnonzero(~first)))
    return found


def against_real(
    distance: Distance,
    generated: npt.NDArray[Any],
    real: npt.NDArray[Any],
    halves: Sequence[Halves],
) -> Figure:
    """Return the distance of generated from real pictures of other places, with its floor.

    Args:
        distance: Of two arrays of what describes pictures, the picture along the first axis.
        generated: What describes the generated pictures.
        real: What describes the real ones, in the same order.
        halves: Indices of pictures.
    """
    floors = [distance(real[a], real[b]) for a, b in halves]
    values = [
        distance(generated[one], real[other]) for a, b in halves for one, other in ((a, b), (b, a))
    ]
    return _figure(float(np.mean(values)), float(np.mean(floors)), values)


def mean_figure(figures: Sequence[Figure]) -> Figure:
    """Return the mean of several figures, for example one per scale."""
    value = float(np.mean([figure.value for figure in figures]))
    floor = float(np.mean([figure.floor for figure in figures if figure.floor is not None]))
    return _figure(value, floor, np.mean([figure.samples for figure in figures], axis=0))


def on_all(
    measure: Callable[[Indices], float],
    halves: Sequence[Halves],
    floor: float | None = None,
) -> Figure:
    """Return a measure of all pictures, with its standard error from halves of them.

    Half of a sample, drawn without replacement, differs from the whole by as much as the whole
    differs from the truth.

    Args:
        measure: Takes the indices of pictures.
        halves: Indices of pictures.
        floor: What real pictures have.
    """
    everything = np.sort(np.concatenate(halves[0]))
    return _figure(measure(everything), floor, [measure(half) for both in halves for half in both])


def _figure(value: float, floor: float | None, samples: Sequence[float] | Any) -> Figure:
    given = tuple(float(sample) for sample in samples)
    return Figure(value, floor, float(np.std(given)), given)


# Figures of generated pictures against real ones of the same maps

Floats = npt.NDArray[Any]
PERIODS = (4, 2)


def compare_pixels(made: Pixels, real: Pixels, halves: Sequence[Halves]) -> dict[str, Figure]:
    """Return L1, RMSE, PSNR and SSIM, means over pictures, and what differs in brightness."""
    found = measure_distortion(made, real)
    figures = {name: _mean_figure(values, halves) for name, values in found.items()}
    mine, theirs = (side.mean((1, 2)) @ LUMA for side in (made, real))
    figures["brightness"] = against_real(brightness_distance, mine, theirs, halves)
    # a distance has no sign, but who mends a model has to know which way
    figures["brighter"] = _mean_figure(mine - theirs, halves)
    return figures


def brightness_distance(one: Floats, other: Floats) -> float:
    """Return the distance of the means of two sets of brightnesses."""
    return abs(float(one.mean() - other.mean()))


def _mean_figure(values: npt.NDArray[np.float64], halves: Sequence[Halves]) -> Figure:
    return on_all(lambda chosen: float(values[chosen].mean()), halves)


def compare_sets(
    made: Description, real: Description, halves: Sequence[Halves], seed: int
) -> dict[str, Figure]:
    """Return the distances that need no map: patches, spectrum, features."""
    levels = [
        against_real(lambda a, b: sliced_wasserstein(a, b, seed), mine, theirs, halves)
        for mine, theirs in zip(made.patches, real.patches, strict=True)
    ]
    found = {
        "swd": mean_figure(levels),
        "spectrum": against_real(spectrum_distance, made.profiles, real.profiles, halves),
        "fcn_kid": against_real(
            kernel_distance, made.reading.features, real.reading.features, halves
        ),
    }
    side = made.logs.shape[1]
    # the coarsest levels have too few pixels to tell of texture, but are part of the mean
    for number, figure in enumerate(levels):
        found[f"swd_{side >> number}"] = figure
    for period in PERIODS:
        found[f"grid_{period}"] = _peak_figure(made, real, period, halves)
    if made.inception is not None and real.inception is not None:
        found["fid"] = against_real(frechet_distance, made.inception, real.inception, halves)
        # it falls with the number of pictures: of all there is no floor, as no others are left
        found["fid_all"] = Figure(frechet_distance(made.inception, real.inception))
        found["kid"] = against_real(
            lambda a, b: 1000 * kernel_distance(a, b), made.inception, real.inception, halves
        )
    return found


def _peak_figure(
    made: Description, real: Description, period: int, halves: Sequence[Halves]
) -> Figure:
    return on_all(lambda chosen: peak(made.logs[chosen], period), halves, peak(real.logs, period))


def compare_classes(
    made: Description, real: Description, labels: Labels, halves: Sequence[Halves]
) -> dict[str, Figure]:
    """Return what the maps' classes allow: FCN-score, contrast and grain by class."""

    def score(side: Description, chosen: Indices) -> Score:
        confusion = Confusion()
        confusion.add(labels[chosen], side.reading.classes[chosen])
        return confusion.score()

    best = score(real, np.arange(len(labels)))
    found = {
        "fcn_accuracy": on_all(lambda chosen: score(made, chosen).accuracy, halves, best.accuracy),
        "fcn_mean_iou": on_all(lambda chosen: score(made, chosen).mean_iou, halves, best.mean_iou),
    }
    if made.texture is not None and real.texture is not None:
        found["class_std"] = against_real(std_distance, made.texture.std, real.texture.std, halves)
        found["class_correlation"] = against_real(
            correlation_distance, made.texture.correlation, real.texture.correlation, halves
        )
    return found


def by_class(made: Description, real: Description, labels: Labels) -> dict[str, dict[str, float]]:
    """Return for each class that occurs its share, IoU, contrast and grain, made and real."""
    scores = []
    for side in (made, real):
        confusion = Confusion()
        confusion.add(labels, side.reading.classes)
        scores.append(confusion.score())
    found: dict[str, dict[str, float]] = {}
    for number, name in enumerate(CLASSES):
        row = {"share": float((labels == number).mean())}
        for key, score in zip(("iou", "iou_real"), scores, strict=True):
            row[key] = score.iou.get(name, float("nan"))
        for key, side in (("", made), ("_real", real)):
            if side.texture is not None:
                row[f"std{key}"] = float(class_means(side.texture.std)[number])
                row[f"correlation_4px{key}"] = float(
                    class_means(side.texture.correlation)[number, 2]
                )
        if row["share"] > 0:
            found[name] = row
    return found


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


# Which of two models is better, figure by figure

EVEN = "even"


DOUBT = 2.0
"""Standard deviations of a difference that it must exceed to count."""


def judge(one: Measured, other: Measured) -> dict[str, str]:
    """Return the better model's name for each figure that ranks, or `even`.

    A difference counts if it exceeds twice its standard deviation over halves of the places.
    What reaches the floor of real images is even: no one can be more real than they are.
    """
    verdicts = {}
    for name in RANKING:
        if name in one.figures and name in other.figures:
            first, second = one.figures[name], other.figures[name]
            gap = _excess(name, first) - _excess(name, second)
            differences = np.subtract(first.samples, second.samples)
            doubt = DOUBT * float(differences.std()) if differences.size else 0.0
            # of a half without labelled pixels, say, nothing is known: then there is no winner
            if abs(gap) > doubt:
                verdicts[name] = other.name if gap > 0 else one.name
            else:
                verdicts[name] = EVEN
    return verdicts


def _excess(name: str, figure: Figure) -> float:
    """Return by how much a figure is worse than that of real images, at least 0; nan if unknown."""
    sign = 1.0 if METRICS[name].better == "lower" else -1.0
    excess = sign * (figure.value - (figure.floor or 0.0))
    return excess if math.isnan(excess) else max(0.0, excess)
