"""Training: batches by step, runs that can be stopped anywhere, bundles that render."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from maptile2sat.errors import TrainingError, UsageError
from maptile2sat.models.bundle import open_bundle, redescribe
from maptile2sat.paths import sample_map
from maptile2sat.training import Progress, TrainConfig, train
from maptile2sat.training import checkpoint as checkpoints
from maptile2sat.training.data import Batch, Pairs, jitter, make_batch, map_colours
from maptile2sat.training.export import About, export
from tests.support_once import once, scratch
from tests.support_render import (
    PALETTE,
    Pixels,
    files_in,
    read_back,
    run_cli,
)

pytestmark = pytest.mark.usefixtures("plain_charts")

INSIDE = "24.940,60.166,24.942,60.167"
SIDE = 256
STEPS = 6


def drawn_map(seed: int) -> Pixels:
    """Return blocks of map colours."""
    random = np.random.default_rng(seed)
    chosen = random.integers(0, len(PALETTE), (16, 16))
    return np.array(PALETTE, np.uint8)[np.kron(chosen, np.ones((16, 16), int))]


def photo_of(drawn: Pixels, seed: int) -> Pixels:
    """Return a darker picture of the same place, with grain."""
    grain = np.random.default_rng(seed + 1000).normal(0, 12, drawn.shape)
    return np.clip(drawn[..., ::-1] * 0.5 + 20 + grain, 0, 255).astype(np.uint8)


def write_pairs(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True)
    for seed in range(first, first + count):
        drawn = drawn_map(seed)
        both = np.concatenate([photo_of(drawn, seed), drawn], axis=1)
        Image.fromarray(both).save(folder / f"{seed:03d}.png")


@once
def data() -> Path:
    """Return a folder of pairs, the map on the right; do not change it."""
    folder = scratch("pairs")
    write_pairs(folder / "train", 8)
    write_pairs(folder / "val", 2, first=50)
    return folder


def copy_of_data(folder: Path) -> Path:
    return Path(shutil.copytree(data(), folder / "pairs"))


def tiny(**changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "data": str(data()),
        "steps": STEPS,
        "batch_size": 2,
        "crop": 96,
        "loss_crop": 64,
        "width": 8,
        "dilations": (1, 2),
        "colours": 6,
        "critic_base": 8,
        "precision": "float32",
    }
    return TrainConfig(**{**settings, **changes})


def run_training(config: TrainConfig, run: Path, **settings: Any) -> int:
    """Train, logging every two steps."""
    arguments = {"checkpoint_every": 2, "sample_every": 3, **settings}
    with mock.patch("maptile2sat.training.log.LOG_EVERY", 2):
        return train(config, run, **arguments)


def figures_of(part: Any, given: Batch) -> dict[str, float]:
    """Return the losses of a batch by which nothing is learned, without compiling a step."""
    import tensorflow as tf

    figures = part.losses(Batch(*map(tf.constant, given))).figures
    return {name: float(value) for name, value in figures.items()}


@once
def finished_run() -> tuple[Path, list[Progress]]:
    """Return a run that went through at once, and its reports; do not change it."""
    run, reports = scratch("run") / "whole", []
    assert run_training(tiny(), run, report=reports.append) == STEPS
    return run, reports


@once
def exported(*, discriminator: bool = False) -> Path:
    """Return the bundle of that run; do not change it."""
    folder = scratch("exported") / "bundle"
    export(finished_run()[0], folder, About("x"), discriminator=discriminator)
    return folder


def newest(run: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(checkpoints.find(run / "checkpoints")[-1]) as stored:
        return {name: stored[name] for name in stored.files}


# configuration


def test_config_round_trip(tmp_path: Path) -> None:
    config = tiny(seed=4, map_side="left")
    config.save(tmp_path / "c.json")
    loaded = TrainConfig.load(tmp_path / "c.json")
    assert loaded == config
    assert loaded.dilations == (1, 2)
    assert loaded.differences(config) == []


def test_config_differences() -> None:
    assert tiny().differences(tiny(seed=3, width=16)) == ["width: 8 != 16", "seed: 0 != 3"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"data": "x", "unknown": 1}', '"x"'])
def test_file_that_is_no_config(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(TrainingError, match=r"config\.json is not a training configuration"):
        TrainConfig.load(path)
    with pytest.raises(TrainingError, match=r"config\.json is not a training configuration"):
        TrainConfig.load(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"map_side": "top"}, "map_side"),
        ({"style": "two\nlines"}, "style must be text in one line"),
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"crop": 100}, "multiples of 16"),
        ({"loss_crop": 48}, "at least 64"),
        ({"loss_crop": 112}, "at most crop"),
        ({"precision": "float64"}, "precision"),
        ({"preset": "pix"}, "preset"),
        ({"preset": "seed"}, "of a U-Net"),
        ({"critic_norm": "batch"}, "critic_norm"),
        ({"generator_rate": 0.0}, "learning rates"),
        ({"ema": 1.0}, "ema"),
        ({"l1_pool": 7}, "l1_pool"),
    ],
)
def test_config_with_a_wrong_value(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        tiny(**changes)


def test_learning_rate_falls_in_the_second_half() -> None:
    config = tiny(steps=100)
    scales = [config.learning_scale(step) for step in (0, 49, 75, 100)]
    assert scales == [1.0, 1.0, 0.5, 0.0]


# pairs and batches


def batch(config: TrainConfig, step: int) -> Batch:
    return make_batch(Pairs.find(data() / "train", "right"), config, step)


def assert_same_batch(one: Batch, other: Batch) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_batch_is_a_function_of_the_step() -> None:
    config = tiny()
    forwards = [batch(config, step) for step in (0, 1, 2)]
    for step in (2, 0, 1):
        assert_same_batch(batch(config, step), forwards[step])
    assert not np.array_equal(forwards[0].map, forwards[1].map)
    assert not np.array_equal(batch(tiny(seed=1), 0).map, forwards[0].map)


def test_shapes_of_a_batch() -> None:
    made = batch(tiny(batch_size=3), 0)
    assert made.map.shape == (3, 96, 96, 3)
    assert made.image.shape == (3, 64, 64, 3)
    assert made.fine.shape == (3, 96, 96, 1)
    assert made.coarse.shape == (3, 24, 24, 3)


def test_epochs_show_every_pair_in_another_way() -> None:
    """Jitter and crops are new in each epoch, not frozen with the first."""
    config = tiny(batch_size=8)
    first, second = batch(config, 0), batch(config, 1)
    assert not np.array_equal(first.map, second.map)
    assert not np.array_equal(first.fine, second.fine)
    pictures = [np.round(crop.mean((0, 1)), 1).tolist() for crop in (*first.image, *second.image)]
    assert len({tuple(picture) for picture in pictures}) == 16


def test_every_pair_comes_once_per_epoch() -> None:
    config = tiny(batch_size=4)
    pairs = Pairs.find(data() / "train", "right")
    asked: list[int] = []
    real = Pairs.__getitem__

    def watched(self: Pairs, index: int) -> Any:
        asked.append(index)
        return real(self, index)

    with mock.patch.object(Pairs, "__getitem__", watched):
        for step in range(4):
            make_batch(pairs, config, step)
    assert sorted(asked[:8]) == sorted(asked[8:]) == list(range(8))
    assert asked[:8] != asked[8:]


def test_map_and_photo_stay_together() -> None:
    """The photo's crop shows the middle of the map's crop."""
    made = batch(tiny(batch_size=8), 0)
    for drawn, image in zip(made.map, made.image, strict=True):
        middle = drawn[16:80, 16:80, ::-1].astype(float) * 0.5 + 20
        assert np.abs(middle - image).mean() < 16
        shifted = drawn[0:64, 0:64, ::-1].astype(float) * 0.5 + 20
        assert np.abs(shifted - image).mean() > np.abs(middle - image).mean() + 5


@pytest.mark.parametrize(("crop", "loss_crop"), [(320, 256), (256, 192), (256, 256)])
def test_crops_begin_at_every_place_of_a_jpeg_block(crop: int, loss_crop: int) -> None:
    """Of pairs of 256 px, beyond whose border they go on mirrored."""
    pairs = Pairs.find(data() / "train", "right")
    config = tiny(crop=crop, loss_crop=loss_crop, jitter=False, batch_size=1)
    around, margin, found = 40, (crop - loss_crop) // 2, set()
    padding = ((around, around), (around, around), (0, 0))
    wholes = [[np.pad(half, padding, mode="reflect") for half in pairs[n]] for n in range(8)]
    low = (256 - loss_crop) // 2 - 3
    places = [(row, col) for row in range(low, low + 8) for col in range(low, low + 8)]
    for step in range(60):
        made = make_batch(pairs, config, step)
        (place,) = [
            (row, col)
            for drawn, photo in wholes
            for row, col in places
            if _lies_at(photo, around + row, around + col, made.image[0])
            and _lies_at(drawn, around + row - margin, around + col - margin, made.map[0])
        ]
        found.add(place)
    for starts in zip(*found, strict=True):
        assert {start % 8 for start in starts} == set(range(8))


def _lies_at(whole: Pixels, row: int, col: int, piece: Pixels) -> bool:
    there = whole[row : row + len(piece), col : col + len(piece)]
    corner = slice(4), slice(4)  # grain differs nearly everywhere: few pieces need be compared
    return np.array_equal(there[corner], piece[corner]) and np.array_equal(there, piece)


def test_crop_of_a_unet_is_the_pair_itself() -> None:
    config = tiny(preset="pix2pix", crop=256, loss_crop=256, jitter=False)
    pairs = Pairs.find(data() / "train", "right")
    made = make_batch(pairs, config, 0)
    assert any(np.array_equal(made.image[0], pairs[n].image) for n in range(8))


def test_pair_smaller_than_the_crop_is_used_up_to_its_border() -> None:
    """At side 256, crops of 272 px whose middle 208 px count have 49 x 49 places."""
    photos = [batch(tiny(crop=272, loss_crop=208, jitter=False), n).image[0] for n in range(40)]
    assert len({photo.tobytes() for photo in photos}) > len(list((data() / "train").iterdir()))


def test_jitter_is_small() -> None:
    drawn = drawn_map(0)
    gaps = []
    for seed in range(30):
        changed = jitter(drawn, np.random.default_rng(seed)).astype(int)
        assert changed.shape == drawn.shape
        gaps.append(np.abs(changed - drawn).mean())
    assert max(gaps) < 12
    assert np.median(gaps) > 0.5


@pytest.mark.usefixtures("idle_steps")
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_side_that_does_not_look_like_the_map(side: str, tmp_path: Path) -> None:
    """Days of training would be lost; once it has begun, it is as the user wants it."""
    said: list[str] = []
    for _ in range(2):
        run_training(tiny(steps=1, map_side=side), tmp_path / "run", say=said.append)
    doubts = [text.rpartition(": ")[2] for text in said if "pass --map-side" in text]
    words = "if that is wrong, pass --map-side right, with another --out"
    assert doubts == ([words] if side == "left" else [])


def test_map_side() -> None:
    right = Pairs.find(data() / "train", "right")[0]
    left = Pairs.find(data() / "train", "left")[0]
    np.testing.assert_array_equal(right.map, left.image)
    np.testing.assert_array_equal(right.map, drawn_map(0))


def test_map_colours_are_found() -> None:
    pairs = Pairs.find(data() / "train", "right")
    found = np.array(map_colours(pairs, 6, 0))
    for colour in PALETTE:
        assert np.abs(found - colour).max(1).min() <= 4
    assert map_colours(pairs, 6, 0) == map_colours(pairs, 6, 0)


def test_map_of_fewer_colours_than_asked_for(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    flat = np.full((SIDE, 2 * SIDE, 3), 200, np.uint8)
    flat[:90, SIDE:] = 30
    Image.fromarray(flat).save(tmp_path / "train" / "a.png")
    found = map_colours(Pairs.find(tmp_path / "train", "right"), 6, 0)
    assert 2 <= len(found) <= 6
    assert np.isfinite(found).all()


def truncated(path: Path) -> None:
    Image.new("RGB", (2 * SIDE, SIDE), (90, 120, 20)).save(path)
    path.write_bytes(path.read_bytes()[:700])


def no_picture(path: Path) -> None:
    path.write_text("not a picture")


def odd_size(path: Path) -> None:
    Image.new("RGB", (500, 300)).save(path)


def too_small(path: Path) -> None:
    Image.new("RGB", (256, 128)).save(path)


@pytest.mark.parametrize("spoil", [truncated, no_picture, odd_size, too_small])
@pytest.mark.parametrize("split", ["train", "val"])
def test_bad_pair_is_named(spoil: Any, split: str, tmp_path: Path) -> None:
    folder = copy_of_data(tmp_path)
    spoil(folder / split / "003.jpg")
    with pytest.raises(TrainingError, match=r"003\.jpg"):
        run_training(tiny(data=str(folder)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no pairs in .*train: give a folder"):
        run_training(tiny(data=str(tmp_path)), tmp_path / "run")
    shutil.copytree(data() / "train", tmp_path / "train")
    with pytest.raises(TrainingError, match=r"no pairs in .*val: give a folder"):
        run_training(tiny(data=str(tmp_path)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pairs_smaller_than_the_crop(tmp_path: Path) -> None:
    advice = r"256 px.*320.*--loss-crop 256 --crop 320"
    with pytest.raises(TrainingError, match=advice):
        run_training(tiny(crop=384, loss_crop=320), tmp_path / "run")


def test_a_few_pairs_smaller_than_the_crop(tmp_path: Path) -> None:
    """The advice is for the smallest pair, not for the many that are large enough."""
    folder = copy_of_data(tmp_path)
    for path in sorted(folder.glob("*/*.png"))[1:]:
        with Image.open(path) as picture:
            picture.resize((1200, 600)).save(path)
    advice = r"^1 of 10 pairs .* 256 px.*320.*--loss-crop 256 --crop 320"
    with pytest.raises(TrainingError, match=advice):
        run_training(tiny(data=str(folder), crop=384, loss_crop=320), tmp_path / "run")


# runs


def test_files_of_a_run() -> None:
    run, _ = finished_run()
    found = files_in(run)
    assert [name for name in found if name.endswith(".npz")] == [
        "checkpoints/step-00000004.npz",
        "checkpoints/step-00000006.npz",
    ]
    assert [name for name in found if name.endswith(".png")] == [
        "curves.png",
        "samples/step-00000003.png",
        "samples/step-00000006.png",
    ]
    assert not [name for name in found if name.endswith(".tmp")]
    assert TrainConfig.load(run / "config.json") == tiny()


def test_metrics_of_a_run() -> None:
    run, reports = finished_run()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert [report.step for report in reports] == [2, 4, 6]
    for line, report in zip(lines, reports, strict=True):
        assert {"critic_real", "critic_fake", "adversarial", "l1", "features"} <= set(line)
        assert all(np.isfinite(value) for value in line.values())
        assert line["crops"] == pytest.approx(line["step"] * 2 * (64 / 256) ** 2)
        assert report.losses["l1"] == line["l1"]
        assert report.steps == STEPS


def test_sample_sheet_shows_map_result_and_photo() -> None:
    run, _ = finished_run()
    with Image.open(run / "samples" / "step-00000006.png") as picture:
        sheet = np.asarray(picture)
    assert sheet.shape[1] == 3 * SIDE + 2 * 4
    sheet = sheet[18:]  # below the caption
    np.testing.assert_array_equal(sheet[:SIDE, :SIDE], drawn_map(50))
    np.testing.assert_array_equal(sheet[:SIDE, -SIDE:], photo_of(drawn_map(50), 50))
    made = sheet[:SIDE, SIDE + 4 : 2 * SIDE + 4]
    assert made.std() > 1
    assert not np.array_equal(made, sheet[:SIDE, :SIDE])


def test_training_changes_all_networks() -> None:
    """Generator, critic and average move; the average follows the generator."""
    run, _ = finished_run()
    found = checkpoints.find(run / "checkpoints")
    with np.load(found[0]) as stored:
        early = {name: stored[name] for name in stored.files}
    late = newest(run)
    assert early.keys() == late.keys()
    for part in ("generator", "average", "critic", "generator_optimizer"):
        names = [name for name in late if name.startswith(f"{part}/")]
        assert names
        assert any(not np.array_equal(early[name], late[name]) for name in names)
    kernels = [name for name in late if name.startswith("generator/") and "kernel" in name]
    twins = [name.replace("generator/", "average/") for name in kernels]
    gaps = [np.abs(late[a] - late[b]).max() for a, b in zip(kernels, twins, strict=True)]
    assert 0 < max(gaps) < 0.01


def test_stopped_and_resumed_is_the_same_as_in_one_go(tmp_path: Path) -> None:
    """A signal saves at once; the next call goes on where it stopped."""
    run = tmp_path / "run"

    def interrupt(progress: Progress) -> None:
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    done = run_training(tiny(), run, report=interrupt, checkpoint_every=100)
    assert 2 <= done < STEPS
    assert signal.getsignal(signal.SIGTERM) is before
    assert [checkpoints.step_of(path) for path in checkpoints.find(run / "checkpoints")] == [done]
    assert run_training(tiny(), run) == STEPS
    resumed, whole = newest(run), newest(finished_run()[0])
    assert resumed.keys() == whole.keys()
    start = newest_of_untrained(tmp_path)
    for network in ("generator/", "critic/"):
        moved = [name for name in whole if name.startswith(network) and "kernel" in name]
        # far less than what those steps changed; threads add up in another order each time, and
        # runs that are told to be deterministic are compared bit by bit elsewhere
        gap = max(np.abs(resumed[name] - whole[name]).max() for name in moved)
        way = max(np.abs(start[name] - whole[name]).max() for name in moved)
        assert gap < 0.2 * way


def newest_of_untrained(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the state before the first step: no time at all is allowed."""
    run = folder / "untrained"
    assert run_training(tiny(), run, time_limit=-1.0) == 0
    assert checkpoints.find(run / "checkpoints")[0].name == "step-00000000.npz"
    return newest(run)


