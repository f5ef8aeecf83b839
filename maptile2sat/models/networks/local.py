"""The `local` generator: finite receptive field, no window statistics, noise from the world.

Its output pixel is a pure function of the map within `radius` pixels, the world coordinate
(through the noise) and the weights: what makes mosaics seamless.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from maptile2sat.models.noise import COARSE_OCTAVES, COARSE_STEP

STRIDE = COARSE_STEP
"""Pixels per step of the generator's main resolution."""

CLEANER_CODE = 16
"""Channels, at half resolution, in which a cleaner says what is where."""


@dataclass(frozen=True)
class LocalConfig:
    """Architecture of a `local` generator.

    Attributes:
        palette: Start values of the learned map colours, 0..255 each.
        width: Channels at quarter resolution.
        dilations: Dilation of the 3x3 convolution of each residual block.
        half_width: Channels at half resolution.
        full_width: Channels at full resolution.
        seed: Seed of the initial weights.
        smooth: Whether each pixel shuffle starts even (ICNR) and is blurred by [1 2 1].
        deep_noise: Whether coarse noise enters every second block, not only the first. Fine
            noise enters with the map, at full resolution and folded.
        coarse_rgb: Whether the colours are a sum of those that each resolution makes, not of the
            full one alone.
        cleaner: Dilations of the blocks, at quarter resolution, of the part that takes labels off
            the map before anything else looks at it; none without.
        cleaner_width: Its channels.
        deep: Dilations of the blocks at an eighth of the resolution, in the middle of the others;
            none without.
        deep_width: Their channels.
        look_width: Channels to which a pixel's classes and colour are brought.
    """

    palette: list[list[float]] = field(default_factory=list)
    width: int = 80
    dilations: tuple[int, ...] = (1, 2, 4, 1, 2, 4)
    half_width: int = 32
    full_width: int = 16
    seed: int = 0
    smooth: bool = True
    deep_noise: bool = True
    coarse_rgb: bool = True
    cleaner: tuple[int, ...] = ()
    cleaner_width: int = 64
    deep: tuple[int, ...] = ()
    deep_width: int = 128
    look_width: int = 8


def build_local(config: LocalConfig, precision: str = "float32") -> Any:
    """Build the generator.

    Args:
        config: Its architecture.
        precision: `float32`, `bfloat16` or `float16`: what convolutions compute in.

    Returns:
        A functional Keras model with inputs `map` (N, H, W, 3) in 0..255, `fine`
        (N, H, W, 1) and `coarse` (N, H/4, W/4, 3) raw integer noise as floats or integers,
        and output (N, H, W, 3) float32 in -1..1. H and W are multiples of 4, with `deep` of 8.
    """
    return _Builder(config, precision).build()


def is_cleaner(layer: str) -> bool:
    """Return whether a layer belongs to the part that takes labels off the map."""
    return layer.startswith("clean")


def split_at_look(model: Any) -> tuple[Any, Any]:
    """Cut a generator where a pixel has been looked at, but not yet its neighbours.

    Args:
        model: What `build_local` returned.

    Returns:
        Two models that share its weights: from `map` to the look of each pixel, and from
        [look, `fine`, `coarse`] to the image.
    """
    import keras

    image, fine, coarse = model.inputs
    look = model.get_layer("look").output
    return keras.Model(image, look), keras.Model([look, fine, coarse], model.output)


