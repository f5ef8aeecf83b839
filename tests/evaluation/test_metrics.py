"""Each measure of an evaluation against another implementation, a closed form or a known case."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
import scipy.ndimage
import scipy.stats
import skimage.metrics

from maptile2sat.evaluation.fcn import CLASSES, NONE, PALETTES, Confusion, find_style, label
from maptile2sat.evaluation.measure import (
    Figure,
    Measured,
    against_real,
    compare_pixels,
    halve,
    judge,
)
from maptile2sat.evaluation.metrics import (
    correlation_distance,
    draw_patches,
    frechet_distance,
    kernel_distance,
    laplacian_pyramid,
    level_sides,
    log_spectra,
    measure_distortion,
    measure_steps,
    measure_texture,
    noise_response,
    peak,
    power_spectra,
    psnr,
    radial_profile,
    rmse,
    seam_ratio,
    sliced_wasserstein,
    spectrum_distance,
    ssim,
    std_distance,
)

Pixels = npt.NDArray[np.uint8]
SIDE = 256


@functools.cache
def textures(count: int, sigma: float, seed: int) -> Pixels:
    """Return pictures of blurred noise of standard deviation 30; do not change them."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        grain = random.normal(size=(SIDE, SIDE, 3))
        soft = scipy.ndimage.gaussian_filter(grain, (sigma, sigma, 0), mode="wrap")
        made.append(np.clip(120 + 30 * soft / soft.std(), 0, 255).astype(np.uint8))
    return np.stack(made)


def test_ssim_is_that_of_scikit_image() -> None:
    one, other = textures(2, 2.0, 0)
    for picture in (other, np.clip(one.astype(int) + 9, 0, 255).astype(np.uint8)):
        expected = skimage.metrics.structural_similarity(
            one,
            picture,
            data_range=255,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert ssim(one, picture) == pytest.approx(expected, abs=2e-4)
    assert ssim(one, one) == pytest.approx(1.0)


def test_psnr_and_rmse_are_those_of_scikit_image() -> None:
    one, other = textures(2, 2.0, 0)
    expected = skimage.metrics.peak_signal_noise_ratio(one, other, data_range=255)
    assert psnr(other, one) == pytest.approx(expected)
    scaled = [part.astype(np.float64) / 127.5 - 1 for part in (one, other)]
    mse = skimage.metrics.mean_squared_error(*scaled)
    assert rmse(one, other) == pytest.approx(np.sqrt(mse))
    assert psnr(one, one) == 100


def test_l1_of_a_constant_shift_is_the_shift() -> None:
    one = np.full((2, SIDE, SIDE, 3), 100, np.uint8)
    found = measure_distortion(one, one + np.uint8(51))
    assert found["l1"] == pytest.approx([0.4, 0.4])


def test_brightness_of_a_constant_shift_is_the_shift() -> None:
    """Whichever way: halves of other places would differ, were these not all alike."""
    random = np.random.default_rng(0)
    square = random.integers(40, 90, (SIDE, SIDE, 3)).astype(np.uint8)
    real = np.stack([square] * 6)
    halves = halve(range(6), 0)
    for shift in (30, -20):
        made = (real.astype(int) + shift).astype(np.uint8)
        found = compare_pixels(made, real, halves)
        distance = found["brightness"]
        assert (distance.value, distance.floor) == pytest.approx((abs(shift), 0.0), abs=1e-6)
        assert found["brighter"].value == pytest.approx(shift)
    green = real.copy()
    green[..., 1] += 10
    assert compare_pixels(green, real, halves)["brightness"].value == pytest.approx(5.87)


def test_frechet_distance_is_that_of_the_matrix_square_root() -> None:
    random = np.random.default_rng(0)
    one = random.normal(size=(200, 12)) @ random.normal(size=(12, 12))
    other = random.normal(size=(150, 12)) @ random.normal(size=(12, 12)) + 1
    first, second = np.cov(one.T), np.cov(other.T)
    root = scipy.linalg.sqrtm(first @ second).real
    gap = one.mean(0) - other.mean(0)
    expected = gap @ gap + np.trace(first + second - 2 * root)
    assert frechet_distance(one, other) == pytest.approx(expected)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_a_shift_is_its_square() -> None:
    one = np.random.default_rng(0).normal(size=(50, 4))
    assert frechet_distance(one, one + 3) == pytest.approx(36)


def test_frechet_distance_with_fewer_pictures_than_features() -> None:
    random = np.random.default_rng(1)
    one, other = random.normal(size=(2, 8, 40))
    root = scipy.linalg.sqrtm(np.cov(one.T) @ np.cov(other.T)).real
    gap = one.mean(0) - other.mean(0)
    expected = gap @ gap + np.trace(np.cov(one.T) + np.cov(other.T) - 2 * root)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-4)


