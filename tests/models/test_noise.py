"""Noise: a pure function of seed and place, the same bits everywhere, without a period."""

from __future__ import annotations

import ast
import hashlib
import inspect

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import maptile2sat.models.noise as noise_module
from maptile2sat.errors import UsageError
from maptile2sat.geo.grid import Window
from maptile2sat.models.noise import COARSE_OCTAVES, COARSE_STEP, MAX_SEED, UNIT, Noise, noise

FAR = 1 << 40


def channels(grains: Noise) -> list[npt.NDArray[np.int16]]:
    return [grains.fine[..., 0], *np.moveaxis(grains.coarse, -1, 0)]


def part(grains: Noise, inner: Window, outer: Window) -> Noise:
    """Cut the noise of `inner` out of that of `outer`."""
    rows, cols = inner.slices(outer)
    quarter = [slice(s.start // COARSE_STEP, s.stop // COARSE_STEP) for s in (rows, cols)]
    return Noise(grains.fine[rows, cols], grains.coarse[quarter[0], quarter[1]])


def assert_same(one: Noise, other: Noise) -> None:
    np.testing.assert_array_equal(one.fine, other.fine)
    np.testing.assert_array_equal(one.coarse, other.coarse)


def test_shapes_and_types() -> None:
    grains = noise(0, Window(8, 12, 64, 32))
    assert grains.fine.shape == (32, 64, 1)
    assert grains.coarse.shape == (8, 16, len(COARSE_OCTAVES))
    assert grains.fine.dtype == grains.coarse.dtype == np.int16
    for channel in channels(grains):
        assert np.abs(channel).max() <= 510


def test_bits_are_pinned() -> None:
    """A change here would change every picture that anyone has rendered."""
    grains = noise(7, Window(37_307 * 256, 18_966 * 256, 128, 128))
    digest = hashlib.sha256(grains.fine.astype("<i2").tobytes())
    digest.update(grains.coarse.astype("<i2").tobytes())
    assert digest.hexdigest()[:16] == "76a784122fbef39f"


def test_integer_arithmetic_alone() -> None:
    """Floating point differs between machines; integers do not."""
    tree = ast.parse(inspect.getsource(noise_module))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    nodes = [node for function in functions for node in ast.walk(function)]
    assert len(functions) >= 3
    assert not [node for node in nodes if isinstance(node, ast.Div)]
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    assert not [value for value in constants if isinstance(value, float)]
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not {name for name in names if "float" in name or name in ("sin", "random", "power")}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, MAX_SEED),
    col=st.integers(-(1 << 30), 1 << 38),
    row=st.integers(-(1 << 30), 1 << 38),
    shift=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    wrap=st.sampled_from([None, 256, 1 << 16, 1 << 24]),
)
def test_window_is_part_of_larger_window(
    seed: int,
    col: int,
    row: int,
    shift: tuple[int, int],
    size: tuple[int, int],
    wrap: int | None,
) -> None:
    outer = Window(4 * col, 4 * row, 4 * 51, 4 * 51)
    inner = Window(outer.col + 4 * shift[0], outer.row + 4 * shift[1], 4 * size[0], 4 * size[1])
    assert_same(noise(seed, inner, wrap), part(noise(seed, outer, wrap), inner, outer))


@pytest.mark.parametrize("wrap", [256, 1024, 1 << 24])
def test_world_wraps(wrap: int) -> None:
    """Columns one world further are the same columns, also where a window crosses the seam."""
    across = Window(wrap - 128, 512, 256, 64)
    whole = noise(1, across, wrap)
    east = Window(0, 512, 128, 64)
    west = Window(wrap - 128, 512, 128, 64)
    assert_same(part(whole, west, across), noise(1, west, wrap))
    assert_same(part(whole, east.shifted(wrap, 0), across), noise(1, east, wrap))
    for turns in (-2, -1, 1, 3):
        assert_same(noise(1, across.shifted(turns * wrap, 0), wrap), whole)
    assert not np.array_equal(noise(1, east).fine, noise(1, east.shifted(wrap, 0)).fine)


