"""The command that gives a model its whole-number form, and what it makes of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maptile2sat.geo.grid import Window
from maptile2sat.models.bundle import INTEGERS, open_bundle
from maptile2sat.paths import sample_map
from tests.rendering.test_unet_render import unet_bundle
from tests.support_render import (
    files_in,
    random_map,
    run_cli,
    tiny_render,
    write_tiny_bundle,
)

BOX = "24.9405,60.1690,24.9420,60.1697"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs" / "train"
    folder.mkdir(parents=True)
    for number in range(3):
        drawn = random_map(Window(1000 * number, 0, 256, 256))
        Image.fromarray(np.concatenate([drawn, drawn], 1)).save(folder / f"{number}.png")
    return folder.parent


def test_a_float_bundle_gets_its_form(tmp_path: Path, pairs: Path) -> None:
    floats = write_tiny_bundle(tmp_path / "floats", whole=False)
    before = tiny_render(sample_map(), tmp_path, bbox=BOX, model=str(floats))
    assert before.result.precision in ("float32", "bfloat16")
    assert [text for text in before.result.warnings if "has no whole-number form" in text]
    done = run_cli("quantise", floats, pairs, "-o", tmp_path / "whole", "--crops", "2")
    assert (done.code, done.out) == (0, f"{tmp_path / 'whole'}\n")
    bundle = open_bundle(tmp_path / "whole")
    assert bundle.exact
    assert bundle.description.integers["calibrated_on"] == 2
    assert not open_bundle(floats).exact
    after = tiny_render(sample_map(), tmp_path, bbox=BOX, model=str(tmp_path / "whole"))
    assert after.result.precision == "integer"
    assert not [text for text in after.result.warnings if "whole-number" in text]
    assert after.raster.tags["NUMERICS"] == "whole numbers 1"
    assert after.raster.tags["MODEL_SHA256"] == bundle.description.integers["sha256"]
    away = np.abs(after.image.astype(int) - before.image)
    assert 0 < away.mean() < 3


def test_its_own_folder_is_the_default_and_again_changes_nothing(
    tmp_path: Path, pairs: Path
) -> None:
    floats = write_tiny_bundle(tmp_path / "tiny", whole=False)
    assert run_cli("quantise", floats, pairs).code == 0
    first = (floats / INTEGERS).read_bytes()
    assert run_cli("quantise", floats, pairs).code == 0
    assert (floats / INTEGERS).read_bytes() == first


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        ("unet", "pairs", "whose windows are blended"),
        ("floats", "nothing", "no pairs"),
        ("nowhere", "pairs", "no model 'nowhere'"),
    ],
)
def test_refused(model: str, data: str, words: str, tmp_path: Path, pairs: Path) -> None:
    write_tiny_bundle(tmp_path / "floats", whole=False)
    (tmp_path / "nothing" / "train").mkdir(parents=True)
    given = {"unet": unet_bundle(), "floats": tmp_path / "floats"}.get(model, model)
    before = files_in(tmp_path)
    done = run_cli("quantise", given, tmp_path / data, "-o", tmp_path / "out")
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert words in done.err
    assert files_in(tmp_path) == before
