"""Every number that decides what a training run does, in one typed and validated place."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maptile2sat.datasets.pairs import write_json
from maptile2sat.errors import TrainingError, UsageError
from maptile2sat.models.device import PRECISIONS
from maptile2sat.models.generator import (
    MAX_BLOCKS,
    MAX_COLOURS,
    MAX_DILATION,
    MAX_UNET_BASE,
    MAX_WIDTH,
)

RADIUS_MULTIPLE = 16
UNET_MULTIPLE = 256
MIN_LOSS_CROP = 64


@dataclass(frozen=True)
class TrainConfig:
    """Hyper-parameters of a training run.

    The preset names the networks and the adversarial loss; `presets.preset_config` gives the
    numbers that go with it, where they are not the defaults here, which are those of the first
    `local` runs. A field that the preset's networks do not have is not used.

    Attributes:
        data: Folder with `train` and `val`, each of side-by-side pairs.
        map_side: Which half of a pair is the map: `left` or `right`.
        style: Name of the map style that the pairs show (`maps`, `osm` or the user's own).
        steps: Optimizer steps of the whole run.
        batch_size: Crops per step.
        crop: Side in pixels of what the generator sees of a pair.
        loss_crop: Side in pixels of its middle, on which the losses are taken, so that the
            network's border padding is never learned.
        resize: Side to which each half of a pair is resized before it is cropped, as classic
            pix2pix does (286, with crops of 256); 0 crops the pairs' own pixels.
        width: Channels of the generator at quarter resolution.
        dilations: Dilations of its residual blocks.
        colours: Map colours of its palette.
        critic_base: Channels of the discriminator's first layer.
        critic_norm: `instance` or `spectral`.
        generator_rate: Learning rate of the generator.
        critic_rate: Learning rate of the discriminator.
        beta_1: Adam's first moment decay.
        beta_2: Adam's second moment decay.
        l1_weight: Weight of the L1 distance of `l1_pool` averages.
        l1_pool: Side in pixels of the averages that L1 compares; finer detail is left to the
            discriminator.
        fine_l1_weight: Weight of the per-pixel L1 distance.
        feature_weight: Weight of feature matching.
        ema: Decay per step of the weight average that is shipped.
        precision: `float32`, `bfloat16` or `float16`: what convolutions compute in; `auto`,
            until a run starts, for what the device is fast in.
        seed: Decides initial weights, order, crops and noise.
        preset: `local`, `cleaner`, `pix2pix` or `seed`.
        init: Name or folder of the bundle that the generator starts from; empty for random
            weights.
        decay_from: Share of the steps after which the learning rate falls, to zero at the end.
        mirror: Whether pairs are mirrored left to right at random.
        jitter: Whether maps are changed as tile servers and formats do (`pairs.jitter`).
        antialias: Whether a resize averages what it leaves out; the classic notebook takes the
            nearest pixel.
        unet_base: Channels of a U-Net's first layer.
        deterministic: Whether every operation is repeatable bit by bit, which is slower.
        annotate: Share of the crops over whose map labels are drawn, 0..1; the discriminator
            always sees the map without them.
        critic_scales: 1, or 2 for a second discriminator that sees everything at half size.
        critic_sees: `palette` (the image and the map as the generator's palette encodes it),
            `late` (the same, the map only from a quarter of the resolution on) or `image` (the
            image alone).
        critic_translate: Most pixels by which what the discriminator sees is moved at random,
            against late overfitting (Zhao et al. 2020, arXiv 2006.10738); 0 for none.
        smooth: Whether the generator smooths after each pixel shuffle and starts it even.
        deep_noise: Whether noise enters every second block of the generator, not only the first.
        coarse_rgb: Whether the generator makes colours at every resolution, not the full one alone.
        cleaner: Dilations of the generator's part that takes labels off the map; none without.
        cleaner_width: Channels of that part.
        keep_cleaner: Whether that part stays as it is while the others learn: a step takes less
            time, and the preset `cleaner` can catch up.
        deep: Dilations of its blocks at an eighth of the resolution; none without.
        deep_width: Channels of those.
        critic_photo: Whether heads of the discriminator judge features of a network that learned
            from photos (`networks.photo_features`).
        photo_weight: Weight of the L1 distance of these features from the real photo's; 0 for
            none.
        grid_weight: Weight of the faint grid that the generator's upsampling leaves
            (`step.grid_of`, `step.squares_of`); 0 for none.
        exposure: Factor of the dark tones of the photos that are learned from; bright ones change
            less (`training.pairs.exposed`).
    """

    data: str
    map_side: str = "right"
    style: str = "maps"
    steps: int = 10_000
    batch_size: int = 4
    crop: int = 384
    loss_crop: int = 320
    resize: int = 0
    width: int = 80
    dilations: tuple[int, ...] = (1, 2, 4, 1, 2, 4)
    colours: int = 16
    critic_base: int = 48
    critic_norm: str = "instance"
    generator_rate: float = 2e-4
    critic_rate: float = 4e-4
    beta_1: float = 0.5
    beta_2: float = 0.99
    l1_weight: float = 5.0
    l1_pool: int = 8
    fine_l1_weight: float = 2.0
    feature_weight: float = 2.0
    ema: float = 0.999
    precision: str = "bfloat16"
    seed: int = 0
    preset: str = "local"
    init: str = ""
    decay_from: float = 0.5
    mirror: bool = False
    jitter: bool = True
    antialias: bool = True
    unet_base: int = 64
    deterministic: bool = False
    annotate: float = 0.0
    critic_scales: int = 1
    critic_sees: str = "palette"
    critic_translate: int = 0
    smooth: bool = True
    deep_noise: bool = True
    coarse_rgb: bool = True
    cleaner: tuple[int, ...] = ()
    cleaner_width: int = 64
    keep_cleaner: bool = False
    deep: tuple[int, ...] = ()
    deep_width: int = 128
    critic_photo: bool = False
    photo_weight: float = 0.0
    grid_weight: float = 0.0
    exposure: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            UsageError: If a value is out of its range.
        """
        sides = (self.crop, self.loss_crop)
        checks = {
            "preset must be local, cleaner, pix2pix or seed": (
                self.preset in ("local", "cleaner", "pix2pix", "seed")
            ),
            "the preset cleaner needs a model to start from (--init) and a cleaner": (
                self.preset != "cleaner" or bool(self.init and self.cleaner)
            ),
            "keep_cleaner needs a model with a cleaner to start from (--init), and preset local": (
                not self.keep_cleaner or bool(self.init and self.cleaner and self.preset == "local")
            ),
            "map_side must be left or right": self.map_side in ("left", "right"),
            "style must be text in one line": self.style.isprintable(),
            "steps and batch_size must be at least 1": min(self.steps, self.batch_size) >= 1,
            "crop and loss_crop must be multiples of 16, loss_crop at least 64, at most crop": (
                not any(side % RADIUS_MULTIPLE for side in sides)
                and MIN_LOSS_CROP <= self.loss_crop <= self.crop
            ),
            "crop and loss_crop of a U-Net must be equal, and a multiple of 256": (
                self.kind == "local"
                or (self.crop == self.loss_crop and self.crop % UNET_MULTIPLE == 0)
            ),
            "resize must be 0 (own pixels) or at least loss_crop (--loss-crop, with --crop)": (
                self.resize == 0 or self.resize >= self.loss_crop
            ),
            f"precision must be one of {', '.join(PRECISIONS)}": self.precision in PRECISIONS,
            "critic_norm must be instance or spectral": self.critic_norm
            in ("instance", "spectral"),
            "learning rates must be finite and above 0": all(
                0 < rate < math.inf for rate in (self.generator_rate, self.critic_rate)
            ),
            "ema must be in 0..1": 0.0 <= self.ema < 1.0,
            "decay_from must be in 0..1": 0.0 <= self.decay_from <= 1.0,
            "l1_pool must divide loss_crop": (
                self.l1_pool >= 1 and self.loss_crop % self.l1_pool == 0
            ),
            "annotate must be in 0..1": 0.0 <= self.annotate <= 1.0,
            "weights must be finite and 0 or more": all(
                0 <= weight < math.inf for weight in self._weights()
            ),
            "beta_1 and beta_2 must be in 0..1": all(
                0 <= beta < 1 for beta in (self.beta_1, self.beta_2)
            ),
            f"width, cleaner_width and deep_width must be 1 to {MAX_WIDTH}": all(
                1 <= width <= MAX_WIDTH
                for width in (self.width, self.cleaner_width, self.deep_width)
            ),
            "exposure must be above 0, at most 4": 0 < self.exposure <= 4,
            f"colours must be 1 to {MAX_COLOURS}": 1 <= self.colours <= MAX_COLOURS,
            f"unet_base must be 1 to {MAX_UNET_BASE}": 1 <= self.unet_base <= MAX_UNET_BASE,
            f"dilations must be 1 to {MAX_BLOCKS} numbers of 1 to {MAX_DILATION}": (
                bool(self.dilations)
                and len(self._blocks()) <= MAX_BLOCKS
                and all(1 <= dilation <= MAX_DILATION for dilation in self._blocks())
            ),
            "critic_base must be at least 1": self.critic_base >= 1,
            "critic_scales must be 1 or 2": self.critic_scales in (1, 2),
            "critic_sees must be palette, late or image": (
                self.critic_sees in ("palette", "late", "image")
            ),
            "critic_translate must be 0 or more, and less than half of loss_crop": (
                0 <= self.critic_translate < self.loss_crop / 2
            ),
            "deterministic needs precision float32 or bfloat16": (
                not self.deterministic or self.precision != "float16"
            ),
            "seed must be in 0..4294967295": 0 <= self.seed < 2**32,
        }
        for message, right in checks.items():
            if not right:
                raise UsageError(f"training configuration: {message}")

    def _weights(self) -> tuple[float, ...]:
        return (
            *(self.l1_weight, self.fine_l1_weight, self.feature_weight),
            *(self.photo_weight, self.grid_weight),
        )

    def _blocks(self) -> tuple[int, ...]:
        return (*self.dilations, *self.cleaner, *self.deep)

    @property
    def photo_features(self) -> bool:
        """Whether the network for features of photos is needed."""
        return self.critic_photo or self.photo_weight > 0

    @property
    def kind(self) -> str:
        """Kind of the generator: `local` or `unet`."""
        return "local" if self.preset in ("local", "cleaner") else "unet"

    @property
    def held_out_resize(self) -> int:
        """Side to which held-out pairs are resized: a whole U-Net window if pairs are resized."""
        return self.crop if self.resize and self.kind == "unet" else self.resize

    @property
    def crops_per_step(self) -> float:
        """Crops of 256 px per step, or their equal in pixels that the losses see."""
        return self.batch_size * (self.loss_crop / 256) ** 2

    def words_for_small_pairs(self, side: int) -> str:
        """Return what to do, beside replacing them, about pairs too small for these crops."""
        if self.kind == "unet":
            return f", or resize them (--resize {self.loss_crop})"
        fitting = side // RADIUS_MULTIPLE * RADIUS_MULTIPLE
        if fitting < MIN_LOSS_CROP:
            return ""
        return f", or train on smaller crops (--loss-crop {fitting} --crop {fitting + 64})"

    def learning_scale(self, step: int) -> float:
        """Return the factor of the learning rates at `step`: 1, then down to 0."""
        left = (self.steps - step) / max(1.0, self.steps * (1.0 - self.decay_from))
        return max(0.0, min(1.0, left)) if self.decay_from < 1.0 else 1.0

    def save(self, path: Path) -> None:
        """Write the configuration as JSON, whole or not at all."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Read what `save` wrote.

        Raises:
            TrainingError: If the file is not such a configuration.
        """
        try:
            values: dict[str, Any] = json.loads(path.read_text())
            # what a file does not have was not there to be chosen
            for name in ("dilations", "cleaner", "deep"):
                if name in values:
                    values[name] = tuple(values[name])
            return cls(**values)
        except (OSError, ValueError, TypeError) as error:
            raise TrainingError(f"{path} is not a training configuration: {error}") from error

    def differences(self, other: TrainConfig) -> list[str]:
        """Return one line per value in which the two differ; two ways to one folder do not."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        for values in (mine, theirs):
            values["data"] = str(Path(values["data"]).resolve())
        return [f"{key}: {mine[key]} != {theirs[key]}" for key in mine if mine[key] != theirs[key]]
