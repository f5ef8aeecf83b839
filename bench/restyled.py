"""Measure what a model of OpenStreetMap's style makes of the colours that the style has today.

    python bench/restyled.py MODEL EXTRACT [--bbox W S E N] [--picture restyled.png]

The training set was drawn in the colours of former years. An extract is drawn with both, and the
model renders both with the same noise: `change` is the mean absolute difference of the images in
levels of 255, and `classes` that where today's map has one colour, for each colour that covers
more than `LEAST` of the map. The picture shows the images side by side, former colours left.
Today's colours are those of the files landcover, roads, road-colors-generated, buildings and water
of openstreetmap-carto's folder `style`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import Image

import maptile2sat
from maptile2sat.geo.grid import BBox
from maptile2sat.osm.style import OSM, STYLES, Area, Line, Style

LEAST = 0.002
"""Share of the map from which on a colour is listed."""

AREAS = {
    "water": "#aad3df",
    "pool": "#aad3df",
    "residential": "#e0dfdf",
    "industrial": "#ebdbe8",
    "commercial": "#f2dad9",
    "retail": "#ffd6d1",
    "farmland": "#eef0d5",
    "farmyard": "#f5dcba",
    "construction": "#c7c7b4",
    "railway": "#ebdbe8",
    "education": "#ffffe5",
    "hospital": "#ffffe5",
    "parking": "#eeeeee",
    "wood": "#add19e",
    "scrub": "#c8d7ab",
    "grass": "#cdebb0",
    "park": "#c8facc",
    "garden": "#cdebb0",
    "golf": "#def6c0",
    "cemetery": "#aacbaf",
    "allotments": "#c9e1bf",
    "pitch": "#aae0cb",
    "sports": "#dffce2",
    "playground": "#dffce2",
    "sand": "#f5e9c6",
    "aerodrome": "#e9e7e2",
    "apron": "#dadae0",
    "building": "#d9d0c9",
    "pedestrian": "#dddde8",
}
"""Fill of each class of area whose colour is another today."""

OUTLINES = {"building": "#bfb0a3", "pitch": "#82cfb2", "parking": "#cbb5b5"}
"""Borders of areas today; others are drawn without."""

LINES = {
    "river": ("#aad3df", None),
    "canal": ("#aad3df", None),
    "stream": ("#aad3df", None),
    "rail": ("#707070", None),
    "path": ("#fa8072", "#ffffff"),
    "pedestrian": ("#dddde8", "#999999"),
    "service": ("#ffffff", "#bbbbbb"),
    "aisle": ("#ffffff", "#bbbbbb"),
    "street": ("#ffffff", "#bbbbbb"),
    "tertiary": ("#ffffff", "#8f8f8f"),
    "secondary": ("#f7fabf", "#707d05"),
    "primary": ("#fcd6a4", "#a06b00"),
    "link": ("#fcd6a4", "#a06b00"),
    "trunk": ("#f9b29c", "#c84e2f"),
    "motorway": ("#e892a2", "#dc2a67"),
}
"""Fill and casing of each class of line whose colours are others today."""

Pixels = npt.NDArray[np.uint8]


def todays() -> Style:
    """Return the style `osm` in the colours that OpenStreetMap's standard style has today."""

    def area(name: str, look: Area) -> Area:
        outline = OUTLINES.get(name) if look.outline else None
        return replace(look, fill=AREAS.get(name, look.fill), outline=outline)

    def line(name: str, look: Line) -> Line:
        fill, casing = LINES.get(name, (look.fill, look.casing))
        return replace(look, fill=fill, casing=casing if look.casing else None)

    areas = {name: area(name, look) for name, look in OSM.areas.items()}
    lines = {name: line(name, look) for name, look in OSM.lines.items()}
    return replace(OSM, areas=areas, lines=lines)


@contextmanager
def drawn_as(style: Style) -> Iterator[None]:
    """Draw `osm` as `style` meanwhile."""
    STYLES["osm"] = style
    try:
        yield
    finally:
        STYLES["osm"] = OSM


def read(path: Path) -> Pixels:
    """Return all of a GeoTIFF, (height, width, 3)."""
    with rasterio.open(path) as dataset:
        return dataset.read([1, 2, 3]).transpose(1, 2, 0)  # type: ignore[no-any-return]


def classes(drawn: Pixels, change: npt.NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """Return share and change of each colour of today's map."""
    found = {}
    for text in sorted({*AREAS.values(), *(fill for fill, _ in LINES.values())}):
        colour = [int(text[at : at + 2], 16) for at in (1, 3, 5)]
        there = (drawn == colour).all(-1)
        if there.mean() >= LEAST:
            share, changed = round(float(there.mean()), 4), round(float(change[there].mean()), 2)
            found[text] = {"share": share, "change": changed}
    return found


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or folder of a model of OpenStreetMap's style")
    parser.add_argument("extract", type=Path)
    parser.add_argument("--bbox", type=float, nargs=4, metavar=("W", "S", "E", "N"))
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    bbox = BBox(*options.bbox) if options.bbox else None
    images: list[Pixels] = []
    with tempfile.TemporaryDirectory() as folder:
        drawn, made = Path(folder) / "drawn.tif", Path(folder) / "made.tif"
        for style in (OSM, todays()):
            with drawn_as(style):
                maptile2sat.draw(options.extract, drawn, style="osm", bbox=bbox, overwrite=True)
            maptile2sat.render(drawn, made, model=options.model, overwrite=True)
            images.append(read(made))
        map_of_today = read(drawn)
    change = np.abs(images[0].astype(np.float64) - images[1]).mean(-1)
    result: dict[str, Any] = {"change": round(float(change.mean()), 2)}
    print(json.dumps(result | {"classes": classes(map_of_today, change)}, indent=2))
    if options.picture:
        Image.fromarray(np.concatenate(images, axis=1)).save(options.picture)


if __name__ == "__main__":
    main()
