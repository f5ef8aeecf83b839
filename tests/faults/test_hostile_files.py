"""Containers with broken indexes, bundles that reach out, archives and extracts made to hurt."""

from __future__ import annotations

import gzip
import io
import json
import os
import sqlite3
import struct
import tarfile
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from maptile2sat.datasets.fetch import unpack
from maptile2sat.errors import BundleError, Maptile2satError, SourceError
from maptile2sat.models.bundle import DESCRIPTION, WEIGHTS, find_bundle, open_bundle
from maptile2sat.sources import SourceOptions, mbtiles, open_source
from tests.conftest import TileMap, write_mbtiles, write_pmtiles
from tests.models.test_bundle import rehash
from tests.support_render import copy_of_tiny

pytestmark = pytest.mark.usefixtures("usual_garbage")

MAP = TileMap.block(13, 4661, 2371, 2, 1)
MEGA = 1 << 20


@contextmanager
def little_memory(limit: int) -> Iterator[None]:
    """Check that Python takes no more than `limit` bytes meanwhile."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def read_all(path: Path) -> None:
    with closing(open_source(path, SourceOptions(zoom=13))) as source:
        source.read(MAP.extent)


# MBTiles

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
VIEWS = {
    "a view that never ends": f"{ENDLESS} SELECT 13 AS zoom_level, 1 AS tile_column, "
    "1 AS tile_row, x'00' AS tile_data FROM c WHERE x < 0",
    "endless columns": f"{ENDLESS} SELECT 13 AS zoom_level, x AS tile_column, 1 AS tile_row, "
    "x'00' AS tile_data FROM c",
    "a blob of a gigabyte": "SELECT 13 AS zoom_level, 4661 AS tile_column, 5820 AS tile_row, "
    "zeroblob(1000000000) AS tile_data",
    "a text for a tile": "SELECT 13 AS zoom_level, 4661 AS tile_column, 5820 AS tile_row, "
    "'hello' AS tile_data",
    "numbers of no world": "SELECT 13 AS zoom_level, 1 << 62 AS tile_column, -5 AS tile_row, "
    "x'00' AS tile_data",
    "texts for numbers": "SELECT 13 AS zoom_level, 'a' AS tile_column, 'b' AS tile_row, "
    "x'00' AS tile_data",
    "zooms of no world": "SELECT 99 AS zoom_level, 1 AS tile_column, 1 AS tile_row, "
    "x'00' AS tile_data UNION SELECT -7, 1, 1, x'00'",
    "a function of the file system": "SELECT 13 AS zoom_level, 1 AS tile_column, 1 AS tile_row, "
    "readfile('/etc/passwd') AS tile_data",
    "itself": "SELECT * FROM tiles",
    "zooms at random": "SELECT abs(random()) % 30 AS zoom_level, 1 AS tile_column, "
    "1 AS tile_row, x'00' AS tile_data",
    "texts of megabytes": "SELECT 13 AS zoom_level, replace(hex(zeroblob(4000000)), '0', 'ab') "
    "AS tile_column, 1 AS tile_row, x'00' AS tile_data",
    "a product of tables": "SELECT 13 AS zoom_level, 4661 AS tile_column, 5820 AS tile_row, "
    "x'00' AS tile_data FROM metadata a, metadata b, metadata c, metadata d, metadata e "
    "WHERE a.name || b.name || c.name || d.name || e.name = ''",
}


@pytest.mark.parametrize("view", VIEWS)
def test_mbtiles_with_a_hostile_view(
    view: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MBTiles whose table is a view: endless, enormous, or of the wrong kind."""
    monkeypatch.setattr(mbtiles, "MAX_QUERY_SECONDS", 1.0)
    monkeypatch.setattr(mbtiles, "MAX_COLUMNS", 1000)
    path = tmp_path / "map.mbtiles"
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE metadata (name TEXT, value TEXT)")
        file.executemany("INSERT INTO metadata VALUES (?, '')", [(f"k{n}",) for n in range(500)])
        file.execute(f"CREATE VIEW tiles AS {VIEWS[view]}")
        file.commit()
    start = time.monotonic()
    with little_memory(64 * MEGA), pytest.raises(SourceError) as caught:
        read_all(path)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 20


