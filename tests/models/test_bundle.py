"""Bundles: what is written is read, and nothing else is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from maptile2sat.errors import BundleError
from maptile2sat.models.bundle import (
    CARD,
    DESCRIPTION,
    INTEGERS,
    MAX_DESCRIPTION_BYTES,
    WEIGHTS,
    Bundle,
    find_bundle,
    open_bundle,
    redescribe,
    save_bundle,
    shipped_bundles,
)
from maptile2sat.models.device import load_tensorflow
from tests.support_render import (
    DESCRIPTION as ABOUT,
)
from tests.support_render import (
    copy_of_tiny,
    files_in,
    input_of,
    random_map,
    tiny_bundle,
    tiny_model,
    write_tiny_bundle,
)


def edit(folder: Path, **changes: Any) -> Path:
    """Change the description of a bundle; None takes a field away."""
    path = folder / DESCRIPTION
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return folder


def evaluation(**figure: Any) -> dict[str, Any]:
    """Return what a description says of an evaluation with one figure."""
    return {"command": "maptile2sat evaluate", "pairs": 1, "figures": {"a": figure}}


def rehash(folder: Path) -> Path:
    """State the hash of the weights that are there, as someone who forges a bundle would."""
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    return edit(folder, weights_sha256=digest)


def build(folder: Path) -> Any:
    load_tensorflow()
    from maptile2sat.models.generator import build_generator

    return build_generator(open_bundle(folder), "float32")


def test_round_trip() -> None:
    from maptile2sat.geo.grid import Window

    model = build(tiny_bundle())
    original = tiny_model()
    window = Window(0, 0, 64, 64)
    inputs = input_of(random_map(window), window)
    np.testing.assert_array_equal(np.asarray(model(inputs)), np.asarray(original(inputs)))
    about = open_bundle(tiny_bundle()).description
    for key in ("name", "version", "kind", "cell", "style", "zoom", "metres_per_pixel", "data"):
        assert getattr(about, key) == ABOUT[key]
    assert about.fill == tuple(ABOUT["fill"])
    assert about.palette == [tuple(colour) for colour in ABOUT["palette"]]


def test_files_and_card(tmp_path: Path) -> None:
    weights = {"layer/kernel": np.ones((2, 2), np.float32)}
    bundle = save_bundle(tmp_path / "b", {**ABOUT, "architecture": {}}, weights)
    assert files_in(tmp_path / "b") == sorted([CARD, DESCRIPTION, WEIGHTS])
    digest = hashlib.sha256((tmp_path / "b" / WEIGHTS).read_bytes()).hexdigest()
    assert bundle.description.weights_sha256 == digest
    assert digest in (tmp_path / "b" / CARD).read_text()
    assert bundle.id == f"tiny 1.2.3 ({digest[:12]})"


def test_notes_that_are_too_long_leave_the_old_bundle(tmp_path: Path) -> None:
    weights = {"layer/kernel": np.ones((2, 2), np.float32)}
    before = save_bundle(tmp_path / "b", {**ABOUT, "architecture": {}}, weights)
    long = {**ABOUT, "architecture": {}, "notes": "x" * (1 << 20)}
    with pytest.raises(BundleError, match="shorten its notes"):
        save_bundle(tmp_path / "b", long, {"layer/kernel": np.zeros((2, 2), np.float32)})
    assert open_bundle(tmp_path / "b").id == before.id
    assert files_in(tmp_path / "b") == sorted([CARD, DESCRIPTION, WEIGHTS])


def test_weights_are_float16_on_disk() -> None:
    with h5py.File(tiny_bundle() / WEIGHTS) as file:
        dtypes = {dataset.dtype for layer in file.values() for dataset in layer.values()}
    assert dtypes == {np.dtype(np.float16)}
    assert {array.dtype for array in open_bundle(tiny_bundle()).weights().values()} == {
        np.dtype(np.float32)
    }


def test_weights_are_rounded_to_float16(tmp_path: Path) -> None:
    exact = np.array([1 / 3, 1000.1, -6e-5], np.float32)
    bundle = save_bundle(tmp_path, {**ABOUT, "architecture": {}}, {"a/b": exact})
    np.testing.assert_array_equal(
        bundle.weights()["a/b"], exact.astype(np.float16).astype(np.float32)
    )


def test_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "again")
    for name in (WEIGHTS, DESCRIPTION, CARD):
        assert (tmp_path / "again" / name).read_bytes() == (tiny_bundle() / name).read_bytes()


def test_replacing_a_bundle(tmp_path: Path) -> None:
    folder = copy_of_tiny(tmp_path)
    old = open_bundle(folder).id
    write_tiny_bundle(folder, weight_seed=2)
    assert open_bundle(folder).id != old
    build(folder)


def test_failed_save_keeps_the_old_bundle(tmp_path: Path) -> None:
    folder = copy_of_tiny(tmp_path)
    before = {name: (folder / name).read_bytes() for name in files_in(folder)}
    with pytest.raises(BundleError, match="cell"):
        write_tiny_bundle(folder, weight_seed=2, cell=300)
    assert {name: (folder / name).read_bytes() for name in files_in(folder)} == before


def test_what_a_bundle_says_may_change_but_not_its_weights(tmp_path: Path) -> None:
    folder = copy_of_tiny(tmp_path)
    before = open_bundle(folder)
    weights = (folder / WEIGHTS).read_bytes()
    after = redescribe(before, notes="## Roofs\n\nare odd", licence="CC0 | all")
    assert after.id == before.id
    assert after.description == dataclasses.replace(
        before.description, notes="## Roofs\n\nare odd", licence="CC0 | all"
    )
    assert (folder / WEIGHTS).read_bytes() == weights
    card = (folder / CARD).read_text()
    assert card.endswith("## Roofs\n\nare odd\n")
    assert "| licence of the weights | CC0 \\| all |" in card
    assert files_in(folder) == sorted([CARD, DESCRIPTION, INTEGERS, WEIGHTS])
    with pytest.raises(BundleError, match="notes must be text"):
        redescribe(after, notes=3)
    figure = {"title": "x", "better": "lower", "value": 1.0, "floor": None}
    for figures in ({"a": {"title": "x"}}, {"a": {**figure, "value": float("nan")}}, 3):
        with pytest.raises(BundleError, match="evaluation is not what"):
            redescribe(after, evaluation={"command": "c", "pairs": 4, "figures": figures})
    redescribe(after, evaluation={}, training={"command": "c", "steps": "many"})
    redescribe(after)
    assert (folder / CARD).read_text() == card


def flip_byte(folder: Path) -> None:
    path = folder / WEIGHTS
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("damage", [flip_byte, truncate])
def test_damaged_weights(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = copy_of_tiny(tmp_path)
    damage(folder)
    with pytest.raises(BundleError, match=r"generator\.weights\.h5 is damaged.*sha256"):
        build(folder)


def test_truncated_weights_with_a_new_hash(tmp_path: Path) -> None:
    folder = copy_of_tiny(tmp_path)
    truncate(folder)
    with pytest.raises(BundleError, match="is not a weights file"):
        build(rehash(folder))


def test_missing_weights(tmp_path: Path) -> None:
    folder = copy_of_tiny(tmp_path)
    (folder / WEIGHTS).unlink()
    with pytest.raises(BundleError, match=r"generator\.weights\.h5 cannot be read"):
        build(folder)


def foreign(folder: Path, change: Callable[[h5py.File], None]) -> Path:
    with h5py.File(folder / WEIGHTS, "r+") as file:
        change(file)
    return rehash(folder)


def drop_layer(file: h5py.File) -> None:
    del file["stem"]


def add_layer(file: h5py.File) -> None:
    file.create_dataset("extra/kernel", data=np.zeros(3, np.float16))


def reshape(file: h5py.File) -> None:
    del file["stem/bias"]
    file.create_dataset("stem/bias", data=np.zeros(13, np.float16))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_layer, "missing.*stem/bias"),
        (add_layer, "unknown.*extra/kernel"),
        (reshape, r"stem/bias is \(13,\), expected \(12,\)"),
    ],
)
def test_weights_of_another_network(
    tmp_path: Path, change: Callable[[h5py.File], None], words: str
) -> None:
    folder = foreign(copy_of_tiny(tmp_path), change)
    with pytest.raises(BundleError, match=f"of another network: .*{words}"):
        build(folder)


def test_architecture_and_weights_must_agree(tmp_path: Path) -> None:
    folder = copy_of_tiny(tmp_path)
    architecture = open_bundle(folder).description.architecture
    edit(folder, architecture={**architecture, "dilations": [1, 2]})
    with pytest.raises(BundleError, match=r"of another network: missing .*unknown .*block2"):
        build(folder)


def not_finite(file: h5py.File) -> None:
    file["stem/bias"][3] = np.nan


def infinite(file: h5py.File) -> None:
    file["stem/bias"][3] = -np.inf


@pytest.mark.parametrize("change", [not_finite, infinite])
def test_weights_that_are_no_numbers(tmp_path: Path, change: Callable[[h5py.File], None]) -> None:
    folder = foreign(copy_of_tiny(tmp_path), change)
    with pytest.raises(BundleError, match="stem/bias holds values that are not finite"):
        build(folder)


def test_saving_weights_that_are_no_numbers(tmp_path: Path) -> None:
    """A training that went wrong, or a weight too large for float16, makes no bundle."""
    for value in (np.nan, 1e6):
        weights = {"layer/kernel": np.array([1.0, value], np.float32)}
        with pytest.raises(BundleError, match="layer/kernel"):
            save_bundle(tmp_path / "b", {**ABOUT, "architecture": {}}, weights)
        assert not (tmp_path / "b" / WEIGHTS).exists()


def test_bundle_stays_if_its_successor_cannot_be_written(tmp_path: Path) -> None:
    """The new weights are right, the discriminator beside them is not."""
    about = {**ABOUT, "architecture": {}}
    old, new, wrong = ({"layer/kernel": np.float32([1.0, last])} for last in (1.0, 2.0, np.nan))
    save_bundle(tmp_path / "b", about, old)
    before = files_in(tmp_path / "b")
    with pytest.raises(BundleError, match="layer/kernel"):
        save_bundle(tmp_path / "b", about, new, wrong)
    np.testing.assert_array_equal(open_bundle(tmp_path / "b").weights()["layer/kernel"], [1, 1])
    assert files_in(tmp_path / "b") == before
    save_bundle(tmp_path / "b", about, new, old)
    np.testing.assert_array_equal(open_bundle(tmp_path / "b").weights()["layer/kernel"], [1, 2])


def test_bundle_replaces_nothing_but_a_bundle(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text("my project")
    with pytest.raises(BundleError, match=r"holds 'README.md' and is no model bundle"):
        save_bundle(tmp_path, {**ABOUT, "architecture": {}}, {"a/b": np.ones(2, np.float32)})
    assert files_in(tmp_path) == [CARD]
    assert (tmp_path / CARD).read_text() == "my project"


def external_data(file: h5py.File) -> None:
    del file["stem/bias"]
    secret = Path(file.filename).parent / "secret.bin"
    secret.write_bytes(bytes(64))
    file.create_dataset(
        "stem/bias", (12,), np.float16, external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
    )


def external_link(file: h5py.File) -> None:
    del file["stem/bias"]
    file["stem/bias"] = h5py.ExternalLink("other.h5", "/stem/bias")


def external_layer(file: h5py.File) -> None:
    del file["stem"]
    file["stem"] = h5py.ExternalLink("other.h5", "/stem")


def soft_link(file: h5py.File) -> None:
    del file["stem/bias"]
    file["stem/bias"] = h5py.SoftLink("/skip/bias")


def virtual(file: h5py.File) -> None:
    del file["stem/bias"]
    layout = h5py.VirtualLayout((12,), np.float16)
    layout[:] = h5py.VirtualSource("other.h5", "/stem/bias", shape=(12,))
    file.create_virtual_dataset("stem/bias", layout)


def deeper_group(file: h5py.File) -> None:
    file.create_dataset("stem/deeper/kernel", data=np.zeros(3, np.float16))


def top_dataset(file: h5py.File) -> None:
    file.create_dataset("loose", data=np.zeros(3, np.float16))


def objects(file: h5py.File) -> None:
    del file["stem/bias"]
    file.create_dataset("stem/bias", data=["import os"] * 12, dtype=h5py.string_dtype())


def doubles(file: h5py.File) -> None:
    del file["stem/bias"]
    file.create_dataset("stem/bias", data=np.zeros(12, np.float64))


def enormous(file: h5py.File) -> None:
    del file["stem/bias"]
    file.create_dataset("stem/bias", (1 << 40,), np.float16, chunks=(1 << 16,))


def many(file: h5py.File) -> None:
    for number in range(20):  # 100 million values each, in a file of a few kilobytes
        file.create_dataset(f"stem/more_{number}", (100_000_000,), np.float16, chunks=(1 << 16,))


def empty(file: h5py.File) -> None:
    del file["stem/bias"]
    file["stem/bias"] = h5py.Empty(np.float16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (external_data, "refers to another file"),
        (external_link, "bias is a link"),
        (external_layer, "stem is a link"),
        (soft_link, "bias is a link"),
        (virtual, "refers to another file"),
        (deeper_group, "deeper is not where"),
        (top_dataset, "loose is not where"),
        (objects, "not one of float16, float32"),
        (doubles, "float64, not one of float16"),
        (enormous, "larger than weights can be"),
        (many, "larger than weights can be"),
        (empty, "bias holds no array"),
    ],
)
def test_weights_must_be_plain_arrays(
    tmp_path: Path, change: Callable[[h5py.File], None], words: str
) -> None:
    folder = foreign(copy_of_tiny(tmp_path), change)
    with pytest.raises(BundleError, match=words):
        build(folder)


def test_missing_description(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a model bundle: model\.json No such file"):
        open_bundle(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[" * 200_000, "is not JSON"),
        ("[1, 2]", "is not a model description"),
        ('"tiny"', "is not a model description"),
        ("{}", "format None"),
        ('{"format": 99}', "format 99, this version reads 1"),
        ('{"format": 1}', "lacks name, version"),
        (" " * (MAX_DESCRIPTION_BYTES + 1), "larger than a description can be"),
    ],
)
def test_description_that_is_none(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / DESCRIPTION).write_text(text)
    with pytest.raises(BundleError, match=words):
        open_bundle(tmp_path)


def test_description_that_is_binary(tmp_path: Path) -> None:
    (tmp_path / DESCRIPTION).write_bytes(b"\xff\xfe\x00\x81" * 100)
    with pytest.raises(BundleError, match="is not JSON"):
        open_bundle(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cell": 300}, "cell must be a multiple of 256"),
        ({"cell": 0}, "cell must be"),
        ({"cell": -256}, "cell must be"),
        ({"cell": 1 << 20}, "cell must be"),
        ({"cell": 256.0}, "cell must be"),
        ({"cell": True}, "cell must be"),
        ({"kind": "pickle"}, "kind must be one of local, unet"),
        ({"kind": ["local"]}, "kind must be one of"),
        ({"fill": [1, 2]}, "fill must be a colour"),
        ({"fill": [1, 2, 300]}, "fill must be a colour"),
        ({"palette": [[1, 2, 3], "red"]}, "palette must be"),
        ({"palette": [[0, 0, 0]] * 257}, "palette must be"),
        ({"zoom": 31}, "zoom must be"),
        ({"zoom": "16"}, "zoom must be"),
        ({"metres_per_pixel": 0}, "metres_per_pixel must be above 0"),
        ({"metres_per_pixel": float("nan")}, "metres_per_pixel"),
        ({"metres_per_pixel": "1.2"}, "metres_per_pixel"),
        ({"weights_sha256": "abc"}, "weights_sha256 must be"),
        ({"weights_sha256": int("1" * 64)}, "weights_sha256 must be"),
        ({"weights_sha256": "G" * 64}, "weights_sha256 must be"),
        ({"weights_sha256": ["a" * 60]}, "weights_sha256 must be"),
        ({"discriminator_sha256": int("1" * 64)}, "discriminator_sha256 must be"),
        ({"discriminator_sha256": 0}, "discriminator_sha256 must be"),
        ({"metrics": {"a": 10**400}}, "metrics must be an object"),
        ({"metrics": {"a": float("nan")}}, "metrics must be an object"),
        ({"notes": "\ud800"}, "must be text in UTF-8"),
        ({"training": {"\udfff": [1]}}, "must be text in UTF-8"),
        ({"evaluation": evaluation(title="t", better="b", value=1.0)}, "evaluation is not"),
        (
            {"evaluation": evaluation(title="t", better="b", value=10**400, floor=None)},
            "evaluation is not",
        ),
        ({"name": "../tiny"}, "plain file name"),
        ({"name": 7}, "name must be text"),
        ({"name": ""}, "plain file name"),
        ({"architecture": []}, "architecture must be an object"),
        ({"metrics": 3}, "metrics must be an object"),
        ({"training": "long"}, "training must be an object"),
        ({"licence": None}, "lacks licence"),
    ],
)
def test_description_with_a_wrong_value(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    folder = edit(copy_of_tiny(tmp_path), **changes)
    with pytest.raises(BundleError, match=words):
        open_bundle(folder)


def test_fields_of_later_versions_are_ignored(tmp_path: Path) -> None:
    folder = edit(copy_of_tiny(tmp_path), something_new={"a": 1})
    assert open_bundle(folder).id == open_bundle(tiny_bundle()).id


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0},
        {"width": 1 << 20},
        {"width": "12"},
        {"dilations": []},
        {"dilations": [1] * 1000},
        {"dilations": [1, -2, 4]},
        {"dilations": "124"},
        {"dilations": None},
        {"palette": []},
        {"palette": [[1, 2]]},
        {"palette": "red"},
        {"unknown_option": 1},
        {"half_width": 1.5},
        {"seed": "x"},
    ],
    ids=str,
)
def test_architecture_with_a_wrong_value(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = copy_of_tiny(tmp_path)
    architecture = open_bundle(folder).description.architecture
    edit(folder, architecture={**architecture, **changes})
    with pytest.raises(BundleError):
        build(folder)


def test_architecture_without_dilations(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="architecture"):
        build(edit(copy_of_tiny(tmp_path), architecture={}))


@pytest.mark.parametrize("size", [0, 100, 300, 1 << 20, "256"])
def test_unet_of_a_wrong_size(tmp_path: Path, size: object) -> None:
    folder = edit(copy_of_tiny(tmp_path), kind="unet", architecture={"size": size})
    with pytest.raises(BundleError):
        build(folder)


def test_unknown_model_lists_the_known_ones() -> None:
    names = [bundle.description.name for bundle in shipped_bundles()]
    assert "maps" in names
    with pytest.raises(BundleError, match=r"no model 'mops'.*one of: .*maps"):
        find_bundle("mops")


@pytest.mark.parametrize("name", ["", "\0", "maps\0", "..", ".", "maps/../nothing", "/nowhere"])
def test_names_that_are_tricks(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError):
        find_bundle(name)


def test_shipped_name_wins_over_a_folder(tmp_path: Path, monkeypatch: Any) -> None:
    """A folder that happens to lie there does not replace the model that was named."""
    write_tiny_bundle(tmp_path / "maps")
    monkeypatch.chdir(tmp_path)
    assert find_bundle("maps").description.data != ABOUT["data"]
    assert find_bundle("./maps").description.data == ABOUT["data"]


def test_shipped_bundles_are_sound() -> None:
    bundles: list[Bundle] = shipped_bundles()
    assert bundles
    for bundle in bundles:
        about = bundle.description
        assert bundle.folder.name == about.name
        assert about.licence
        card = (bundle.folder / CARD).read_text()
        assert about.weights_sha256 in card
        for heading in ("terms", "Intended use", "Must not be used for", "Limits", "Figures"):
            assert re.search(rf"^## .*{heading}", card, re.MULTILINE), heading
        for figure in about.evaluation["figures"].values():
            assert f"| {figure['title']} | {figure['value']:.4g} |" in card
        build(bundle.folder)
