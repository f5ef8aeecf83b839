# ruff: noqa: E402
"""Networks: the sizes that the papers state, and a receptive field that is really finite."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from maptile2sat.geo.grid import Window
from maptile2sat.models.device import load_tensorflow
from tests.support_render import PALETTE, input_of, random_map, tiny_model

tf = load_tensorflow()

from keras.layers import BatchNormalization, Conv2D, Conv2DTranspose
from keras.layers import LeakyReLU as PlainLeakyReLU

from maptile2sat.models.networks.discriminators import (
    SpectralConv,
    build_patch_critic,
    build_pix2pix_critic,
    build_seed_discriminator,
)
from maptile2sat.models.networks.layers import (
    BatchNorm,
    Blur,
    ChannelNorm,
    Conv,
    DepthToSpace,
    Double,
    FoldConv,
    IcnrInitializer,
    InstanceNorm,
    LeakyReLU,
    PaletteEncoding,
)
from maptile2sat.models.networks.local import LocalConfig, build_local
from maptile2sat.models.networks.products import ProductConv2D, ProductConv2DTranspose
from maptile2sat.models.networks.receptive_field import ReceptiveField, receptive_field
from maptile2sat.models.networks.unet import UnetConfig, build_unet

Floats = npt.NDArray[np.float32]


def counts(model: Any) -> tuple[int, int, int]:
    """Return (all, trainable, not trainable) parameters."""
    sizes = [
        sum(int(np.prod(weight.shape)) for weight in weights)
        for weights in (model.weights, model.trainable_weights, model.non_trainable_weights)
    ]
    return sizes[0], sizes[1], sizes[2]


@functools.cache
def classic_unet() -> Any:
    return build_unet()


def test_unet_has_the_parameters_of_the_seed() -> None:
    assert counts(classic_unet()) == (54_425_859, 54_414_979, 10_880)


def test_unet_layers() -> None:
    model = classic_unet()
    assert model.input.shape == (None, 256, 256, 3)
    assert model.output.shape == (None, 256, 256, 3)
    down = [model.get_layer(f"down{index}") for index in range(8)]
    assert [layer.filters for layer in down] == [64, 128, 256, 512, 512, 512, 512, 512]
    assert [model.get_layer(f"up{index}").filters for index in range(7)] == (
        [512, 512, 512, 512, 256, 128, 64]
    )
    assert not any(layer.use_bias for layer in down)
    assert "down0_norm" not in {layer.name for layer in model.layers}
    assert model.get_layer("rgb").use_bias
    slopes = {layer.negative_slope for layer in model.layers if type(layer).__name__ == "LeakyReLU"}
    assert {round(slope, 6) for slope in slopes} == {0.2}
    assert sum(type(layer).__name__ == "Dropout" for layer in model.layers) == 3


def test_unet_receptive_field() -> None:
    assert receptive_field(classic_unet()).radius == 765


def test_unet_at_256_has_one_bottleneck_pixel() -> None:
    assert classic_unet().get_layer("down7").output.shape == (None, 1, 1, 512)


def test_seed_discriminator() -> None:
    model = build_seed_discriminator()
    total, _, fixed = counts(model)
    assert (total, fixed) == (2_770_433, 1_792)
    assert model.output.shape == (None, 7, 7, 1)
    blank = np.zeros((1, 256, 256, 3), np.float32)
    score = np.asarray(model([blank, blank]))
    assert score.shape == (1, 7, 7, 1)
    assert (score > 0).all()
    assert (score < 1).all()


def test_default_local_generator() -> None:
    model = build_local(LocalConfig(palette=PALETTE))
    field = receptive_field(model)
    assert field.radius <= 72
    assert field.stride == 4
    assert field.halo % field.stride == 0
    assert 0 <= field.halo - field.radius < field.stride


DILATIONS = [(1,), (1, 2, 4), (4, 1), (1, 2, 8), (3, 5)]


def beyond(centre: tuple[int, int], radius: int, side: int) -> npt.NDArray[np.bool_]:
    """Return which pixels of a square lie more than `radius` from `centre`."""
    away = [np.abs(np.arange(side) - place) for place in centre]
    return np.maximum(away[0][:, None], away[1][None, :]) > radius


def changed_outside(inputs: list[Any], centre: tuple[int, int], radius: int) -> list[Any]:
    """Return the inputs with everything outside the radius replaced."""
    random = np.random.default_rng(77)
    image, fine, coarse = (np.array(part) for part in inputs)
    outside = beyond(centre, radius, image.shape[1])
    image[0, outside] = random.integers(0, 256, (int(outside.sum()), 3))
    fine[0, outside] = random.integers(-510, 511, (int(outside.sum()), 1))
    # a value of coarse noise is outside if all of its pixels are
    side = coarse.shape[1]
    wholly = outside.reshape(side, 4, side, 4).all((1, 3))
    coarse[0, wholly] = random.integers(-510, 511, (int(wholly.sum()), coarse.shape[-1]))
    return [image, fine, coarse]


def impulse(model: Any, field: ReceptiveField) -> tuple[int, int]:
    """Return how many pixel phases change, at the radius and one stride within it."""
    side = 2 * field.halo + 16
    window = Window(4096, 8192, side, side)
    inputs = input_of(random_map(window), window)
    run = tf.function(lambda *parts: model(parts, training=False))
    before = np.asarray(run(*inputs))[0]
    at_radius = within = 0
    middle = side // 2
    phases = [(dy, dx) for dy in range(4) for dx in range(4)]
    for dy, dx in phases:
        row, col = middle + dy, middle + dx
        for radius in (field.radius, field.radius - field.stride):
            after = np.asarray(run(*changed_outside(inputs, (row, col), radius)))[0]
            differs = bool((after[row, col] != before[row, col]).any())
            if radius == field.radius:
                at_radius += differs
            else:
                within += differs
    return at_radius, within


@pytest.mark.parametrize(
    ("dilations", "precision"),
    [
        *((dilations, "float32") for dilations in DILATIONS),
        (DILATIONS[1], "bfloat16"),
        *(
            pytest.param(at, "bfloat16", marks=pytest.mark.slow)
            for at in DILATIONS
            if at[1:] != (2, 4)
        ),
    ],
    ids=str,
)
def test_impulse_confirms_the_radius(dilations: tuple[int, ...], precision: str) -> None:
    model = tiny_model(precision, dilations=dilations)
    field = receptive_field(model)
    assert field.stride == 4
    at_radius, within = impulse(model, field)
    assert at_radius == 0
    # bfloat16 rounds away what a far pixel adds, now and then
    assert within == 16 if precision == "float32" else within > 0


@pytest.mark.parametrize(
    "changes",
    [{"cleaner": (1, 2)}, {"deep": (1, 2)}, {"cleaner": (2,), "deep": (1,)}],
    ids=str,
)
def test_impulse_confirms_the_radius_of_every_part(changes: dict[str, Any]) -> None:
    model = tiny_model(dilations=(1, 2), cleaner_width=8, deep_width=8, **changes)
    field = receptive_field(model)
    assert field.stride == (8 if "deep" in changes else 4)
    assert field.radius > receptive_field(tiny_model(dilations=(1, 2))).radius
    at_radius, within = impulse(model, field)
    assert at_radius == 0
    assert within > 0


def test_radius_grows_with_the_dilations() -> None:
    radii = {
        dilations: receptive_field(tiny_model(dilations=dilations)).radius
        for dilations in [(1,), (1, 1), (1, 2)]
    }
    # one step at quarter resolution is four pixels
    assert radii[1, 1] - radii[1,] == 4
    assert radii[1, 2] - radii[1,] == 8


def test_default_radius_by_impulse() -> None:
    model = tiny_model(dilations=LocalConfig().dilations, width=8)
    field = receptive_field(model)
    assert field == receptive_field(build_local(LocalConfig(palette=PALETTE)))
    at_radius, within = impulse(model, field)
    assert at_radius == 0
    assert within == 16


def test_noise_inputs_lie_within_the_radius() -> None:
    """Each input alone matters, near the pixel."""
    model = tiny_model()
    field = receptive_field(model)
    side = 2 * field.halo + 16
    window = Window(0, 0, side, side)
    inputs = input_of(random_map(window), window)
    middle = (side // 2, side // 2)
    before = np.asarray(model(inputs))[0]
    other = changed_outside(inputs, middle, -1)
    for index in range(3):
        mixed = [other[i] if i == index else inputs[i] for i in range(3)]
        after = np.asarray(model(mixed))[0]
        assert np.abs(after[middle] - before[middle]).max() > 1e-3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_window_and_batch_do_not_matter(precision: str) -> None:
    """A shifted window and another place in a batch give the same bits."""
    model = tiny_model(precision)
    halo = receptive_field(model).halo
    outer = Window(1024, 2048, 2 * halo + 128, 2 * halo + 128)
    inner = Window(outer.col + 24, outer.row + 44, 2 * halo + 64, 2 * halo + 64)
    image = random_map(outer)
    rows, cols = inner.slices(outer)
    whole = np.asarray(model(input_of(image, outer)))[0]
    alone_input = input_of(image[rows, cols], inner)
    alone = np.asarray(model(alone_input))[0]
    core = slice(halo, halo + 64)
    cut = whole[rows, cols][core, core]
    np.testing.assert_array_equal(alone[core, core], cut)
    batch = [np.concatenate([part[:, ::-1], part]) for part in alone_input]
    second = np.asarray(model(batch))[1]
    np.testing.assert_array_equal(second[core, core], cut)


def test_output_is_an_image() -> None:
    model = tiny_model()
    window = Window(0, 0, 64, 48)
    made = np.asarray(model(input_of(random_map(window), window)))
    assert made.shape == (1, 48, 64, 3)
    assert made.dtype == np.float32
    assert np.abs(made).max() < 1
    assert made.std() > 0.1


def test_layer_without_rule_is_an_error() -> None:
    import keras

    given = keras.Input((None, None, 3))
    model = keras.Model(given, keras.layers.Cropping2D(1, name="cropping")(given))
    with pytest.raises(TypeError, match="cropping"):
        receptive_field(model)


def test_icnr_starts_as_nearest_neighbour() -> None:
    layer = Conv(4 * 5, 3, IcnrInitializer(2, 3))
    shuffled = np.asarray(DepthToSpace(2)(layer(random_floats((1, 9, 7, 6)))))[0]
    assert shuffled.shape == (18, 14, 5)
    blocks = shuffled.reshape(9, 2, 7, 2, 5)
    # on some processors the sum of one channel runs in another order than that of the next
    nearest = np.broadcast_to(blocks[:, :1, :, :1], blocks.shape)
    np.testing.assert_allclose(blocks, nearest, rtol=0, atol=1e-5)
    assert blocks.std() > 0.1


def random_floats(shape: tuple[int, ...]) -> Floats:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_fold_and_unfold_are_inverse() -> None:
    x = random_floats((2, 8, 12, 3))
    fold = FoldConv(48, 4, lambda shape, dtype: np.eye(48)[None, None])
    np.testing.assert_array_equal(DepthToSpace(4)(fold(x)), x)


def test_doubling_is_repetition_and_blur() -> None:
    x = random_floats((2, 8, 12, 3))
    repeated = x.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(Double()(x), Blur()(repeated), atol=1e-6)


def test_blur_keeps_a_constant_and_removes_a_checkerboard() -> None:
    constant = np.full((1, 9, 9, 2), 3.0, np.float32)
    np.testing.assert_allclose(np.asarray(Blur()(constant))[:, 1:-1, 1:-1], 3.0)
    board = np.indices((10, 10)).sum(0)[None, ..., None] % 2 * 2.0 - 1.0
    blurred = np.asarray(Blur()(board.astype(np.float32)))
    np.testing.assert_allclose(blurred[:, 1:-1, 1:-1], 0.0, atol=1e-6)


def test_palette_encoding_sorts_colours() -> None:
    layer = PaletteEncoding(PALETTE)
    colours = np.array([*PALETTE, [255, 0, 255]], np.float32)
    classes = np.asarray(layer(colours[None, None]))[0, 0]
    assert classes.shape == (len(PALETTE) + 1, len(PALETTE) + 1)
    np.testing.assert_allclose(classes.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(classes.argmax(-1), np.arange(len(PALETTE) + 1))


def test_palette_sharpness_is_capped() -> None:
    layer = PaletteEncoding(PALETTE)
    near = np.array([[[PALETTE[0], [236.0, 232.0, 224.0]]]], np.float32)
    layer(near)
    layer.sharpness.assign(np.full(len(PALETTE), PaletteEncoding.MAX_SHARPNESS, np.float32))
    capped = np.asarray(layer(near))
    layer.sharpness.assign(np.full(len(PALETTE), 1e6, np.float32))
    np.testing.assert_array_equal(layer(near), capped)


def test_channel_norm_looks_at_one_pixel() -> None:
    x = random_floats((1, 6, 6, 8))
    layer = ChannelNorm()
    before = np.asarray(layer(x))
    np.testing.assert_allclose(np.sqrt((before**2).mean(-1)), 1.0, atol=1e-2)
    y = x.copy()
    y[0, 2, 3] *= -7
    after = np.asarray(layer(y))
    same = np.ones((6, 6), bool)
    same[2, 3] = False
    np.testing.assert_array_equal(after[0, same], before[0, same])


def test_instance_norm_is_per_image() -> None:
    x = random_floats((2, 8, 8, 4)) * 3 + 5
    layer = InstanceNorm()
    both = np.asarray(layer(x))
    np.testing.assert_allclose(both.mean((1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(both.std((1, 2)), 1.0, atol=1e-3)
    np.testing.assert_allclose(np.asarray(layer(x[1:]))[0], both[1], atol=1e-6)


def test_unet_with_instance_norm_takes_the_same_weights() -> None:
    """Only the moving statistics are left out, which a render does not use."""
    from maptile2sat.models.generator import get_weights

    classic = {name: array.shape for name, array in get_weights(classic_unet()).items()}
    render = build_unet(UnetConfig(norm="instance"))
    assert {name: array.shape for name, array in get_weights(render).items()} == classic


def test_patch_critic() -> None:
    for norm in ("instance", "spectral"):
        critic = build_patch_critic(10, base=8, norm=norm)
        *features, logits = critic(random_floats((2, 96, 96, 10)))
        assert [tuple(part.shape) for part in features] == [
            (2, 24, 24, 16),
            (2, 12, 12, 32),
            (2, 12, 12, 64),
        ]
        assert logits.shape == (2, 12, 12, 1)
        assert logits.dtype == tf.float32
        assert receptive_patch(norm) == 70


def receptive_patch(norm: str) -> int:
    """Return the side of what one logit of a critic sees, from its convolutions."""
    critic = build_patch_critic(10, base=8, norm=norm)
    side = 1
    for name in ("logits", "conv3", "conv2", "conv1", "conv0"):
        strides = critic.get_layer(name).strides
        stride = strides if isinstance(strides, int) else strides[0]
        side = (side - 1) * stride + 4
    return side


def spectral(iterations: int) -> tuple[SpectralConv, Floats]:
    layer = SpectralConv(12, 4, 2, seed=3)
    x = random_floats((2, 16, 16, 5))
    layer(x)
    for _ in range(iterations):
        layer(x, training=True)
    return layer, x


def used_kernel(layer: SpectralConv, x: Floats) -> Floats:
    """Return the kernel that the layer really applies, solved from its answers."""
    basis = np.eye(4 * 4 * x.shape[-1], dtype=np.float32).reshape(-1, 4, 4, x.shape[-1])
    padded = np.zeros((len(basis), 8, 8, x.shape[-1]), np.float32)
    padded[:, 1:5, 1:5] = basis  # "same" padding of a 4x4 at stride 2 puts one pixel in front
    answer = np.asarray(layer(padded))[:, 1, 1]
    return answer - np.asarray(layer.bias)


def test_spectral_norm_is_one() -> None:
    layer, x = spectral(60)
    layer.kernel.assign(3.0 * layer.kernel)
    largest = np.linalg.svd(used_kernel(layer, x), compute_uv=False)[0]
    assert largest == pytest.approx(1.0, abs=2e-3)
    raw = np.asarray(layer.kernel).reshape(-1, layer.filters)
    assert np.linalg.svd(raw, compute_uv=False)[0] > 2  # so there was something to do


def test_spectral_norm_keeps_its_kernel_and_advances_in_training_only() -> None:
    layer, x = spectral(1)
    kernel, vector = np.asarray(layer.kernel).copy(), np.asarray(layer.vector).copy()
    layer(x)
    np.testing.assert_array_equal(layer.vector, vector)
    layer(x, training=True)
    assert not np.array_equal(layer.vector, vector)
    np.testing.assert_array_equal(layer.kernel, kernel)
    assert [weight.name for weight in layer.trainable_weights] == ["kernel", "bias"]


def test_spectral_norm_does_not_see_the_kernels_scale() -> None:
    layer, x = spectral(5)
    before = np.asarray(layer(x))
    layer.kernel.assign(4.0 * layer.kernel)
    np.testing.assert_allclose(layer(x), before, rtol=1e-5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    slope = np.asarray(tape.gradient(loss, layer.kernel))
    # growing the kernel changes nothing, so the gradient has no part along it
    along = abs((slope * np.asarray(layer.kernel)).sum())
    assert along < 1e-3 * np.linalg.norm(slope) * np.linalg.norm(layer.kernel)


@pytest.mark.parametrize("shape", [(2, 8, 16, 6), (3, 2, 2, 6), (1, 16, 16, 3)])
@pytest.mark.parametrize(
    "kinds", [(Conv2D, ProductConv2D), (Conv2DTranspose, ProductConv2DTranspose)]
)
def test_products_are_convolutions(shape: tuple[int, ...], kinds: tuple[Any, Any]) -> None:
    """Values and gradients are those of Keras' layers."""
    random = np.random.default_rng(3)
    x = tf.constant(random.normal(size=shape), tf.float32)
    plain, product = kinds[0](5, 4, 2, "same", use_bias=False), kinds[1](5)
    found = []
    for layer in (plain, product):
        layer(x)
        layer.set_weights(
            [random.normal(size=plain.kernel.shape)] if layer is plain else plain.get_weights()
        )
        with tf.GradientTape() as tape:
            tape.watch(x)
            made = layer(x)
            loss = tf.reduce_sum(made**2)
        found.append([made, *tape.gradient(loss, [x, layer.kernel.value])])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-2 * np.abs(one).mean())


