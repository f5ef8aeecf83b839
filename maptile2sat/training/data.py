"""Pairs of map and aerial image: found, decoded, cropped; a batch is a function of its step."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from maptile2sat.datasets.pairs import Pixels, list_pairs, read_pair
from maptile2sat.errors import TrainingError
from maptile2sat.geo.grid import Window
from maptile2sat.models.noise import Noise, noise
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.labels.draw import annotate

JPEG_BLOCK = 8
"""Pixels after which a photo stored as JPEG has a step."""


class Pair(NamedTuple):
    """One training pair.

    Attributes:
        map: uint8 (side, side, 3).
        image: uint8 (side, side, 3), the aerial photo of the same ground.
    """

    map: Pixels
    image: Pixels


class Batch(NamedTuple):
    """What one step trains on; leading axis is the crop.

    Attributes:
        map: uint8 (N, crop, crop, 3), labelled and jittered: what the generator sees.
        image: uint8 (N, loss_crop, loss_crop, 3): the middle of the aerial photo.
        fine: int16 (N, crop, crop, 1), for a `local` generator; else of no pixels.
        coarse: int16 (N, crop / 4, crop / 4, 3), likewise.
        clean: uint8 (N, crop, crop, 3): the map as it is, without labels and jitter; its middle is
            what the discriminator sees.
        covered: uint8 (N, crop, crop, 1): 1 where a label was drawn over it, else 0.
    """

    map: Pixels
    image: Pixels
    fine: npt.NDArray[np.int16]
    coarse: npt.NDArray[np.int16]
    clean: Pixels
    covered: Pixels


CACHE_BYTES = 4 << 30
"""Memory for decoded pairs; the 1,096 of the pix2pix maps take 2.4 GB at their own size."""


@dataclass
class Pairs:
    """A folder of side-by-side pairs; decoded ones are kept in memory, before any jitter.

    Attributes:
        files: The pairs, sorted by name.
        map_side: `left` or `right`.
        resize: Side to which each half is resized; 0 keeps its own pixels.
        cache_bytes: Memory for decoded pairs; those beyond it are decoded at every use.
        antialias: Whether a resize averages, as against taking the nearest pixel.
    """

    files: list[Path]
    map_side: str
    resize: int = 0
    cache_bytes: int = CACHE_BYTES
    antialias: bool = True

    def __post_init__(self) -> None:
        self._decoded: dict[int, Pair] = {}
        self._room = self.cache_bytes

    @classmethod
    def find(cls, folder: Path, map_side: str, resize: int = 0, *, antialias: bool = True) -> Pairs:
        """List the pairs of `folder`.

        Raises:
            TrainingError: If it is missing or has none.
        """
        return cls(list_pairs(folder), map_side, resize, antialias=antialias)

    @classmethod
    def of(cls, config: TrainConfig, split: str) -> Pairs:
        """List the pairs of a run: `train`, or `val` at the size that it is judged at.

        Raises:
            TrainingError: If there are none.
        """
        resize = config.resize if split == "train" else config.held_out_resize
        folder = Path(config.data) / split
        return cls.find(folder, config.map_side, resize, antialias=config.antialias)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Pair:
        """Return a pair, decoding it on first use.

        Raises:
            TrainingError: If the file is damaged or not two squares side by side.
        """
        pair = self._decoded.get(index)
        if pair is None:
            path, sharp = self.files[index], not self.antialias
            pair = Pair(*read_pair(path, self.map_side, self.resize, nearest=sharp))
            size = pair.map.nbytes + pair.image.nbytes
            if size <= self._room:
                self._room -= size
                self._decoded[index] = pair
        return pair


def make_batch(pairs: Pairs, config: TrainConfig, step: int) -> Batch:
    """Return the batch of `step`: a pure function of (pairs, config, step).

    Every epoch visits every pair at most once, in its own order, at a new place, with new
    jitter; pairs that do not fill a batch at its end are left out.
    """
    crops = [_crop(pairs, config, step, place) for place in range(config.batch_size)]
    return Batch(*(np.stack(parts) for parts in zip(*crops, strict=True)))


def epoch_steps(pairs: int, batch_size: int) -> int:
    """Return the steps of one epoch: whole batches of all pairs, at least one."""
    return max(1, pairs // batch_size)


def _crop(pairs: Pairs, config: TrainConfig, step: int, place: int) -> Batch:
    epoch, number = divmod(step, epoch_steps(len(pairs), config.batch_size))
    order = np.random.default_rng([config.seed, 1, epoch]).permutation(len(pairs))
    chosen = pairs[int(order[(number * config.batch_size + place) % len(pairs)])]
    random = np.random.default_rng([config.seed, 2, step * config.batch_size + place])
    drawn, image = _cut(chosen, config, random)
    if config.mirror and random.integers(2):
        drawn, image = drawn[:, ::-1], image[:, ::-1]
    if config.exposure != 1.0:
        image = exposed(image, config.exposure)
    grains = _grains(config, random)
    labelled = _labelled(drawn, config, step * config.batch_size + place)
    return Batch(
        map=jitter(labelled, random) if config.jitter else labelled,
        image=image,
        fine=grains.fine,
        coarse=grains.coarse,
        clean=drawn,
        covered=(labelled != drawn).any(-1, keepdims=True).astype(np.uint8),
    )


def exposed(image: Pixels, exposure: float) -> Pixels:
    """Return a photo made brighter, or darker below 1, without cutting anything off.

    Black stays black and white stays white: dark tones are multiplied by `exposure`, bright ones
    ever less. A mere factor would raise contrast as much, and make white roofs glare.

    Args:
        image: uint8 of any shape.
        exposure: Above 0; 1 changes nothing.
    """
    tones = np.arange(256) / 255.0
    curve = exposure * tones / (1.0 + (exposure - 1.0) * tones)
    return np.rint(255.0 * curve).astype(np.uint8)[image]


def _grains(config: TrainConfig, random: np.random.Generator) -> Noise:
    """Return the noise of a crop somewhere in a large world; a U-Net takes none."""
    if config.kind != "local":
        return Noise(np.zeros((0, 0, 1), np.int16), np.zeros((0, 0, 3), np.int16))
    window = random_window(random, config.crop)
    return noise(int(random.integers(2**32)), window)


def _labelled(drawn: Pixels, config: TrainConfig, position: int) -> Pixels:
    """Return the map with labels drawn over it if this crop's turn is to have some.

    The numbers are drawn apart from those of place and jitter, so that with and without labels
    the same crops are trained on.
    """
    random = np.random.default_rng([config.seed, 5, position])
    return annotate(drawn, random) if random.random() < config.annotate else drawn


def _cut(pair: Pair, config: TrainConfig, random: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Cut the map at `crop` px and the image at its middle `loss_crop` px.

    Where the pair ends, the map goes on mirrored, so that the losses may reach its border. A
    `local` generator paints in squares of its own: were its crops always in one place of a pair,
    it could learn the steps between a photo's JPEG blocks. So they begin at every place of a
    block; of a pair no larger than `loss_crop` that takes up to 4 px of mirrored photo.
    """
    crop, loss_crop = config.crop, config.loss_crop
    margin = (crop - loss_crop) // 2
    side = pair.map.shape[0]
    if side < loss_crop:
        raise TrainingError(
            f"pairs of {side} px are smaller than the {loss_crop} px that the losses are taken "
            f"on: give --loss-crop {side // 16 * 16} or less"
        )
    # what is smaller than a crop is used up to its border, beyond which the map is mirrored
    low, spare = (margin, side - crop) if side >= crop else (0, side - loss_crop)
    if config.kind == "local" and spare < JPEG_BLOCK - 1:
        # around the middle of the places there were, to go as little beyond the pair as may be
        low, spare = low - (JPEG_BLOCK - 1 - spare) // 2, JPEG_BLOCK - 1
    row, col = (low + int(random.integers(spare + 1)) for _ in range(2))
    drawn = _piece(pair.map, row - margin, col - margin, crop)
    return drawn, _piece(pair.image, row, col, loss_crop)


