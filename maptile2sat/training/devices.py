"""Which processors a run computes on, and in which precision."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from maptile2sat.errors import DeviceError, TrainingError, UsageError
from maptile2sat.models.device import PRECISIONS, cpu_precision, gpu_precision, load_tensorflow

FORM = re.compile(r"auto|gpu|cpu(?::[1-9]\d*)?|[1-9]\d*")


@dataclass(frozen=True)
class Devices:
    """The processors of a run, all of one machine.

    Attributes:
        names: TensorFlow's names; a batch is shared out evenly among them.
        precision: The precision that they are fast in.
    """

    names: tuple[str, ...] = ("/CPU:0",)
    precision: str = "float32"

    def strategy(self) -> Any:
        """Return the distribution strategy that networks are to be built under."""
        import tensorflow as tf

        if len(self.names) > 1:
            return tf.distribute.MirroredStrategy(list(self.names))
        return tf.distribute.OneDeviceStrategy(self.names[0])


def check_devices(wanted: str) -> None:
    """Refuse a wish that makes no sense, before anything slow happens.

    Raises:
        UsageError: If it is not `auto`, `cpu`, `gpu`, `cpu:N` or a number.
    """
    if not FORM.fullmatch(wanted):
        raise UsageError(f"devices '{wanted}' is not one of auto, cpu, gpu, or a number of GPUs")


def choose_devices(wanted: str = "auto", *, deterministic: bool = False) -> Devices:
    """Choose the processors.

    Args:
        wanted: `auto` (all GPUs, or the CPU if there are none), `cpu`, `gpu` (all of them), a
            number of GPUs, or `cpu:N`, which takes the CPU for N devices: it gains nothing,
            but shows on any machine what sharing a batch does.
        deterministic: Make every operation repeatable for the rest of this process.

    Raises:
        UsageError: If `wanted` is none of these.
        TrainingError: If the GPUs asked for are not there, or TensorFlow is in use already
            and can no longer be set up so.
    """
    check_devices(wanted)
    tf = load_tensorflow()
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    count = int(wanted) if wanted.isdigit() else len(gpus)
    if wanted.startswith("cpu") or (wanted == "auto" and not gpus):
        return _cpus(tf, int(wanted.partition(":")[2] or 1))
    if not 1 <= count <= len(gpus):
        raise TrainingError(
            f"devices {wanted}: TensorFlow sees {len(gpus)} GPUs; "
            "run 'maptile2sat doctor', or use --devices cpu"
        )
    used = gpus[:count]
    # what all of them are fast in
    known = {gpu_precision(tf, gpu) for gpu in used}
    precision = known.pop() if len(known) == 1 else "float32"
    try:
        for gpu in used:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:
        raise TrainingError(f"the GPUs cannot be set up: {error}") from error
    return Devices(tuple(f"/GPU:{index}" for index in range(count)), precision)


def _cpus(tf: Any, count: int) -> Devices:
    if count > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
        try:
            tf.config.set_logical_device_configuration(cpu, parts)
        except RuntimeError as error:
            raise TrainingError(f"the CPU cannot be shared out: {error}") from error
    return Devices(tuple(f"/CPU:{index}" for index in range(count)), cpu_precision())


def resolve_precision(wanted: str, devices: Devices) -> str:
    """Return the precision to compute in; `auto` is what the devices are fast in."""
    if wanted not in PRECISIONS:
        raise UsageError(f"precision '{wanted}' is not one of {', '.join(PRECISIONS)}")
    return devices.precision if wanted == "auto" else wanted


@contextmanager
def memory_errors() -> Iterator[None]:
    """Say what to lower when the memory does not suffice.

    Raises:
        DeviceError: If it does not.
    """
    exhausted = load_tensorflow().errors.ResourceExhaustedError
    try:
        yield
    except (exhausted, MemoryError) as error:
        raise DeviceError(
            "the memory does not suffice for training: start another run (--out) with a smaller "
            "--batch-size, or a smaller --crop and --loss-crop, or with --devices cpu instead of "
            "a GPU"
        ) from error
