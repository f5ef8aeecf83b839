"""An oracle on system calls: no map makes a file or an address be opened that nobody named."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pytest
import rasterio

import maptile2sat
from tests.conftest import write_raster
from tests.faults.support import LONG, vrt

BANDS = np.arange(3 * 64 * 64, dtype=np.uint8).reshape(3, 64, 64)
CLONE = Path(maptile2sat.__file__).parents[1]
TRAP = "trap"
"""Part of the names of all that nobody named."""

# What a text of a CRS can be


def wkt(extension: str) -> str:
    """Return web mercator as WKT, with a text of PROJ beside it."""
    return (
        'PROJCS["x",GEOGCS["x",DATUM["x",SPHEROID["x",6378137,298.257223563]],'
        'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],PROJECTION["Mercator_1SP"],'
        'PARAMETER["central_meridian",0],PARAMETER["scale_factor",1],PARAMETER["false_easting",0],'
        f'PARAMETER["false_northing",0],UNIT["metre",1],EXTENSION["PROJ4","{extension}"]]'
    )


def bound(grid: str) -> str:
    """Return degrees as WKT that says which file leads to WGS 84."""
    degrees = (
        'GEOGCRS["x",DATUM["x",ELLIPSOID["x",6377397,299.15]],CS[ellipsoidal,2],'
        'AXIS["lat",north],AXIS["lon",east],ANGLEUNIT["degree",0.0174532925199433]]'
    )
    return (
        f"BOUNDCRS[SOURCECRS[{degrees}],TARGETCRS[{degrees.replace('6377397', '6378137')}],"
        'ABRIDGEDTRANSFORMATION["x",METHOD["NTv2",ID["EPSG",9615]],'
        f'PARAMETERFILE["Latitude and longitude difference file","{grid}"]]]'
    )


MERC = "+proj=merc +a=6378137 +b=6378137 +units=m +no_defs"
DEGREES = "+proj=longlat +a=6377397 +rf=299 +no_defs"
CRS_TEXTS: dict[str, Callable[[str], str]] = {
    "path": lambda path: path,
    "address": lambda path: f"http://127.0.0.1:9{path}",
    "FTP": lambda path: f"ftp://127.0.0.1:9{path}",
    "code of a path": lambda path: f"ESRI::{path}",
    "code of nobody": lambda path: "TRAP:trap",
    "nadgrids": lambda path: f"{MERC} +nadgrids={path}",
    "optional nadgrids": lambda path: f"{DEGREES} +nadgrids=@{path}",
    "nadgrids after others": lambda path: f"{DEGREES} +nadgrids=@null,{path}",
    "nadgrids, blanks": lambda path: f"{DEGREES} +nadgrids = {path}",
    "geoidgrids": lambda path: f"{DEGREES} +geoidgrids={path}",
    "relative": lambda path: f"{DEGREES} +nadgrids=./trap.gsb",
    "init": lambda path: f"+init={path}:x",
    "pipeline": lambda path: f"+proj=pipeline +step +proj=hgridshift +grids={path}",
    "WKT": lambda path: wkt(f"{MERC} +nadgrids={path}"),
    "WKT, init": lambda path: wkt(f"+init={path}:x"),
    "WKT 2": bound,
    "PROJJSON": lambda path: json.dumps(
        {
            "type": "BoundCRS",
            "source_crs": rasterio.crs.CRS.from_epsg(4289).to_dict(projjson=True),
            "target_crs": rasterio.crs.CRS.from_epsg(4326).to_dict(projjson=True),
            "transformation": {
                "name": "x",
                "method": {"name": "NTv2", "id": {"authority": "EPSG", "code": 9615}},
                "parameters": [{"name": "Latitude and longitude difference file", "value": path}],
            },
        }
    ),
}
"""Texts that lead PROJ or GDAL to a path, by kind."""

# Maps


def raster(folder: Path, name: str = "map.tif", **profile: Any) -> Path:
    return write_raster(folder / name, BANDS, **profile)


def with_cutline(folder: Path, text: str) -> Path:
    ring = [[24.25, 60.15], [24.27, 60.15], [24.27, 60.16], [24.25, 60.15]]
    cutline = {
        "type": "Polygon",
        "coordinates": [ring],
        "crs": {"type": "name", "properties": {"name": text}},
    }
    (folder / "map.geojson").write_text(json.dumps(cutline))
    return raster(folder)


def with_notes(folder: Path, inner: str, **profile: Any) -> Path:
    path = raster(folder, **profile)
    path.with_name(f"{path.name}.aux.xml").write_text(f"<PAMDataset>{inner}</PAMDataset>")
    return path


def with_vrt_srs(folder: Path, text: str) -> Path:
    raster(folder, "map-inner.tif")
    path = vrt(folder / "map.vrt", "map-inner.tif")
    path.write_text(path.read_text().replace("EPSG:3857", escape(text)))
    return path


def geopackage(folder: Path, *statements: str, values: tuple[str, ...] = ()) -> Path:
    path = raster(folder, "map.gpkg", driver="GPKG", RASTER_TABLE="one")
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement, values)
        database.commit()
    return path


def beside(folder: Path, ending: str, trap: Path) -> Path:
    """Write a picture, and a VRT of a foreign file in place of its mask or overviews."""
    path = raster(folder, photometric="rgb")
    vrt(Path(f"{path}{ending}"), str(trap), attributes='relativeToVRT="0"')
    return path


def paux(folder: Path, trap: Path) -> Path:
    path = folder / "map.aux"
    path.write_text(
        f"AuxilaryTarget: {trap}\nRawDefinition: 8 8 3\n"
        + "".join(f"ChanDefinition-{band}: 8U {band * 64} 1 8\n" for band in (1, 2, 3))
    )
    return path


def idrisi(folder: Path, trap: Path) -> Path:
    path = folder / "map.rst"
    path.write_bytes(bytes(64))
    path.with_suffix(".rdc").write_text(
        "file format : IDRISI Raster A.1\nfile title  : \ndata type   : byte\n"
        f"file type   : binary\ncolumns     : 8\nrows        : 8\nref. system : {trap}\n"
        "ref. units  : m\nunit dist.  : 1\nmin. X      : 0\nmax. X      : 8\nmin. Y      : 0\n"
        "max. Y      : 8\n"
    )
    return path


def extract(folder: Path, trap: Path) -> Path:
    path = folder / "map.osm"
    path.write_text(
        f'<!DOCTYPE osm [<!ENTITY trap SYSTEM "file://{trap}">]><osm version="0.6">'
        '<bounds minlat="60" minlon="24" maxlat="60.01" maxlon="24.01"/>&trap;</osm>'
    )
    return path


def tilejson(folder: Path, address: str) -> Path:
    path = folder / "map.json"
    path.write_text(json.dumps({"tilejson": "3.0.0", "tiles": [address], "maxzoom": 3}))
    return path


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c"
Maker = Callable[[Path, Path], Path]
MAPS: dict[str, Maker] = {
    "overviews of notes": lambda folder, trap: with_notes(
        folder, f'<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{trap}</MDI></Metadata>'
    ),
    "overviews of notes on a server": lambda folder, trap: with_notes(
        folder,
        '<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">/vsicurl/http://127.0.0.1:9/trap'
        "</MDI></Metadata>",
    ),
    "places of notes": lambda folder, trap: with_notes(
        folder,
        f'<Metadata domain="GEOLOCATION"><MDI key="X_DATASET">{trap}</MDI>'
        f'<MDI key="Y_DATASET">{trap}</MDI></Metadata>',
    ),
    "control points of notes": lambda folder, trap: with_notes(
        folder,
        f"<GCPList Projection={quoteattr(wkt(f'{MERC} +nadgrids={trap}'))}>"
        '<GCP Id="a" Pixel="0" Line="0" X="0" Y="0"/></GCPList>',
    ),
    "mask": lambda folder, trap: beside(folder, ".msk", trap),
    "mask in capitals": lambda folder, trap: beside(folder, ".MSK", trap),
    "overviews": lambda folder, trap: beside(folder, ".ovr", trap),
    "header of raw pixels": paux,
    "reference of IDRISI": idrisi,
    "entity of an extract": extract,
    "tiles of files": lambda folder, trap: tilejson(folder, f"file://{trap}/{{z}}/{{x}}/{{y}}"),
    "tiles of GDAL": lambda folder, trap: tilejson(folder, f"/vsicurl/{trap}/{{z}}/{{x}}/{{y}}"),
    "GeoPackage, view": lambda folder, trap: geopackage(
        folder,
        "ALTER TABLE gpkg_contents RENAME TO held",
        f"CREATE VIEW gpkg_contents AS SELECT held.* FROM held, ({ENDLESS}) WHERE x < 0",
    ),
}
"""Maps that name files and addresses, by kind."""

for kind, text_of in CRS_TEXTS.items():
    MAPS |= {
        f"cutline, {kind}": lambda folder, trap, of=text_of: with_cutline(folder, of(str(trap))),
        f"notes, {kind}": lambda folder, trap, of=text_of: with_notes(
            folder, f"<SRS>{escape(of(str(trap)))}</SRS>"
        ),
        f"notes of a PNG, {kind}": lambda folder, trap, of=text_of: with_notes(
            folder, f"<SRS>{escape(of(str(trap)))}</SRS>", name="map.png", driver="PNG"
        ),
        f"VRT, {kind}": lambda folder, trap, of=text_of: with_vrt_srs(folder, of(str(trap))),
        f"GeoPackage, {kind}": lambda folder, trap, of=text_of: geopackage(
            folder, "UPDATE gpkg_spatial_ref_sys SET definition = ?", values=(of(str(trap)),)
        ),
    }

for kind in ("WKT", "WKT, init", "nadgrids"):
    MAPS[f"GeoTIFF, {kind}"] = lambda folder, trap, of=CRS_TEXTS[kind]: raster(
        folder, crs=of(str(trap)), GEOTIFF_KEYS_FLAVOR="ESRI_PE"
    )

SHORT = (
    *("cutline, path", "cutline, address", "cutline, nadgrids", "cutline, WKT 2", "notes, init"),
    *("notes, WKT", "notes of a PNG, nadgrids", "VRT, WKT", "GeoTIFF, WKT", "GeoPackage, WKT"),
    *("GeoPackage, view", "mask", "overviews", "overviews of notes", "header of raw pixels"),
    *("reference of IDRISI", "entity of an extract", "tiles of files"),
)
"""Those of the short form."""

CHILD = """
import json, os, sys
from pathlib import Path
from tests.support_render import run_cli
for number, words in enumerate(json.loads(Path(sys.argv[1]).read_text())):
    os.access(f"/mark/{number}", 0)
    done = run_cli(*words)
    print(number, done.code, (done.err or done.out).strip().splitlines()[-1:], flush=True)
    if "Traceback" in done.err:
        print(done.err)
