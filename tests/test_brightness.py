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
    for turn, contrast in (("once", 1.0), ("twice", 1.2)):
        words = [str(old), "-0.1", "--contrast", str(contrast), "-o", str(tmp_path / turn)]
        command = [sys.executable, str(SCRIPT), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        before, after = image(old, lake(WATER)), image(tmp_path / turn, lake(WATER))
        expected = contrast * np.arctanh(before) - 0.1
        np.testing.assert_allclose(np.arctanh(after), expected, atol=5e-3)
        old = tmp_path / turn
    about = open_bundle(old).description.training
    assert (about["brightened"], about["contrast"]) == (-0.22, 1.2)