def _piece(whole: Pixels, row: int, col: int, side: int) -> Pixels:
    """Return a square of a square picture, which goes on mirrored."""
    rows, cols = (_mirrored(start, side, len(whole)) for start in (row, col))
    return whole[rows][:, cols]


def _mirrored(start: int, count: int, side: int) -> npt.NDArray[np.int64]:
    """Return `count` indices from `start`, reflected at 0 and `side` - 1."""
    index = np.arange(start, start + count) % (2 * side - 2)
    return np.minimum(index, 2 * side - 2 - index)


def random_window(random: np.random.Generator, side: int) -> Window:
    """Return a window somewhere in a large world, for noise."""
    col, row = (int(value) * 4 for value in random.integers(0, 1 << 26, 2))
    return Window(col, row, side, side)


def jitter(drawn: Pixels, random: np.random.Generator) -> Pixels:
    """Change a map as tile servers and formats do: shade, blur, JPEG, palette."""
    shade = random.integers(-3, 4, 3)
    pixels = np.clip(drawn.astype(np.int16) + shade, 0, 255).astype(np.uint8)
    kind = random.random()
    picture = Image.fromarray(pixels)
    if random.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(float(random.uniform(0.2, 0.7))))
    if kind < 0.25:
        packed = io.BytesIO()
        picture.save(packed, "JPEG", quality=int(random.integers(60, 96)))
        picture = Image.open(packed).convert("RGB")
    elif kind < 0.4:
        picture = picture.quantize(64, dither=Image.Dither.NONE).convert("RGB")
    return np.asarray(picture)


