"""Teaching a model one more map colour, by the script itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maptile2sat.bundle import open_bundle
from maptile2sat.grid import Window
from maptile2sat.noise import noise
from tests.support_render import PALETTE, Pixels
from tests.test_average import bundle

SCRIPT = Path(__file__).parents[1] / "examples" / "another_colour.py"
WATER = tuple(round(value) for value in PALETTE[2])
NEW = (150, 120, 200)


def teach(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def lake(colour: tuple[int, ...]) -> Pixels:
    """Return ground with a lake of a colour."""
    drawn = np.zeros((64, 64, 3), np.uint8) + np.array(PALETTE[0], np.uint8)
    drawn[16:48, 8:40] = colour
    return drawn


def image(folder: Path, drawn: Pixels) -> Any:
    from maptile2sat.networks.generator import build_generator

    grains = noise(0, Window(0, 0, 64, 64))
    inputs = (drawn.astype(np.float32), grains.fine, grains.coarse)
    model = build_generator(open_bundle(folder), "float32")
    return np.asarray(model([np.asarray(part)[None] for part in inputs], training=False))[0]


@pytest.mark.parametrize("changes", [{}, {"cleaner": (1,), "cleaner_width": 4}], ids=str)
def test_new_colour_looks_like_the_known_one(changes: dict[str, Any], tmp_path: Path) -> None:
    old, made = bundle(tmp_path / "old", 1, **changes), tmp_path / "made"
    done = teach(old, f"rgb{NEW}", f"rgb{WATER}", "-o", made)
    assert done.returncode == 0, done.stderr
    expected = image(old, lake(WATER))
    assert np.abs(image(old, lake(NEW)) - expected).max() > 0.1
    np.testing.assert_allclose(image(made, lake(NEW)), expected, atol=0.02)
    np.testing.assert_allclose(image(made, lake(WATER)), expected, atol=0.02)
    about = open_bundle(made).description
    assert about.architecture["palette"][-1] == list(NEW)
    assert about.training["colours_told"] == [{"new": f"rgb{NEW}", "like": f"rgb{WATER}"}]


def test_what_is_no_colour(tmp_path: Path) -> None:
    done = teach(bundle(tmp_path / "old", 1), "#aad3df", "wet", "-o", tmp_path / "made")
    assert done.returncode == 2
    assert "wet is no colour" in done.stderr
    assert not (tmp_path / "made").exists()
