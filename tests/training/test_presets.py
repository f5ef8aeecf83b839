"""Presets: what they stand for, and classic U-Nets from the first step to a render."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from maptile2sat.errors import BundleError, TrainingError, UsageError
from maptile2sat.evaluation.samples import Generator
from maptile2sat.models.bundle import open_bundle, redescribe
from maptile2sat.models.device import choose_device
from maptile2sat.paths import models_folder, sample_map
from maptile2sat.training import TrainConfig, preset_config, train
from maptile2sat.training import checkpoint as checkpoints
from maptile2sat.training.data import Pairs, epoch_steps, make_batch
from maptile2sat.training.export import About, export
from maptile2sat.training.presets import command
from tests.support_once import once, scratch
from tests.support_render import files_in, read_back, run_cli
from tests.training.test_training import (
    INSIDE,
    data,
    exported,
    figures_of,
    finished_run,
    newest,
    run_training,
    tiny,
)

pytestmark = pytest.mark.usefixtures("plain_charts")

SMALL: dict[str, Any] = {"unet_base": 4, "critic_base": 4, "precision": "float32"}


def small(preset: str, **changes: Any) -> TrainConfig:
    return preset_config(preset, data(), **{"steps": 3, **SMALL, **changes})


@once
def unet_run(preset: str) -> tuple[Path, list[str]]:
    """Return a finished run of a small U-Net and what it said; do not change it."""
    run, said = scratch("unet") / preset, []
    assert train(small(preset), run, sample_every=2, say=said.append) == 3
    return run, said


def test_seed_is_the_notebook() -> None:
    config = preset_config("seed", data(), precision="float32")
    assert (config.batch_size, config.resize, config.crop, config.loss_crop) == (1, 286, 256, 256)
    assert (config.generator_rate, config.critic_rate) == (2e-4, 2e-4)
    assert (config.beta_1, config.beta_2, config.fine_l1_weight) == (0.5, 0.999, 100.0)
    assert (config.mirror, config.jitter, config.antialias, config.ema) == (True, False, False, 0)
    assert config.steps == 200 * 8
    assert {config.learning_scale(step) for step in range(config.steps)} == {1.0}


def test_networks_of_the_seed_are_counted() -> None:
    from maptile2sat.training.loop import build_trainer

    trainer = build_trainer(preset_config("seed", data(), steps=1, precision="float32"), [])
    assert trainer.parameters() == {
        "generator": (54_425_859, 54_414_979),
        "discriminator": (2_770_433, 2_768_641),
    }


def test_lengths() -> None:
    assert preset_config("local", data()).steps == TrainConfig(data="x").steps
    assert preset_config("local", data(), epochs=3).steps == 3 * (8 // 4)
    assert preset_config("pix2pix", data(), epochs=3, batch_size=3).steps == 3 * (8 // 3)
    assert preset_config("pix2pix", data(), steps=7).steps == 7
    assert epoch_steps(3, 4) == 1
    with pytest.raises(UsageError, match="--epochs or --steps"):
        preset_config("local", data(), epochs=1, steps=1)
    with pytest.raises(
        UsageError, match="preset 'pix' is not one of local, cleaner, pix2pix, seed"
    ):
        preset_config("pix", data())


def test_learning_rate_keeps_the_ratio() -> None:
    local = preset_config("local", data(), learning_rate=1e-3)
    assert (local.generator_rate, local.critic_rate) == (1e-3, pytest.approx(2e-3))
    seed = preset_config("seed", data(), learning_rate=1e-3)
    assert seed.generator_rate == seed.critic_rate == 1e-3


def test_learning_rate_of_the_discriminator_stays_when_given() -> None:
    local = preset_config("local", data(), learning_rate=1e-4, critic_rate=1e-4)
    assert (local.generator_rate, local.critic_rate) == (1e-4, 1e-4)


@pytest.mark.parametrize("change", [{"exposure": 1.5}, {"critic_rate": 1e-6}, {"l1_pool": 4}])
def test_cleaner_has_no_use_for_what_makes_images(change: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"--set {next(iter(change))}=.*makes no image"):
        preset_config("cleaner", data(), init=str(models_folder() / "maps"), **change)


def test_epoch_of_an_uneven_number_of_pairs() -> None:
    """An epoch is whole batches; what is left over comes in another."""
    config, pairs = tiny(batch_size=3), Pairs.find(data() / "train", "right")
    seen = [make_batch(pairs, config, step).clean for step in range(4)]
    for first in (0, 2):
        pictures = np.concatenate(seen[first : first + 2])
        assert len(pictures) == 6
        assert len({picture.tobytes() for picture in pictures}) == 6


@pytest.mark.parametrize(
    "words",
    [
        "--preset local --steps 9 --set width=48 --set dilations=1,2 --set coarse_rgb=false",
        "--preset local --steps 10 --batch-size 2 --learning-rate 0.0001 --set annotate=0.0",
        "--preset local --steps 10 --learning-rate 0.0001 --set critic_rate=0.0001",
        "--preset seed --steps 7 --learning-rate 0.0007",
        "--preset seed --steps 7 --set mirror=false --seed 4 --deterministic",
    ],
)
def test_a_run_knows_its_command(words: str, tmp_path: Path) -> None:
    """The command that a card names makes the same configuration again."""

    def config_of(text: str) -> TrainConfig:
        with mock.patch("maptile2sat.cli.train._train", side_effect=UsageError("enough")) as taken:
            run_cli("train", tmp_path, "--out", tmp_path / "run", *text.split())
        return taken.call_args.args[0]

    config = config_of(words)
    written = command(config)
    start = "maptile2sat train DATA --out RUN "
    assert written.startswith(start)
    again = written.removeprefix(start)
    assert config_of(again) == config
    assert len(again.split()) == len(words.split())


def test_mirrored_pairs_stay_pairs() -> None:
    config = small("pix2pix", resize=0, batch_size=8)
    batch = make_batch(Pairs.of(config, "train"), config, 0)
    plain = make_batch(
        Pairs.of(config, "train"), small("pix2pix", resize=0, batch_size=8, mirror=False), 0
    )
    flipped = [not np.array_equal(a, b) for a, b in zip(batch.map, plain.map, strict=True)]
    assert 0 < sum(flipped) < 8
    for drawn, image in zip(batch.map, batch.image, strict=True):
        assert np.abs(drawn[..., ::-1] * 0.5 + 20 - image).mean() < 16


def test_resize_of_the_seed_takes_pixels_as_they_are() -> None:
    sharp, smooth = (Pairs.of(small(preset), "train")[0].map for preset in ("seed", "pix2pix"))
    assert sharp.shape == smooth.shape == (286, 286, 3)
    own = {tuple(colour) for colour in Pairs.find(data() / "train", "right")[0].map.reshape(-1, 3)}
    assert {tuple(colour) for colour in sharp.reshape(-1, 3)} == own
    assert len({tuple(colour) for colour in smooth.reshape(-1, 3)}) > len(own)


@pytest.mark.parametrize("preset", ["seed", "pix2pix"])
def test_unet_run(preset: str) -> None:
    run, said = unet_run(preset)
    assert said[0].startswith("generator: ")
    assert "parameters" in said[0]
    assert said[1].startswith("discriminator: ")
    stored = newest(run)
    assert {name.split("/")[0] for name in stored} == {
        "generator",
        "critic",
        "generator_optimizer",
        "critic_optimizer",
    }
    assert [name for name in files_in(run) if name.endswith(".png")] == [
        "curves.png",
        "samples/step-00000002.png",
        "samples/step-00000003.png",
    ]
    with Image.open(run / "samples" / "step-00000003.png") as picture:
        assert np.asarray(picture).std() > 10
    assert ("down7_norm" in " ".join(stored)) == (preset == "seed")
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"critic_real", "critic_fake", "adversarial", "l1"} <= set(line)


@pytest.mark.slow
def test_epochs_are_told(tmp_path: Path) -> None:
    said: list[str] = []
    train(small("pix2pix", batch_size=4, steps=4, crop=256), tmp_path / "run", say=said.append)
    told = [line for line in said if line.startswith("epoch")]
    assert [line.split(":")[0] for line in told] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert all("minutes" in line and "s per image" in line for line in told)


@pytest.mark.parametrize("preset", ["seed", "pix2pix"])
def test_unet_run_becomes_a_bundle_that_renders(preset: str, tmp_path: Path) -> None:
    run, _ = unet_run(preset)
    bundle = export(run, tmp_path / "bundle", About(name="classic", metres_per_pixel=2.0))
    about = bundle.description
    assert about.kind == "unet"
    assert about.architecture["norm"] == ("batch" if preset == "seed" else "instance")
    # pairs of 256 px were resized to 286
    assert about.metres_per_pixel == pytest.approx(2.0 * 256 / 286, rel=1e-3)
    assert about.metrics["val_pairs"] == 2
    assert (
        "| statistics in a render | each window's own: blended |"
        in (bundle.folder / "README.md").read_text()
    )
    assert "the same whatever the `--seed`" in (bundle.folder / "README.md").read_text()
    output = tmp_path / "out.tif"
    options = ["--bbox", INSIDE, "--cell", "256"]
    made = run_cli("render", sample_map(), "-o", output, "-m", bundle.folder, *options)
    assert made.code == 0, made.err
    assert read_back(output).image.std() > 1
    assert read_back(output).tags["EXACT"] == "NO"


@pytest.mark.usefixtures("idle_steps")
def test_cells_of_a_unet_are_whole_windows(tmp_path: Path) -> None:
    """Half of 768 px divides no power of two."""
    config = small("pix2pix", batch_size=1, steps=1, crop=768, loss_crop=768, resize=768)
    train(config, tmp_path / "run")
    bundle = export(tmp_path / "run", tmp_path / "bundle", About("x"))
    assert bundle.description.cell == 1536
    output = tmp_path / "out.tif"
    made = run_cli("render", sample_map(), "-o", output, "-m", bundle.folder, "--bbox", INSIDE)
    assert made.code == 0, made.err
    other = tmp_path / "other.tif"
    again = run_cli("render", sample_map(), "-o", other, "-m", bundle.folder, "--cell", "2048")
    assert again.code == 2
    assert "1536" in again.err
    for side in (256, 600, 1600):  # pairs as `evaluate` finds them
        Generator(bundle, choose_device("cpu", "float32"), side)


def test_render_of_the_seed_is_what_training_computed(tmp_path: Path) -> None:
    """At batch 1, batch statistics are those of the window that a render takes."""
    from maptile2sat.models.generator import build_generator
    from maptile2sat.training.loop import build_trainer

    run, _ = unet_run("seed")
    config = TrainConfig.load(run / "config.json")
    trainer = build_trainer(config, [])
    checkpoints.load(checkpoints.find(run / "checkpoints")[-1], trainer.variables())
    model = build_generator(export(run, tmp_path / "bundle", About("x")), "float32")
    drawn = Pairs.of(config, "val")[0].map
    given = drawn[None].astype(np.float32) / 127.5 - 1.0
    for layer in trainer.generator.layers:
        if hasattr(layer, "seed_generator"):
            layer.rate = 0.0
    trained = np.asarray(trainer.generator(given, training=True))
    shipped = np.asarray(model(given, training=False))
    sampled = trainer.generate()(drawn, 0)
    np.testing.assert_allclose(shipped, trained, atol=0.02)  # weights are stored as float16
    np.testing.assert_allclose(sampled[None], trained, atol=1e-3)


# starting from a model


def test_start_from_a_bundle(tmp_path: Path) -> None:
    bundle = open_bundle(exported())
    changes = {"crop": 96, "loss_crop": 64, "batch_size": 2, "critic_base": 8, "colours": None}
    changes |= {"critic_photo": False, "photo_weight": 0.0}
    config = preset_config(
        "local", data(), steps=2, init=str(bundle.folder), precision="float32", seed=5, **changes
    )
    assert (config.width, config.dilations, config.colours) == (8, (1, 2), 6)
    run = tmp_path / "run"
    assert run_training(config, run, time_limit=-1.0) == 0
    stored = newest(run)
    for name, value in bundle.weights().items():
        for part in ("generator", "average"):
            found = [
                v for key, v in stored.items() if key.startswith(part) and key.endswith(f"/{name}")
            ]
            np.testing.assert_array_equal(found[0], value)
    assert run_training(config, run) == 2
    assert open_bundle(bundle.folder).description.architecture["palette"] == json.loads(
        (run / "palette.json").read_text()
    )


@pytest.mark.slow
def test_start_with_the_discriminator(tmp_path: Path) -> None:
    first, said = finished_run()[0], []
    bundle = export(first, tmp_path / "bundle", About("x"), discriminator=True)
    told = [{"new": "#aad3df", "like": "#b5d0d0"}]
    trained = {**bundle.description.training, "colours_told": [*told, {"new": 7}, "no pair"]}
    bundle = redescribe(bundle, training=trained)
    init = str(bundle.folder)
    config = tiny(steps=2, init=init)
    run = tmp_path / "run"
    run_training(config, run, time_limit=-1.0, say=said.append)
    assert f"starting from {init}" in said
    stored = {key: value for key, value in newest(run).items() if key.startswith("critic/")}
    for name, value in (bundle.discriminator() or {}).items():
        found = [v for key, v in stored.items() if key.endswith(f"/{name}")]
        np.testing.assert_array_equal(found[0], value)

    # the new model takes the old one's place, and knows what it came from all the same
    assert run_training(config, run) == 2
    for _ in range(2):
        after = export(run, bundle.folder, About("x"))
    assert after.discriminator() is None
    assert not (bundle.folder / "discriminator.weights.h5").exists()
    assert after.description.training["colours_told"] == told
    assert after.description.palette[-1] == (0xAA, 0xD3, 0xDF)
    (before,) = after.description.training["before"]
    assert before["command"] == bundle.description.training["command"]
    seen = before["crops_of_256_px"] + after.description.training["crops_of_256_px"]
    card = (bundle.folder / "README.md").read_text()
    assert before["command"] in card
    assert f"It saw {seen:,} crops" in card
    assert "The last of these runs was over after 2 of 2 steps." in card
    assert f"colours added: {len(told)}" in card


def test_discriminator_of_another_network_is_left(tmp_path: Path) -> None:
    said: list[str] = []
    changes = {"crop": 96, "loss_crop": 64, "batch_size": 2, "precision": "float32"}
    init = str(exported(discriminator=True))
    config = preset_config("local", data(), steps=2, init=init, critic_base=4, **changes)
    assert run_training(config, tmp_path / "run", time_limit=-1.0, say=said.append) == 0
    assert f"starting from {init}, with a new discriminator" in said


def test_damaged_discriminator_is_refused(tmp_path: Path) -> None:
    bundle = open_bundle(Path(shutil.copytree(exported(discriminator=True), tmp_path / "bundle")))
    path = bundle.folder / "discriminator.weights.h5"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"discriminator\.weights\.h5 is damaged"):
        bundle.discriminator()


@pytest.mark.slow
def test_train_the_cleaner_alone(tmp_path: Path) -> None:
    """Of a model with or without one; nothing else changes, and its discriminator is kept."""
    first = open_bundle(exported(discriminator=True))
    base = TrainConfig.load(finished_run()[0] / "config.json").critic_base
    changes = {"crop": 96, "loss_crop": 64, "batch_size": 8, "precision": "float32"}
    like = {**changes, "critic_base": base, "critic_photo": False, "critic_sees": "palette"}
    origin, news = first, [["cleaner"], []]
    for turn, new in enumerate(news):
        init, said, run = str(origin.folder), [], tmp_path / f"run{turn}"
        config = preset_config("cleaner", data(), steps=2, init=init, cleaner_width=8, **like)
        assert config.cleaner == (1, 2, 4, 1)
        assert run_training(config, run, say=said.append) == 2
        assert f"starting from {init}" + "".join(f", with a new {part}" for part in new) in said
        made = export(run, tmp_path / f"bundle{turn}", About("x"), discriminator=True)
        old, weights = origin.weights(), made.weights()
        assert any(name.startswith("clean") for name in weights)
        for name, value in weights.items():
            same = name in old and np.array_equal(old[name], value)
            assert same is not name.startswith("clean"), name
        origin = made
    judges = [bundle.discriminator() or {} for bundle in (first, origin)]
    assert judges[0].keys() == judges[1].keys()
    for name, value in judges[0].items():
        np.testing.assert_array_equal(judges[1][name], value)
    lines = (origin.folder / "README.md").read_text().splitlines()
    seen = first.description.training["crops_of_256_px"]
    assert any(line.startswith(f"It saw {seen:,} crops") for line in lines)
    assert "saw 2 more by itself." in lines  # the part that takes labels off maps


@pytest.mark.usefixtures("idle_steps")
def test_checkpoints_of_a_cleaner_are_compared_by_labelled_maps(tmp_path: Path) -> None:
    """Where there is nothing to take off, the worst cleaner is as good as any."""
    words = {"crop": 96, "loss_crop": 64, "batch_size": 1, "precision": "float32"}
    config = preset_config(
        "cleaner", data(), steps=1, init=str(exported()), cleaner_width=8, **words
    )
    bare = [Pairs.of(config, "val")[number].map for number in range(2)]
    with mock.patch("maptile2sat.training.loop.pooled_l1", return_value=1.0) as score:
        for preset, changes in (("cleaner", config), ("local", tiny(steps=1))):
            run_training(changes, tmp_path / preset, checkpoint_every=1)
            (_, chosen), _ = score.call_args
            same = [
                np.array_equal(drawn, its) for (drawn, _), its in zip(chosen, bare, strict=True)
            ]
            assert same == [preset == "local"] * 2


def test_what_an_older_description_leaves_out_its_network_has_not(tmp_path: Path) -> None:
    bundle = open_bundle(Path(shutil.copytree(exported(), tmp_path / "bundle")))
    path = bundle.folder / "model.json"
    description = json.loads(path.read_text())
    for name in ("cleaner", "cleaner_width", "deep", "deep_width"):
        del description["architecture"][name]
    path.write_text(json.dumps(description))
    config = preset_config("local", data(), init=str(bundle.folder))
    assert (config.cleaner, config.deep) == ((), ())


def test_cleaner_of_a_model_without_discriminator(tmp_path: Path) -> None:
    init = str(exported())
    changes = {"crop": 96, "loss_crop": 64, "batch_size": 2, "precision": "float32"}
    config = preset_config("cleaner", data(), steps=2, init=init, **changes)
    assert run_training(config, tmp_path / "run", time_limit=-1.0) == 0
    with pytest.raises(UsageError, match="no discriminator to keep"):
        export(tmp_path / "run", tmp_path / "bundle", About("x"), discriminator=True)


def test_cleaner_needs_a_model() -> None:
    with pytest.raises(UsageError, match="--init"):
        preset_config("cleaner", data())


def test_start_from_a_unet(tmp_path: Path) -> None:
    bundle = export(unet_run("seed")[0], tmp_path / "bundle", About("x"))
    run = tmp_path / "run"
    config = small("seed", init=str(bundle.folder), seed=9)
    assert train(config, run, time_limit=-1.0) == 0
    stored = newest(run)
    for name, value in bundle.weights().items():
        found = [
            v for key, v in stored.items() if key.startswith("gen") and key.endswith(f"/{name}")
        ]
        np.testing.assert_array_equal(found[0], value)


def test_start_from_something_else(tmp_path: Path) -> None:
    bundle = open_bundle(exported())
    with pytest.raises(
        BundleError, match=r"is a local generator, the preset pix2pix trains a unet"
    ):
        train(small("pix2pix", init=str(bundle.folder)), tmp_path / "run")
    with pytest.raises(BundleError, match="no model 'nothing'"):
        preset_config("local", data(), init="nothing")
    assert not (tmp_path / "run").exists()


# the length of a run


def started(folder: Path, done: int, **changes: Any) -> Path:
    """Return a run of which `done` of 10 steps are done, as far as its files tell."""
    run = folder / f"run{done}"
    run.mkdir()
    tiny(steps=10, **changes).save(run / "config.json")
    checkpoints.save(run / "checkpoints", done, {})
    return run


def test_longer_run_before_the_rate_falls(tmp_path: Path) -> None:
    from maptile2sat.training import _agreed

    assert _agreed(started(tmp_path, 5), tiny(steps=20)).steps == 20
    with pytest.raises(TrainingError, match=r"steps: 10 != 20\) \(steps decide the learning rate"):
        _agreed(started(tmp_path, 8), tiny(steps=20))
    with pytest.raises(TrainingError, match="steps: 10 != 4"):
        _agreed(started(tmp_path, 6), tiny(steps=4))
    with pytest.raises(TrainingError, match=r"\(width: 8 != 16\): repeat"):
        _agreed(started(tmp_path, 4), tiny(steps=20, width=16))


def test_constant_rate_may_always_go_on(tmp_path: Path) -> None:
    from maptile2sat.training import _agreed

    run = started(tmp_path, 10, decay_from=1.0)
    assert _agreed(run, tiny(steps=30, decay_from=1.0)).steps == 30


def test_same_data_by_another_way(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(data().parent)
    assert tiny().differences(tiny(data=data().name)) == []


def test_old_configuration_is_a_local_one(tmp_path: Path) -> None:
    """A file from before there were presets has none of their fields."""
    old = {"data": "d", "steps": 6680, "dilations": [1, 2], "ema": 0.99, "precision": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(old))
    config = TrainConfig.load(tmp_path / "config.json")
    assert (config.preset, config.kind, config.decay_from, config.ema) == (
        "local",
        "local",
        0.5,
        0.99,
    )


@pytest.mark.slow
def test_command_line_knows_the_presets(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--set", "unet_base=4", "--set", "critic_base=4", "--precision", "float32"]
    arguments = ["train", data(), "--out", run, "--preset", "pix2pix", "--steps", "2", *options]
    stopped = run_cli(*arguments, "--time-limit", "0")
    assert (stopped.code, stopped.out) == (0, "")
    assert "saved and stopped after step 0 of 2" in stopped.err
    done = run_cli(*arguments)
    assert done.code == 0, done.err
    assert done.out == f"{run / 'bundle'}\n"
    assert "generator: " in done.err
    cases = {
        ("--epochs", "1", "--steps", "2"): "--epochs or --steps",
        ("--preset", "big"): "preset 'big' is not one of",
        ("--devices", "tpu"): "devices 'tpu' is not one of",
    }
    for words, message in cases.items():
        refused = run_cli("train", data(), "--out", tmp_path / "other", *words)
        assert (refused.code, refused.err.count("\n")) == (2, 1), refused.err
        assert message in refused.err
    assert not (tmp_path / "other").exists()


def config_of(*arguments: Any) -> TrainConfig:
    """Return what `maptile2sat train` would train on these arguments."""
    with mock.patch("maptile2sat.cli.train._train", side_effect=UsageError("enough")) as taken:
        done = run_cli("train", *arguments)
    assert taken.called, done.err
    config = taken.call_args.args[0]
    assert isinstance(config, TrainConfig)
    return config


def test_side_and_style_are_what_the_data_says(tmp_path: Path) -> None:
    """A set that was built with the map on the left is not learned the wrong way round."""
    said = {"map_side": "left", "style": "osm"}
    (tmp_path / "dataset.json").write_text(json.dumps(said))
    words = [tmp_path, "--out", tmp_path / "run"]
    config = config_of(*words)
    assert (config.map_side, config.style) == ("left", "osm")
    config = config_of(*words, "--map-side", "right", "--style", "mine")
    assert (config.map_side, config.style) == ("right", "mine")
    (tmp_path / "dataset.json").write_text(json.dumps({"style": None}))
    config = config_of(*words)
    assert (config.map_side, config.style) == ("right", "maps")
    (tmp_path / "dataset.json").write_text(json.dumps({"kind": "built", "style": None}))
    assert config_of(*words).style == "own"  # of whatever map it was built


def test_side_that_the_data_says_wrongly(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"map_side": "top"}')
    done = run_cli("train", tmp_path, "--out", tmp_path / "run")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "map side 'top' is not left or right" in done.err
    (tmp_path / "dataset.json").write_text("{")
    done = run_cli("train", tmp_path, "--out", tmp_path / "run")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "dataset.json cannot be read" in done.err


@pytest.mark.parametrize(
    ("preset", "setting"),
    [
        ("pix2pix", "width=32"),
        ("pix2pix", "l1_weight=5"),
        ("seed", "cleaner=1,2"),
        ("seed", "critic_norm=spectral"),
        ("local", "unet_base=32"),
    ],
)
def test_setting_that_would_change_nothing(preset: str, setting: str, tmp_path: Path) -> None:
    words = ["--preset", preset, "--set", setting]
    done = run_cli("train", data(), "--out", tmp_path / "run", *words)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"--set {setting.partition('=')[0]}=" in done.err
    assert "have no such part" in done.err
    # nor is a value refused that is the preset's own
    config_of(data(), "--out", tmp_path / "run", "--preset", "pix2pix", "--set", "grid_weight=0")


def test_palette_of_a_model_keeps_its_colours(tmp_path: Path) -> None:
    words = [data(), "--out", tmp_path / "run", "--init", "maps"]
    own = config_of(*words).colours
    done = run_cli("train", *words, "--set", f"colours={own + 1}")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"the palette of maps has {own} colours" in done.err
    assert config_of(*words, "--set", f"colours={own}").colours == own


@pytest.mark.parametrize("preset", ["pix2pix", "seed"])
def test_discriminator_of_a_unet_is_given_the_clean_map(preset: str) -> None:
    """Labels that are drawn over a map for the generator are none of its business."""
    from maptile2sat.training.loop import build_trainer

    config = small(preset, batch_size=1)
    given = make_batch(Pairs.of(config, "train"), config, 0)
    np.testing.assert_array_equal(given.map, given.clean)
    trainer = build_trainer(config, [])
    told = [
        figures_of(trainer, given._replace(**changes))["critic_real"]
        for changes in ({}, {"map": 255 - given.map}, {"clean": 255 - given.clean})
    ]
    assert told[0] == told[1]
    assert told[0] != told[2]


@pytest.mark.parametrize(
    "changes",
    [{"palette": None}, {"palette": ["x"]}, {"width": "x"}, {"width": 8.5}, {"dilations": 5}],
    ids=str,
)
def test_start_from_a_model_that_makes_no_sense(changes: dict[str, Any], tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(models_folder() / "maps", tmp_path / "bundle"))
    about = json.loads((bundle / "model.json").read_text())
    about["architecture"] |= changes
    (bundle / "model.json").write_text(json.dumps(about))
    words = ["--init", bundle, "--resize", "320"]
    done = run_cli("train", data(), "--out", tmp_path / "run", *words)
    assert (done.code, done.err.count("\n")) == (1, 1), done.err
    assert "bundle: the architecture is not valid" in done.err
    assert not (tmp_path / "run").exists()