def map_colours(pairs: Pairs, count: int, seed: int) -> list[list[float]]:
    """Return the `count` main map colours, or all if there are fewer: k-means, rare ones lifted.

    Args:
        pairs: Where the maps come from; at most 200 of them are looked at.
        count: How many colours.
        seed: Decides where k-means starts.
    """
    random = np.random.default_rng([seed, 3])
    sample = np.concatenate(_some_map_pixels(pairs, seed))
    colours, counts = np.unique(sample // 4 * 4 + 2, axis=0, return_counts=True)
    points, weights = colours.astype(np.float64), counts.astype(np.float64) ** 0.75
    centres = points[[int(np.argmax(weights))]]
    while len(centres) < count:  # k-means++: far and heavy points first
        gap = ((points[:, None] - centres) ** 2).sum(-1).min(1) * weights
        if not gap.any():
            break
        centres = np.vstack([centres, points[random.choice(len(points), p=gap / gap.sum())]])
    for _ in range(30):
        nearest = ((points[:, None] - centres) ** 2).sum(-1).argmin(1)
        for index in range(len(centres)):
            mine = nearest == index
            if mine.any():
                centres[index] = np.average(points[mine], axis=0, weights=weights[mine])
    return [[round(float(value), 2) for value in centre] for centre in centres]


def dominant_colours(pairs: Pairs, count: int, apart: float = 7.0) -> list[list[int]]:
    """Return the most common exact map colours, commonest first, at least `apart` in RGB.

    The square root of each map's counts is added up, so that a colour in every map comes
    before one that fills a few: the first is the style's ground, not the sea. All together
    tell whether another map is of this style.
    """
    each = [np.unique(part, axis=0, return_counts=True) for part in _some_map_pixels(pairs, 0)]
    colours, place = np.unique(np.concatenate([c for c, _ in each]), axis=0, return_inverse=True)
    counts = np.bincount(place.ravel(), np.sqrt(np.concatenate([n for _, n in each])))
    chosen: list[list[int]] = []
    for index in np.argsort(-counts, kind="stable"):
        colour = [int(value) for value in colours[index]]
        if all(np.linalg.norm(np.subtract(colour, other)) >= apart for other in chosen):
            chosen.append(colour)
        if len(chosen) == count:
            break
    return chosen


def _some_map_pixels(pairs: Pairs, seed: int) -> list[Pixels]:
    """Return every 25th pixel of at most 200 maps, each uint8 (N, 3)."""
    chosen = np.random.default_rng([seed, 4]).permutation(len(pairs))[:200]
    return [pairs[int(i)].map[::5, ::5].reshape(-1, 3) for i in chosen]
