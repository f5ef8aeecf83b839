"""Small models, renders read back, and the command line run inside the test process.

Not fixtures but functions that are called once: the models are the same for all modules.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from PIL import Image

from maptile2sat.cli import main
from maptile2sat.geo.grid import Grid, Window
from maptile2sat.models.bundle import save_bundle
from maptile2sat.models.device import load_tensorflow
from maptile2sat.models.noise import noise
from maptile2sat.models.weights import Weights
from maptile2sat.paths import sample_map
from maptile2sat.rendering import RenderResult, render
from maptile2sat.sources import open_source
from maptile2sat.training.quantise import with_integers
from tests.support_once import once, scratch

Pixels = npt.NDArray[np.uint8]

CELL = 256
PALETTE = [
    [234.0, 230.0, 222.0],
    [254.0, 254.0, 254.0],
    [163.0, 204.0, 255.0],
    [203.0, 230.0, 163.0],
    [255.0, 225.0, 104.0],
    [60.0, 120.0, 60.0],
]
FILL = (234, 230, 222)

DESCRIPTION: dict[str, Any] = {
    "name": "tiny",
    "version": "1.2.3",
    "kind": "local",
    "cell": CELL,
    "fill": list(FILL),
    "style": "maps",
    "palette": [[round(value) for value in colour] for colour in PALETTE],
    "zoom": 16,
    "metres_per_pixel": 1.2,
    "precision": "float32",
    "data": "nothing, its weights are random",
    "licence": "public domain",
    "attribution": "model by nobody",
}


def random_weights(model: Any, seed: int = 1) -> Weights:
    """Return weights, biases too, under which output varies strongly with map and noise."""
    from maptile2sat.models.generator import get_weights

    random = np.random.default_rng(seed)
    weights = get_weights(model)
    for name, start in weights.items():
        kind = name.split("/")[1]
        if kind == "kernel":
            inputs = int(np.prod(start.shape[:-1]))
            gain = 0.5 if name.startswith("rgb") else 1.3
            weights[name] = random.normal(0, gain / np.sqrt(inputs), start.shape)
        elif kind in ("bias", "beta"):
            weights[name] = random.normal(0, 0.15, start.shape)
        elif kind in ("scale", "gamma"):
            weights[name] = random.uniform(0.7, 1.3, start.shape)
        weights[name] = weights[name].astype(np.float16).astype(np.float32)
    return weights


def tiny_config(**changes: Any) -> Any:
    """Return the architecture of a generator that is as small as it gets."""
    load_tensorflow()
    from maptile2sat.models.networks.local import LocalConfig

    settings: dict[str, Any] = {
        "palette": PALETTE,
        "width": 12,
        "dilations": (1, 2, 4),
        "half_width": 8,
        "full_width": 8,
    }
    return LocalConfig(**{**settings, **changes})


def tiny_model(precision: str = "float32", weight_seed: int = 1, **changes: Any) -> Any:
    """Return a tiny generator with random weights."""
    load_tensorflow()
    from maptile2sat.models.generator import set_weights
    from maptile2sat.models.networks.local import build_local

    model = build_local(tiny_config(**changes), precision)
    set_weights(model, random_weights(model, weight_seed), "test")
    return model


def write_tiny_bundle(
    folder: Path, weight_seed: int = 1, *, whole: bool = True, **changes: Any
) -> Path:
    """Write a bundle with a tiny generator; `changes` go into the description."""
    load_tensorflow()
    from maptile2sat.models.generator import get_weights

    architecture = dataclasses.asdict(tiny_config())
    description = {**DESCRIPTION, "architecture": architecture, **changes}
    bundle = save_bundle(folder, description, get_weights(tiny_model(weight_seed=weight_seed)))
    if whole:
        with_integers(bundle, [calibration_map()])
    return folder


@functools.cache
def calibration_map() -> Pixels:
    """Return a part of the sample map, which scales of whole numbers are chosen by."""
    with contextlib.closing(open_source(sample_map())) as source:
        extent = source.info.extent
        return source.read(Window(extent.col + 300, extent.row + 500, 256, 256)).image


@once
def tiny_bundle() -> Path:
    """Return the bundle that most tests render with; do not change it."""
    return write_tiny_bundle(scratch("tiny") / "tiny")


def copy_of_tiny(folder: Path) -> Path:
    """Return a copy of the tiny bundle, to be damaged."""
    return Path(shutil.copytree(tiny_bundle(), folder / "copy"))


class Raster(NamedTuple):
    """A GeoTIFF read back."""

    image: Pixels
    mask: Pixels
    transform: Affine
    crs: Any
    tags: dict[str, str]
    profile: dict[str, Any]


def read_back(path: Path | str) -> Raster:
    """Read an output as any other program would."""
    with rasterio.open(path) as dataset:
        return Raster(
            np.moveaxis(dataset.read(), 0, -1),
            dataset.dataset_mask(),
            dataset.transform,
            dataset.crs,
            dataset.tags(),
            dict(dataset.profile),
        )


class Rendered(NamedTuple):
    """What a render said and what it wrote."""

    result: RenderResult
    raster: Raster

    @property
    def image(self) -> Pixels:
        """The pixels of the output."""
        return self.raster.image

    @property
    def mask(self) -> Pixels:
        """The mask of the output."""
        return self.raster.mask


def tiny_render(source: Any, folder: Path, **changes: Any) -> Rendered:
    """Render with the tiny bundle in whole numbers into a new file of `folder`."""
    number = len(list(folder.glob("render-*.tif")))
    output = folder / f"render-{number}.tif"
    settings = {"model": str(tiny_bundle()), **changes}
    result = render(source, output, **settings)
    return Rendered(result, read_back(output))


@once
def large_render(precision: str = "auto") -> Rendered:
    """Return the whole sample map, rendered with the tiny bundle; do not change it."""
    return tiny_render(sample_map(), scratch("large"), precision=precision)


def bbox_of(grid: Grid, window: Window) -> str:
    """Return the box in degrees that is exactly `window`."""
    return ",".join(repr(value) for value in grid.lonlat_bounds(window))


def input_of(image: Pixels, window: Window, seed: int = 0) -> list[Any]:
    """Return a generator's input batch for a map that fills `window`."""
    grains = noise(seed, window)
    return [image[None].astype(np.float32), grains.fine[None], grains.coarse[None]]