def test_kernel_distance_is_the_sum_over_pairs() -> None:
    random = np.random.default_rng(2)
    one, other = random.normal(size=(7, 5)), random.normal(1, 1, size=(6, 5))

    def kernel(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
        return float((x @ y / 5 + 1) ** 3)

    within = [
        np.mean([kernel(x, y) for i, x in enumerate(part) for j, y in enumerate(part) if i != j])
        for part in (one, other)
    ]
    across = np.mean([kernel(x, y) for x in one for y in other])
    assert kernel_distance(one, other) == pytest.approx(sum(within) - 2 * across)


def test_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    random = np.random.default_rng(3)
    same = [kernel_distance(*random.normal(size=(2, 30, 8))) for _ in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(60)
    assert min(same) < 0 < max(same)
    assert kernel_distance(random.normal(size=(30, 8)), random.normal(1, 1, (30, 8))) > max(same)


def test_pyramid_levels_are_those_of_scipy_and_add_up() -> None:
    pictures = textures(1, 1.0, 4).astype(np.float32)
    levels = laplacian_pyramid(pictures)
    assert [level.shape[1] for level in levels] == level_sides(SIDE) == [256, 128, 64, 32, 16]
    row = np.array([1, 4, 6, 4, 1]) / 16
    taps = np.outer(row, row)[..., None]
    smaller = scipy.ndimage.convolve(pictures[0], taps, mode="mirror")[::2, ::2]
    large = np.zeros_like(pictures[0])
    large[::2, ::2] = smaller
    enlarged = scipy.ndimage.convolve(large, 4 * taps, mode="mirror")
    np.testing.assert_allclose(levels[0][0], pictures[0] - enlarged, atol=1e-3)


def test_sliced_wasserstein_is_the_mean_of_scipys_distances() -> None:
    random = np.random.default_rng(5)
    one, other = random.normal(size=(2, 6, 8, 7, 7, 3)).astype(np.float32)
    other[..., 0] = other[..., 0] ** 2
    directions = np.random.default_rng([9, 21]).normal(size=(512, 147))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rows = []
    for part in (one, other):
        flat = part.reshape(-1, 49, 3)
        rows.append(((flat - flat.mean((0, 1))) / flat.std((0, 1))).reshape(-1, 147))
    expected = np.mean(
        [scipy.stats.wasserstein_distance(*(row @ place for row in rows)) for place in directions]
    )
    assert sliced_wasserstein(one, other, seed=9) == pytest.approx(1000 * expected, rel=1e-3)


def test_sliced_wasserstein_knows_its_own_and_grows_with_blur() -> None:
    real = np.minimum(textures(4, 1.0, 6), 240)
    mine = draw_patches(real, 0)
    assert [sliced_wasserstein(level, level) for level in mine] == [0] * 5
    shifted = draw_patches(real + np.uint8(9), 0)
    assert sliced_wasserstein(shifted[-1], mine[-1]) == pytest.approx(0, abs=1)
    near = draw_patches(textures(4, 1.1, 7), 0)
    far = draw_patches(textures(4, 3.0, 7), 0)
    assert sliced_wasserstein(far[0], mine[0]) > 1.5 * sliced_wasserstein(near[0], mine[0]) > 0


def test_sliced_wasserstein_of_sets_of_different_size() -> None:
    mine = draw_patches(textures(4, 1.0, 6), 0)[0]
    assert sliced_wasserstein(mine, np.concatenate([mine, mine])) == pytest.approx(0, abs=1)
    assert sliced_wasserstein(mine[:3], mine[:1]) > 0


def test_spectrum_of_white_noise_is_flat() -> None:
    noise = np.random.default_rng(8).normal(128, 20, (20, SIDE, SIDE, 1)).round()
    pictures = np.clip(noise, 0, 255).astype(np.uint8).repeat(3, -1)
    profile = radial_profile(power_spectra(pictures)).mean(0)
    ramp = np.sin(np.pi * (np.arange(SIDE) + 0.5) / SIDE) ** 2
    # Parseval: the variance, weighted with the window, is spread evenly over all frequencies
    expected = pictures[..., 0].var() * (ramp**2).sum() ** 2
    assert profile[10:] == pytest.approx(np.full(118, expected), rel=0.15)
    assert profile[10:].mean() == pytest.approx(expected, rel=0.01)


def test_spectrum_distance_of_double_contrast_is_six_decibels() -> None:
    profile = np.random.default_rng(0).uniform(1e6, 1e8, (5, 128))
    assert spectrum_distance(profile, profile) == 0
    assert spectrum_distance(profile, 4 * profile) == pytest.approx(10 * np.log10(4), abs=0.01)


@pytest.mark.parametrize("period", [4, 2])
def test_a_grid_shows_in_its_own_peak_only(period: int) -> None:
    pictures = textures(6, 1.5, 9)
    wave = np.array([6, -2, -2, -2]) if period == 4 else np.array([3, -3, 3, -3])
    grid = np.tile(wave, SIDE // 4)[None, None, :, None]
    clean = log_spectra(power_spectra(pictures))
    marked = log_spectra(power_spectra(np.clip(pictures + grid, 0, 255).astype(np.uint8)))
    for each in (4, 2):
        assert peak(clean, each) < 4
    assert peak(marked, period) > 20
    if period == 2:
        assert peak(marked, 4) == pytest.approx(peak(clean, 4), rel=0.2)


def test_texture_of_a_class_is_measured_in_that_class() -> None:
    pictures = textures(3, 1.0, 10).copy()
    pictures[:, :, : SIDE // 2] = textures(3, 4.0, 11)[:, :, : SIDE // 2]
    labels = np.full(pictures.shape[:3], NONE, np.uint8)
    labels[:, :, : SIDE // 2], labels[:, :, SIDE // 2 :] = 1, 2
    found = measure_texture(pictures, labels)
    grey = pictures @ np.array([0.299, 0.587, 0.114])
    assert found.std[0, 2] == pytest.approx(grey[0, :, SIDE // 2 :].std())
    assert np.isnan(found.std[:, [0, 3, 4]]).all()
    # blur by sigma correlates points at a distance d by exp(-d^2 / 4 sigma^2)
    assert found.correlation[:, 2, 1].mean() == pytest.approx(np.exp(-1), abs=0.03)
    assert found.correlation[:, 1, 2].mean() == pytest.approx(np.exp(-16 / 64), abs=0.05)


def test_texture_distances_have_closed_forms() -> None:
    std = np.array([[19.5, np.nan, 39.5, np.nan, np.nan]])
    assert std_distance(std, std) == 0
    assert std_distance(2 * std + 0.5, std) == pytest.approx(np.log(2))
    correlation = np.full((2, 5, 4), 0.5)
    assert correlation_distance(correlation, correlation - 0.2) == pytest.approx(0.2)


def test_seam_ratio_is_one_without_and_more_with_a_seam() -> None:
    smooth = textures(1, 3.0, 12)[0]
    borders = [128]
    clean = seam_ratio([measure_steps(smooth, borders)])
    assert clean == pytest.approx(1, abs=0.15)
    torn = smooth.astype(int)
    torn[:, 128:] += 12
    assert seam_ratio([measure_steps(np.clip(torn, 0, 255).astype(np.uint8), borders)]) > 1.5
    flat = np.full((SIDE, SIDE, 3), 7, np.uint8)
    assert seam_ratio([measure_steps(flat, borders)]) == 1
    assert np.isnan(seam_ratio([measure_steps(flat, [])]))


def test_seam_ratio_of_a_ramp_counts_steps() -> None:
    ramp = np.arange(SIDE, dtype=np.uint8)[:, None, None].repeat(SIDE, 1).repeat(3, 2) // 2
    # steps down are 1 between odd and even rows, else 0; there are none across
    steps = measure_steps(ramp, [128, 600])
    assert (steps.border, steps.borders) == (SIDE, 2 * SIDE)
    assert (steps.inside, steps.insides) == (16 * SIDE, 2 * 32 * SIDE)


def test_noise_response_is_the_deviation_over_seeds() -> None:
    base = textures(2, 2.0, 13) // 2
    labels = np.full(base.shape[:3], CLASSES.index("water"), np.uint8)
    labels[:, :, :10] = NONE
    assert noise_response([base, base, base], labels) == {"all": 0, "water": 0}
    moved = base.copy()
    moved[:, :, 10:] += 10
    found = noise_response([base, moved], labels)
    # two draws of a normal distribution are 2 / sqrt(pi) of its deviation apart on average
    expected = 10 * np.sqrt(np.pi) / 2
    assert found["water"] == pytest.approx(expected)
    assert found["all"] == pytest.approx(expected * (SIDE - 10) / SIDE)


@pytest.mark.parametrize("seeds", [2, 4, 7])
def test_noise_response_does_not_depend_on_the_number_of_seeds(seeds: int) -> None:
    random = np.random.default_rng(3)
    drawn = random.normal(128, 10, (seeds, 2, SIDE, SIDE, 3)).round().astype(np.uint8)
    assert noise_response(list(drawn), None)["all"] == pytest.approx(10, rel=0.01)


def test_confusion_is_counted_by_class() -> None:
    labels = np.zeros((1, 100, 100), np.uint8)
    labels[:, 50:] = 1
    labels[:, :, 90:] = NONE
    found = labels.copy()
    found[:, 25:50, :90] = 1
    found[labels == NONE] = 3
    confusion = Confusion()
    confusion.add(labels, found)
    score = confusion.score()
    assert score.accuracy == pytest.approx(0.75)
    assert score.iou == pytest.approx({"ground": 0.5, "water": 50 / 75})
    assert score.mean_iou == pytest.approx((0.5 + 50 / 75) / 2)


def test_halves_are_disjoint_and_keep_places_together() -> None:
    places = [0, 0, 1, 1, 1, 2, 3, 4, 4]
    splits = halve(places, 0)
    for first, second in splits:
        assert sorted([*first, *second]) == list(range(len(places)))
        assert not {places[index] for index in first} & {places[index] for index in second}
        assert len(first)
        assert len(second)
    assert [half.first.tolist() for half in splits] == [
        half.first.tolist() for half in halve(places, 0)
    ]
    assert len({tuple(half.first) for half in halve(range(20), 0)}) > 1


def test_floor_is_real_against_real_of_other_places() -> None:
    random = np.random.default_rng(14)
    real = random.normal(size=(40, 6))
    figure = against_real(kernel_distance, real, real, halve(range(40), 0))
    assert figure.floor is not None
    # the same pictures on both sides: as far as real from real, not 0
    assert figure.value == pytest.approx(figure.floor)
    worse = against_real(kernel_distance, real + 1, real, halve(range(40), 0))
    assert worse.value > figure.floor + 1


def test_map_colours_become_classes_and_edges_none() -> None:
    drawn = np.zeros((30, 40, 3), np.uint8)
    drawn[:, :20] = list(bytes.fromhex(PALETTES["maps"]["ground"][0]))
    drawn[:, 20:] = list(bytes.fromhex(PALETTES["maps"]["road"][0]))
    drawn[:, 19:21] = list(bytes.fromhex(PALETTES["maps"]["building"][0]))  # an anti-aliased edge
    drawn[10:14, 5:9] = (60, 60, 60)
    labels = label(drawn, "maps")
    assert set(labels[:, :4].ravel()) == {CLASSES.index("ground")}
    assert set(labels[:, 25:].ravel()) == {CLASSES.index("road")}
    assert set(labels[:, 18:22].ravel()) == {NONE}
    assert set(labels[9:15, 4:10].ravel()) == {NONE}
    noisy = np.clip(drawn + np.random.default_rng(0).integers(-3, 4, drawn.shape), 0, 255)
    assert (label(noisy.astype(np.uint8), "maps") == labels).mean() > 0.95


def test_style_is_found_by_its_colours() -> None:
    for style, palette in PALETTES.items():
        colours = [bytes.fromhex(palette[name][0]) for name in ("ground", "water", "green")]
        drawn = np.zeros((60, 60, 3), np.uint8)
        for number, colour in enumerate(colours):
            drawn[number * 20 : number * 20 + 20] = list(colour)
        assert find_style([drawn]) == style
    assert find_style([np.full((60, 60, 3), 30, np.uint8)]) is None


def measured(name: str, **figures: Figure) -> Measured:
    return Measured(name, name, "local", True, "none", figures)


def test_two_models_are_judged_on_the_same_halves() -> None:
    # they vary alike from half to half, so a difference smaller than the spread is sure
    one = measured("one", swd=Figure(10, 5, 3.0, (7, 10, 13)))
    other = measured("other", swd=Figure(11, 5, 3.0, (8, 11, 14)))
    unsure = measured("unsure", swd=Figure(11, 5, 3.0, (14, 8, 11)))
    assert judge(one, other) == {"swd": "one"}
    assert judge(other, one) == {"swd": "one"}
    assert judge(one, unsure) == {"swd": "even"}


def test_a_verdict_knows_which_way_is_better_and_where_the_floor_is() -> None:
    one = measured("one", fcn_accuracy=Figure(0.5, 0.6), seam=Figure(0.98, 1.0), ssim=Figure(0.9))
    other = measured("other", fcn_accuracy=Figure(0.4, 0.6), seam=Figure(1.0, 1.0), ssim=Figure(0))
    assert judge(one, other) == {"fcn_accuracy": "one", "seam": "even"}
    unknown = measured("unknown", fcn_accuracy=Figure(float("nan"), 0.6))
    assert judge(one, unknown) == {"fcn_accuracy": "even"}


def test_no_verdict_where_a_half_tells_nothing() -> None:
    """What has no labelled pixel in one half is known of the whole, but how surely is not."""
    pair = [
        measured(name, fcn_accuracy=Figure(value, 1.0, None, (value, float("nan"))))
        for name, value in (("one", 0.9), ("other", 0.8))
    ]
    assert judge(*pair) == {"fcn_accuracy": "even"}
