"""Damaged and invented input by the thousand: only errors of this package may come of it.

The short form tries a few hundred examples, always the same; the long form at least 100,000, other
ones each time. What was found is kept as a test of its own in `test_hostile_found.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maptile2sat.errors import Maptile2satError
from maptile2sat.geo.crs import WEB_MERCATOR
from maptile2sat.geo.grid import TILE, Window, mercator_grid, parse_bbox
from maptile2sat.models.bundle import DESCRIPTION, open_bundle
from maptile2sat.sources import SourceOptions, open_source
from maptile2sat.sources.tiles import Decoder
from maptile2sat.sources.xyz import is_template
from tests.conftest import (
    TileMap,
    pattern,
    write_map_raster,
    write_mbtiles,
    write_pmtiles,
)
from tests.faults.support import LONG, examples
from tests.support_render import copy_of_tiny

MAP = TileMap.block(13, 4661, 2371, 2, 1)
SMALL = Window(5 * TILE, 7 * TILE, TILE, TILE)
OPTIONS = SourceOptions(missing="mask", warn=lambda text: None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner, max_size=5)
    ),
    max_leaves=12,
)


def fuzzed(short: int, long: int) -> Callable[[Any], Any]:
    """Return hypothesis' settings for so many examples."""
    return settings(
        max_examples=examples(short, long),
        deadline=None,
        database=None,
        derandomize=not LONG,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def damaged(draw: st.DrawFn, original: bytes) -> bytes:
    """Damage a file in a few places; the start, where the headers are, more than the rest."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        end = draw(st.sampled_from([min(len(data), 200), len(data)]))
        at = draw(st.integers(0, max(0, end - 1)))
        kind = draw(
            st.sampled_from(["set", "set", "set", "big", "cut", "insert", "drop", "double"])
        )
        if kind == "set":
            new = draw(st.binary(min_size=1, max_size=4))
            data[at : at + len(new)] = new
        elif kind == "big":
            data[at : at + 4] = draw(st.sampled_from([b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4)]))
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=40))
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 64))]
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 300))]
    return bytes(data)


def survives(path: Path, options: SourceOptions = OPTIONS) -> None:
    """Open a map and read a little of it."""
    with (
        contextlib.suppress(Maptile2satError),
        contextlib.closing(open_source(path, options)) as source,
    ):
        extent = source.info.extent
        source.read(Window(extent.col, extent.row, min(extent.width, 300), min(extent.height, 300)))
        source.info.grid.lonlat_bounds(Window(extent.col, extent.row, 300, 300))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the files of this module."""
    return tmp_path_factory.mktemp("fuzz")


# the box


NUMBERS = st.floats() | st.integers() | st.sampled_from([180, -180, 90, 1e20, 1e308, "0x1", "1_0"])


@fuzzed(40, 20_000)
@given(
    st.text()
    | st.lists(NUMBERS, min_size=3, max_size=5).map(lambda items: ",".join(map(str, items)))
    | st.tuples(*[st.floats(-400, 400)] * 4).map(lambda items: " ".join(map(str, items))),
    st.integers(0, 30),
)
def test_fuzz_box(text: str, zoom: int) -> None:
    """Fuzz: boxes, as text and in grids."""
    with contextlib.suppress(Maptile2satError):
        box = parse_bbox(text)
        assert all(map(math.isfinite, box))
        grid = mercator_grid(zoom)
        window = grid.window(box)
        assert not window.empty
        assert window.width <= grid.wrap + 1  # type: ignore[operator]
        grid.window(box, WEB_MERCATOR)


# tiles


def picture(kind: str, mode: str = "RGB") -> bytes:
    """Return the bytes of a picture."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pattern(SMALL)).convert(mode).save(out, kind)
    return out.getvalue()


KINDS = {
    "PNG": picture("PNG"),
    "paletted PNG": picture("PNG", "P"),
    "JPEG": picture("JPEG"),
    "WEBP": picture("WEBP"),
    "GIF": picture("GIF"),
}


def decodes(data: bytes) -> None:
    decoder = Decoder(TILE, retina=False, fill=(1, 2, 3))
    with contextlib.suppress(Maptile2satError):
        read = decoder.decode(data, "1/2/3")
        assert read.image.shape == (TILE, TILE, 3)
        assert set(np.unique(read.mask)) <= {0, 255}


@fuzzed(60, 40_000)
@given(st.sampled_from(list(KINDS)).flatmap(lambda kind: damaged(KINDS[kind])))
def test_fuzz_damaged_tiles(data: bytes) -> None:
    """Fuzz: damaged PNG, JPEG, WebP and GIF tiles in the decoder."""
    decodes(data)


@fuzzed(20, 6_000)
@given(
    st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\1\0\0WEBPVP8"]
    ),
    st.binary(max_size=400),
)
def test_fuzz_invented_tiles(start: bytes, rest: bytes) -> None:
    """Fuzz: random bytes after the first of a picture in the decoder."""
    decodes(start + rest)


# sources


@fuzzed(40, 10_000)
@given(
    st.one_of(
        st.text().filter(lambda text: "://" not in text or is_template(text)),
        st.text(alphabet="{}zxyqs-a/.:@?#&%0[]~\0 ").map(
            lambda text: "http://h/{z}/{x}/{y}" + text
        ),
        st.text(alphabet="{}zxys-a/.:@?#&%[]0\\").map(lambda text: "http://" + text + "/{z}{x}{y}"),
        st.text(alphabet="{}zxyqs-a/.~\0").map(lambda text: "{z}/{x}/{y}" + text),
        st.text().map(lambda text: "file://" + text),
        st.text(max_size=5).map(lambda text: text + "://{z}{x}{y}"),
    )
)
def test_fuzz_source_names(text: str) -> None:
    """Fuzz: names and addresses of maps."""
    with contextlib.suppress(Maptile2satError):
        open_source(text, SourceOptions(zoom=1)).close()


def tilejson_of(changes: dict[str, Any]) -> dict[str, Any]:
    return {"tilejson": "3.0.0", "tiles": ["http://h/{z}/{x}/{y}.png"], **changes}


KEYS = ("tilejson", "tiles", "bounds", "minzoom", "maxzoom", "tileSize", "scheme", "attribution")


@fuzzed(40, 8_000)
@given(
    st.dictionaries(
        st.sampled_from([*KEYS, "format", "vector_layers"]),
        JSON | st.lists(st.floats() | st.integers(), min_size=4, max_size=4),
        max_size=4,
    ).map(tilejson_of)
    | JSON
)
def test_fuzz_tilejson(place: Path, content: Any) -> None:
    """Fuzz: TileJSON with values of all kinds."""
    path = place / "map.json"
    path.write_text(json.dumps(content))
    with contextlib.suppress(Maptile2satError):
        open_source(path, SourceOptions(default_zoom=3, warn=lambda text: None)).close()


@fuzzed(40, 8_000)
@given(st.data())
def test_fuzz_pmtiles(place: Path, data: st.DataObject) -> None:
    """Fuzz: damaged PMTiles."""
    sound = place / "sound.pmtiles"
    if not sound.exists():
        write_pmtiles(sound, MAP)
    path = place / "map.pmtiles"
    path.write_bytes(data.draw(damaged(sound.read_bytes())))
    survives(path)


@fuzzed(30, 5_000)
@given(st.data())
def test_fuzz_mbtiles(place: Path, data: st.DataObject) -> None:
    """Fuzz: damaged MBTiles."""
    sound = place / "sound.mbtiles"
    if not sound.exists():
        tiny = TileMap(13, MAP.tiles, lambda window: np.zeros((TILE, TILE, 3), np.uint8))
        write_mbtiles(sound, tiny)
    path = place / "map.mbtiles"
    path.write_bytes(data.draw(damaged(sound.read_bytes())))
    survives(path)


@fuzzed(40, 8_000)
@given(st.data())
def test_fuzz_rasters(place: Path, data: st.DataObject) -> None:
    """Fuzz: damaged GeoTIFF, with and without a warp."""
    sound = place / "sound.tif"
    if not sound.exists():
        write_map_raster(sound, MAP, Window(*MAP.extent[:2], 96, 64))
    path = place / "map.tif"
    path.write_bytes(data.draw(damaged(sound.read_bytes())))
    survives(path, data.draw(st.sampled_from([OPTIONS, SourceOptions(zoom=12)])))


VRT = (
    '<VRTDataset rasterXSize="9" rasterYSize="9"><SRS>EPSG:3857</SRS><GeoTransform>0,1,0,0,0,-1'
    '</GeoTransform><VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename '
    'relativeToVRT="1">sound.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
    "</VRTRasterBand></VRTDataset>"
)


@fuzzed(20, 3_000)
@given(damaged(VRT.encode()))
def test_fuzz_vrt(place: Path, data: bytes) -> None:
    """Fuzz: damaged VRT."""
    path = place / "map.vrt"
    path.write_bytes(data)
    survives(path)


OSM = (
    "<?xml version='1.0'?><osm version='0.6'><bounds minlat='60' minlon='24' maxlat='60.01' "
    "maxlon='24.01'/><node id='1' lat='60' lon='24'/><node id='2' lat='60.01' lon='24.01'/>"
    "<node id='3' lat='60.01' lon='24'/><way id='1'><nd ref='1'/><nd ref='2'/><nd ref='3'/>"
    "<nd ref='1'/><tag k='natural' v='water'/></way><relation id='1'><member type='way' ref='1' "
    "role='outer'/><tag k='type' v='multipolygon'/><tag k='landuse' v='forest'/></relation></osm>"
)


@fuzzed(20, 2_000)
@given(st.data())
def test_fuzz_extracts(place: Path, data: st.DataObject) -> None:
    """Fuzz: damaged OpenStreetMap extracts, PBF and XML."""
    osmium = pytest.importorskip("osmium")
    xml, pbf = place / "sound.osm", place / "sound.osm.pbf"
    if not pbf.exists():
        xml.write_text(OSM)
        with osmium.SimpleWriter(str(pbf)) as writer:
            for item in osmium.FileProcessor(str(xml)):
                writer.add(item)
    kind = data.draw(st.sampled_from([xml, pbf]))
    path = place / kind.name.replace("sound", "map")
    path.write_bytes(data.draw(damaged(kind.read_bytes())))
    survives(path, SourceOptions(zoom=13, warn=lambda text: None))


# bundles


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a small bundle, to be damaged."""
    return copy_of_tiny(tmp_path_factory.mktemp("bundle"))


FIELDS = st.sampled_from(
    (
        *("format", "name", "version", "kind", "architecture", "cell", "fill", "style", "palette"),
        *("zoom", "metres_per_pixel", "data", "licence", "weights_sha256", "metrics", "training"),
        "other",
    )
)


@fuzzed(40, 10_000)
@given(st.dictionaries(FIELDS, JSON, max_size=3))
def test_fuzz_descriptions(bundle: Path, changes: dict[str, Any]) -> None:
    """Fuzz: descriptions of bundles with values of all kinds."""
    path = bundle / DESCRIPTION
    kept = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(kept), **changes}))
        with contextlib.suppress(Maptile2satError):
            assert isinstance(open_bundle(bundle).id, str)
    finally:
        path.write_text(kept)


@fuzzed(20, 3_000)
@given(st.data())
def test_fuzz_weights(place: Path, bundle: Path, data: st.DataObject) -> None:
    """Fuzz: damaged weights whose hash was forged."""
    found = open_bundle(bundle)
    folder = place / "weights"
    if not folder.exists():
        shutil.copytree(bundle, folder)
    content = data.draw(damaged((bundle / "generator.weights.h5").read_bytes()))
    (folder / "generator.weights.h5").write_bytes(content)
    values = json.loads((bundle / DESCRIPTION).read_text())
    values["weights_sha256"] = hashlib.sha256(content).hexdigest()
    (folder / DESCRIPTION).write_text(json.dumps(values))
    with contextlib.suppress(Maptile2satError):
        arrays = open_bundle(folder).weights()
        assert all(np.isfinite(array).all() for array in arrays.values())
    assert found.id
