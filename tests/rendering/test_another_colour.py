"""Teaching a model one more map colour, by the script itself."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ImageColor

from maptile2sat.geo.grid import Window
from maptile2sat.models.bundle import find_bundle, open_bundle, save_bundle
from maptile2sat.models.noise import noise
from tests.rendering.test_average import bundle
from tests.support_render import DESCRIPTION, PALETTE, Pixels, tiny_config, tiny_model

SCRIPT = Path(__file__).parents[2] / "examples" / "another_colour.py"
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


def written(colour: tuple[int, ...]) -> str:
    return "#" + bytes(colour).hex()


def image(folder: Path, drawn: Pixels) -> Any:
    from maptile2sat.models.generator import build_generator

    grains = noise(0, Window(0, 0, 64, 64))
    inputs = (drawn.astype(np.float32), grains.fine, grains.coarse)
    model = build_generator(open_bundle(folder), "float32")
    return np.asarray(model([np.asarray(part)[None] for part in inputs], training=False))[0]


@pytest.mark.parametrize("changes", [{}, {"cleaner": (1,), "cleaner_width": 4}], ids=str)
def test_new_colour_looks_like_the_known_one(changes: dict[str, Any], tmp_path: Path) -> None:
    old, made = bundle(tmp_path / "old", 1, **changes), tmp_path / "made"
    done = teach(old, f"rgb{NEW}=rgb{WATER}", "-o", made)
    assert done.returncode == 0, done.stderr
    expected = image(old, lake(WATER))
    assert np.abs(image(old, lake(NEW)) - expected).max() > 0.1
    np.testing.assert_allclose(image(made, lake(NEW)), expected, atol=0.02)
    np.testing.assert_allclose(image(made, lake(WATER)), expected, atol=0.02)
    about = open_bundle(made).description
    assert about.architecture["palette"][-1] == list(NEW)
    assert about.palette[-1] == NEW
    assert about.training["colours_told"] == [{"new": "#9678c8", "like": written(WATER)}]


def test_colours_beside_known_ones(tmp_path: Path) -> None:
    """Two at once: one 6 levels from the ground, one that looks like what the model does not know.

    A bundle's networks start with a sharpness of 1, by which the first would count as ground by
    two fifths, and the ground as it.
    """
    old, made = bundle(tmp_path / "old", 1), tmp_path / "made"
    ground = tuple(round(value) for value in PALETTE[0])
    beside = (ground[0] - 4, ground[1] - 1, ground[2] + 5)
    unknown = (20, 200, 90)
    done = teach(old, f"rgb{beside}=rgb{WATER}", f"rgb{NEW}=rgb{unknown}", "-o", made)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(image(made, lake(beside)), image(old, lake(WATER)), atol=0.05)
    np.testing.assert_allclose(image(made, lake(NEW)), image(old, lake(unknown)), atol=0.05)
    np.testing.assert_allclose(image(made, lake(ground)), image(old, lake(ground)), atol=0.05)


def test_discriminator_judges_the_new_colour_as_the_known_one(tmp_path: Path) -> None:
    from maptile2sat.models.generator import get_weights, set_weights
    from maptile2sat.models.networks.discriminators import build_patch_critic
    from maptile2sat.models.networks.layers import PaletteEncoding
    from maptile2sat.models.networks.photo_features import STRIDES

    classes = len(PALETTE) + 1
    critic = build_patch_critic(3, base=2, late=classes, photo=True, seed=3)
    described = {**DESCRIPTION, "architecture": dataclasses.asdict(tiny_config())}
    weights = get_weights(tiny_model(weight_seed=1))
    save_bundle(tmp_path / "old", described, weights, get_weights(critic))
    done = teach(tmp_path / "old", f"rgb{NEW}=rgb{WATER}", "-o", tmp_path / "made")
    assert done.returncode == 0, done.stderr

    made = open_bundle(tmp_path / "made")
    wider = build_patch_critic(3, base=2, late=classes + 1, photo=True, seed=4)
    judging = made.discriminator()
    assert judging is not None
    set_weights(wider, judging, "made")
    seen = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)

    def judged(model: Any, folder: Path, colour: tuple[int, ...]) -> Any:
        """Return the logits of the image itself, which no spectral norm changes."""
        bundled = open_bundle(folder)
        told = PaletteEncoding(bundled.description.architecture["palette"])
        drawn = lake(colour)[None].astype(np.float32)
        told.build(drawn.shape)
        for name in ("palette", "sharpness", "unknown"):
            getattr(told, name).assign(bundled.weights()[f"palette/{name}"])
        levels = []
        for given in model.inputs[2:]:
            side = 64 // STRIDES[given.name]
            levels.append(np.zeros((1, side, side, given.shape[-1]), np.float32))
        return np.asarray(model([seen, np.asarray(told(drawn)), *levels])[3])

    expected = judged(critic, tmp_path / "old", WATER)
    assert np.abs(judged(critic, tmp_path / "old", NEW) - expected).max() > 1e-3
    np.testing.assert_allclose(judged(wider, tmp_path / "made", NEW), expected, atol=1e-3)


def test_what_is_no_colour(tmp_path: Path) -> None:
    done = teach(bundle(tmp_path / "old", 1), "#aad3df=wet", "-o", tmp_path / "made")
    assert done.returncode == 2
    assert "wet is no colour" in done.stderr
    assert not (tmp_path / "made").exists()


def test_osm_knows_the_colours_of_today() -> None:
    """OpenStreetMap's style drew buildings and more in other colours than the training set."""
    from maptile2sat.models.generator import build_generator
    from maptile2sat.models.networks.local import split_at_look

    known = {
        "#d9d0c9": "#c3b1b1",  # building
        "#aad3df": "#b5d0d0",  # water
        "#aae0cb": "#89d3ae",  # pitch
        "#eeeeee": "#f7efb7",  # car park
        "#ffffe5": "#f0f0d8",  # school
    }
    look, _ = split_at_look(build_generator(find_bundle("osm"), "float32"))

    def looks(colours: list[str]) -> Any:
        pixels = np.float32([[ImageColor.getrgb(colour) for colour in colours]])
        return np.asarray(look(pixels[None]))[0, 0]

    ground = looks(["#f2efe9"])
    today, former = looks([*known]), looks([*known.values()])
    from_ground = np.abs(former - ground).max(-1)
    assert (np.abs(today - former).max(-1) < 0.05 * from_ground).all()