def test_finished_run_does_nothing_more(tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run()[0], tmp_path / "run"))
    before = {name: (run / name).read_bytes() for name in files_in(run) if (run / name).is_file()}
    assert run_training(tiny(), run) == STEPS
    assert {name: (run / name).read_bytes() for name in before} == before


def test_other_settings_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    tiny().save(run / "config.json")
    with pytest.raises(TrainingError, match=r"other settings \(width: 8 != 16\): repeat them"):
        run_training(tiny(width=16), run)
    assert files_in(run) == ["config.json"]


def test_pairs_that_have_moved(tmp_path: Path) -> None:
    """As when a run comes home from the machine that it was trained on."""
    run = Path(shutil.copytree(finished_run()[0], tmp_path / "run"))
    tiny(data=str(tmp_path / "gone")).save(run / "config.json")
    with pytest.raises(TrainingError, match=r"no longer in .*gone: say where .*--pairs FOLDER"):
        export(run, tmp_path / "bundle", About("x"))
    done = run_cli("export", run, "-o", tmp_path / "bundle", "--pairs", data())
    assert done.code == 0, done.err
    said: list[str] = []
    assert run_training(tiny(), run, say=said.append) == STEPS
    assert any(f"going on with those of {data()}" in text for text in said)
    assert export(run, tmp_path / "again", About("x")).id.endswith(
        open_bundle(tmp_path / "bundle").id.rpartition(" ")[2]
    )