def test_mbtiles_with_much_metadata(tmp_path: Path) -> None:
    """MBTiles with a thousand rows of 4 MB of metadata."""
    path = write_mbtiles(tmp_path / "map.mbtiles", MAP)
    with closing(sqlite3.connect(path)) as file:
        file.execute("DROP TABLE metadata")
        file.execute("CREATE TABLE many (name TEXT)")
        file.executemany("INSERT INTO many VALUES (?)", [(f"k{n}",) for n in range(1000)])
        text = "'" + "x" * 4_000_000 + "'"
        file.execute(f"CREATE VIEW metadata AS SELECT name, {text} AS value FROM many")
        file.commit()
    with little_memory(128 * MEGA), pytest.raises(SourceError, match="bytes of notes"):
        read_all(path)


def test_mbtiles_whose_tiles_are_a_plain_view(tmp_path: Path) -> None:
    """Tiles as a view of pictures without copies, as several programs write them, are read."""
    path = write_mbtiles(tmp_path / "map.mbtiles", MAP)
    with closing(sqlite3.connect(path)) as file:
        file.execute("ALTER TABLE tiles RENAME TO held")
        file.execute("CREATE TABLE images AS SELECT rowid AS id, tile_data FROM held")
        file.execute(
            "CREATE VIEW tiles AS SELECT zoom_level, tile_column, tile_row, images.tile_data "
            "FROM held JOIN images ON images.id = held.rowid"
        )
        file.commit()
    read_all(path)


def test_mbtiles_with_large_metadata(tmp_path: Path) -> None:
    """MBTiles with 30 MB of metadata in one value."""
    path = write_mbtiles(tmp_path / "map.mbtiles", MAP)
    with closing(sqlite3.connect(path)) as file:
        file.execute("INSERT INTO metadata VALUES ('more', zeroblob(30000000))")
        file.commit()
    with little_memory(64 * MEGA), pytest.raises(SourceError):
        read_all(path)


# PMTiles


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def pmtiles(path: Path, directory: bytes, **header: int) -> Path:
    """Write PMTiles with a root directory of choice; header fields by their offset's name."""
    sound = bytearray(write_pmtiles(path, MAP).read_bytes()[:127])
    packed = gzip.compress(directory)
    places = {"root_offset": 8, "root_length": 16, "leaf_offset": 40, "data_offset": 56}
    values = {"root_offset": 127, "root_length": len(packed), **header}
    for name, value in values.items():
        struct.pack_into("<Q", sound, places[name], value)
    struct.pack_into("<Q", sound, 32, 0)  # no metadata
    path.write_bytes(bytes(sound) + packed)
    return path


def one_entry(*, run: int, length: int, offset: int, number: int = 0) -> bytes:
    return b"".join(map(varint, (1, number, run, length, offset + 1)))


HUGE = (1 << 62) - 1
DIRECTORIES: dict[str, Callable[[Path], Path]] = {
    "more entries than bytes": lambda path: pmtiles(path, varint(HUGE)),
    "a million entries, cut": lambda path: pmtiles(path, varint(1_000_000) + bytes(1_000_000)),
    "a bomb": lambda path: pmtiles(path, varint(HUGE) + bytes(64 << 20)),
    "endless number": lambda path: pmtiles(path, b"\xff" * 5000),
    "tile of exabytes": lambda path: pmtiles(path, one_entry(run=HUGE, length=HUGE, offset=0)),
    "tile beyond the end": lambda path: pmtiles(path, one_entry(run=HUGE, length=9, offset=HUGE)),
    "tile of nothing": lambda path: pmtiles(path, one_entry(run=HUGE, length=0, offset=0)),
    "tile before the start": lambda path: pmtiles(
        path, b"".join(map(varint, (1, 0, HUGE, 9, 0))), data_offset=0
    ),
    "circle": lambda path: pmtiles(path, one_entry(run=0, length=33, offset=0), leaf_offset=127),
    "leaf beyond the end": lambda path: pmtiles(path, one_entry(run=0, length=9, offset=HUGE)),
    "root beyond the end": lambda path: pmtiles(path, b"", root_offset=HUGE),
    "root of exabytes": lambda path: pmtiles(path, b"", root_length=HUGE),
}


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_pmtiles_with_a_broken_index(directory: str, tmp_path: Path) -> None:
    """PMTiles with absurd lengths, circles and bombs in the index."""
    path = DIRECTORIES[directory](tmp_path / "map.pmtiles")
    with little_memory(64 * MEGA), pytest.raises(SourceError) as caught:
        read_all(path)
    assert "\n" not in str(caught.value)