@pytest.mark.parametrize("shape", [(2, 8, 16, 6), (3, 1, 1, 6), (1, 1, 1, 6)])
def test_fused_batch_norm_is_that_of_keras(shape: tuple[int, ...]) -> None:
    x = tf.constant(np.random.default_rng(4).normal(2, 3, shape), tf.float32)
    layers = (BatchNormalization(momentum=0.5), BatchNorm(momentum=0.5))
    for training in (True, True, False):
        one, other = (np.asarray(layer(x, training=training)) for layer in layers)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    for one, other in zip(*(layer.get_weights() for layer in layers), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_instance_norm_looks_at_one_image_alone() -> None:
    x = np.random.default_rng(5).normal(2, 3, (3, 8, 8, 4)).astype(np.float32)
    layer = InstanceNorm()
    together = np.asarray(layer(x))
    for index in range(3):
        np.testing.assert_array_equal(np.asarray(layer(x[index : index + 1]))[0], together[index])
    np.testing.assert_allclose(together.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(together.std((1, 2)), 1, atol=1e-3)


def test_pix2pix_critic_is_that_of_the_paper() -> None:
    """30x30 logits, each of which sees 70 px (Isola et al. 2017)."""
    model = build_pix2pix_critic()
    assert model.output.shape == (None, 30, 30, 1)
    random = np.random.default_rng(6)
    drawn, image = random.uniform(-1, 1, (2, 1, 256, 256, 3)).astype(np.float32)
    assert np.asarray(model([drawn, image])).min() < 0
    kernels = [layer for layer in model.layers if isinstance(layer, Conv2D)]
    reach = 1
    for layer in reversed(kernels):
        reach = (reach - 1) * layer.strides[0] + 4
    assert reach == 70
    assert [layer.filters for layer in kernels] == [64, 128, 256, 512, 1]


def test_leaky_relu_is_that_of_keras() -> None:
    x = tf.constant([-3.0, -0.5, 0.0, 0.5, 2.0])
    found = []
    for layer in (PlainLeakyReLU(0.2), LeakyReLU(0.2)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            made = layer(x)
        found.append([np.asarray(made), np.asarray(tape.gradient(made, x))])
    np.testing.assert_array_equal(found[0], found[1])


def test_dilated_convolution_is_trained_as_it_is_used() -> None:
    layer = Conv(4, 3, "glorot_uniform", dilation=3)
    image = tf.random.stateless_normal((2, 13, 17, 5), seed=(1, 2))
    used = layer(image, training=False)
    np.testing.assert_allclose(layer(image, training=True), used, rtol=1e-4, atol=1e-5)


def test_gradient_needs_no_onednn() -> None:
    """TensorFlow leaves it off without AVX-512, and has no dilated gradients of its own."""
    code = """
from maptile2sat.models.device import load_tensorflow
tf = load_tensorflow()
from maptile2sat.models.networks.layers import Conv
layer, image = Conv(2, 3, "ones", dilation=2), tf.ones((1, 16, 16, 3))
with tf.GradientTape() as tape:
    tape.watch(image)
    total = tf.reduce_sum(layer(image, training=True))
print(int(tf.reduce_max(tape.gradient(total, image))))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "18", done.stderr