def test_a_finished_run_keeps_what_its_bundle_says(tmp_path: Path) -> None:
    names = ("width", "dilations", "colours", "critic_base", "critic_sees", "critic_photo")
    values = ("8", "1", "4", "4", "image", "false")
    words = ["train", data(), "--out", tmp_path / "run", "--steps", "1", "--batch-size", "1"]
    words += ["--crop", "96", "--loss-crop", "64", "--precision", "float32", "--devices", "cpu"]
    for setting in (*map("=".join, zip(names, values, strict=True)), "deep=", "cleaner="):
        words += ["--set", setting]
    words += ["--set", "annotate=0", "--set", "photo_weight=0"]
    first = run_cli(*words)
    assert first.code == 0, first.err
    folder = tmp_path / "run" / "bundle"
    redescribe(open_bundle(folder), licence="CC-BY-4.0")
    before = {name: (folder / name).read_bytes() for name in files_in(folder)}
    again = run_cli(*words)
    assert (again.code, again.out) == (0, first.out)
    assert "nothing was left to do" in again.err
    assert {name: (folder / name).read_bytes() for name in files_in(folder)} == before
    assert run_cli(*words, "--name", "city").code == 0
    about = open_bundle(folder).description
    assert (about.name, about.licence) == ("city", "CC-BY-4.0")
    redescribe(open_bundle(folder), metrics={})  # interrupted before it was measured
    assert run_cli(*words).code == 0
    assert open_bundle(folder).description.metrics["val_pairs"] == 2
    longer = [
        {"1": "2"}.get(word, word) if words[at - 1] == "--steps" else word
        for at, word in enumerate(words)
    ]
    done = run_cli(*longer)
    assert done.code == 0, done.err
    assert open_bundle(folder).description.training["steps"] == 2


