"""Which engine computes: the fastest that gives the known answer, and never another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from maptile2sat.errors import DeviceError, UsageError
from maptile2sat.models.bundle import open_bundle
from maptile2sat.models.integers import engine as engines
from maptile2sat.models.integers.engine import Engine, Form, choose_engine, trials
from maptile2sat.models.integers.known import golden_hash, known_input
from maptile2sat.models.integers.model import IntegerModel
from maptile2sat.models.integers.network import halo_of
from maptile2sat.paths import sample_map
from maptile2sat.rendering import render
from tests.support_render import run_cli, tiny_bundle, tiny_render

BOX = "24.9405,60.1690,24.9420,60.1697"


def model() -> IntegerModel:
    bundle = open_bundle(tiny_bundle())
    return IntegerModel(bundle.description.architecture, bundle.integers(), "tiny")


def off_by_one(run: Callable[..., Any], place: int) -> Callable[..., Any]:
    """Return an engine that makes one pixel wrong by a level."""

    def wrong(*codes: Any) -> Any:
        made = run(*codes).copy()
        made.reshape(-1)[place] ^= 1
        return made

    return wrong


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_one_wrong_level_anywhere_is_noticed(place: int) -> None:
    whole = model()
    right = choose_engine(whole, "openvino", clean=False).forms[0]
    wrong = Form("openvino", "broken kernels", lambda: off_by_one(right.build(), place))
    engine = Engine(whole, False, [wrong, right])
    side = 8 * 5 + 2 * halo_of(whole, False)
    codes = known_input(whole, side, side + 16)
    made = engine(*codes)
    assert engine.form is right
    assert engine.failed == ["broken kernels: gives another answer than is known"]
    np.testing.assert_array_equal(made, right.build()(*codes))


def test_nothing_that_is_wrong_computes() -> None:
    whole = model()
    right = choose_engine(whole, "openvino", clean=False).forms[0]
    wrong = Form("openvino", "broken kernels", lambda: off_by_one(right.build(), 7))
    engine = Engine(whole, False, [wrong])
    side = 8 + 2 * halo_of(whole, False)
    with pytest.raises(DeviceError, match="broken kernels: gives another answer"):
        engine(*known_input(whole, side, side))


def test_the_result_tells_what_was_not_used(tmp_path: Any, monkeypatch: Any) -> None:
    real = engines._openvino

    def broken(whole: Any, clean: bool, threads: int, bytewise: bool) -> Any:
        run = real(whole, clean, threads, bytewise)
        return off_by_one(run, 5) if bytewise else run

    monkeypatch.setattr(engines, "_openvino", broken)
    monkeypatch.setattr("maptile2sat.models.generator._kept", {})
    made = tiny_render(sample_map(), tmp_path, bbox=BOX)
    assert made.result.engine == "OpenVINO, float32 kernels"
    assert [text for text in made.result.warnings if "8-bit kernels: gives another" in text]
    monkeypatch.undo()
    np.testing.assert_array_equal(made.image, tiny_render(sample_map(), tmp_path, bbox=BOX).image)


def test_every_form_gives_the_known_answer() -> None:
    found = trials(model())
    assert len(found) == 4
    assert all(trial.seconds for trial in found)


def test_doctor_names_the_engine() -> None:
    done = run_cli("doctor")
    assert done.code == 0, done.out
    assert "ok   engine       OpenVINO, 8-bit kernels (" in done.out
    assert "TensorFlow on the processor, matrix products: 0." in done.out


def test_golden_hash_is_in_the_description() -> None:
    bundle = open_bundle(tiny_bundle())
    about = bundle.description.integers
    assert about["golden"] == golden_hash(bundle.integers())
    assert 0 < about["bound"] <= 1 << 23


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "torch"}, "engine 'torch' is not one of auto, openvino, tensorflow"),
        ({"labels": "maybe"}, "labels 'maybe' is not one of auto, yes, no"),
        ({"engine": "openvino", "precision": "float32"}, "computes whole numbers only"),
        ({"labels": "no", "precision": "float32"}, "only whole-number models"),
        ({"precision": "int8"}, "precision 'int8' is not one of"),
    ],
)
def test_options_that_cannot_be(tmp_path: Any, options: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        render(sample_map(), tmp_path / "out.tif", model=str(tiny_bundle()), **options)