os.access("/mark/end", 0)
"""

_CALL = re.compile(r'^\d+ +(\w+)\((?:AT_FDCWD, |\d+, )?"((?:[^"\\]|\\.)*)"')
_ADDRESS = re.compile(r"sin6?_port|inet")


def commands(path: Path) -> list[list[str]]:
    """Return the command lines that a map of somebody else is given to."""
    if path.suffix == ".osm":
        return [
            ["info", str(path)],
            ["draw", str(path), "-o", str(path.with_suffix(".png")), "--zoom", "13", "--overwrite"],
        ]
    cutline = path.with_suffix(".geojson")
    render = ["render", str(path), "-o", str(path.with_suffix(".out.tif")), "--dry-run"]
    if cutline.exists():
        return [[*render, "--native", "--cutline", str(cutline)]]
    return [["info", str(path)], ["info", str(path), "-z", "16"], [*render, "-z", "16"]]


def traced(words: list[list[str]], folder: Path) -> tuple[list[list[str]], str]:
    """Run command lines under strace; return the calls of each that open or connect."""
    log, listed = folder / "calls", folder / "words.json"
    listed.write_text(json.dumps(words))
    (folder / "home").mkdir()
    where = {"HOME": str(folder / "home"), "MAPTILE2SAT_CACHE_DIR": str(folder / "home")}
    done = subprocess.run(
        [
            *("strace", "-f", "-qq", "-s", "4096", "-o", log),
            *("-e", "trace=open,openat,openat2,creat,connect,access"),
            *(sys.executable, "-c", CHILD, str(listed)),
        ],
        cwd=folder,
        env={**os.environ, **where, "PYTHONPATH": str(CLONE), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if "ptrace" in done.stderr and not done.stdout:
        pytest.skip("strace may not follow processes here")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout, done.stdout
    sections: list[list[str]] = []
    for line in log.read_text(errors="replace").splitlines():
        if "/mark/" in line:
            sections.append([])
        elif sections:
            sections[-1].append(line)
    assert len(sections) == len(words) + 1
    return sections[:-1], done.stdout


def strays(calls: list[str], folder: Path, path: Path) -> list[str]:
    """Return the calls that open what is neither the map, nor the program, nor the system."""
    own = (sys.prefix, sys.base_prefix, CLONE, folder / "home", "/usr", "/lib", "/proc", "/sys")
    files = ("/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/urandom", "/etc/mime.types")
    found = []
    for line in calls:
        if " access(" in line or '"MEM:::' in line:  # GDAL asks for pictures in memory by name
            continue
        if "connect(" in line:
            if _ADDRESS.search(line):
                found.append(line)
            continue
        match = _CALL.match(line)
        if match is None:
            continue
        place = Path(os.path.normpath(folder / match[2].encode().decode("unicode_escape")))
        named = place == path.parent or (
            place.parent == path.parent and place.name.startswith(path.stem)
        )
        system = any(place.is_relative_to(each) for each in own) or str(place) in files
        if not (named or system) or TRAP in place.name:
            found.append(line)
    return found


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_nothing_is_opened_that_nobody_named(tmp_path: Path, record_property: Any) -> None:
    """Under strace: maps, notes beside them and cutlines that name files and addresses."""
    kinds = list(MAPS) if LONG else list(SHORT)
    trap = write_raster(tmp_path / f"{TRAP}.tif", BANDS)
    write_raster(tmp_path / f"{TRAP}.gsb", BANDS)
    (tmp_path / "sound").mkdir()
    sound = [
        *commands(raster(tmp_path / "sound")),
        *commands(with_cutline(tmp_path / "sound", "?")),
    ]
    words, owners = list(sound), [("sound", tmp_path / "sound" / "map.tif")] * len(sound)
    for number, kind in enumerate(kinds):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = MAPS[kind](folder, trap)
        for each in commands(path) if LONG else commands(path)[-1:]:
            words.append(each)
            owners.append((kind, path))
    sections, said = traced(words, tmp_path)
    lines = said.splitlines()
    assert lines[0].startswith("0 0"), lines[0]  # the sound map is read
    wrong = {
        f"{kind}: {' '.join(words[number][:1])}": found
        for number, (kind, path) in enumerate(owners)
        if number >= len(sound) and (found := strays(sections[number], tmp_path, path))
    }
    assert wrong == {}, "\n".join(f"{name}: {calls[:3]}" for name, calls in wrong.items())
    record_property("tried", len(words))


def test_the_oracle_sees_what_is_opened(tmp_path: Path) -> None:
    """The check itself: a call that opens a foreign file, a name in the folder, an address."""
    path = tmp_path / "a" / "map.tif"
    calls = [
        f'7 openat(AT_FDCWD, "{path}", O_RDONLY) = 3',
        f'7 openat(AT_FDCWD, "{path}.aux.xml", O_RDONLY) = -1 ENOENT',
        f'7 openat(AT_FDCWD, "{sys.prefix}/x", O_RDONLY) = -1 ENOENT',
        '7 openat(AT_FDCWD, "/etc/passwd", O_RDONLY) = 3',
        f'7 open("{tmp_path}/trap.tif", O_RDONLY) = 3',
        '7 openat(AT_FDCWD, "./trap.gsb", O_RDONLY) = -1 ENOENT',
        "7 connect(5, {sa_family=AF_INET, sin_port=htons(9)}, 16) = -1",
    ]
    assert strays(calls, tmp_path, path) == calls[3:]