class Holder:
    """Stands in for a variable."""

    def assign(self, value: npt.NDArray[Any]) -> None:
        self.value = value


def test_damaged_checkpoint(tmp_path: Path) -> None:
    """The message says what to do, and doing it works."""
    run = Path(shutil.copytree(finished_run()[0], tmp_path / "run"))
    path = run / "checkpoints" / "step-00000006.npz"
    holders = {name: Holder() for name in newest(run)}
    assert checkpoints.load(path, holders) == STEPS
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for damage in (whole[: len(whole) // 2], b"", b"no archive", whole[:-9], bytes(flipped)):
        path.write_bytes(damage)
        with pytest.raises(TrainingError, match=r"step-00000006\.npz cannot be read.*delete it"):
            checkpoints.load(path, holders)
    with pytest.raises(TrainingError, match=r"step-00000006\.npz cannot be read.*delete it"):
        export(run, tmp_path / "bundle", About("x"))
    assert not (tmp_path / "bundle").exists()
    path.unlink()
    assert export(run, tmp_path / "bundle", About("x")).description.training["steps"] == 4


def test_export_of_the_best_of_none(tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run()[0], tmp_path / "run"))
    (run / "checkpoints" / "best.json").unlink(missing_ok=True)
    with pytest.raises(TrainingError, match=r"tried on held-out pairs yet: leave --best out"):
        export(run, tmp_path / "bundle", About("x"), best=True)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("name", ["palette.json", "start.json"])
def test_damaged_notes_of_a_run(name: str, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run()[0], tmp_path / "run"))
    (run / name).write_text("")
    with pytest.raises(TrainingError, match=rf"{name} is damaged .*start another run"):
        export(run, tmp_path / "bundle", About("x"))


