"""`maptile2sat evaluate` from outside: what it writes, says, refuses and leaves out."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

import maptile2sat
from maptile2sat.errors import BundleError
from maptile2sat.evaluation import inception, train_fcn
from maptile2sat.evaluation.catalogue import METRICS, show
from maptile2sat.evaluation.fcn import DESCRIPTION, PALETTES, load_fcn
from maptile2sat.models.bundle import find_bundle, redescribe, shipped_bundles
from maptile2sat.paths import models_folder
from tests.support_once import once, scratch
from tests.support_render import (
    FILL,
    Outcome,
    Pixels,
    copy_of_tiny,
    files_in,
    run_cli,
    tiny_bundle,
    tiny_render,
    write_tiny_bundle,
)

SIDE = 256
WRITTEN = ["metrics.json", "report.html", "sheet.png"]
COLOURS = [list(bytes.fromhex(texts[0])) for texts in PALETTES["maps"].values()]


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Load the classifier once, and compare fewer patches: the rest is as for users."""
    with (
        mock.patch("maptile2sat.evaluation.run.load_fcn", functools.cache(load_fcn)),
        mock.patch("maptile2sat.evaluation.metrics.DIRECTIONS", 16),
        mock.patch("maptile2sat.evaluation.metrics.PATCHES", 16),
    ):
        yield


