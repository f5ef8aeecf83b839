"""Checks of the installation, each with what to do when it fails."""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from maptile2sat.device import choose_device, load_tensorflow
from maptile2sat.errors import Maptile2satError


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
    checks: list[Callable[[], Finding]] = [
        _python,
        _tensorflow,
        _gpu,
        _precision,
        _gdal,
        _models,
        _cache,
        _extras,
    ]
    return [check() for check in checks]


def _python() -> Finding:
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    advice = "" if good else "install Python 3.11, 3.12 or 3.13"
    return Finding("Python", good, platform.python_version(), advice)


def _tensorflow() -> Finding:
    try:
        tf = load_tensorflow()
    except ImportError as error:
        return Finding("TensorFlow", False, str(error), "pip install --upgrade tensorflow")
    return Finding("TensorFlow", True, str(tf.__version__))


def _gpu() -> Finding:
    if find_spec("tensorflow") is None:
        return Finding("GPU", True, "not looked for without TensorFlow")
    tf = load_tensorflow()
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


def _precision() -> Finding:
    if find_spec("tensorflow") is None:
        return Finding("precision", True, "not known without TensorFlow")
    device = choose_device()
    return Finding("precision", True, f"{device.precision} on {device.kind}")


def _gdal() -> Finding:
    import rasterio
    from rasterio.drivers import raster_driver_extensions

    version = rasterio.__gdal_version__
    good = "tif" in raster_driver_extensions()
    advice = "" if good else "pip install --force-reinstall rasterio"
    return Finding("GDAL", good, f"{version} (rasterio {rasterio.__version__})", advice)


def _models() -> Finding:
    from maptile2sat.bundle import shipped_bundles

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
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Finding("cache", True, f"{folder}, {size / 1e6:.1f} MB")


def _extras() -> Finding:
    parts = {
        "osm": ("osmium", "shapely"),
        "pmtiles": ("pmtiles",),
        "serve": ("starlette", "uvicorn"),
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