def test_checkpoint_of_another_network(tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run()[0], tmp_path / "run"))
    tiny(dilations=(1, 2, 4)).save(run / "config.json")
    with pytest.raises(TrainingError, match="of another network"):
        export(run, tmp_path / "bundle", About("x"))


def test_loss_that_explodes(tmp_path: Path) -> None:
    """The last good checkpoint stays."""
    run = Path(shutil.copytree(finished_run()[0], tmp_path / "run"))
    more = dataclasses.replace(tiny(), steps=2 * STEPS)
    more.save(run / "config.json")

    def broken(self: Any, given: Any, number: int) -> dict[str, float]:
        return {"l1": float("nan")}

    before = newest(run)
    with (
        mock.patch("maptile2sat.training.local.LocalTrainer.step", broken),
        pytest.raises(
            TrainingError, match=r"a loss became infinite at step 7: .*step-00000006\.npz is kept"
        ),
    ):
        run_training(more, run)
    after = newest(run)
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_checkpoints_are_whole_or_not_there(tmp_path: Path) -> None:
    class Unreadable:
        def __array__(self, *arguments: Any, **settings: Any) -> Any:
            raise KeyboardInterrupt

    good = {"a": np.arange(3)}
    checkpoints.save(tmp_path, 1, good)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path, 2, {"a": Unreadable()})
    assert [path.name for path in checkpoints.find(tmp_path)] == ["step-00000001.npz"]
    for step in (3, 4, 5):
        checkpoints.save(tmp_path, step, good)
    kept = [checkpoints.step_of(path) for path in checkpoints.find(tmp_path)]
    assert kept == [4, 5]


