"""Time a whole render against its generator, a U-Net and GDAL, as ratios measured in one run.

    python bench/render.py [--side 6144] [--model maps] [--labels auto|yes|no] [--repeat 3]

The map is the sample map repeated over a square, written as a GeoTIFF first, which says that it
was drawn without labels, as the sample does. Everything is warm: a small render runs before the
clock starts. The parts are timed in turns, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from common import clocks, medians, timed, write_map
from notebook import notebook_generator

from maptile2sat import open_source, render
from maptile2sat.models.bundle import find_bundle
from maptile2sat.models.device import choose_device, cpu_precision
from maptile2sat.models.generator import Translator, generate, load_translator
from maptile2sat.models.noise import noise
from maptile2sat.output.geotiff import creation_options
from maptile2sat.rendering import mosaic

UNET_BATCH = 16


def packed_cells(drawn: Path, translator: Translator) -> list[Any]:
    """Return everything that the generator takes for the cells of a map."""
    with closing(open_source(drawn)) as source:
        cells = mosaic.cells_of(source.info.extent, translator)
        windows = [cell.grown(translator.halo) for cell in cells]
        return [translator.pack(source.read(w).image, noise(0, w)) for w in windows]


def own_unet(precision: str) -> Any:
    """Return the classic U-Net as this package builds it."""
    from maptile2sat.models.networks.unet import UnetConfig, build_unet

    return build_unet(UnetConfig(norm="instance"), precision)


def plain_unet(precision: str) -> Any:
    """Return the classic U-Net of Keras' own layers, computing in `precision`."""
    import keras

    mixed = precision if precision == "float32" else f"mixed_{precision}"
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(mixed)
    try:
        return notebook_generator()
    finally:
        keras.config.set_dtype_policy(before)


def unet_tiles(model: Any) -> Callable[[], None]:
    """Return a function that generates `UNET_BATCH` tiles by a U-Net of 54 M weights."""
    import tensorflow as tf

    tiles = np.random.default_rng(0).integers(0, 256, (UNET_BATCH, 256, 256, 3)).astype(np.uint8)

    @tf.function  # type: ignore[untyped-decorator]
    def run(image: Any) -> Any:
        made = model(tf.cast(image, tf.float32) / 127.5 - 1.0, training=False)
        return tf.cast(tf.round((tf.cast(made, tf.float32) + 1.0) * 127.5), tf.uint8)

    def generate() -> None:
        run(tiles).numpy()

    return generate


def square(drawn: Path, translator: Translator, side: int) -> dict[str, float]:
    """Return the clocks of rendering a square from an open map to pixels in memory."""
    with closing(open_source(drawn)) as source:
        middle = source.info.extent
        window = middle._replace(
            col=middle.col + middle.width // 4, row=middle.row + 512, width=side, height=side
        )
        translator.prepare(mosaic.cells_of(window, translator).first)
        with clocks() as times:
            mosaic.make_mosaic(
                source,
                translator,
                window,
                seed=0,
                fill=(234, 230, 222),
                take=lambda cell: None,
            )
    return times


def of_the_sample(scratch: Path, model: str, precision: str, **changes: Any) -> float:
    """Return the generator's seconds of a render of the sample map."""
    path = scratch / "sample.tif"
    made = render(None, path, model=model, precision=precision, overwrite=True, **changes)
    return made.generator_seconds


def memory_of_the_sample(scratch: Path, model: str) -> float:
    """Return the peak memory, in MB, of a process that renders the sample map."""
    words = ("-m", "maptile2sat", "render", "-m", model, "-o", str(scratch / "m.tif"), "--json")
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["peak_rss_mb"])


