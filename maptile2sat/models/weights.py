"""Weights files: plain arrays in HDF5, two levels, and nothing else in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maptile2sat.errors import BundleError

MAX_WEIGHTS_BYTES = 1 << 30
"""Most bytes of a weights file, and of its arrays in memory."""

MAX_LAYERS = 4096
"""Most layers of a file, and most arrays of a layer."""

Weights = dict[str, npt.NDArray[np.float32]]
"""Arrays by name `layer/weight`."""

Integers = dict[str, npt.NDArray[Any]]
"""Arrays of whole numbers by name `layer/array`."""

_FLOATS = (np.float16, np.float32)
_INTEGERS = (np.int8, np.uint8, np.int16, np.int32, np.int64)
_FILTERS = {1, 2, 3}  # HDF5's own: deflate, shuffle, checksum; others are loaded as plug-ins


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as hex digits.

    Raises:
        BundleError: If it cannot be read or is larger than weights can be.
    """
    try:
        if path.stat().st_size > MAX_WEIGHTS_BYTES:
            raise BundleError(f"{path} is larger than {MAX_WEIGHTS_BYTES >> 20} MB: not weights")
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error


def read_arrays(path: Path) -> Weights:
    """Read every array of an HDF5 file of two levels, refusing what is not a plain array.

    Returns:
        Arrays by name `layer/weight`, float32.

    Raises:
        BundleError: If it is damaged, holds links or other things than arrays, or values that
            are not finite.
    """
    read = _read(path, _FLOATS)
    arrays = {name: np.asarray(array, np.float32) for name, array in read.items()}
    _refuse_infinite(path, arrays)
    return arrays


def read_integers(path: Path) -> Integers:
    """Read every array of whole numbers of an HDF5 file, as `read_arrays` does.

    Raises:
        BundleError: As there.
    """
    return _read(path, _INTEGERS)


def _read(path: Path, kinds: tuple[type, ...]) -> dict[str, npt.NDArray[Any]]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            datasets: dict[str, Any] = {}
            if len(file) > MAX_LAYERS:
                raise BundleError(f"{path}: {len(file)} layers are too many")
            for layer in file:
                group = _plain_item(path, file, layer, h5py.Group)
                if len(group) > MAX_LAYERS:
                    raise BundleError(f"{path}: {layer} holds too many arrays")
                for name in group:
                    dataset = _plain_item(path, group, name, h5py.Dataset)
                    _check_dataset(path, dataset, kinds)
                    datasets[f"{layer}/{name}"] = dataset
            # a small file may say that it holds more than any memory, in one array or in many
            if sum(dataset.size for dataset in datasets.values()) * 4 > MAX_WEIGHTS_BYTES:
                raise BundleError(f"{path}: its arrays are larger than weights can be")
            return {name: np.asarray(item[()]) for name, item in datasets.items()}
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise BundleError(f"{path} is not a weights file: {error}") from error


def _plain_item(path: Path, parent: Any, name: str, kind: type) -> Any:
    import h5py

    if not isinstance(parent.get(name, getlink=True), h5py.HardLink):
        raise BundleError(f"{path}: {name} is a link; weights must be plain arrays in the file")
    item = parent[name]
    if not isinstance(item, kind):
        raise BundleError(f"{path}: {name} is not where weights files have it")
    return item


def _check_dataset(path: Path, dataset: Any, allowed: tuple[type, ...]) -> None:
    name = dataset.name
    filters = dataset.id.get_create_plist()
    kinds = {filters.get_filter(number)[0] for number in range(filters.get_nfilters())}
    if not kinds <= _FILTERS:
        raise BundleError(f"{path}: {name} is packed in a way that needs code from elsewhere")
    if dataset.external or dataset.is_virtual:
        raise BundleError(f"{path}: {name} refers to another file; refused")
    if dataset.dtype not in allowed:
        names = ", ".join(np.dtype(kind).name for kind in allowed)
        raise BundleError(f"{path}: {name} is {dataset.dtype}, not one of {names}")
    if dataset.shape is None:
        raise BundleError(f"{path}: {name} holds no array")


def write_arrays(path: Path, weights: Weights) -> str:
    """Write weights as float16 arrays of an HDF5 file, whole or not at all.

    Args:
        path: The file; its folder is made if missing.
        weights: Arrays by name `layer/weight`.

    Returns:
        The sha256 of the file; the same weights are the same bytes.

    Raises:
        BundleError: If a weight is not finite as float16, or the file cannot be written.
    """
    # an overflow becomes infinite, and is refused below with its name
    with np.errstate(over="ignore"):
        halves = {name: weights[name].astype(np.float16) for name in weights}
    _refuse_infinite(path, halves)
    return write_integers(path, halves)


def write_integers(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Write arrays as they are, as `write_arrays` does.

    Raises:
        BundleError: If the file cannot be written.
    """
    import h5py

    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w") as file:
            for name, array in sorted(arrays.items()):
                # without times, so that the same weights are the same bytes
                file.create_dataset(name, data=array, track_times=False)
        digest = file_sha256(temporary)
        temporary.replace(path)
    except OSError as error:
        raise BundleError(f"{path.parent} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return digest


def _refuse_infinite(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise BundleError(f"{path.parent}: {name} holds values that are not finite")
