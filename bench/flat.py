"""Look for one colour, stamps and grids in renders of maps that say nothing: one flat colour each.

    python bench/flat.py MODEL [--side 4096] [--pictures FOLDER]

Every class colour of the model's style is rendered as a square map of that colour alone, and the
style's sample map repeated is rendered too. What is measured of the brightness of each, 256 px
inside the border:

- `std`: its standard deviation in levels; `std_32`: that of averages of 32 px, so that a texture
  which is even from afar shows. 0 is one colour.
- `repeat`: the highest correlation of the picture with itself moved by more than `NEAR` pixels, and
  `repeat_at`, by how many. A stamp gives 1; `chance` is what white noise of the same size gives.
- `grid_2`, `grid_4`: power at periods of 2 and 4 px over the usual power beside it, as `evaluate`
  measures it; 1 is no checkerboard.

Of the sample map, `copies`: the correlation of the imagery of two copies of the same piece of
map. It is the share of what is seen that the map decides; what is left differs from copy to copy.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from common import CORNER, ZOOM, write_map
from PIL import Image

import maptile2sat
from maptile2sat.evaluation.fcn import PALETTES
from maptile2sat.evaluation.metrics import LUMA, log_spectra, peak, power_spectra
from maptile2sat.geo.grid import Window, mercator_grid
from maptile2sat.models.bundle import find_bundle

MARGIN = 256
NEAR = 96
"""Pixels within which a texture may hang together: the crown of a tree, a cloud of noise."""

COLOURS = 3
"""Most colours of a class that are rendered, the commonest first."""

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


def write_flat(path: Path, colour: tuple[int, int, int], side: int) -> None:
    """Write a web mercator GeoTIFF of one colour."""
    grid, window = mercator_grid(ZOOM), Window(CORNER, CORNER, side, side)
    profile = {"width": side, "height": side, "count": 3, "dtype": "uint8", "crs": grid.crs}
    with rasterio.open(
        path, "w", driver="GTiff", transform=grid.transform(window), compress="deflate", **profile
    ) as dataset:
        for band, value in enumerate(colour, 1):
            dataset.write(np.full((side, side), value, np.uint8), band)


def render(model: str, source: Path, folder: Path) -> Pixels:
    """Return the imagery of a map without its border, (side, side, 3)."""
    output = folder / "out.tif"
    maptile2sat.render(source, output, model=model, overwrite=True)
    with rasterio.open(output) as dataset:
        made = dataset.read([1, 2, 3]).transpose(1, 2, 0)
    return made[MARGIN:-MARGIN, MARGIN:-MARGIN]  # type: ignore[no-any-return]


def repeats(grey: Floats) -> tuple[float, tuple[int, int]]:
    """Return the highest correlation with itself farther than `NEAR` away, and where."""
    centred = grey - grey.mean()
    spectrum = np.abs(np.fft.rfft2(centred)) ** 2
    correlation = np.fft.irfft2(spectrum, s=grey.shape) / max(float((centred**2).sum()), 1e-9)
    rows, cols = (np.abs(np.fft.fftfreq(side, 1 / side)) for side in grey.shape)
    correlation[np.hypot(rows[:, None], cols[None]) <= NEAR] = -1.0
    row, col = np.unravel_index(correlation.argmax(), correlation.shape)
    return float(correlation[row, col]), (int(rows[row]), int(cols[col]))


def averages(grey: Floats, side: int) -> Floats:
    """Return the means of squares of `side` px."""
    rows, cols = (length // side for length in grey.shape)
    blocks = grey[: rows * side, : cols * side].reshape(rows, side, cols, side)
    return blocks.mean((1, 3))  # type: ignore[no-any-return]


def measure(made: Pixels) -> dict[str, Any]:
    """Return the figures of one picture."""
    grey = (made @ LUMA).astype(np.float64)
    highest, where = repeats(grey)
    noise, _ = repeats(np.random.default_rng(0).normal(size=grey.shape))
    across = len(made) // 256
    squares = made[: across * 256, : across * 256].reshape(across, 256, across, 256, 3)
    logs = log_spectra(power_spectra(squares.swapaxes(1, 2).reshape(-1, 256, 256, 3)))
    return {
        "std": round(float(grey.std()), 2),
        "std_32": round(float(averages(grey, 32).std()), 2),
        "repeat": round(highest, 4),
        "repeat_at": where,
        "chance": round(noise, 4),
        "grid_2": round(float(peak(logs, 2)), 2),
        "grid_4": round(float(peak(logs, 4)), 2),
    }


def copies(made: Pixels, period: tuple[int, int]) -> float:
    """Return the correlation of brightness between neighbouring copies of a repeated map."""
    grey = made @ LUMA
    pairs = ((grey[: -period[0]], grey[period[0] :]), (grey[:, : -period[1]], grey[:, period[1] :]))
    return float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]))


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or folder of a model")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--pictures", type=Path, help="folder for a PNG of each, reduced by two")
    options = parser.parse_args()
    style = find_bundle(options.model).description.style
    if style not in PALETTES:
        raise SystemExit(
            f"{options.model} is of the style {style}: only {', '.join(PALETTES)} are known"
        )
    report: dict[str, Any] = {"model": options.model, "side": options.side}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = folder / "map.tif"

        def look(name: str) -> Pixels:
            made = render(options.model, source, folder)
            report[name] = measure(made)
            if options.pictures:
                options.pictures.mkdir(exist_ok=True)
                Image.fromarray(made).reduce(2).save(options.pictures / f"{name}.png")
            return made

        for name, colours in PALETTES[style].items():
            for colour in colours[:COLOURS]:
                write_flat(source, tuple(bytes.fromhex(colour)), options.side)
                look(f"{name}-{colour}")
        period = write_map(source, options.side, style)
        report["copies"] = round(copies(look("sample"), period), 4)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