def main() -> None:
    """Run the benchmark and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=6144)
    parser.add_argument("--model", default="maps")
    parser.add_argument("--labels", default="auto")
    parser.add_argument("--floats", help="what U-Nets and the float model compute in")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measure(Path(scratch), options), indent=2))


def measure(scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures."""
    drawn, output = scratch / "map.tif", scratch / "out.tif"
    write_map(drawn, options.side)
    render(None, output, model=options.model)
    bundle = find_bundle(options.model)
    device = choose_device("auto", "auto", exact=bundle.exact)
    floats = options.floats or ("bfloat16" if device.is_gpu else cpu_precision())
    clean = options.labels == "yes"  # the map says that it has none
    translator = load_translator(bundle, device, clean=clean)
    packed = packed_cells(drawn, translator)
    generate(translator, packed[0])
    unets = {"unet": unet_tiles(plain_unet(floats)), "own_unet": unet_tiles(own_unet(floats))}
    for unet in unets.values():
        unet()
    runs: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.repeat):
        with clocks() as whole:
            made = render(drawn, output, model=options.model, labels=options.labels, overwrite=True)
        # loading the model and tracing it are not part of `seconds`
        whole["loading"] = whole["wall"] - made.seconds
        runs.setdefault("render", []).append(whole)
        runs.setdefault("generator", []).append(
            timed(lambda: [generate(translator, cell) for cell in packed])
        )
        runs.setdefault("translate", []).append(timed(lambda: translate(output, scratch)))
        for name, unet in unets.items():
            times_of_unet = timed(lambda unet=unet: [unet() for _ in range(4)])
            runs.setdefault(name, []).append(times_of_unet)
        for side in (256, 2048):
            runs.setdefault(f"square_{side}", []).append(square(drawn, translator, side))
        for name, changes in (("sample", {}), ("sample_floats", {"cell": 2048})):
            precision = floats if changes else "auto"
            seconds = of_the_sample(scratch, options.model, precision, **changes)
            runs.setdefault(name, []).append({"wall": seconds})
    times = {name: medians(run) for name, run in runs.items()}
    return figures(times, options.side, len(packed)) | {
        "model": made.model,
        "cell": translator.cell,
        "precision": device.precision,
        "engine": translator.engine_name,
        "processor": device.kind,
        "floats": floats,
        "peak_rss_mb_of_the_sample": memory_of_the_sample(scratch, options.model),
    }


def translate(output: Path, scratch: Path) -> None:
    """Do what `gdal_translate -of COG` does to the output's pixels, from a plain GeoTIFF."""
    plain = scratch / "plain.tif"
    if not plain.exists():
        with rasterio.open(output) as dataset:
            profile = {**dataset.profile, "compress": None, "interleave": "pixel"}
            with rasterio.open(plain, "w", **profile) as copy:
                copy.write(dataset.read())
    settings = creation_options("deflate", {}, cog=True)
    rasterio.shutil.copy(plain, scratch / "translated.tif", driver="COG", **settings)


def figures(times: dict[str, dict[str, float]], side: int, cells: int) -> dict[str, Any]:
    """Return the ratios of the project's budget, and the seconds that they come from."""
    tiles = (side / 256) ** 2
    render_wall = times["render"]["wall"] - times["render"]["loading"]
    unet_wall, own_wall = (
        times[name]["wall"] / (4 * UNET_BATCH) * tiles for name in ("unet", "own_unet")
    )
    outside = times["render"]["cpu"] - times["generator"]["cpu"]
    return {
        "side": side,
        "cells": cells,
        "cpu_outside_generator_over_translate": round(outside / times["translate"]["cpu"], 3),
        "wall_over_generator": round(render_wall / times["generator"]["wall"], 3),
        "pixels_per_second_over_unet": round(unet_wall / render_wall, 3),
        "pixels_per_second_over_own_unet": round(own_wall / render_wall, 3),
        "tile_over_square_of_2048": round(
            times["square_256"]["wall"] / times["square_2048"]["wall"], 4
        ),
        "sample_over_floats": round(times["sample"]["wall"] / times["sample_floats"]["wall"], 3),
        "useful_megapixels_per_second": round(side * side / 1e6 / render_wall, 3),
        "seconds": {
            name: {clock: round(value, 2) for clock, value in run.items()}
            for name, run in times.items()
        },
    }


if __name__ == "__main__":
    main()