def test_coarse_octaves_are_continuous_across_the_seam() -> None:
    wrap = 4096
    grains = noise(1, Window(wrap - 512, 0, 1024, 1024), wrap)
    for channel, step in enumerate(COARSE_OCTAVES):
        if step == COARSE_STEP:
            continue
        steps = np.abs(np.diff(grains.coarse[..., channel].astype(int), axis=1))
        at_seam = steps[:, 512 // COARSE_STEP - 1]
        # interpolated lattice values: a step is at most a share of their full range
        assert steps.max() <= 1020 * COARSE_STEP / step + 1
        assert at_seam.mean() < 1.5 * steps.mean()


def test_seeds_differ() -> None:
    window = Window(0, 0, 256, 256)
    for one, other in ((0, 1), (1, 2), (0, 1 << 16), (0, MAX_SEED)):
        pairs = zip(channels(noise(one, window)), channels(noise(other, window)), strict=True)
        for step, (a, b) in zip((1, *COARSE_OCTAVES), pairs, strict=True):
            assert not np.array_equal(a, b)
            if step <= 4:  # enough independent values for a correlation to be small
                assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.06


def test_octaves_are_independent() -> None:
    grains = noise(0, Window(0, 0, 512, 512))
    fine = grains.fine[2::4, 2::4, 0]
    assert abs(np.corrcoef(fine.ravel(), grains.coarse[..., 0].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(grains.coarse[..., 0].ravel(), grains.coarse[..., 1].ravel())[0, 1]) < (
        0.05
    )


@pytest.mark.parametrize(("col", "row"), [(0, 0), (-4096, -4096), (FAR, FAR), (1 << 37, 12)])
def test_statistics(col: int, row: int) -> None:
    grains = noise(5, Window(col, row, 1024, 1024))
    fine = grains.fine / UNIT
    assert abs(fine.mean()) < 0.01
    assert abs(fine.std() - 1) < 0.01
    same_scale = grains.coarse[..., 0] / UNIT
    assert abs(same_scale.mean()) < 0.03
    assert abs(same_scale.std() - 1) < 0.03
    for channel in (1, 2):
        coarse = grains.coarse[..., channel] / UNIT
        assert 0.4 < coarse.std() < 1.01
        assert abs(coarse.mean()) < 0.3


def test_neighbours_are_independent() -> None:
    fine = noise(9, Window(1 << 24, 1 << 23, 1024, 1024)).fine[..., 0].astype(float)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (0, 256), (256, 0), (64, 64)):
        a = fine[: fine.shape[0] - dy, : fine.shape[1] - dx]
        b = fine[dy:, dx:]
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.006


@pytest.mark.parametrize("across", [True, False])
def test_no_period(across: bool) -> None:
    """The autocorrelation of a strip of 4096 px has no peak but at zero."""
    length, breadth = 4096, 64
    size = (length, breadth) if across else (breadth, length)
    grains = noise(2, Window(1 << 20, 1 << 20, *size))
    for channel, limit in zip(channels(grains)[:2], (0.02, 0.06), strict=True):
        lines = channel if across else channel.T
        lines = lines - lines.mean()
        power = np.abs(np.fft.rfft(lines, 2 * lines.shape[1], axis=1)) ** 2
        correlation = np.fft.irfft(power.sum(0))[: lines.shape[1] // 2]
        correlation /= correlation[0]
        assert np.abs(correlation[1:]).max() < limit


def test_large_coordinates_are_not_folded() -> None:
    """Columns and rows count in full, above 32 bits too."""
    near = Window(64, 64, 64, 64)
    for shift in (1 << 24, 1 << 32, 1 << 36):
        for dx, dy in ((shift, 0), (0, shift), (shift, shift)):
            moved = noise(0, near.shifted(dx, dy))
            for a, b in zip(channels(moved), channels(noise(0, near)), strict=True):
                assert not np.array_equal(a, b)


def test_columns_and_rows_are_not_interchangeable() -> None:
    fine = noise(0, Window(0, 0, 64, 64)).fine[..., 0]
    assert not np.array_equal(fine, fine.T)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(UsageError, match="is not in 0"):
        noise(seed, Window(0, 0, 4, 4))


def test_windows_must_be_aligned() -> None:
    with pytest.raises(ValueError, match="aligned"):
        noise(0, Window(2, 0, 8, 8))