def random_map(window: Window) -> Pixels:
    """Return patches of the palette's colours, some pixels of none; the same in any window."""
    cols = np.arange(window.col, window.right, dtype=np.int64)
    rows = np.arange(window.row, window.bottom, dtype=np.int64)[:, None]
    image = np.array(PALETTE, np.uint8)[_hash(cols // 8, rows // 8) % len(PALETTE)]
    odd = _hash(cols, rows)
    strange = odd % 20 == 0
    image[strange] = (odd[strange][:, None] >> np.array([8, 16, 24])) & 255
    return image


def _hash(cols: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    word = (cols * 0x9E3779B1 + rows * 0x85EBCA77) & 0xFFFFFFFF
    for shift in (15, 13):
        word = ((word ^ (word >> shift)) * 0x2C1B3C6D) & 0xFFFFFFFF
    return word ^ (word >> 16)


def write_picture(path: Path, image: Pixels) -> Path:
    """Write a plain picture."""
    Image.fromarray(image).save(path)
    return path


class Outcome(NamedTuple):
    """What a run of the command line did."""

    code: int
    out: str
    err: str


def run_cli(*arguments: object) -> Outcome:
    """Run the command line inside this process, as its entry point does."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["maptile2sat", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
    return Outcome(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def impatient(**changes: Any) -> Iterator[None]:
    """Let renders ask servers once only."""
    from maptile2sat.sources import SourceOptions

    settings = {"timeout": 10.0, "retries": 0, **changes}
    quick = functools.partial(SourceOptions, **settings)
    with mock.patch("maptile2sat.rendering.job.SourceOptions", quick):
        yield


def files_in(folder: Path) -> Sequence[str]:
    """Return the names of everything in a folder, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
