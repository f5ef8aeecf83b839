"""Mixing the weights of two stages of one training, by the script itself."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maptile2sat.models.bundle import open_bundle, save_bundle
from tests.support_render import DESCRIPTION, tiny_config, tiny_model

SCRIPT = Path(__file__).parents[2] / "examples" / "average.py"


def bundle(folder: Path, weight_seed: int, **changes: Any) -> Path:
    model = tiny_model(weight_seed=weight_seed, **changes)
    from maptile2sat.models.generator import get_weights

    architecture = dataclasses.asdict(tiny_config(**changes))
    save_bundle(folder, {**DESCRIPTION, "architecture": architecture}, get_weights(model))
    return folder


def mix(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_weights_lie_between(share: float, tmp_path: Path) -> None:
    one = open_bundle(bundle(tmp_path / "one", 1, cleaner=(1,), cleaner_width=4))
    two = open_bundle(bundle(tmp_path / "two", 2, cleaner=(1,), cleaner_width=4))
    done = mix(one.folder, two.folder, str(share), "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    made = open_bundle(tmp_path / "out")
    assert made.description.training["averaged"] == {"with": two.id, "share": share}
    first, second, weights = one.weights(), two.weights(), made.weights()
    assert any(name.startswith("clean") for name in weights)
    for name, value in weights.items():
        part = 0.0 if name.startswith("clean") else share
        expected = (1.0 - part) * first[name] + part * second[name]
        np.testing.assert_allclose(value, expected, rtol=2e-3, atol=1e-4)


def test_other_networks_and_shares_are_refused(tmp_path: Path) -> None:
    one = bundle(tmp_path / "one", 1)
    two = bundle(tmp_path / "two", 2, width=8)
    known = tiny_config().palette
    more = bundle(tmp_path / "more", 2, palette=(*known, (1.0, 2.0, 3.0)))
    for words, said in (
        ((two, "0.5"), "different networks"),
        ((more, "0.5"), f"know {len(known)} and {len(known) + 1} colours"),
        ((one, "1.5"), "0 to 1"),
        ((tmp_path / "none", "0.5"), "error: "),
    ):
        done = mix(one, *words, "-o", tmp_path / "out")
        assert done.returncode != 0
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