def test_checkpoint_that_is_not_finite_is_never_kept(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 1, {"a": np.ones(3)})
    with pytest.raises(TrainingError, match="a became infinite by step 2: start another run"):
        checkpoints.save(tmp_path, 2, {"a": np.array([1.0, np.nan])})
    assert [path.name for path in checkpoints.find(tmp_path)] == ["step-00000001.npz"]


def test_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(TrainingError, match=r"the run's folder .*taken/run cannot be made: Not a"):
        run_training(tiny(), tmp_path / "taken" / "run")


# export


def test_export_makes_a_bundle_that_renders(tmp_path: Path) -> None:
    run, _ = finished_run()
    folder = tmp_path / "mine"
    done = run_cli("export", run, "-o", folder, "--licence", "CC0-1.0", "--json", "--zoom", "15")
    assert done.code == 0, done.err
    assert json.loads(done.out)["bundle"] == str(folder)
    about = open_bundle(folder).description
    assert (about.name, about.kind, about.zoom, about.licence) == ("mine", "local", 15, "CC0-1.0")
    assert about.training["steps"] == STEPS
    assert about.training["pairs"] == 8
    assert about.metrics["val_pairs"] == 2
    assert open_bundle(folder).exact
    assert about.weights_sha256 in (folder / "README.md").read_text()
    output = tmp_path / "out.tif"
    made = run_cli(
        "render", sample_map(), "-o", output, "-m", folder, "--bbox", INSIDE, "--cell", "256"
    )
    assert made.code == 0, made.err
    assert read_back(output).image.std() > 1
    assert read_back(output).tags["MODEL"] == "mine"


