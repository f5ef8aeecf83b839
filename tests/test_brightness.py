"""Making a model's images brighter or darker, by the script itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from maptile2sat.bundle import open_bundle
from tests.test_another_colour import WATER, image, lake
from tests.test_average import bundle

SCRIPT = Path(__file__).parents[1] / "examples" / "brightness.py"


def test_colours_move_before_the_last_tanh(tmp_path: Path) -> None:
    old = bundle(tmp_path / "old", 1)
    for turn in ("once", "twice"):
        command = [sys.executable, str(SCRIPT), str(old), "-0.1", "-o", str(tmp_path / turn)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        before, after = image(old, lake(WATER)), image(tmp_path / turn, lake(WATER))
        np.testing.assert_allclose(np.arctanh(after), np.arctanh(before) - 0.1, atol=5e-3)
        old = tmp_path / turn
    assert open_bundle(old).description.training["brightened"] == -0.2
