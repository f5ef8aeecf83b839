"""The fingerprint of what decides the bits of a result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from maptile2sat import device
from maptile2sat.device import choose_device

KINDS = {
    "old": "fpu sse2 avx2 fma",
    "avx512": "fpu sse2 avx2 fma avx512f avx512_vnni",
    "bf16": "fpu sse2 avx2 fma avx512f avx512_vnni avx512_bf16",
    "amx": "fpu sse2 avx2 fma avx512f avx512_vnni avx512_bf16 amx_bf16",
}


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in device.NUMERIC_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(device, "CPU_INFO", path)
    return path


def test_processors_that_compute_otherwise_differ(processor: Path) -> None:
    found = {}
    for name, flags in KINDS.items():
        processor.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
        found[name] = choose_device("cpu", "float32").fingerprint
    assert len(set(found.values())) == len(KINDS)


@pytest.mark.parametrize("name", device.NUMERIC_SETTINGS)
def test_settings_that_change_the_kernels_are_named(
    name: str, processor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor.write_text(f"flags\t\t: {KINDS['amx']}\n")
    plain = choose_device("cpu").fingerprint
    monkeypatch.setenv(name, "0")
    assert choose_device("cpu").fingerprint != plain
    assert f"{name}=0" in choose_device("cpu").fingerprint


def test_auto_takes_what_the_processor_is_fast_in(processor: Path) -> None:
    for name, expected in [("avx512", "float32"), ("bf16", "bfloat16"), ("amx", "bfloat16")]:
        processor.write_text(f"flags\t\t: {KINDS[name]}\n")
        assert choose_device("cpu").precision == expected
    processor.unlink()
    assert choose_device("cpu").precision == "float32"


def in_a_new_process(code: str, **settings: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in device.NUMERIC_SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", "from maptile2sat.device import load_tensorflow\n" + code],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_dilated_convolutions_have_gradients() -> None:
    """On processors without AVX-512 only oneDNN has them, which TensorFlow leaves off there."""
    code = """
tf = load_tensorflow()
image = tf.ones((1, 16, 16, 3))
with tf.GradientTape() as tape:
    tape.watch(image)
    total = tf.reduce_sum(tf.nn.conv2d(image, tf.ones((3, 3, 3, 2)), 1, "VALID", dilations=2))
print(int(tf.reduce_max(tape.gradient(total, image))))
"""
    assert in_a_new_process(code) == "18"


@pytest.mark.parametrize(("given", "expected"), [({}, "1"), ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "0")])
def test_onednn_is_on_unless_the_user_says_otherwise(given: dict[str, str], expected: str) -> None:
    code = "import os; load_tensorflow(); print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    assert in_a_new_process(code, **given) == expected
