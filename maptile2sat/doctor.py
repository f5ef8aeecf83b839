"""Checks of the installation, each with what to do when it fails."""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from maptile2sat.errors import DeviceError, Maptile2satError
from maptile2sat.models.device import BROKEN_IMPORT, REINSTALL, choose_device, load_tensorflow


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        name: What was checked.
        good: Whether it is as it should be.
        text: What was found.
        advice: What to do; empty if nothing.
    """

    name: str
    good: bool
    text: str
    advice: str = ""


def examine() -> list[Finding]:
    """Run every check."""
    try:
        tf, trouble = load_tensorflow(), ""
    except DeviceError as error:
        tf, trouble = None, str(error)
    checks: dict[str, Callable[[], Finding]] = {
        "Python": _python,
        "TensorFlow": lambda: _tensorflow(tf, trouble),
        "GPU": lambda: _gpu(tf),
        "precision": lambda: _precision(tf),
        "engine": _engine,
        "GDAL": _gdal,
        "models": _models,
        "cache": _cache,
        "extras": _extras,
    }
    return [_found(name, check) for name, check in checks.items()]


def _found(name: str, check: Callable[[], Finding]) -> Finding:
    """Run a check; what it needs may itself be what is broken."""
    try:
        return check()
    except BROKEN_IMPORT as error:
        said = " ".join(str(error).split()) or type(error).__name__
        return Finding(name, False, said, "pip install --force-reinstall maptile2sat")


def _python() -> Finding:
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    advice = "" if good else "install Python 3.11, 3.12 or 3.13"
    return Finding("Python", good, platform.python_version(), advice)


def _tensorflow(tf: Any, trouble: str) -> Finding:
    if tf is None:
        return Finding("TensorFlow", False, trouble.removesuffix(f": {REINSTALL}"), REINSTALL)
    return Finding("TensorFlow", True, str(tf.__version__))


def _gpu(tf: Any) -> Finding:
    if tf is None:
        return Finding("GPU", True, "not looked for without TensorFlow")
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return Finding(
            "GPU",
            True,
            "none seen, the CPU will do the work",
            "with an NVIDIA GPU: pip install 'maptile2sat[cuda]'",
        )
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus
    ]
    return Finding("GPU", True, ", ".join(names))


def _precision(tf: Any) -> Finding:
    if tf is None:
        return Finding("precision", True, "not known without TensorFlow")
    device = choose_device()
    text = f"whole numbers; without them {device.precision} on {device.kind}"
    return Finding("precision", True, text)


def _engine() -> Finding:
    """Try every way of computing whole numbers on the known input, and time those that pass."""
    from maptile2sat.models.bundle import shipped_bundles
    from maptile2sat.models.integers.engine import trials
    from maptile2sat.models.integers.model import IntegerModel

    bundle = next((bundle for bundle in shipped_bundles() if bundle.exact), None)
    if bundle is None:
        return Finding("engine", False, "no shipped model is in whole numbers", "reinstall it")
    architecture = bundle.description.architecture
    model = IntegerModel(architecture, bundle.integers(), str(bundle.folder))
    found = trials(model)
    texts = [
        f"{trial.how}: " + (trial.trouble if trial.seconds is None else f"{trial.seconds:.3f} s")
        for trial in found
    ]
    passed = [trial for trial in found if trial.seconds is not None]
    if not passed:
        advice = "pip install --force-reinstall openvino"
        return Finding("engine", False, "; ".join(texts), advice)
    return Finding("engine", True, f"{passed[0].how} ({'; '.join(texts)} for 64 x 64 px)")


def _gdal() -> Finding:
    import rasterio
    from rasterio.drivers import raster_driver_extensions

    version = rasterio.__gdal_version__
    good = "tif" in raster_driver_extensions()
    advice = "" if good else "pip install --force-reinstall rasterio"
    return Finding("GDAL", good, f"{version} (rasterio {rasterio.__version__})", advice)


def _models() -> Finding:
    from maptile2sat.models.bundle import shipped_bundles

    try:
        bundles = shipped_bundles()
        for bundle in bundles:
            bundle.weights()
    except Maptile2satError as error:
        return Finding("models", False, str(error), "reinstall maptile2sat")
    names = ", ".join(bundle.id for bundle in bundles)
    advice = "" if bundles else "reinstall maptile2sat"
    return Finding("models", bool(bundles), names or "none", advice)


def _cache() -> Finding:
    from maptile2sat.sources import SourceOptions

    folder = SourceOptions().cache_folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        advice = "set MAPTILE2SAT_CACHE_DIR to a folder that can be written"
        return Finding("cache", False, f"{folder}: {error.strerror}", advice)
    size = sum(_size(path) for path in folder.rglob("*"))
    return Finding("cache", True, f"{folder}, {size / 1e6:.1f} MB")


def _size(path: Path) -> int:
    """Return the bytes of a file; 0 of anything else, and of what a server has just dropped."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _extras() -> Finding:
    parts = {
        "osm": ("osmium", "shapely"),
        "pmtiles": ("pmtiles",),
        "serve": ("starlette", "uvicorn", "xstatic"),
        "stac": ("pystac",),
        "dask": ("dask", "distributed"),
        "s3": ("s3fs",),
    }
    missing = [
        extra
        for extra, modules in parts.items()
        if any(find_spec(name) is None for name in modules)
    ]
    if not missing:
        return Finding("extras", True, ", ".join(parts))
    advice = f"if needed: pip install 'maptile2sat[{','.join(missing)}]'"
    return Finding("extras", True, f"without {', '.join(missing)}", advice)