def test_pmtiles_cut_while_read(tmp_path: Path) -> None:
    """PMTiles that somebody cuts short while they are read: an error, not the end of Python."""
    path = write_pmtiles(tmp_path / "map.pmtiles", MAP)
    with closing(open_source(path, SourceOptions(zoom=13))) as source:
        os.truncate(path, 200)
        with pytest.raises(SourceError):
            source.read(MAP.extent)


# TileJSON and folders


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"tiles": ' * 50_000, " " * (9 << 20), "9" * 10_000, '"\\ud800"'],
    ids=["deep lists", "deep objects", "9 MB of blanks", "long number", "half a character"],
)
@pytest.mark.parametrize("name", ["map.json", "metadata.json"])
def test_json_made_to_hurt(text: str, name: str, tmp_path: Path) -> None:
    """JSON that is deep, long or large, as TileJSON and as the notes of a folder of tiles."""
    path = tmp_path / name
    path.write_text(text)
    with little_memory(96 * MEGA), pytest.raises(SourceError):
        open_source(path if name == "map.json" else tmp_path)


# bundles


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS])
def test_bundle_with_a_link(name: str, tmp_path: Path) -> None:
    """A bundle whose file is a link to somewhere else."""
    folder = copy_of_tiny(tmp_path)
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to("../elsewhere")
    with pytest.raises(BundleError, match="link that leads out of the bundle"):
        open_bundle(folder).weights()
    (folder / name).unlink()
    (folder / name).symlink_to(name)
    with pytest.raises(BundleError):
        open_bundle(folder).weights()


def test_bundle_behind_a_link_is_fine(tmp_path: Path) -> None:
    """A link to a bundle, and a link inside of one, are as good as what they lead to."""
    folder = copy_of_tiny(tmp_path)
    (folder / WEIGHTS).rename(folder / "inner.h5")
    (folder / WEIGHTS).symlink_to("inner.h5")
    (tmp_path / "link").symlink_to(folder)
    assert find_bundle(str(tmp_path / "link")).weights()


@pytest.mark.parametrize("name", ["../copy", "maps/../../copy", "/etc", "~", "a\nb", "x" * 5000])
def test_bundle_names_that_leave(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Names of models that lead elsewhere name a folder there, or nothing."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(BundleError):
        find_bundle(name)


def packed_weights(folder: Path, change: Callable[[h5py.File], None]) -> Path:
    with h5py.File(folder / WEIGHTS, "r+") as file:
        change(file)
    return rehash(folder)


def foreign_filter(file: h5py.File) -> None:
    del file["stem/bias"]
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((4,))
    plan.set_filter(32_000, h5py.h5z.FLAG_OPTIONAL, ())  # lzf, by a plug-in elsewhere
    space = h5py.h5s.create_simple((12,))
    h5py.h5d.create(file.id, b"stem/bias", h5py.h5t.IEEE_F32LE, space, plan)


def many_layers(file: h5py.File) -> None:
    for number in range(5000):
        file.create_group(f"layer{number}")


def circle(file: h5py.File) -> None:
    file["loop"] = file["/"]


WEIGHT_TRICKS = {
    "foreign filter": (foreign_filter, "code from elsewhere"),
    "many layers": (many_layers, "layers are too many"),
    "circle": (circle, "not where"),
}


@pytest.mark.parametrize("trick", WEIGHT_TRICKS)
def test_weights_that_are_a_trick(trick: str, tmp_path: Path) -> None:
    """Weights of thousands of layers, of foreign filters, of circles."""
    change, words = WEIGHT_TRICKS[trick]
    folder = packed_weights(copy_of_tiny(tmp_path), change)
    with pytest.raises(BundleError, match=words):
        open_bundle(folder).weights()


def test_description_made_to_hurt(tmp_path: Path) -> None:
    """Descriptions that are deep, or larger than any."""
    folder = copy_of_tiny(tmp_path)
    values = json.loads((folder / DESCRIPTION).read_text())
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    for key, value in {"training": {"a": "b" * (2 << 20)}, "architecture": {"a": deep}}.items():
        (folder / DESCRIPTION).write_text(json.dumps({**values, key: value}))
        with pytest.raises(Maptile2satError):
            open_and_build(folder)


def open_and_build(folder: Path) -> None:
    from maptile2sat.models.generator import build_generator

    build_generator(open_bundle(folder), "float32")


# archives


def tar_with_long_header(kind: bytes) -> bytes:
    """Return a .tar.gz of which the first header says that a gigabyte of names follows."""
    info = tarfile.TarInfo("maps/train/1.jpg")
    info.type, info.size = kind, 1 << 30
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    out = packer.compress(info.tobuf(tarfile.GNU_FORMAT))
    block = b"0" * MEGA
    return out + b"".join(packer.compress(block) for _ in range(200)) + packer.flush()


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK]
)
def test_archive_with_endless_headers(kind: bytes, tmp_path: Path) -> None:
    """A small archive whose names and notes unpack to a gigabyte."""
    path = tmp_path / "evil.tar.gz"
    path.write_bytes(tar_with_long_header(kind))
    assert path.stat().st_size < 3 * MEGA
    with little_memory(64 * MEGA), pytest.raises(Maptile2satError, match="headers"):
        unpack(path, tmp_path / "set", lambda done: None)


