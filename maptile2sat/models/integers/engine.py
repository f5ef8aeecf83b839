"""Which library computes a whole-number generator: the fastest that passes the known-answer test.

All make the same bits, so the choice is one of speed alone. Every shape of window is tried on the
known input before it is used, since libraries choose other algorithms for other shapes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from maptile2sat.errors import DeviceError, UsageError
from maptile2sat.models.integers.known import PERIOD, Codes, Run, agrees, known_input
from maptile2sat.models.integers.model import IntegerModel
from maptile2sat.models.integers.network import halo_of

ENGINES = ("auto", "openvino", "tensorflow")

_log = logging.getLogger("maptile2sat")


@dataclass(frozen=True)
class Form:
    """One way to compute.

    Attributes:
        name: `openvino` or `tensorflow`.
        how: What it computes with, in words.
        build: Makes it.
    """

    name: str
    how: str
    build: Callable[[], Run]


@dataclass
class Engine:
    """A generator that runs in the fastest form that gives the known answer.

    Attributes:
        model: The integers.
        clean: Whether labels are taken off.
        forms: What to try, the fastest first.
        failed: Forms that gave another answer, in words.
    """

    model: IntegerModel
    clean: bool
    forms: list[Form]
    failed: list[str] = field(default_factory=list)
    _run: Run | None = None
    _checked: set[tuple[int, int]] = field(default_factory=set)
    _lock: Any = field(default_factory=threading.RLock, repr=False)

    @property
    def form(self) -> Form:
        """What computes now."""
        return self.forms[0]

    def __call__(self, look: Codes, fine: Codes, coarse: Codes) -> npt.NDArray[np.uint8]:
        """Return image levels, uint8 (H', W', 3), from codes + 128, uint8 (1, H, W, C).

        Raises:
            DeviceError: If no form gives the known answer.
        """
        with self._lock:
            run = self.ready(look.shape[1], look.shape[2])
            return run(look, fine, coarse)

    def ready(self, height: int, width: int) -> Run:
        """Return the form for windows of a shape, halo included, after the known-answer test.

        Raises:
            DeviceError: If none passes it.
        """
        with self._lock:
            while self.forms:
                run = self._run or self._built()
                if run is None:
                    continue
                if (height, width) in self._checked:
                    return run
                if agrees(self.model, run, self.clean, height, width):
                    self._checked.add((height, width))
                    return run
                self._drop("gives another answer than is known")
        raise DeviceError(
            f"{self.model.origin}: nothing here computes whole numbers "
            f"({'; '.join(self.failed)}): run 'maptile2sat doctor'"
        )

    def _built(self) -> Run | None:
        try:
            self._run = self.form.build()
        except DeviceError as error:
            if len(self.forms) == 1:
                raise
            self._drop(str(error))
        return self._run

    def _drop(self, why: str) -> None:
        form = self.forms.pop(0)
        self.failed.append(f"{form.how}: {why}")
        _log.warning("%s is not used: %s", form.how, why)
        self._run = None
        self._checked.clear()


def choose_engine(
    model: IntegerModel, wanted: str, clean: bool, device: str = "/CPU:0", threads: int = 0
) -> Engine:
    """Return an engine for a model.

    Args:
        model: The integers.
        wanted: One of `ENGINES`.
        clean: Whether labels are to be taken off.
        device: TensorFlow's name of the device; OpenVINO computes on processors only.
        threads: Of a processor; 0 for all that this process may use.

    Raises:
        UsageError: If it is none of them.
        DeviceError: If it is not installed.
    """
    if wanted not in ENGINES:
        raise UsageError(f"engine '{wanted}' is not one of {', '.join(ENGINES)}")
    on_cpu = device.startswith("/CPU")
    there = find_spec("openvino") is not None
    if wanted == "openvino" and not there:
        raise DeviceError("OpenVINO is not installed: pip install openvino, or --engine tensorflow")
    if wanted == "openvino" and not on_cpu:
        raise UsageError("--engine openvino computes on processors: pass --device cpu with it")
    forms: list[Form] = []
    if there and on_cpu and wanted != "tensorflow":
        for kind, bytewise in (("8-bit kernels", True), ("float32 kernels", False)):
            build = partial(_openvino, model, clean, threads, bytewise)
            forms.append(Form("openvino", f"OpenVINO, {kind}", build))
    if wanted != "openvino":
        place = "processor" if on_cpu else "GPU"
        for kind, plain in (("convolutions", False), ("matrix products", True)):
            build = partial(_tensorflow, model, clean, device, plain)
            forms.append(Form("tensorflow", f"TensorFlow on the {place}, {kind}", build))
    return Engine(model, clean, forms)


def _openvino(model: IntegerModel, clean: bool, threads: int, bytewise: bool) -> Run:
    from maptile2sat.models.integers.openvino import Runner

    return Runner(model, clean, threads, bytewise)


def _tensorflow(model: IntegerModel, clean: bool, device: str, plain: bool) -> Run:
    from maptile2sat.models.device import load_tensorflow, memory_errors

    tf = load_tensorflow()
    from maptile2sat.models.integers.tensorflow import build

    with tf.device(device):
        function = build(model, clean, plain)

    def run(look: Any, fine: Any, coarse: Any) -> npt.NDArray[np.uint8]:
        with memory_errors(tf), tf.device(device):
            levels: npt.NDArray[np.uint8] = np.asarray(function(look, fine, coarse))[0]
        return levels

    return run


@dataclass(frozen=True)
class Trial:
    """What a form did on the known input.

    Attributes:
        how: The form, in words.
        seconds: For a window of 64 x 64 px and its halo; None if it did not give the answer.
        trouble: Why it did not.
    """

    how: str
    seconds: float | None
    trouble: str = ""


def trials(model: IntegerModel) -> list[Trial]:
    """Try every form that can run on this processor, in the order in which they are chosen."""
    return [_tried(model, form) for form in choose_engine(model, "auto", model.has_cleaner).forms]


def _tried(model: IntegerModel, form: Form) -> Trial:
    clean = model.has_cleaner
    side = PERIOD + 2 * halo_of(model, clean)
    try:
        run = form.build()
        if not agrees(model, run, clean, side, side):
            return Trial(form.how, None, "another answer than is known")
        codes = known_input(model, side, side)
        start = time.perf_counter()
        run(*codes)
        return Trial(form.how, time.perf_counter() - start)
    except DeviceError as error:
        return Trial(form.how, None, str(error))
