"""Labels over maps in training, and the switches of the `local` recipe."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from maptile2sat.errors import UsageError
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.data import Batch, Pairs, exposed, make_batch
from maptile2sat.training.labels.draw import annotate
from maptile2sat.training.labels.stamp import Place, Sheet, road_places
from maptile2sat.training.labels.symbols import ICONS, SHIELDS, arrow, icon, shield
from maptile2sat.training.labels.text import BUILT_IN, FONTS, SYLLABLES, letters, names
from maptile2sat.training.presets import SETTINGS, parse_settings, preset_config
from tests.support_render import Pixels, run_cli
from tests.training.test_training import data, figures_of, run_training, tiny

pytestmark = pytest.mark.usefixtures("plain_charts")

GROUND, ROAD = (234, 230, 222), (254, 254, 254)


def street_map(degrees: float, side: int = 192) -> Pixels:
    """Return white streets 12 px wide, 60 px apart, rising by `degrees` towards the bottom."""
    y, x = np.mgrid[:side, :side]
    turn = np.radians(degrees)
    across = (y * np.cos(turn) - x * np.sin(turn)) % 60
    return np.where((across < 12)[..., None], ROAD, GROUND).astype(np.uint8)


def changed(before: Pixels, after: Pixels) -> float:
    """Return the share of pixels that plainly changed."""
    return float((np.abs(before.astype(int) - after).max(-1) > 12).mean())


def made(seed: int, drawn: Pixels) -> Pixels:
    return annotate(drawn, np.random.default_rng(seed))


# drawing


def test_labels_are_a_function_of_map_and_random() -> None:
    drawn = street_map(20)
    before = drawn.copy()
    first = made(1, drawn)
    np.testing.assert_array_equal(made(1, drawn), first)
    np.testing.assert_array_equal(drawn, before)
    assert not np.array_equal(made(2, drawn), first)


@pytest.mark.parametrize("shape", [(64, 64), (96, 160), (384, 384), (16, 200)])
def test_labels_keep_shape_and_type(shape: tuple[int, int]) -> None:
    drawn = np.full((*shape, 3), 230, np.uint8)
    for seed in range(8):
        after = made(seed, drawn)
        assert after.shape == drawn.shape
        assert after.dtype == np.uint8


def test_labels_cover_a_little() -> None:
    drawn = street_map(35, 384)
    shares = [changed(drawn, made(seed, drawn)) for seed in range(30)]
    assert 0.01 < np.mean(shares) < 0.08
    assert max(shares) < 0.2
    assert len(set(shares)) > 25


@pytest.mark.parametrize("degrees", [0, 25, 70, -40, 90])
def test_direction_of_roads_is_found(degrees: float) -> None:
    places = road_places(street_map(degrees), np.random.default_rng(0), 200)
    assert len(places) > 10
    for place in places:
        gap = (np.degrees(place.angle) - degrees + 90) % 180 - 90
        assert abs(gap) < 8
        assert abs(place.angle) < np.pi / 2 + 1e-5  # text stands upright


def test_flat_map_has_no_roads() -> None:
    assert road_places(np.full((200, 200, 3), 200, np.uint8), np.random.default_rng(0), 50) == []


def test_marks_do_not_cover_each_other() -> None:
    sheet = Sheet(np.full((60, 60, 3), 240, np.uint8))
    mark = letters("Hi", "DejaVuSans.ttf", 24)
    assert sheet.stamp(mark, 12, Place(30, 30, 0.0), (0, 0, 0), (255, 255, 255))
    before = sheet.pixels.copy()
    assert not sheet.stamp(mark, 12, Place(32, 31, 0.3), (255, 0, 0), (255, 255, 255))
    np.testing.assert_array_equal(sheet.pixels, before)
    assert not sheet.stamp(mark, 12, Place(-200, 30, 0.0), (0, 0, 0), (255, 255, 255))


def test_mark_is_turned_about_its_place() -> None:
    for angle in (0.0, np.pi / 2, 1.0):
        sheet = Sheet(np.full((120, 120, 3), 255, np.uint8))
        sheet.stamp(arrow(56, 4), 12, Place(60, 60, angle), (0, 0, 0), (0, 0, 0), 0.0)
        rows, cols = np.nonzero(sheet.pixels[..., 0] < 128)
        assert abs((rows.max() + rows.min()) / 2 - 60) < 2
        assert abs((cols.max() + cols.min()) / 2 - 60) < 2
        long = np.hypot(np.ptp(rows), np.ptp(cols))
        assert 24 < long < 34


def test_line_stays_on_the_map() -> None:
    sheet = Sheet(np.full((50, 70, 3), 255, np.uint8))
    points = np.array([[x, 25.0] for x in range(-20, 100, 5)])
    sheet.line(points, 1, 2.0, (0, 0, 0), 1.0)
    dark = sheet.pixels[..., 0] < 100
    assert dark[24:27].any()
    assert not dark[:22].any()
    assert 0.3 < dark[25].mean() < 0.9  # dashes and gaps
    sheet.line(points + 500, 0, 2.0, (0, 0, 0), 1.0)


@pytest.mark.parametrize("script", list(SYLLABLES))
def test_names_are_written_in_every_font(script: str) -> None:
    stock = {kind: names(kind, script) for kind in ("street", "place", "sight", "nature")}
    assert all(len(set(some)) > 10 for some in stock.values())
    assert all("{" not in name for some in stock.values() for name in some)
    for font in {font for cut in FONTS.values() for font in cut} | {BUILT_IN}:
        masks = [letters(name, font, 24).ink for name in stock["street"][:3]]
        assert all(mask.getbbox() is not None for mask in masks)
    # letters that a font lacks would all be the same box
    one, other = (
        letters(letter * 2, FONTS["serif"][1], 24).ink for letter in SYLLABLES[script][:2]
    )
    assert np.asarray(one).shape != np.asarray(other).shape or (np.asarray(one) != other).any()


def test_symbols_are_visible() -> None:
    for number, badge in ICONS:
        mark = icon(number, badge)
        assert mark.ink.size == mark.halo.size
        assert np.asarray(mark.ink).max() > 200
    for shape in SHIELDS:
        mark = shield("A 7", shape, 24, 2)
        assert np.asarray(mark.halo).mean() > 100
        assert np.asarray(mark.ink).max() > 200


# batches


def batch(step: int = 0, **changes: Any) -> Batch:
    return make_batch(Pairs.find(data() / "train", "right"), tiny(**changes), step)


def test_discriminators_map_stays_clean() -> None:
    bare = batch(batch_size=8, jitter=False, annotate=0.0)
    full = batch(batch_size=8, jitter=False, annotate=1.0, crop=96)
    np.testing.assert_array_equal(bare.map, bare.clean)
    assert not bare.covered.any()
    np.testing.assert_array_equal(full.covered[..., 0], (full.map != full.clean).any(-1))
    for name in ("image", "fine", "coarse", "clean"):
        np.testing.assert_array_equal(getattr(full, name), getattr(bare, name))
    assert full.clean.shape == full.map.shape == (8, 96, 96, 3)
    assert (full.map != bare.map).any((1, 2, 3)).sum() >= 4


def test_jitter_comes_after_the_labels() -> None:
    plain, shaken = (batch(batch_size=8, jitter=jitter, annotate=1.0) for jitter in (False, True))
    np.testing.assert_array_equal(plain.clean, shaken.clean)
    assert (plain.map != shaken.map).any((1, 2, 3)).all()
    assert np.abs(plain.map.astype(int) - shaken.map).mean() < 12


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_about_the_asked_share_is_labelled(share: float) -> None:
    with mock.patch("maptile2sat.training.data.annotate", lambda drawn, random: 255 - drawn):
        parts = [batch(step, batch_size=8, jitter=False, annotate=share) for step in range(25)]
    inverted = [
        bool((drawn == 255 - clean).all())
        for part in parts
        for drawn, clean in zip(part.map, part.clean, strict=True)
    ]
    assert np.mean(inverted) == pytest.approx(share, abs=0.1)


def test_labels_are_new_in_every_epoch() -> None:
    with mock.patch("maptile2sat.training.data.annotate", wraps=annotate) as watched:
        for step in (0, 1, 0):
            batch(step, batch_size=8, annotate=1.0)
    lots = [call.args[1].random() for call in watched.call_args_list]
    assert lots[:8] == lots[16:]
    assert len(set(lots)) == 16


def test_presets_and_old_runs(tmp_path: Path) -> None:
    shares = {
        name: preset_config(name, data(), steps=1).annotate for name in ("local", "pix2pix", "seed")
    }
    assert shares == {"local": 0.6, "pix2pix": 0.0, "seed": 0.0}
    config = preset_config("local", data(), steps=1)
    config.save(tmp_path / "config.json")
    assert TrainConfig.load(tmp_path / "config.json").annotate == 0.6
    values = json.loads((tmp_path / "config.json").read_text())
    for name in ("annotate", "critic_scales", "smooth"):
        del values[name]
    (tmp_path / "config.json").write_text(json.dumps(values))
    old = TrainConfig.load(tmp_path / "config.json")
    assert (old.annotate, old.critic_scales, old.smooth) == (0.0, 1, True)


# switches of the recipe


def test_settings_of_the_command_line() -> None:
    texts = ["annotate=0", "critic_scales=2", "smooth=false", "dilations=1,2", "critic_sees=image"]
    config = preset_config("local", data(), steps=1, **parse_settings(texts))
    assert (config.annotate, config.critic_scales, config.smooth) == (0.0, 2, False)
    assert (config.dilations, config.critic_sees) == ((1, 2), "image")
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    assert set(SETTINGS) <= fields


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("annotate", "NAME=VALUE"),
        ("steps=3", "one of width"),
        ("smooth=1", "neither true nor false"),
        ("critic_scales=two", "critic_scales=two"),
        ("dilations=1,x", "dilations"),
        ("annotate=7", "annotate must be"),
    ],
)
def test_setting_that_is_wrong(text: str, words: str, tmp_path: Path) -> None:
    done = run_cli("train", data(), "--out", tmp_path / "run", "--set", text)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"annotate": 1.5}, "annotate"),
        ({"critic_scales": 3}, "critic_scales"),
        ({"critic_sees": "map"}, "critic_sees"),
        ({"critic_translate": 32}, "critic_translate"),
        ({"critic_translate": -1}, "critic_translate"),
        ({"l1_weight": -1.0}, "weights must be"),
        ({"photo_weight": float("nan")}, "weights must be"),
        ({"grid_weight": -1.0}, "weights must be"),
        ({"feature_weight": float("inf")}, "weights must be"),
        ({"exposure": 0.0}, "exposure must be"),
        ({"critic_rate": float("nan")}, "learning rates must be"),
        ({"generator_rate": float("inf")}, "learning rates must be"),
        ({"cleaner": (0,)}, "dilations must be"),
        ({"deep_width": 0}, "deep_width must be"),
        ({"beta_1": 1.0}, "beta_1"),
        ({"l1_pool": 0}, "l1_pool"),
        ({"width": 600}, "must be 1 to 512"),
        ({"colours": 300}, "colours must be"),
        ({"unet_base": 128}, "unet_base must be"),
        ({"dilations": (1, 65)}, "dilations must be"),
        ({"dilations": ()}, "dilations must be"),
    ],
)
def test_switch_with_a_wrong_value(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        tiny(**changes)


def trainer(**changes: Any) -> Any:
    from maptile2sat.training.loop import build_trainer

    palette = [[234.0, 230.0, 222.0], [254.0, 254.0, 254.0], [178.0, 210.0, 254.0]]
    return build_trainer(tiny(**changes), palette)


def test_discriminator_is_given_the_clean_map() -> None:
    """What it says of real images does not change with what the generator is shown."""
    part, given = trainer(), batch()
    plain = figures_of(part, given)
    spoilt = figures_of(part, given._replace(map=255 - given.map))
    assert spoilt["critic_real"] == plain["critic_real"]
    assert spoilt["critic_fake"] != plain["critic_fake"]
    other = figures_of(part, given._replace(clean=255 - given.clean))
    assert other["critic_real"] != plain["critic_real"]


def test_discriminator_that_sees_the_image_alone() -> None:
    part, given = trainer(critic_sees="image"), batch()
    assert part.critic.inputs[0].shape[-1] == 3
    other = given._replace(clean=255 - given.clean)
    assert figures_of(part, given) == figures_of(part, other)


def test_discriminator_that_is_told_the_map_late() -> None:
    """It sees the image pixel by pixel, the map as averages of 4 x 4 px."""
    told = trainer(critic_sees="late")
    random = np.random.default_rng(0)
    x = random.normal(size=(1, 64, 64, 7)).astype(np.float32)
    mirrored = x.reshape(1, 16, 4, 16, 4, 7)[:, :, ::-1].reshape(x.shape)
    image, classes = x[..., :3], x[..., 3:]
    answers = [np.asarray(part) for part in told.critic([image, classes])]
    within, elsewhere = mirrored[..., 3:], random.permutation(classes, 1)
    for changed, same in (
        ([image, within], True),
        ([mirrored[..., :3], classes], False),
        ([image, elsewhere], False),
    ):
        assert np.allclose(told.critic(changed)[-1], answers[-1], atol=1e-5) is same
    np.testing.assert_array_equal(told.critic([image, elsewhere])[0], answers[0])


def cleaning(**changes: Any) -> Any:
    return trainer(precision="float32", cleaner=(1, 2), cleaner_width=16, **changes)


def cleaning_alone() -> Any:
    """Return what trains a fast learning cleaner and makes no image, which takes little time."""
    return cleaning(preset="cleaner", init="any", generator_rate=3e-3, steps=10_000)


def test_labels_are_taken_off_the_map() -> None:
    """Trained on labelled maps, the cleaner finds what is under the labels, and spares the rest."""
    import keras

    part = cleaning_alone()
    maps = np.stack([street_map(20 * number, 96) for number in range(4)])
    spoilt = maps.copy()
    spoilt[:, 40:48, 8:88] = (60, 60, 60)
    covered = (spoilt != maps).any(-1, keepdims=True).astype(np.uint8)
    given = batch(batch_size=4)._replace(map=spoilt, clean=maps, covered=covered)
    figures = [part.step(given, number) for number in range(140)]
    for name, left in (("labels_found", 0.1), ("labels_classes", 0.1), ("labels_cleaned", 0.5)):
        assert float(figures[-1][name]) < left * float(figures[0][name])
    layers = [part.generator.get_layer(name).output for name in ("look", "cleaned")]
    see = keras.Model(part.generator.inputs, layers)
    bare, labelled = (
        [np.asarray(seen) for seen in see.predict_on_batch([drawn, given.fine, given.coarse])]
        for drawn in (maps, spoilt)
    )
    before, after = (np.abs(one - other).mean() for one, other in zip(bare, labelled, strict=True))
    assert after < 0.5 * before


def test_cleaner_learns_from_labels_alone() -> None:
    """No other loss moves it, and its own moves nothing else."""
    import tensorflow as tf

    part, given = cleaning(), Batch(*map(tf.constant, batch(annotate=1.0)))
    weights = part.generator.trainable_variables
    ours = [weight.path.split("/")[-2].startswith("clean") for weight in weights]
    with tf.GradientTape(persistent=True) as tape:
        figures = part.losses(given).figures
        others = figures["l1"] + figures["adversarial"] + figures["features"]
        own = figures["labels_found"] + figures["labels_classes"] + figures["labels_cleaned"]
    assert any(ours)
    for is_ours, of_others, of_own in zip(
        ours, tape.gradient(others, weights), tape.gradient(own, weights), strict=True
    ):
        assert (of_others is None) is is_ours
        assert (of_own is None) is not is_ours


@pytest.mark.slow
def test_cleaner_that_is_kept_while_the_rest_learns() -> None:
    given = batch(annotate=1.0)
    first, moved = {}, {}
    for kept in (False, True):
        part = cleaning(keep_cleaner=kept, init="any")
        before = {weight.path: weight.numpy() for weight in part.generator.weights}
        first[kept] = {name: float(value) for name, value in part.step(given, 0).items()}
        moved[kept] = {
            weight.path
            for weight in part.generator.weights
            if (weight.numpy() != before[weight.path]).any()
        }
        cleaners = {path for path in before if path.split("/")[-2].startswith("clean")}
        assert bool(moved[kept] & cleaners) is not kept
        if kept:
            assert moved[True] == moved[False] - cleaners
            left_out = first[False].keys() - first[True].keys()
            assert left_out == {"labels_found", "labels_classes", "labels_cleaned"}
            # another graph may add up in another order
            others = {name: first[False][name] for name in first[True]}
            assert first[True] == pytest.approx(others, rel=1e-5)


@pytest.mark.parametrize(
    "changes", [{"init": ""}, {"cleaner": ()}, {"preset": "cleaner"}, {"preset": "pix2pix"}]
)
def test_keeping_a_cleaner_that_there_is_not_or_that_is_to_learn(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="keep_cleaner needs"):
        tiny(**{"keep_cleaner": True, "cleaner": (1,), "init": "any", **changes})


@pytest.mark.slow
def test_under_labels_come_colours_that_no_palette_has() -> None:
    import keras

    part = cleaning_alone()
    maps = np.full((4, 96, 96, 3), (140, 40, 40), np.uint8)
    maps[:, :, 48:] = (40, 40, 140)
    spoilt = maps.copy()
    spoilt[:, 40:56, 8:88] = (90, 220, 90)
    covered = (spoilt != maps).any(-1, keepdims=True).astype(np.uint8)
    given = batch(batch_size=4)._replace(map=spoilt, clean=maps, covered=covered)
    for number in range(140):
        part.step(given, number)
    layers = [part.generator.get_layer(name).output for name in ("palette", "look", "clean_fill")]
    see = keras.Model(part.generator.inputs[0], layers)
    classes, look, _ = (np.asarray(seen) for seen in see.predict_on_batch(maps.astype(np.float32)))
    assert (classes[..., -1] > 0.9).all()
    fill = np.asarray(see.predict_on_batch(spoilt.astype(np.float32))[2])
    left, right = ((slice(None), slice(44, 52), cols) for cols in (slice(16, 40), slice(56, 80)))
    for mine, other in ((left, right), (right, left)):
        near, far = (np.abs(fill[mine] - look[place]).mean() for place in (mine, other))
        assert near < 0.4 * far


def test_what_a_cleaner_trusts_goes_through_bit_by_bit() -> None:
    from maptile2sat.models.networks.cleaning import Cleaned

    given, made = np.random.default_rng(0).normal(size=(2, 1, 8, 8, 5)).astype(np.float32)
    for answer, expected in ((-9.0, given), (9.0, made)):
        share = np.full((1, 8, 8, 1), answer, np.float32)
        np.testing.assert_allclose(np.asarray(Cleaned()([given, share, made])), expected, atol=1e-6)
    trusted = np.asarray(Cleaned()([given, np.full((1, 8, 8, 1), -9.0, np.float32), made]))
    np.testing.assert_array_equal(trusted, given)


# features of photos


def test_photo_features_move_with_the_photo() -> None:
    from maptile2sat.models.networks.photo_features import (
        LEVELS,
        STRIDES,
        PhotoFeatures,
        load_weights,
    )

    network = PhotoFeatures(load_weights())
    photo = np.random.default_rng(0).uniform(-1, 1, (1, 20, 20, 3)).repeat(16, 1).repeat(16, 2)
    whole, moved = (network(photo[:, :256, start : start + 256]) for start in (0, 64))
    for (name, channels), one, other in zip(LEVELS.items(), whole, moved, strict=True):
        stride = STRIDES[name]
        assert one.shape == (1, 256 // stride, 256 // stride, channels)
        shift, far = 64 // stride, 112 // stride
        inside = np.asarray(one)[:, far : -far or None, shift + far : -far or None]
        there = np.asarray(other)[:, far : -far or None, far : -shift - far]
        np.testing.assert_allclose(inside, there, atol=2e-3)


def test_photo_features_tell_texture_from_none() -> None:
    from maptile2sat.models.networks.photo_features import PhotoFeatures, load_weights

    network = PhotoFeatures(load_weights())
    flat = np.zeros((1, 64, 64, 3), np.float32)
    noisy = flat + np.random.default_rng(0).normal(0, 0.3, flat.shape).astype(np.float32)
    for one, other in zip(network(flat), network(noisy), strict=True):
        assert np.abs(np.asarray(one) - np.asarray(other)).mean() > 0.2


def test_damaged_photo_features(tmp_path: Path) -> None:
    from maptile2sat.errors import BundleError
    from maptile2sat.models.networks import photo_features

    (tmp_path / "features").mkdir()
    with mock.patch.object(photo_features, "models_folder", return_value=tmp_path):
        with pytest.raises(BundleError, match="missing"):
            photo_features.load_weights()
        (tmp_path / "features" / photo_features.WEIGHTS).write_bytes(b"something else")
        with pytest.raises(BundleError, match="damaged"):
            photo_features.load_weights()


def test_heads_judge_photo_features_and_classes() -> None:
    import tensorflow as tf

    from maptile2sat.models.networks.photo_features import LEVELS

    plain, part = trainer(critic_sees="late"), trainer(critic_sees="late", critic_photo=True)
    random = np.random.default_rng(0)
    image, classes = (random.uniform(0, 1, (1, 64, 64, n)).astype(np.float32) for n in (3, 4))
    image, classes = tf.constant(image), tf.constant(classes)
    answer = part._judged([image, classes], training=False)
    assert [logits.shape[1] for logits in answer.logits] == [8, 16, 8, 4]
    assert [features.shape[-1] for features in answer.photo] == list(LEVELS.values())
    np.testing.assert_allclose(
        np.asarray(answer.logits[0]), np.asarray(plain.critic([image, classes])[-1]), atol=1e-6
    )
    other = part._judged([image, 1 - classes], training=False)
    elsewhere = part._judged([1 - image, classes], training=False)
    for which in range(4):
        one = np.asarray(answer.logits[which])
        assert np.abs(one - np.asarray(other.logits[which])).max() > 1e-3
        assert np.abs(one - np.asarray(elsewhere.logits[which])).max() > 1e-3


@pytest.mark.slow
def test_photo_features_draw_images_to_photos() -> None:
    """Nothing else being asked for, their distance falls; the fixed network is no part of a run."""
    weights = {"l1_weight": 0.0, "fine_l1_weight": 0.0, "feature_weight": 0.0}
    given = batch()
    settings = {"critic_rate": 1e-9, "generator_rate": 3e-3, "steps": 10_000, **weights}
    ends = []
    for weight in (100.0, 1e-9):
        part = trainer(photo_weight=weight, **settings)
        assert not any("stem" in name and "critic" in name for name in part.variables())
        ends.append([float(part.step(given, number)["photo"]) for number in range(12)][-1])
    assert ends[0] < 0.95 * ends[1]


def test_grid_is_what_one_place_in_four_has_more() -> None:
    import tensorflow as tf

    from maptile2sat.training.local import grid_of

    def grid(image: Any) -> float:
        return float(grid_of(tf.constant(image[None, ..., None], tf.float32)))

    rows, cols = np.mgrid[:68, :68]
    slope = rows / 64 - cols / 32
    assert grid(slope) == pytest.approx(0.0, abs=1e-6)
    # period 8 adds as much to every place
    assert grid(np.where(cols % 8 < 4, 0.1, -0.1)) == pytest.approx(0.0, abs=1e-6)
    for places in (rows % 4 == 1, cols % 4 == 3):  # a quarter at +3/4, the others at -1/4
        assert grid(slope + 0.1 * places) == pytest.approx(0.1 * 3 / 8, rel=1e-4)
    assert grid(slope + 0.1 * ((rows + cols) % 2)) == pytest.approx(0.05, rel=1e-4)
    # of each image by itself: what cancels out between two does count
    both = np.stack([0.1 * (cols % 4 == 0), -0.1 * (cols % 4 == 0)])[..., None]
    assert float(grid_of(tf.constant(both, tf.float32))) == pytest.approx(0.1 * 3 / 8, rel=1e-4)


def test_squares_are_larger_steps_at_one_place_in_eight() -> None:
    import tensorflow as tf

    from maptile2sat.training.local import squares_of

    def squares(*images: Any) -> float:
        return float(squares_of(tf.constant(np.stack(images)[..., None], tf.float32)))

    rows, cols = np.mgrid[:65, :65]
    slope = rows / 64 - cols / 32
    assert squares(slope) == pytest.approx(0.0, abs=1e-6)
    assert squares(np.where(rows % 2, 0.1, -0.1)) == pytest.approx(0.0, abs=1e-6)
    # steps of either sign, that no place's mean shows: an eighth has 0.1 * 7/8 more than the mean
    level = np.array([0.0, 0.1, 0.2, 0.1, 0.0, 0.1, 0.2, 0.1, 0.0])
    expected = 2 * 0.1 * 7 / 64 / 2  # in one of the two directions
    for by in (rows, cols):
        for begin in (0, 3):
            stairs = level[(by + begin) // 8 % 8]
            assert squares(stairs) == pytest.approx(expected, rel=1e-4)
    # of all images together: what one place has in this and another in that does not count
    shifted = [level[(cols + begin) // 8 % 8] for begin in range(8)]
    assert squares(*shifted) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.slow
def test_grid_weight_takes_the_grid_away() -> None:
    import tensorflow as tf

    from maptile2sat.training import local as step

    given = batch()
    settings = {"critic_rate": 1e-9, "generator_rate": 1e-3, "steps": 10_000}
    ends = []
    for weight in (100.0, 1e-9):
        part = trainer(grid_weight=weight, **settings)
        ends.append([part.step(given, number) for number in range(12)][-1])
    photos = tf.constant(given.image / 127.5 - 1.0, tf.float32)
    without = figures_of(trainer(), given)
    for figure, left, measure in (("grid", 0.5, step.grid_of), ("squares", 0.7, step.squares_of)):
        assert float(ends[0][figure]) < left * float(ends[1][figure])
        logged = float(ends[1][f"{figure}_photos"])
        assert logged == pytest.approx(float(measure(photos)), rel=1e-3)
        assert figure not in without


def test_exposure_brightens_the_photos_alone() -> None:
    plain, lit = (batch(batch_size=4, exposure=factor) for factor in (1.0, 1.5))
    assert lit.image.mean() > 1.05 * plain.image.mean()
    for name in ("map", "clean", "fine", "coarse"):
        np.testing.assert_array_equal(getattr(lit, name), getattr(plain, name))


@pytest.mark.parametrize("exposure", [0.7, 1.3])
def test_exposure_cuts_nothing_off(exposure: float) -> None:
    """Every tone stays another, black and white stay, and a lighter or darker one goes back."""
    tones = np.arange(256, dtype=np.uint8).reshape(16, 16)
    there = exposed(tones, exposure)
    assert (there[0, 0], there[-1, -1]) == (0, 255)
    assert (np.diff(there.ravel().astype(int)) >= 0).all()
    assert ((there > tones) == (exposure > 1.0))[1:-1].all()
    assert there[0, 10] / 10 == pytest.approx(exposure, rel=0.06)
    np.testing.assert_allclose(exposed(there, 1.0 / exposure), tones.astype(float), atol=1)


def test_second_discriminator_sees_half_the_size() -> None:
    plain, both = trainer(), trainer(critic_scales=2)
    x = np.random.default_rng(0).normal(size=(1, 64, 64, 7)).astype(np.float32)
    answers = both.critic(x)
    assert [tuple(part.shape[1:3]) for part in answers] == [
        (16, 16), (8, 8), (8, 8), (8, 8), (4, 4), (4, 4), (8, 8), (4, 4),
    ]  # fmt: skip
    np.testing.assert_array_equal(answers[6], plain.critic(x)[-1])  # the first is as it was
    half = x.reshape(1, 32, 2, 32, 2, 7).mean((2, 4))
    repeated = half.repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(both.critic(repeated)[-1], answers[-1], atol=1e-5)
    assert len(both.critic.trainable_variables) == 2 * len(plain.critic.trainable_variables)


def test_translation_moves_both_alike_with_zeros_around() -> None:
    import tensorflow as tf

    moving = trainer(critic_translate=8)
    given = batch(batch_size=2)
    ramp = np.arange(1.0, 64 * 64 + 1, dtype=np.float32).reshape(1, 64, 64, 1).repeat(2, 0)
    # as with `critic_sees=late`: an image and, apart from it, classes
    shown = [tf.constant(ramp), tf.constant(np.concatenate([ramp * 2, ramp * 3], -1))]
    moved_real, moved_fake = moving._moved(shown, [-part for part in shown], given)
    real, fake = np.asarray(moved_real[0]), np.asarray(moved_fake[0])
    np.testing.assert_array_equal(real, -fake)
    for parts, sign in ((moved_real, 1), (moved_fake, -1)):
        assert [part.shape[-1] for part in parts] == [1, 2]
        np.testing.assert_array_equal(parts[1], sign * real * [2, 3])
    assert real.shape == ramp.shape
    offsets = []
    for moved in real[..., 0]:
        rows, cols = np.nonzero(moved)
        first = moved[rows[0], cols[0]] - 1
        offsets.append((rows[0] - first // 64, cols[0] - first % 64))
        inside = moved[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        assert (np.diff(inside, axis=1) == 1).all()
    assert all(abs(value) <= 8 for pair in offsets for value in pair)
    assert len(set(offsets)) == 2


def test_generator_without_smoothing() -> None:
    from maptile2sat.models.networks.local import LocalConfig, build_local

    palette = [[234.0, 230.0, 222.0], [254.0, 254.0, 254.0]]
    models = {
        smooth: build_local(LocalConfig(palette, 8, (1, 2), 4, 4, smooth=smooth))
        for smooth in (True, False)
    }
    kinds = {
        smooth: [layer.name for layer in model.layers if type(layer).__name__ == "Blur"]
        for smooth, model in models.items()
    }
    assert {"half_blur", "full_blur"} <= set(kinds[True])
    assert not {"half_blur", "full_blur"} & set(kinds[False])
    even, random = (np.asarray(models[s].get_layer("half_up").kernel) for s in (True, False))
    np.testing.assert_array_equal(even[..., :4], even[..., 4:8])
    assert (random[..., :4] != random[..., 4:8]).any()


def test_generator_with_noise_at_one_depth() -> None:
    from maptile2sat.models.networks.local import LocalConfig, build_local

    palette = [[234.0, 230.0, 222.0], [254.0, 254.0, 254.0]]
    for deep, expected in ((True, ["block0_noise", "block2_noise"]), (False, ["block0_noise"])):
        model = build_local(LocalConfig(palette, 8, (1, 2, 1), 4, 4, deep_noise=deep))
        found = [layer.name for layer in model.layers if layer.name.endswith("_noise")]
        assert found == expected


@pytest.mark.slow
def test_run_with_all_switches_becomes_a_bundle(tmp_path: Path) -> None:
    from maptile2sat.models.bundle import open_bundle
    from maptile2sat.models.generator import build_generator
    from maptile2sat.training.export import About, export

    config = dataclasses.replace(
        tiny(steps=2, annotate=0.6, critic_scales=2),
        critic_norm="spectral",
        critic_translate=8,
        critic_photo=True,
        photo_weight=1.0,
        grid_weight=1.0,
        exposure=1.2,
        smooth=False,
        deep_noise=False,
        coarse_rgb=False,
        cleaner=(1, 2),
        cleaner_width=8,
        deep=(1,),
        deep_width=8,
    )
    assert run_training(config, tmp_path / "run") == 2
    bundle = export(tmp_path / "run", tmp_path / "bundle", About("bare"))
    architecture = open_bundle(bundle.folder).description.architecture
    switches = ("smooth", "deep_noise", "coarse_rgb")
    assert [architecture[name] for name in switches] == [False] * 3
    assert [architecture[name] for name in ("cleaner", "deep", "deep_width")] == [[1, 2], [1], 8]
    layers = [layer.name for layer in build_generator(bundle, "float32").layers]
    assert "half_blur" not in layers
    assert "rgb_half" not in layers


@pytest.mark.parametrize("value", [1, "yes", None])
def test_bundle_with_a_switch_that_is_none(value: Any, tmp_path: Path) -> None:
    from maptile2sat.errors import BundleError
    from maptile2sat.models.bundle import find_bundle
    from maptile2sat.models.generator import build_generator

    bundle = find_bundle("maps")
    architecture = {**bundle.description.architecture, "smooth": value}
    spoilt = dataclasses.replace(
        bundle, description=dataclasses.replace(bundle.description, architecture=architecture)
    )
    with pytest.raises(BundleError, match="smooth"):
        build_generator(spoilt, "float32")