def drawn_map(seed: int, side: int = SIDE, colours: Any = COLOURS) -> Pixels:
    random = np.random.default_rng(seed)
    blocks = random.integers(0, len(colours), (-(-side // 64),) * 2)
    return np.array(colours, np.uint8)[np.kron(blocks, np.ones((64, 64), int))][:side, :side]


def photo_of(drawn: Pixels, seed: int) -> Pixels:
    grain = np.random.default_rng(seed + 1000).normal(0, 12, drawn.shape)
    return np.clip(drawn[..., ::-1] * 0.5 + 20 + grain, 0, 255).astype(np.uint8)


def write_pairs(folder: Path, count: int, **options: Any) -> Path:
    folder.mkdir(parents=True)
    for seed in range(count):
        drawn = drawn_map(seed, **options)
        both = np.concatenate([photo_of(drawn, seed), drawn], axis=1)
        Image.fromarray(both).save(folder / f"{seed:03d}.png")
    return folder


@once
def data() -> Path:
    """Return a set of five pairs, the map on the right; do not change it."""
    folder = scratch("held")
    write_pairs(folder / "val", 5)
    return folder


@once
def other_bundle() -> Path:
    return write_tiny_bundle(scratch("other") / "other", weight_seed=5, name="other")


def evaluate(output: Path, *arguments: object, model: Any = None, pairs: Any = None) -> Outcome:
    return run_cli(
        "evaluate",
        model or tiny_bundle(),
        pairs or data(),
        "-o",
        output,
        "--inception-weights",
        "none",
        "--precision",
        "auto",
        *arguments,
    )


@functools.cache
def compared() -> tuple[Outcome, Path]:
    """Return what comparing two models said and wrote; do not change it."""
    output = scratch("compared") / "out"
    return evaluate(output, "--compare", other_bundle(), "--json"), output


def metrics(output: Path) -> Any:
    return json.loads((output / "metrics.json").read_text(encoding="utf-8"))


def test_it_writes_figures_sheet_and_report() -> None:
    done, output = compared()
    assert done.code == 0, done.err
    assert files_in(output) == WRITTEN
    found = metrics(output)
    assert json.loads(done.out) == found
    assert (found["pairs"], found["squares"], found["style"]) == (5, 5, "maps")
    assert [model["name"] for model in found["models"]] == ["tiny", "other"]
    for model in found["models"]:
        assert set(METRICS) - {"fid", "fid_all", "kid"} <= set(model["figures"])
        for name in found["ranking"]:
            assert model["figures"][name]["floor"] is not None, name
            assert model["figures"][name]["spread"] is not None, name


def test_figures_go_into_the_bundle_when_asked(tmp_path: Path) -> None:
    folder = copy_of_tiny(tmp_path)
    said = (folder / "model.json").read_text()
    assert evaluate(tmp_path / "a", model=folder).code == 0
    assert (folder / "model.json").read_text() == said
    done = evaluate(tmp_path / "b", "--record", "--seed", "3", model=folder)
    assert done.code == 0, done.err
    measured = metrics(tmp_path / "b")["models"][0]["figures"]
    kept = find_bundle(str(folder)).description.evaluation
    words = "evaluate tiny DATA -o REPORT --limit 5 --seed 3"
    assert kept["command"] == f"maptile2sat {words} --inception-weights none"
    assert list(kept["figures"]) == [name for name in METRICS if name in measured]
    for name, figure in kept["figures"].items():
        assert figure["value"] == measured[name]["value"]
        assert figure["floor"] == measured[name]["floor"]
    card = (folder / "README.md").read_text()
    swd = measured["swd"]
    assert f"| Sliced Wasserstein distance | {swd['value']:.4g} | {swd['floor']:.4g} |" in card
    assert (
        find_bundle(str(folder)).weights().keys()
        == find_bundle(str(tiny_bundle())).weights().keys()
    )


def test_pixelwise_figures_never_rank() -> None:
    found = metrics(compared()[1])
    assert found["ranking"]
    assert not {"psnr", "ssim", "l1", "rmse"} & set(found["ranking"])
    assert set(found["better"]) == set(found["ranking"])
    assert set(found["better"].values()) <= {"tiny", "other", "even"}


def test_floors_are_the_same_for_both_models_and_above_zero() -> None:
    one, other = (model["figures"] for model in metrics(compared()[1])["models"])
    for name in metrics(compared()[1])["ranking"]:
        assert one[name]["floor"] == other[name]["floor"], name
    for name in ("swd", "spectrum", "seam", "fcn_accuracy", "class_correlation"):
        assert one[name]["floor"] > 0


def test_what_is_measured_is_what_render_makes(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    drawn = drawn_map(0)
    shape = {"width": SIDE, "height": SIDE, "count": 3, "dtype": "uint8"}
    place = Affine(1, 0, 0, 0, -1, 0)
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:3857", transform=place, **shape) as to:
        to.write(np.moveaxis(drawn, -1, 0))
    rendered = tiny_render(path, tmp_path, native=True).image
    with Image.open(compared()[1] / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    top, gap = 24 + 6, 6
    columns = [
        pixels[top : top + SIDE, gap + number * (SIDE + gap) :][:, :SIDE] for number in range(4)
    ]
    assert (columns[0] == drawn).all()
    assert (columns[1] == rendered).all()
    assert (columns[3] == photo_of(drawn, 0)).all()
    assert rendered.std() > 5


def test_l1_is_that_of_the_pictures(tmp_path: Path) -> None:
    done = evaluate(tmp_path / "out", "--limit", 4, "--json")
    found = json.loads(done.out)
    assert found["pairs"] == 4
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        pixels = np.asarray(sheet).astype(float)
    gaps = []
    for row in range(4):
        top = 24 + 6 + row * (SIDE + 6)
        made, real = (
            pixels[top : top + SIDE, 6 + column * (SIDE + 6) :][:, :SIDE] for column in (1, 2)
        )
        gaps.append(np.abs(made - real).mean() / 127.5)
    assert found["models"][0]["figures"]["l1"]["value"] == pytest.approx(np.mean(gaps), rel=1e-4)


@pytest.mark.slow
def test_the_same_request_gives_the_same_figures() -> None:
    found = [
        maptile2sat.evaluate(tiny_bundle(), data(), inception_weights="none", precision="float32")
        for _ in range(2)
    ]
    one, other = ({**each.to_json(), "seconds": 0} for each in found)
    assert one == other
    assert one["models"][0]["figures"] == metrics(compared()[1])["models"][0]["figures"]
    assert one["models"][0]["figures"]["noise"]["value"] > 0


def test_the_report_needs_no_other_file() -> None:
    page = (compared()[1] / "report.html").read_text(encoding="utf-8")
    links = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]+)", page)
    assert links
    assert all(link.startswith(("data:image/", "#")) for link in links)
    assert "<script" not in page
    assert page.count("<svg") == 4
    for word in ("tiny", "other", "Lower is better", "0.158", "14.15", "0.311", "viewport"):
        assert word in page


def test_the_report_has_every_figure() -> None:
    _, output = compared()
    page = (output / "report.html").read_text(encoding="utf-8")
    figures = metrics(output)["models"][0]["figures"]
    shown = re.findall(r"<td><strong>(.*?)</strong>", page)
    assert sorted(shown) == sorted(
        about.title for name, about in METRICS.items() if name in figures
    )
    assert f">{show('brighter', figures['brighter']['value'])}" in page


@pytest.mark.slow
def test_the_table_explains_itself(tmp_path: Path) -> None:
    done = evaluate(tmp_path / "out", "--compare", tiny_bundle())
    assert done.code == 0
    for word in ("tiny #1", "tiny #2", "lower", "higher", "does not rank", "real photos"):
        assert word in done.out
    assert "figures that rank: tiny #1 better in 0" in done.out
    assert "FID and KID" in done.err
    assert "5 pairs are few" in done.err
    assert set(metrics(tmp_path / "out")["better"].values()) == {"even"}


@pytest.mark.slow
def test_resized_pairs_are_whole(tmp_path: Path) -> None:
    write_pairs(tmp_path / "set" / "val", 4, side=520)
    crops = evaluate(tmp_path / "crops", "--json", pairs=tmp_path / "set")
    resized = evaluate(
        tmp_path / "resized", "--json", "--protocol", "resize", pairs=tmp_path / "set"
    )
    assert json.loads(crops.out)["squares"] == 16
    found = json.loads(resized.out)
    assert found["squares"] == 4
    assert found["published"]["ssim"] == 0.112


def test_maps_of_no_known_style_leave_the_classes_out(tmp_path: Path) -> None:
    odd = [[20, 20, 20], [60, 0, 60], [90, 30, 10]]
    write_pairs(tmp_path / "set" / "val", 4, colours=odd)
    done = evaluate(tmp_path / "out", "--json", pairs=tmp_path / "set")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["style"] is None
    assert "fcn_accuracy" not in found["ranking"]
    assert "swd" in found["ranking"]
    assert "known style" in found["left_out"]["FCN-score and figures by class"]
    assert "FCN-score" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_map_side_comes_from_the_set_or_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "val").mkdir(parents=True)
    for path in (data() / "val").iterdir():
        pixels = np.asarray(Image.open(path))
        swapped = np.concatenate([pixels[:, SIDE:], pixels[:, :SIDE]], axis=1)
        Image.fromarray(swapped).save(folder / "val" / path.name)
    expected = metrics(compared()[1])["models"][0]["figures"]["l1"]
    model = copy_of_tiny(tmp_path)
    redescribe(find_bundle(str(model)), training={"settings": {"map_side": "left"}})
    found = json.loads(evaluate(tmp_path / "a", "--json", pairs=folder, model=model).out)
    assert found["models"][0]["figures"]["l1"] == expected  # as it was trained
    (folder / "dataset.json").write_text('{"map_side": "left"}')
    found = json.loads(evaluate(tmp_path / "b", "--json", pairs=folder).out)
    assert found["models"][0]["figures"]["l1"] == expected


@pytest.mark.slow
def test_it_overwrites_its_own_files_only_when_told(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    refused = evaluate(output)
    assert (refused.code, files_in(output)) == (1, ["notes.txt"])
    assert "--overwrite" in refused.err
    assert evaluate(output, "--overwrite").code == 0
    assert files_in(output) == sorted(["notes.txt", *WRITTEN])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--limit", 0], 2, "limit"),
        (["--limit", 3], 2, "limit"),
        (["--protocol", "cut"], 2, "protocol"),
        (["--seed", 2**32], 2, "seed"),
        (["--inception-weights", "none.h5"], 2, "none.h5"),
        (["--compare", "nothing"], 1, "no model 'nothing'"),
        (["--compare", "fcn"], 1, "not a model bundle"),
        (["--device", "tpu"], 2, "tpu"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, arguments: list[Any], code: int, said: str
) -> None:
    done = evaluate(tmp_path / "out", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert "Traceback" not in done.err
    assert files_in(tmp_path) == []


def test_data_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    missing = evaluate(tmp_path / "out", pairs=tmp_path / "nowhere")
    assert (missing.code, "no pairs in" in missing.err) == (1, True)
    bad = tmp_path / "bad"
    write_pairs(bad / "val", 4)
    (bad / "val" / "001.png").write_bytes(b"no picture")
    damaged = evaluate(tmp_path / "out", pairs=bad)
    assert (damaged.code, "001.png" in damaged.err) == (1, True)
    single = tmp_path / "single"
    write_pairs(single / "val", 1)
    assert evaluate(tmp_path / "out", pairs=single).code == 2
    nested = evaluate(tmp_path / "no" / "out")
    assert (nested.code, "does not exist" in nested.err) == (1, True)
    assert files_in(tmp_path / "single") == ["val", "val/000.png"]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_model_of_another_style_is_warned_of(tmp_path: Path) -> None:
    bundle = copy_of_tiny(tmp_path)
    about = json.loads((bundle / "model.json").read_text())
    (bundle / "model.json").write_text(json.dumps({**about, "style": "osm", "fill": list(FILL)}))
    done = evaluate(tmp_path / "out", model=bundle)
    assert done.code == 0
    assert "style osm; these are maps" in done.err


def test_inception_that_cannot_be_downloaded_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(inception.LeftOutError, match="could not be downloaded"):
        inception.find_weights("auto", "http://127.0.0.1:9/weights.h5")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_inception_is_kept_where_downloads_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MAPTILE2SAT_CACHE_DIR", str(tmp_path / "ours"))
    path = tmp_path / "ours" / "inception" / inception.NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    monkeypatch.setattr(inception, "MD5", hashlib.md5(b"weights").hexdigest())
    assert inception.find_weights("auto", "http://127.0.0.1:9/weights.h5") == path


@pytest.mark.parametrize("name", ["x" * 300, "caf\udce9"])
def test_reports_that_no_folder_can_hold(name: str, tmp_path: Path) -> None:
    done = evaluate(tmp_path / name)
    assert (done.code, done.err.count("\n")) == (1, 1), done.err


def test_recorded_command_is_that_of_the_model_alone() -> None:
    """Beside another of its name, with a figure that is none and the map on the other side."""
    found = maptile2sat.evaluate(tiny_bundle(), data(), inception_weights="none")
    model = found.models[0]
    none = {**model.figures, "seam": model.figures["seam"]._replace(value=float("nan"))}
    odd = dataclasses.replace(model, name="tiny 123abc", figures=none)
    said = {"map-side": "left", "precision": None}
    record = dataclasses.replace(found, models=[odd]).to_record("tiny", said)
    words = "maptile2sat evaluate tiny DATA -o REPORT --limit 5 --map-side left"
    assert record["command"] == f"{words} --inception-weights none"
    assert "seam" not in record["figures"]
    assert {"swd", "spectrum", "l1"} <= record["figures"].keys()


def test_weights_that_are_not_inceptions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    path.write_bytes(b"not HDF5")
    done = evaluate(tmp_path / "out", "--inception-weights", path)
    assert (done.code, "InceptionV3" in done.err) == (1, True)


@pytest.mark.slow
def test_inception_figures_come_with_a_floor(tmp_path: Path) -> None:
    weights = tmp_path / "weights.h5"
    weights.write_bytes(b"")

    def pooled(batch: Any, training: bool) -> Any:
        return np.asarray(batch)[:, ::60, ::60].reshape(len(batch), -1)

    with mock.patch("maptile2sat.evaluation.run.load_inception", return_value=pooled):
        done = evaluate(tmp_path / "out", "--inception-weights", weights, "--json")
    found = json.loads(done.out)
    assert found["left_out"] == {}
    for name in ("fid", "kid"):
        assert name in found["ranking"]
        assert found["models"][0]["figures"][name]["floor"] is not None
    fid, of_all = (found["models"][0]["figures"][name] for name in ("fid", "fid_all"))
    # of as many pictures as the floor's: with more it is lower, whatever they are
    assert fid["value"] == pytest.approx(np.mean(fid["samples"]), rel=1e-4)
    assert 0 < of_all["value"] < fid["value"]
    assert of_all["floor"] is None
    assert "fid_all" not in found["ranking"]


def test_the_shipped_classifier_is_whole_and_no_generator() -> None:
    folder = models_folder() / "fcn"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2 << 20
    assert "fcn" not in [bundle.description.name for bundle in shipped_bundles()]
    with pytest.raises(BundleError, match="not a model bundle"):
        find_bundle("fcn")
    fcn = load_fcn()
    held_out = fcn.about["held_out"]
    assert all(found["mean_iou"] > 0.35 for found in held_out.values())
    pictures = np.stack([photo_of(drawn_map(seed), seed) for seed in range(2)])
    reading = fcn.read(pictures)
    assert reading.classes.shape == (2, SIDE, SIDE)
    assert np.isfinite(reading.features).all()


def test_a_damaged_classifier_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(models_folder() / "fcn", tmp_path / "fcn")
    about = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**about, "classes": ["sea"]}))
    with pytest.raises(BundleError, match="another version"):
        load_fcn(folder)
    (folder / DESCRIPTION).write_text(json.dumps({**about, "weights_sha256": "0" * 64}))
    with pytest.raises(BundleError, match="damaged"):
        load_fcn(folder)


@pytest.mark.slow
def test_the_classifier_can_be_trained_anew_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        write_pairs(tmp_path / "set" / split, 2)
    monkeypatch.setattr(train_fcn, "SCALE_BATCHES", 1)
    monkeypatch.setattr(train_fcn, "BATCH", 2)
    for steps in ("1", "2"):
        arguments = ["", f"{tmp_path / 'set'}:maps", "-o", str(tmp_path / "fcn"), "--steps", steps]
        monkeypatch.setattr(sys, "argv", arguments)
        train_fcn.main()
    said = capsys.readouterr().out
    assert said.count("step 1 of") == 1
    assert "step 2 of 2" in said
    assert load_fcn(tmp_path / "fcn").about["training"]["steps"] == 2
    monkeypatch.setattr(sys, "argv", ["", "set:odd", "-o", str(tmp_path / "fcn")])
    with pytest.raises(SystemExit, match="FOLDER:STYLE"):
        train_fcn.main()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['maptile2sat', 'evaluate', '--help']\n"
        "from maptile2sat.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('heavy', *[n for n in ('tensorflow', 'numpy', 'PIL') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy"
    assert "--compare" in done.stdout
