"""Which processor computes, in which precision, and the fingerprint of both."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maptile2sat.errors import DeviceError, Maptile2satError, UsageError
from maptile2sat.models.description import SPECIFICATION

INTEGER = "integer"
"""Precision of models in whole numbers: what they are rendered in if they have that form."""

PRECISIONS = ("auto", INTEGER, "float32", "bfloat16", "float16")
BFLOAT16_FEATURES = ("avx512_bf16", "amx_bf16")
"""Instructions that make bfloat16 faster than float32."""

NUMERIC_FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", *BFLOAT16_FEATURES)
"""Instructions by which oneDNN chooses its kernels, and so the order of their sums."""

NUMERIC_SETTINGS = ("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that change that choice."""

BROKEN_IMPORT = (ImportError, AttributeError, TypeError, ValueError, RuntimeError, OSError)
"""What a package raises that was built for other versions of what it needs than are there."""

REINSTALL = "pip install --upgrade --force-reinstall tensorflow"

CPU_INFO = Path("/proc/cpuinfo")
GPU_DRIVERS = (
    Path("/proc/driver/nvidia"),
    Path("/dev/nvidiactl"),
    Path("/dev/dxg"),
    Path("/dev/kfd"),
)


@dataclass(frozen=True)
class Device:
    """Where and how a model computes.

    Attributes:
        name: TensorFlow's name, such as `/CPU:0`.
        kind: Processor features or GPU name that decide the bits of a result.
        precision: `integer`, `float32`, `bfloat16` or `float16`.
    """

    name: str
    kind: str
    precision: str

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU, which works on while the program goes on."""
        return self.name.startswith("/GPU")

    @property
    def fingerprint(self) -> str:
        """Text that is equal where results are promised to be the same to the last bit."""
        if self.precision == INTEGER:
            return f"whole numbers {SPECIFICATION}"
        import tensorflow as tf

        return f"tensorflow {tf.__version__}; {self.kind}; {self.precision}"


def load_tensorflow() -> Any:
    """Import TensorFlow and return it, without what its native parts print while they load.

    They write to the error stream before their log level applies. Someone who sets
    `TF_CPP_MIN_LOG_LEVEL` sees all of it.

    Raises:
        DeviceError: If it is not there or cannot be loaded.
    """
    try:
        return _tensorflow()
    except BROKEN_IMPORT as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise DeviceError(f"TensorFlow cannot be loaded ({said}): {REINSTALL}") from error


def _tensorflow() -> Any:
    if "tensorflow" in sys.modules or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        import tensorflow as tf

        return tf
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import keras  # noqa: F401  # loads more native parts
        import tensorflow as tf

        tf.config.list_physical_devices()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        del os.environ["TF_CPP_MIN_LOG_LEVEL"]  # read by now, and not for processes started later
    return tf


def choose_device(wanted: str = "auto", precision: str = "auto", *, exact: bool = False) -> Device:
    """Choose the processor and the precision.

    Args:
        wanted: `auto` (a GPU if TensorFlow sees one), `cpu`, `gpu` or `gpu:N`.
        precision: One of `PRECISIONS`; `auto` takes whole numbers if the model has them, else what
            the processor is fast in.
        exact: Whether the model has a whole-number form. TensorFlow is loaded for that only where
            there may be a GPU.

    Raises:
        UsageError: If `wanted` or `precision` is not one of these.
        Maptile2satError: If the GPU asked for is not there.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision '{precision}' is not one of {', '.join(PRECISIONS)}")
    kind, _, number = wanted.partition(":")
    is_number = number.isascii() and number.isdigit() and len(number) < 5
    if kind not in ("auto", "cpu", "gpu") or (number and (kind != "gpu" or not is_number)):
        raise UsageError(f"device '{wanted}' is not one of auto, cpu, gpu, gpu:N")
    if precision == INTEGER and not exact:
        raise UsageError(
            "precision 'integer': the model has no whole-number form; 'maptile2sat quantise' makes "
            "one, or leave --precision out"
        )
    if exact and precision == "auto":
        precision = INTEGER
    if precision == INTEGER and (kind == "cpu" or (kind == "auto" and not _may_have_gpu())):
        return Device("/CPU:0", cpu_kind(), precision)
    tf = load_tensorflow()
    gpus = tf.config.list_physical_devices("GPU")
    index = int(number or 0)
    if kind == "gpu" and index >= len(gpus):
        raise Maptile2satError(
            f"device {wanted}: TensorFlow sees {len(gpus)} GPUs; "
            "run 'maptile2sat doctor', or use --device cpu"
        )
    if gpus and kind != "cpu":
        return _gpu(tf, gpus[index], index, precision)
    if precision == "auto":
        precision = cpu_precision()
    return Device("/CPU:0", cpu_kind(), precision)


def _may_have_gpu() -> bool:
    """Whether the driver of a GPU that TensorFlow can use may be there."""
    return sys.platform != "linux" or any(path.exists() for path in GPU_DRIVERS)


def _gpu(tf: Any, gpu: Any, index: int, precision: str) -> Device:
    """Describe a GPU, and make its results repeatable."""
    details = tf.config.experimental.get_device_details(gpu)
    if precision == "auto":
        precision = gpu_precision(tf, gpu)
    with contextlib.suppress(RuntimeError):  # raised when the GPU is in use already
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_op_determinism()
    # its products are exact for whole numbers of eight bits, and round others
    tf.config.experimental.enable_tensor_float_32_execution(precision == INTEGER)
    return Device(f"/GPU:{index}", f"gpu {details.get('device_name', 'unknown')}", precision)


def gpu_precision(tf: Any, gpu: Any) -> str:
    """Return what a GPU is fast in, by its tensor cores.

    They take float16 from compute capability 7.0 (Volta) and bfloat16 from 8.0 (Ampere).
    """
    details = tf.config.experimental.get_device_details(gpu)
    capability = details.get("compute_capability", (0, 0))
    if capability >= (8, 0):
        return "bfloat16"
    return "float16" if capability >= (7, 0) else "float32"


def cpu_precision() -> str:
    """Return what this processor is fast in: `bfloat16` if it has instructions for it."""
    return "bfloat16" if cpu_features(BFLOAT16_FEATURES) else "float32"


def cpu_kind() -> str:
    """Return what decides the bits of a result: the processor's instructions, and settings."""
    settings = [f"{name}={os.environ[name]}" for name in NUMERIC_SETTINGS if name in os.environ]
    return " ".join(["cpu", platform.machine(), *cpu_features(NUMERIC_FEATURES), *settings])


def cpu_features(wanted: tuple[str, ...]) -> list[str]:
    """Return which of the instructions `wanted` this processor has (Linux; else none known)."""
    try:
        text = CPU_INFO.read_text()
    except OSError:
        return []
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return [feature for feature in wanted if feature in flags]


@contextlib.contextmanager
def memory_errors(tf: Any) -> Iterator[None]:
    """Say what to lower when the memory does not suffice."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise DeviceError(
            "the memory does not suffice for the generator: pass --device cpu instead of a GPU, "
            "end other programs, or with render pass a smaller --cell (a multiple of 256), for a "
            "unet a smaller --batch-size"
        ) from error
