"""Making a model's images brighter or darker, by the script itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from maptile2sat.models.bundle import open_bundle, redescribe
from tests.rendering.test_another_colour import WATER, image, lake
from tests.rendering.test_average import bundle

SCRIPT = Path(__file__).parents[2] / "examples" / "brightness.py"


def test_colours_move_before_the_last_tanh(tmp_path: Path) -> None:
    run = {"command": "train", "crops_of_256_px": 4, "steps": 1, "of_steps": 1, "pairs": 1}
    old = redescribe(open_bundle(bundle(tmp_path / "old", 1)), training=run).folder
    turns = (("once", 1.0, "colours less 0.1,"), ("twice", 1.2, "colours times 1.2, less 0.22,"))
    for turn, contrast, said in turns:
        words = [str(old), "-0.1", "--contrast", str(contrast), "-o", str(tmp_path / turn)]
        command = [sys.executable, str(SCRIPT), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        before, after = image(old, lake(WATER)), image(tmp_path / turn, lake(WATER))
        expected = contrast * np.arctanh(before) - 0.1
        np.testing.assert_allclose(np.arctanh(after), expected, atol=5e-3)
        assert f"{said} before the last tanh" in (tmp_path / turn / "README.md").read_text()
        old = tmp_path / turn
    about = open_bundle(old).description.training
    assert (about["brightened"], about["contrast"]) == (-0.22, 1.2)
