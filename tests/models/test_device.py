"""The fingerprint of what decides the bits of a result."""

from __future__ import annotations

from pathlib import Path

import pytest

from maptile2sat.errors import UsageError
from maptile2sat.models import device
from maptile2sat.models.device import choose_device

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


@pytest.mark.parametrize(
    "wanted", ["tpu", "gpu:x", "gpu:-1", "gpu:²", "gpu:" + "9" * 5000, "cpu:1"]
)
def test_device_that_is_none(wanted: str) -> None:
    with pytest.raises(UsageError, match="is not one of auto, cpu, gpu, gpu:N"):
        choose_device(wanted)