def test_export_takes_notes_into_the_card(tmp_path: Path) -> None:
    run, _ = finished_run()
    notes = tmp_path / "notes.md"
    notes.write_text("## What still looks wrong\n\nRoofs.\n")
    done = run_cli("export", run, "-o", tmp_path / "mine", "--notes", notes)
    assert done.code == 0, done.err
    assert (tmp_path / "mine" / "README.md").read_text().endswith("looks wrong\n\nRoofs.\n")
    refused = run_cli("export", run, "-o", tmp_path / "none", "--notes", tmp_path / "gone.md")
    assert refused.code == 2
    assert "gone.md cannot be read" in refused.err
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("idle_steps")
def test_held_out_pairs_are_tried_on_their_middle(tmp_path: Path) -> None:
    """Pairs of thousands of pixels would take minutes and all memory at every checkpoint."""
    found = []
    for name, side in (("large", 1000), ("middle", 640)):
        folder = tmp_path / name
        shutil.copytree(data() / "train", folder / "train")
        write_pairs(folder / "val", 2)
        for path in sorted((folder / "val").iterdir()):
            with Image.open(path) as picture:
                large = picture.resize((2000, 1000), Image.Resampling.NEAREST)
            low = (1000 // 16 * 16 - side) // 2 if side < 1000 else 0
            halves = [large.crop((x + low, low, x + low + side, low + side)) for x in (0, 1000)]
            Image.fromarray(np.concatenate(list(map(np.asarray, halves)), 1)).save(path)
        run = tmp_path / f"run-{name}"
        run_training(tiny(data=str(folder), steps=1), run)
        best = json.loads((run / "checkpoints" / "best.json").read_text())
        assert best.pop("maps") == "bare"
        figures = export(run, tmp_path / f"to-{name}", About("x")).description.metrics
        found.append({**figures, **best})
    assert found[0] == pytest.approx(found[1], rel=5e-4)


def test_export_refuses_what_no_bundle_can_say(tmp_path: Path) -> None:
    run, _ = finished_run()
    cases = {
        ("--zoom", "31"): "zoom must be in 0..30",
        ("--metres-per-pixel", "nan"): "metres per pixel must be above 0",
        ("--name", ".."): "must be a plain file name",
        ("--licence", "one\ntwo"): "licence must be in one line",
    }
    for options, words in cases.items():
        done = run_cli("export", run, "-o", tmp_path / "bundle", *options)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
        assert words in done.err
    assert files_in(tmp_path) == []


def test_data_that_says_its_scale_wrongly(tmp_path: Path) -> None:
    data_set, run = copy_of_data(tmp_path), tmp_path / "run"
    shutil.copytree(finished_run()[0], run)
    (data_set / "dataset.json").write_text('{"metres_per_pixel": "1.8"}')
    tiny(data=str(data_set)).save(run / "config.json")
    done = run_cli("export", run, "-o", tmp_path / "bundle")
    assert (done.code, done.err.count("\n")) == (1, 1), done.err
    assert "metres_per_pixel in dataset.json" in done.err
    assert "--metres-per-pixel in 'maptile2sat export'" in done.err
    assert not (tmp_path / "bundle").exists()


def test_export_says_what_the_data_says(tmp_path: Path) -> None:
    """Scale and attribution of the user's own pairs come from their `dataset.json`."""
    data_set, run = copy_of_data(tmp_path), tmp_path / "run"
    shutil.copytree(finished_run()[0], run)
    tiny(data=str(data_set)).save(run / "config.json")
    said = {"zoom": 14, "metres_per_pixel": 6.25, "attribution": "© us", "style": "osm"}
    (data_set / "dataset.json").write_text(json.dumps(said))
    stated = export(run, tmp_path / "a", About("x")).description
    given = export(run, tmp_path / "b", About("x", zoom=13, attribution="me")).description
    assert (stated.zoom, stated.metres_per_pixel, stated.attribution) == (14, 6.25, "© us")
    assert (given.zoom, given.metres_per_pixel, given.attribution) == (13, 6.25, "me")


def test_export_takes_the_average() -> None:
    bundle, stored = open_bundle(exported()), newest(finished_run()[0])
    average = {name: value for name, value in stored.items() if name.startswith("average/")}
    weights = bundle.weights()
    assert len(weights) == len(average)
    for name, value in weights.items():
        matches = [v for key, v in average.items() if key.endswith(f"/{name}")]
        assert len(matches) == 1
        np.testing.assert_array_equal(value, matches[0].astype(np.float16).astype(np.float32))


def test_export_without_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    done = run_cli("export", run, "-o", tmp_path / "bundle")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "config.json is not a training configuration" in done.err
    tiny().save(run / "config.json")
    done = run_cli("export", run, "-o", tmp_path / "bundle")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "has no checkpoint yet" in done.err
    assert not (tmp_path / "bundle").exists()


def test_command_line_of_train(tmp_path: Path) -> None:
    """At its end a run becomes a bundle; the same words again do nothing more."""
    run = tmp_path / "town"
    options = ["--steps", "2", "--crop", "96", "--loss-crop", "64", "--batch-size", "2"]
    for setting in (
        "width=8",
        "dilations=1,2",
        "cleaner=",
        "deep=",
        "critic_photo=false",
        "critic_base=8",
    ):
        options += ["--set", setting]  # a network as small as those of the other tests
    arguments = ["train", data(), "--out", run, *options, "--precision", "float32"]
    for _ in range(2):
        done = run_cli(*arguments)
        assert done.code == 0, done.err
        assert done.out == f"{run / 'bundle'}\n"
    refused = run_cli(*arguments, "--seed", "1")
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "seed: 0 != 1" in refused.err
    about = open_bundle(run / "bundle").description
    assert about.name == "town"
    assert about.training["steps"] == 2


def test_command_line_of_train_refuses(tmp_path: Path) -> None:
    cases = {
        ("--crop", "100"): "multiples of 16",
        ("--precision", "float64"): "precision",
        ("--time-limit", "soon"): "is not a length of time",
        ("--steps", "0"): "--steps",
        ("--map-side", "top"): "map_side must be",
        ("--name", "my/town"): "name 'my/town' must be a plain file name",
    }
    for options, words in cases.items():
        done = run_cli("train", data(), "--out", tmp_path / "run", *options)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
        assert words in done.err
    done = run_cli("train", tmp_path, "--out", tmp_path / "run")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "no pairs in" in done.err
    assert files_in(tmp_path) == []


def test_folders_with_names_that_cannot_be(tmp_path: Path) -> None:
    """One line for names longer than file systems take, or of bytes that are no text."""
    long, odd = "a" * 300, os.fsdecode(b"caf\xe9")
    shutil.copytree(data(), tmp_path / odd)
    cases = {
        ("train", data(), "--resize", "320", "--out", tmp_path / long): "too long",
        ("train", tmp_path / long, "--out", tmp_path / "run"): "too long",
        ("dataset", "check", tmp_path / long): "too long",
        ("train", data(), "--out", tmp_path / odd): "is not UTF-8: rename it",
        ("train", tmp_path / odd, "--out", tmp_path / "run"): "is not UTF-8: rename it",
    }
    for arguments, words in cases.items():
        done = run_cli(*arguments)
        assert (done.code, done.err.count("\n")) == (1, 1), ascii(done.err)
        assert words in done.err
    assert {path.name for path in tmp_path.iterdir()} == {odd}
