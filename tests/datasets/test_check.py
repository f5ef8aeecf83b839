"""Checking sets of pairs, and what training makes of them."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maptile2sat.datasets import check, require_sound
from maptile2sat.datasets.check import align
from maptile2sat.datasets.pairs import read_pair
from maptile2sat.errors import TrainingError, UsageError
from maptile2sat.geo.grid import Window
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.data import Pairs, make_batch
from tests.support_dataset import run, town, write_pair, write_set

SIDE = 256


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def shorten(path: Path) -> None:
    body = path.read_bytes()
    middle = len(body) // 2
    path.write_bytes(body[:middle] + body[middle + 1000 :])  # Pillow decodes this without a word


def test_a_sound_set_is_called_sound(tmp_path: Path) -> None:
    report = check(write_set(tmp_path / "set"))
    assert report.usable
    assert (report.splits["train"].files, report.splits["val"].files) == (4, 2)
    assert report.splits["train"].sizes == {"512x256": 4}
    assert report.side == SIDE
    assert (report.map_side, report.map_looks) == ("right", "right")
    assert report.alignment is not None
    assert report.alignment.fits
    assert (report.alignment.right, report.alignment.down) == (0, 0)
    assert report.misplaced == []
    assert report.scale.zoom == 16
    assert report.scale.metres_per_pixel is None
    assert "a guess" in report.scale.how


def test_bad_files_are_named(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", train=7)
    truncate(folder / "train/0.jpg")
    shorten(folder / "train/1.jpg")
    (folder / "train/2.jpg").write_text("<html>not a picture</html>")
    Image.new("RGB", (300, 256)).save(folder / "train/3.jpg")
    Image.new("RGB", (200, 100)).save(folder / "train/4.png")
    write_pair(folder / "train/large.png", *town(Window(0, 0, 300, 300)))
    Image.fromarray(np.full((256, 512), 40_000, np.uint16)).save(folder / "train/grey.png")
    png = write_pair(folder / "train/short.png", *town(Window(0, 0, SIDE, SIDE)))
    truncate(png)
    outcome = run("dataset", "check", folder, "--json")
    assert outcome.code == 1
    report = json.loads(outcome.out)
    bad = report["splits"]["train"]["unusable"]
    assert set(bad) == {"0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.png", "grey.png", "short.png"}
    assert "is damaged" in bad["0.jpg"]
    assert "is damaged" in bad["1.jpg"]
    assert "not a readable image" in bad["2.jpg"]
    assert "300x256" in bad["3.jpg"]
    assert "one channel of 16 or 32 bits: save it as RGB" in bad["grey.png"]
    with pytest.raises(TrainingError, match=r"grey\.png has one channel of 16"):
        read_pair(folder / "train/grey.png", "right")
    assert report["splits"]["train"]["odd_sized"] == ["large.png"]
    assert not report["usable"]
    text = run("dataset", "check", folder)
    assert text.code == 1
    assert "unusable   7: 0.jpg is damaged" in text.out


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


@pytest.mark.parametrize(
    "kind", [b"iCCP", b"gAMA", b"pHYs", b"sRGB", b"tRNS", b"cHRM", b"acTL", b"fcTL"]
)
def test_a_picture_with_a_short_chunk_is_no_traceback(tmp_path: Path, kind: bytes) -> None:
    folder = write_set(tmp_path / "set")
    png = write_pair(folder / "train/short.png", *town(Window(0, 0, SIDE, SIDE)))
    body = png.read_bytes()
    end = body.rindex(b"IEND") - 4
    png.write_bytes(body[:end] + chunk(kind, b"k\0") + body[end:])
    outcome = run("dataset", "check", folder, "--json")
    unusable = json.loads(outcome.out)["splits"]["train"]["unusable"]
    assert outcome.code == (1 if unusable else 0)
    assert set(unusable) <= {"short.png"}
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("harm", [truncate, shorten])
def test_training_names_a_corrupt_file_before_it_starts(harm: object, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    assert callable(harm)
    harm(folder / "val/4.jpg")
    out = tmp_path / "run"
    options = ["--crop", "256", "--loss-crop", "256", "--time-limit", "0s"]
    outcome = run("train", folder, "--out", out, *options)
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert "1 of 6 pairs in" in outcome.err
    assert "val/4.jpg is damaged" in outcome.err
    assert not out.exists()


def test_training_says_when_pairs_are_too_small(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    require_sound(folder, SIDE)
    with pytest.raises(TrainingError, match=r"train/0.jpg has pairs of 256 px, and 320 px"):
        require_sound(folder, 320)


def test_blank_pairs_are_named(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    drawn, image = town(Window(0, 0, SIDE, SIDE))
    flat = np.full_like(drawn, 200)
    cloudy = image.copy()
    cloudy[:, :128] = 245
    dark = image.copy()
    dark[:150] = 0
    for name, pair in {
        "sea": (flat, image),
        "plain": (drawn, flat),
        "cloud": (drawn, cloudy),
        "dark": (drawn, dark),
    }.items():
        write_pair(folder / f"train/{name}.jpg", *pair)
    sheet = tmp_path / "sheet.png"
    report = check(folder, sheet=sheet)
    assert report.usable
    assert report.splits["train"].blank_maps == ["sea.jpg"]
    assert report.splits["train"].blank_images == {
        "plain.jpg": "uniform",
        "cloud.jpg": "cloud",
        "dark.jpg": "black",
    }
    with Image.open(sheet) as picture:
        colours = picture.getcolors(1 << 24) or []
        assert (200, 30, 30) in [colour for _, colour in colours]  # frames of flawed pairs


def test_shifts_are_measured(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    for number in range(6):
        split = "train" if number < 4 else "val"
        there = Window(5000 + number * 997, 300 + number * 1013, SIDE, SIDE)
        pair = town(there)[0], town(there.shifted(5, -3))[1]
        write_pair(folder / split / f"{number}.jpg", *pair)
    outcome = run("dataset", "check", folder)
    assert outcome.code == 0
    assert "OFF: images lie -5 px right and 3 px down of the maps" in outcome.out
    there = Window(77, 99, SIDE, SIDE)
    write_pair(folder / "train/wrong.jpg", *town(there))
    assert check(folder).misplaced == ["train/wrong.jpg"]


def test_a_sheet_replaces_nothing_unasked_and_is_what_its_name_says(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    mine = tmp_path / "mine.png"
    mine.write_text("mine")
    for name, code, says in (
        ("sheet.jpg", 2, "must end in .png"),
        ("mine.png", 1, "--overwrite"),
        ("missing/sheet.png", 1, "does not exist"),
        ("a" * 300 + ".png", 1, "shorter name"),
        ("a" * 248 + ".png", 1, "too long"),
    ):
        outcome = run("dataset", "check", folder, "--sheet", tmp_path / name)
        assert (outcome.code, outcome.err.count("\n")) == (code, 1)
        assert says in outcome.err
    assert {path.name for path in tmp_path.iterdir()} == {"set", "mine.png"}
    assert mine.read_text() == "mine"
    assert run("dataset", "check", folder, "--sheet", mine, "--overwrite").code == 0
    with Image.open(mine) as picture:
        assert picture.format == "PNG"


def test_pairs_of_different_places_do_not_fit() -> None:
    places = [Window(number * 811, number * 677, SIDE, SIDE) for number in range(13)]
    pairs = [(town(a)[0], town(b)[1]) for a, b in zip(places, places[1:] + places[:1], strict=True)]
    found = align(pairs)
    assert found is not None
    assert not found.fits
    assert abs(found.score) < 0.05
    assert align([]) is None


def test_the_work_of_a_report_grows_with_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_set(tmp_path / "set", train=60)
    asked = []
    real = Path.__hash__

    def counted(path: Path) -> int:
        asked.append(path)
        return real(path)

    monkeypatch.setattr(type(tmp_path), "__hash__", counted)
    report = check(folder)
    assert {name: split.files for name, split in report.splits.items()} == {"train": 60, "val": 2}
    assert len(asked) < 10 * 62


def test_a_map_on_the_other_side_is_noticed(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", map_side="left")
    assert "BUT THE LEFT LOOKS LIKE IT" in run("dataset", "check", folder).out
    (folder / "dataset.json").write_text(json.dumps({"map_side": "left", "zoom": 17}))
    report = check(folder)
    assert (report.map_side, report.map_looks) == ("left", "left")
    assert (report.scale.zoom, report.scale.how) == (17, "dataset.json")
    (folder / "dataset.json").write_text("[")
    with pytest.raises(TrainingError, match=r"dataset\.json cannot be read"):
        check(folder)


def test_quadkeys_tell_the_scale(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for split, name in (("train", "0320101102032131"), ("val", "0320101102032310")):
        write_pair(folder / split / f"{name}.jpg", *town(Window(0, 0, SIDE, SIDE)))
    scale = check(folder).scale
    assert scale.zoom == 16
    assert scale.metres_per_pixel == pytest.approx(1.81, abs=0.01)  # 40.7 degrees north


def test_no_pairs_and_wrong_sides_are_said(tmp_path: Path) -> None:
    assert "no pairs in" in run("dataset", "check", tmp_path).err
    folder = write_set(tmp_path / "set", 1, 1)
    (folder / "dataset.json").write_text(json.dumps({"map_side": "top"}))
    with pytest.raises(UsageError, match="not 'top'"):
        check(folder)


def test_every_epoch_sees_new_crops_of_cached_pairs(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", train=3, side=300)
    pairs = Pairs.find(folder / "train", "right")
    config = TrainConfig(data=str(folder), batch_size=3, crop=256, loss_crop=256)
    first = make_batch(pairs, config, 0)
    for path in pairs.files:
        path.unlink()  # decoded images are kept; what is cut from them is not
    second = make_batch(pairs, config, 1)
    for a in first.image:
        assert not any(np.array_equal(a, b) for b in second.image)
    np.testing.assert_array_equal(make_batch(pairs, config, 1).image, second.image)


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", train=3)
    files = sorted((folder / "train").iterdir())
    one = 2 * SIDE * SIDE * 3
    pairs = Pairs(files, "right", cache_bytes=one)
    assert pairs[0] is pairs[0]
    assert pairs[1] is not pairs[1]
    np.testing.assert_array_equal(pairs[1].map, pairs[1].map)


def test_pairs_can_be_resized_like_the_classic_notebook(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", side=600)
    config = TrainConfig(data=str(folder), crop=256, loss_crop=256, resize=286, batch_size=2)
    pairs = Pairs.find(folder / "train", config.map_side, config.resize)
    assert pairs[0].map.shape == pairs[0].image.shape == (286, 286, 3)
    assert make_batch(pairs, config, 0).image.shape == (2, 256, 256, 3)
    # antialiased: the image's grain of one pixel is averaged away
    native = Pairs.find(folder / "train", config.map_side)[0].image
    nearest = np.asarray(Image.fromarray(native).resize((286, 286), Image.Resampling.NEAREST))
    rough = [np.abs(np.diff(part.astype(int), axis=1)).mean() for part in (nearest, pairs[0].image)]
    assert rough[1] < 0.9 * rough[0]
    with pytest.raises(UsageError, match="resize must be 0"):
        TrainConfig(data="x", resize=200)


def test_both_sides_can_be_the_map(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    right, left = (Pairs.find(folder / "train", side)[0] for side in ("right", "left"))
    np.testing.assert_array_equal(right.map, left.image)
    np.testing.assert_array_equal(right.image, left.map)


def test_configurations_of_older_runs_still_load(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    config = TrainConfig(data="somewhere", steps=77)
    config.save(path)
    old = json.loads(path.read_text())
    del old["resize"]
    path.write_text(json.dumps(old))
    assert TrainConfig.load(path) == config
    assert TrainConfig.load(path).differences(config) == []