def test_archive_with_sound_long_names(tmp_path: Path) -> None:
    """An archive whose names are long for good reason is unpacked."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for number in range(300):
            info = tarfile.TarInfo(f"{'long' * 40}/train/{number}.jpg")
            info.size = 50_000
            archive.addfile(info, io.BytesIO(bytes(50_000)))
    path = tmp_path / "a.tar.gz"
    path.write_bytes(out.getvalue())
    assert unpack(path, tmp_path / "set", lambda done: None)["train"] == 300


# extracts


def blob(kind: bytes, size: int) -> bytes:
    """Return the header of a PBF blob that says how many bytes follow."""
    header = b"\x0a" + bytes([len(kind)]) + kind + b"\x18" + varint(size)
    return struct.pack(">I", len(header)) + header


def zlib_blob(kind: bytes, raw_size: int, data: bytes) -> bytes:
    packed = zlib.compress(data)
    body = b"\x10" + varint(raw_size) + b"\x1a" + varint(len(packed)) + packed
    return blob(kind, len(body)) + body


EXTRACTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "nothing": ("a.osm.pbf", lambda: b""),
    "random bytes": ("a.osm.pbf", lambda: np.random.default_rng(1).bytes(5000)),
    "blob of 2 GB": ("a.osm.pbf", lambda: blob(b"OSMHeader", (1 << 31) - 1)),
    "header of 4 GB": ("a.osm.pbf", lambda: b"\xff\xff\xff\xff" + bytes(99)),
    "blob that says 2 GB unpacked": (
        "a.osm.pbf",
        lambda: zlib_blob(b"OSMHeader", (1 << 31) - 1, bytes(99)),
    ),
    "bomb": ("a.osm.pbf", lambda: zlib_blob(b"OSMHeader", 99, bytes(100 << 20))),
    "picture": ("a.osm.pbf", lambda: MAP.tile(*MAP.tiles[0])),
    "XML bomb": (
        "a.osm",
        lambda: (
            b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaaaaaaaa">'
            + b"".join(b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 16) for n in range(12))
            + b']><osm version="0.6"><node id="1" lat="1" lon="1"><tag k="a" v="&m;"/></node></osm>'
        ),
    ),
    "XML that reads a file": (
        "a.osm",
        lambda: (
            b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'
            b'<osm version="0.6"><node id="1" lat="1" lon="1"><tag k="a" v="&b;"/></node></osm>'
        ),
    ),
    "bzip2 that is none": ("a.osm.bz2", lambda: b"BZh9" + bytes(500)),
    "gzip bomb": ("a.osm.gz", lambda: gzip.compress(b"<osm version='0.6'>" + bytes(50 << 20))),
    "numbers of no world": (
        "a.osm",
        lambda: (
            b"<osm version='0.6'><node id='9223372036854775807' lat='1e9' lon='-1e9'/><node id='-1'"
            b" lat='90' lon='180'/><way id='1'><nd ref='-1'/><nd ref='9223372036854775807'/></way>"
            b"</osm>"
        ),
    ),
}


@pytest.mark.parametrize("extract", EXTRACTS)
def test_extracts_made_to_hurt(extract: str, tmp_path: Path) -> None:
    """OpenStreetMap extracts of garbage, bombs and impossible numbers."""
    pytest.importorskip("osmium")
    name, make = EXTRACTS[extract]
    path = tmp_path / name
    path.write_bytes(make())
    with little_memory(128 * MEGA), pytest.raises(Maptile2satError) as caught:
        open_source(path, SourceOptions(zoom=13)).close()
    assert "root:" not in str(caught.value)
    assert "\n" not in str(caught.value)