class _Builder:
    """Holds what every layer of one generator shares: dtype and a running seed."""

    def __init__(self, config: LocalConfig, precision: str) -> None:
        self.config = config
        self.policy = precision if precision == "float32" else f"mixed_{precision}"
        self.seed = config.seed

    def build(self) -> Any:
        import keras

        from maptile2sat.models.networks import cleaning, layers

        image = keras.Input((None, None, 3), name="map")
        fine = keras.Input((None, None, 1), name="fine")
        coarse = keras.Input((None, None, len(COARSE_OCTAVES)), name="coarse")
        grain = layers.NoiseScale(name="grain", dtype="float32")(fine)
        clouds = layers.NoiseScale(name="clouds", dtype="float32")(coarse)
        classes = layers.PaletteEncoding(self.config.palette, name="palette")(image)
        colour = layers.ColourScale(name="colour", dtype="float32")(image)
        look = keras.layers.Concatenate(name="looks", dtype=self.policy)([classes, colour])
        look = self._conv(look, self.config.look_width, 1, "look")
        if self.config.cleaner:
            parts = [look, *self._cleaner(look)]
            look = cleaning.Cleaned(name="cleaned", dtype=self.policy)(parts)
        seen = keras.layers.Concatenate(name="seen", dtype=self.policy)([look, grain])
        quarter = self._trunk(seen, clouds)
        half = self._upsampled(quarter, self.config.half_width, "half")
        skip = self._conv(seen, self.config.full_width, 1, "skip")
        half = self._conv(self._act(half, "half_act"), 2 * self.config.half_width, 3, "half_conv")
        half = self._act(half, "half_act2")
        full = self._upsampled(half, self.config.full_width, "full")
        full = keras.layers.Add(name="full_skip", dtype=self.policy)([full, skip])
        full = self._conv(self._act(full, "full_act"), self.config.full_width, 3, "full_conv")
        rgb = self._conv(self._act(full, "full_act2"), 3, 3, "rgb_full", small=True)
        if self.config.coarse_rgb:
            rgb = self._with_coarser(rgb, half, quarter)
        out = keras.layers.Activation("tanh", name="image", dtype="float32")(rgb)
        return keras.Model([image, fine, coarse], out, name="local")

    def _with_coarser(self, rgb: Any, half: Any, quarter: Any) -> Any:
        """Add the colours that the coarser resolutions make."""
        import keras

        low = self._doubled(self._conv(quarter, 3, 1, "rgb_quarter", small=True), "rgb_quarter")
        middle = self._conv(half, 3, 1, "rgb_half", small=True)
        low = keras.layers.Add(name="rgb_coarse", dtype=self.policy)([low, middle])
        low = self._doubled(low, "rgb_coarse")
        return keras.layers.Add(name="rgb", dtype="float32")([low, rgb])

    def _trunk(self, seen: Any, clouds: Any) -> Any:
        """Fold to quarter resolution and run the residual blocks."""
        from maptile2sat.models.networks import layers

        width, dilations = self.config.width, self.config.dilations
        x = self._folded(seen, width, STRIDE, "stem")
        for index, dilation in enumerate(dilations):
            noisy = index == 0 or (self.config.deep_noise and index % 2 == 0)
            x = self._block(x, f"block{index}", dilation, clouds if noisy else None)
            if self.config.deep and index == (len(dilations) - 1) // 2:
                x = self._deepened(x, clouds)
        return layers.ChannelNorm(name="trunk_norm", dtype=self.policy)(x)

    def _deepened(self, x: Any, clouds: Any) -> Any:
        """Add what blocks at half of the trunk's resolution make of it."""
        import keras

        from maptile2sat.models.networks import layers

        y = layers.ChannelNorm(name="deep_norm", dtype=self.policy)(x)
        y = self._folded(y, self.config.deep_width, 2, "deep_stem")
        far = self._folded(clouds, clouds.shape[-1], 2, "deep_clouds")
        for index, dilation in enumerate(self.config.deep):
            y = self._block(y, f"deep{index}", dilation, None if index % 2 else far)
        y = layers.ChannelNorm(name="deep_out_norm", dtype=self.policy)(y)
        y = self._upsampled(y, self.config.width, "deep")
        return keras.layers.Add(name="deep_add", dtype=self.policy)([x, y])

    def _cleaner(self, look: Any) -> list[Any]:
        """Return how much of a look is to be replaced, and by what, as for `cleaning.Cleaned`.

        What is under a label is one of the palette's classes and looks as that, or "unknown" and
        looks as what is around: a palette has not every colour of a map.
        """
        from maptile2sat.models.networks import cleaning, layers

        given = cleaning.Held(name="clean_look", dtype=self.policy)(look)
        x = self._folded(given, self.config.cleaner_width, STRIDE, "clean_stem")
        for index, dilation in enumerate(self.config.cleaner):
            x = self._block(x, f"clean{index}", dilation, None)
        x = layers.ChannelNorm(name="clean_norm", dtype=self.policy)(x)
        # at half resolution: finer, so few channels do not hold it
        x = self._conv(x, 4 * CLEANER_CODE, 1, "clean_code_folded")
        x = layers.DepthToSpace(2, name="clean_code_half", dtype=self.policy)(x)
        code = layers.Double(name="clean_code", dtype=self.policy)(x)
        classes = self._conv(code, len(self.config.palette) + 1, 1, "clean_classes")
        choice = cleaning.Choice(name="clean_choice", dtype=self.policy)(classes)
        known = self._conv(choice, look.shape[-1], 1, "clean_made")
        other = self._conv(code, look.shape[-1], 1, "clean_other", none=True)
        made = cleaning.Filling(name="clean_fill", dtype=self.policy)([choice, known, other])
        near = self._conv(code, 1, 1, "clean_near")
        suspicion = cleaning.Suspicion(name="clean_share", dtype=self.policy)
        return [suspicion([given, made, near]), made]

    def _block(self, x: Any, name: str, dilation: int, clouds: Any) -> Any:
        """Add to `x` what a residual block makes of it, with noise unless `clouds` is None."""
        import keras

        from maptile2sat.models.networks import layers

        width = x.shape[-1]
        y = layers.ChannelNorm(name=f"{name}_norm", dtype=self.policy)(x)
        y = self._conv(y, width, 3, f"{name}_conv", dilation=dilation)
        if clouds is not None:
            noise = self._conv(clouds, width, 1, f"{name}_noise", small=True)
            y = keras.layers.Add(name=f"{name}_noisy", dtype=self.policy)([y, noise])
        y = self._conv(self._act(y, f"{name}_act"), width, 1, f"{name}_out", small=True)
        return keras.layers.Add(name=f"{name}_add", dtype=self.policy)([x, y])

    def _folded(self, x: Any, width: int, block: int, name: str) -> Any:
        """Bring squares of `block` pixels to one of `width` channels."""
        import keras

        from maptile2sat.models.networks import layers

        self.seed += 1
        start = keras.initializers.HeNormal(seed=self.seed)
        return layers.FoldConv(width, block, start, name=name, dtype=self.policy)(x)

    def _upsampled(self, x: Any, width: int, name: str) -> Any:
        """Double the resolution: 3x3 convolution, pixel shuffle, blur unless not `smooth`."""
        from maptile2sat.models.networks import layers

        smooth = self.config.smooth
        x = self._conv(x, 4 * width, 3, f"{name}_up", shuffle=smooth)
        x = layers.DepthToSpace(2, name=f"{name}_shuffle", dtype=self.policy)(x)
        if not smooth:
            return x
        return layers.Blur(name=f"{name}_blur", dtype=self.policy)(x)

    def _doubled(self, rgb: Any, name: str) -> Any:
        """Bring colours smoothly to twice the resolution."""
        from maptile2sat.models.networks import layers

        return layers.Double(name=f"{name}_double", dtype=self.policy)(rgb)

    def _act(self, x: Any, name: str) -> Any:
        from maptile2sat.models.networks import layers

        return layers.LeakyReLU(negative_slope=0.2, name=name, dtype=self.policy)(x)

    def _conv(
        self,
        x: Any,
        filters: int,
        size: int,
        name: str,
        dilation: int = 1,
        small: bool = False,
        shuffle: bool = False,
        none: bool = False,
    ) -> Any:
        import keras

        from maptile2sat.models.networks import layers

        self.seed += 1
        if none:
            start: Any = keras.initializers.Zeros()
        elif small:
            start = keras.initializers.VarianceScaling(0.1, seed=self.seed)
        elif shuffle:
            start = layers.IcnrInitializer(2, self.seed)
        else:
            start = keras.initializers.HeNormal(seed=self.seed)
        return layers.Conv(filters, size, start, dilation=dilation, name=name, dtype=self.policy)(x)
