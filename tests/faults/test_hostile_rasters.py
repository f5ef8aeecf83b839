"""Rasters that want memory, other people's files, or the network."""

from __future__ import annotations

import contextlib
import http.server
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from maptile2sat.errors import Maptile2satError, SourceError
from maptile2sat.geo.grid import Window
from maptile2sat.sources import SourceOptions, open_source
from maptile2sat.sources.raster import files_beside
from tests.conftest import TileMap, write_mbtiles, write_raster
from tests.faults.support import vrt
from tests.support_render import run_cli

BANDS = np.arange(3 * 64 * 64, dtype=np.uint8).reshape(3, 64, 64)
WITH_VRT = SourceOptions(allow_vrt=True)


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """A server that nobody should ask: its address, and what was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_vrt_of_its_own_folder(tmp_path: Path) -> None:
    """A VRT that puts together pictures of its folder is read, as GDAL's own tools make it."""
    write_raster(tmp_path / "a.tif", BANDS)
    with (
        rasterio.open(tmp_path / "a.tif") as source,
        rasterio.vrt.WarpedVRT(source) as warped,  # the module is there
    ):
        assert warped.count == 3
    (tmp_path / "sub").mkdir()
    write_raster(tmp_path / "sub" / "b.tif", BANDS)
    for name in ("a.tif", "sub/b.tif", str(tmp_path / "a.tif")):
        attributes = 'relativeToVRT="0"' if name.startswith("/") else 'relativeToVRT="1"'
        source = open_source(vrt(tmp_path / "map.vrt", name, attributes=attributes))
        read = source.read(source.info.extent)
        np.testing.assert_array_equal(np.moveaxis(read.image, -1, 0), BANDS)
        source.close()


def test_pictures_of_a_vrt_are_found(tmp_path: Path) -> None:
    """Pictures of a VRT are found through links and in another VRT, whatever their names."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    picture = write_raster(tmp_path / "one" / "a.tif", BANDS)
    (tmp_path / "one" / "a.tif.msk").write_bytes(picture.read_bytes())
    inner = vrt(tmp_path / "one" / "inner.vrt", "a.tif")
    outer = vrt(tmp_path / "one" / "outer.vrt", "inner.vrt")
    link = tmp_path / "two" / "link.vrt"
    link.symlink_to(outer)
    masked = (picture, picture.with_name("a.tif.msk"))
    assert files_beside(inner) == masked
    assert files_beside(outer) == files_beside(link) == (*masked, inner)
    assert files_beside(picture) == (masked[1],)
    long = write_raster(tmp_path / f"{'地' * 83}.tif", BANDS)
    assert files_beside(long) == ()


def outside(folder: Path, address: str) -> dict[str, Path]:
    """Return VRTs and other instructions to read what is not in `folder`."""
    secret = folder.parent / "secret.tif"
    (folder / "link.tif").symlink_to(secret)
    write_raster(folder / "inner.tif", BANDS)
    vrt(folder / "nested.vrt", f"/vsicurl/{address}/nested.tif")
    (folder / "wms.xml").write_text(
        f"<GDAL_WMS><Service name='TMS'><ServerUrl>{address}/${{z}}/${{x}}/${{y}}.png</ServerUrl>"
        "</Service><DataWindow><UpperLeftX>-20037508</UpperLeftX><UpperLeftY>20037508</UpperLeftY>"
        "<LowerRightX>20037508</LowerRightX><LowerRightY>-20037508</LowerRightY><TileLevel>3"
        "</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY><YOrigin>top</YOrigin>"
        "</DataWindow><Projection>EPSG:3857</Projection><BlockSizeX>256</BlockSizeX>"
        "<BlockSizeY>256</BlockSizeY><BandsCount>3</BandsCount></GDAL_WMS>"
    )
    made = {
        "parent folder": vrt(folder / "1.vrt", "../secret.tif"),
        "absolute path": vrt(folder / "2.vrt", str(secret), attributes='relativeToVRT="0"'),
        "no attribute": vrt(folder / "3.vrt", str(secret), attributes=""),
        "attribute that GDAL reads as 1": vrt(
            folder / "4.vrt", "../secret.tif", attributes='relativeToVRT="2"'
        ),
        "link": vrt(folder / "5.vrt", "link.tif"),
        "network": vrt(folder / "6.vrt", f"/vsicurl/{address}/x.tif", attributes=""),
        "network, relative": vrt(folder / "7.vrt", f"/vsicurl/{address}/x.tif"),
        "nested VRT": vrt(folder / "8.vrt", "nested.vrt"),
        "WMS inside": vrt(folder / "9.vrt", "wms.xml"),
        "sub-dataset name": vrt(folder / "10.vrt", f"GTIFF_DIR:1:{secret}", attributes=""),
        "blanks around": vrt(folder / "11.vrt", " inner.tif "),
        "zip in memory": vrt(folder / "12.vrt", f"/vsizip/vsicurl/{address}/x.zip/a.tif"),
        "device": vrt(folder / "13.vrt", "/dev/zero", attributes=""),
        "WMS": folder / "wms.xml",
    }
    texts = {
        "raw band": '<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
        "<SourceFilename>/etc/passwd</SourceFilename></VRTRasterBand>",
        "derived band": '<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand">'
        "<PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionType>f"
        "</PixelFunctionType></VRTRasterBand>",
        "warped": f"<GDALWarpOptions><SourceDataset>{secret}</SourceDataset></GDALWarpOptions>",
        "pansharpened": f"<PansharpeningOptions><PanchroBand><SourceFilename>{secret}"
        "</SourceFilename></PanchroBand></PansharpeningOptions>",
        "overview": f'<VRTRasterBand dataType="Byte" band="1"><Overview><SourceFilename>{address}'
        "</SourceFilename></Overview></VRTRasterBand>",
        "small letters": f'<VRTRasterBand dataType="Byte" band="1"><simplesource><sourcefilename>'
        f"{secret}</sourcefilename></simplesource></VRTRasterBand>",
        "open options": '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename '
        'relativeToVRT="1">inner.tif</SourceFilename><OpenOptions><OOI key="A">b</OOI>'
        "</OpenOptions></SimpleSource></VRTRasterBand>",
        "inline": '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename '
        'relativeToVRT="1">inner.tif<VRTDataset/></SourceFilename></SimpleSource></VRTRasterBand>',
        "not closed": "<VRTRasterBand>",
    }
    for name, text in texts.items():
        made[name] = folder / f"{name.replace(' ', '-')}.vrt"
        made[name].write_text(
            f'<VRTDataset rasterXSize="64" rasterYSize="64"><SRS>EPSG:3857</SRS>{text}</VRTDataset>'
        )
    made["entity"] = folder / "entity.vrt"
    made["entity"].write_text(
        '<VRTDataset rasterXSize="9" rasterYSize="9"><!DOCTYPE a [<!ENTITY b "c">]></VRTDataset>'
    )
    return made


REACHES = [
    *("parent folder", "absolute path", "no attribute", "attribute that GDAL reads as 1", "link"),
    *("network", "network, relative", "nested VRT", "WMS inside", "sub-dataset name"),
    *("blanks around", "zip in memory", "device", "WMS", "raw band", "derived band", "warped"),
    *(
        "pansharpened",
        "overview",
        "small letters",
        "open options",
        "inline",
        "not closed",
        "entity",
    ),
]


@pytest.mark.parametrize("reach", REACHES)
def test_raster_that_reaches_out(
    reach: str, tmp_path: Path, listener: tuple[str, list[str]]
) -> None:
    """A VRT or WMS file reads other files or the network: refused, and nobody is asked."""
    address, asked = listener
    (tmp_path / "maps").mkdir()
    write_raster(tmp_path / "secret.tif", BANDS)
    path = outside(tmp_path / "maps", address)[reach]
    for options in (SourceOptions(), SourceOptions(zoom=14)):
        with pytest.raises(SourceError) as caught:
            open_source(path, options)
        assert "\n" not in str(caught.value)
    said = run_cli("info", path)
    assert said.code != 0
    assert "Traceback" not in said.err
    assert asked == []


@pytest.mark.parametrize("reach", ["parent folder", "absolute path"])
def test_allow_vrt(reach: str, tmp_path: Path, listener: tuple[str, list[str]]) -> None:
    """With `--allow-vrt` the same VRT is read."""
    (tmp_path / "maps").mkdir()
    write_raster(tmp_path / "secret.tif", BANDS)
    path = outside(tmp_path / "maps", listener[0])[reach]
    with pytest.raises(SourceError, match="--allow-vrt"):
        open_source(path)
    assert run_cli("info", path, "--allow-vrt").code == 0
    source = open_source(path, WITH_VRT)
    np.testing.assert_array_equal(np.moveaxis(source.read(source.info.extent).image, -1, 0), BANDS)
    source.close()


def test_remote_vrt(listener: tuple[str, list[str]], tmp_path: Path) -> None:
    """A VRT from a server cannot name files of this machine."""
    with pytest.raises(SourceError):
        open_source(f"{listener[0]}/map.vrt", SourceOptions(timeout=3.0))


def test_overviews_elsewhere_are_not_opened(
    tmp_path: Path, listener: tuple[str, list[str]]
) -> None:
    """A file of notes beside a picture says that its overviews lie on a server: not asked."""
    address, asked = listener
    path = write_raster(tmp_path / "a.tif", BANDS)
    path.with_name("a.tif.aux.xml").write_text(
        '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">'
        f"/vsicurl/{address}/x.ovr</MDI></Metadata></PAMDataset>"
    )
    source = open_source(path)
    source.read(source.info.extent)
    source.close()
    assert asked == []


def tiff(path: Path, side: int, block: int, bands: int = 3) -> Path:
    """Write the headers of a tiled TIFF of any size, with one empty block for all."""
    tags = [
        (256, 4, 1, side),
        (257, 4, 1, side),
        (258, 3, 1, 8),
        (259, 3, 1, 8),
        (262, 3, 1, 2 if bands >= 3 else 1),
        (277, 3, 1, bands),
        (322, 4, 1, block),
        (323, 4, 1, block),
        (324, 4, 1, 0),
        (325, 4, 1, 0),
        (33550, 12, 3, 1000),
        (33922, 12, 6, 1024),
        (34735, 3, 16, 1072),
    ]
    body = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    body += b"".join(
        struct.pack("<HHI", tag, kind, count)
        + (struct.pack("<HH", value, 0) if kind == 3 and count == 1 else struct.pack("<I", value))
        for tag, kind, count, value in tags
    )
    body = body.ljust(1000, b"\0") + struct.pack("<3d", 1e-3, 1e-3, 0)
    body += struct.pack("<6d", 0, 0, 0, 2.7e6, 8.4e6, 0)
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 3857)
    path.write_bytes(body.ljust(1072, b"\0") + struct.pack("<16H", *keys))
    return path


def read_corner(path: Path, options: SourceOptions | None = None) -> None:
    source = open_source(path, options)
    source.read(Window(*source.info.extent[:2], 256, 256))


@pytest.mark.parametrize(
    ("side", "block", "bands"),
    [
        (60_000, 60_000, 3),
        (2_000_000_000, 32_768, 3),
        (2_000_000_000, 2_000_000_000, 1),
        (40_000, 40_000, 1),
        (9_000, 9_000, 200),
    ],
)
def test_raster_bombs(side: int, block: int, bands: int, tmp_path: Path) -> None:
    """A TIFF of 1 kB says that it has gigapixels in one block: refused before it is unpacked."""
    path = tiff(tmp_path / "bomb.tif", side, block, bands)
    assert path.stat().st_size < 2000
    with pytest.raises(SourceError):
        read_corner(path)


def test_huge_raster_is_read_in_parts(tmp_path: Path) -> None:
    """A sparse TIFF of gigapixels in small blocks needs no memory: a window of it is black."""
    profile = {"width": 1 << 18, "height": 1 << 18, "count": 3, "dtype": "uint8"}
    where = {"crs": "EPSG:3857", "transform": Affine(1e-2, 0, 2.7e6, 0, -1e-2, 8.4e6)}
    blocks = {"tiled": True, "blockxsize": 1024, "blockysize": 1024, "SPARSE_OK": True}
    path = tmp_path / "wide.tif"
    with rasterio.open(path, "w", driver="GTiff", **profile, **where, **blocks):
        pass
    source = open_source(path)
    assert source.info.extent.width == 1 << 18
    assert source.read(Window(*source.info.extent[:2], 512, 512)).image.max() == 0
    source.close()


@pytest.mark.parametrize(
    "transform",
    [
        Affine(0, 0, 0, 0, 0, 0),
        Affine(1e-300, 0, 1e300, 0, -1e-300, 0),
        Affine(float("nan"), 0, 5, 0, -1, 5),
        Affine(float("inf"), 0, 5, 0, -1, 5),
        Affine(1, 1, 5, 1, 1, 5),
        Affine(1e-9, 0, 1e9, 0, -1e-9, 1e9),
        Affine(1e30, 0, 5, 0, -1e30, 5),
    ],
    ids=str,
)
@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326"])
def test_position_that_is_none(transform: Affine, crs: str, tmp_path: Path) -> None:
    """A raster says that it lies nowhere, everywhere or at no number: one line says so."""
    path = write_raster(tmp_path / "a.tif", BANDS, transform, crs)
    for options in (SourceOptions(), SourceOptions(zoom=10), SourceOptions(native=True)):
        with contextlib.suppress(Maptile2satError):
            read_corner(path, options)


def test_pipes_do_not_hang(tmp_path: Path) -> None:
    """Pipes in the place of a map, a tile or a bundle: nobody waits for what will not come."""
    from maptile2sat.models.bundle import open_bundle

    os.mkfifo(tmp_path / "map.tif")
    (tmp_path / "13" / "1").mkdir(parents=True)
    os.mkfifo(tmp_path / "13" / "1" / "1.png")
    (tmp_path / "bundle").mkdir()
    os.mkfifo(tmp_path / "bundle" / "model.json")
    start = time.monotonic()
    with pytest.raises(Maptile2satError):
        open_source(tmp_path / "map.tif")
    with pytest.raises(Maptile2satError):
        open_source(tmp_path)
    with pytest.raises(Maptile2satError, match="not a file"):
        open_bundle(tmp_path / "bundle")
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("name", ["a.tfw", "a.tif.aux.xml", "a.tif.ovr", "a.tab", "a_RPC.TXT"])
def test_pipes_beside_a_raster_do_not_hang(name: str, tmp_path: Path) -> None:
    """Pipes beside a raster: it is read as if it lay there alone."""
    path = write_raster(tmp_path / "a.tif", BANDS)
    os.mkfifo(tmp_path / name)
    said: list[str] = []
    source = open_source(path, SourceOptions(warn=said.append))
    source.read(source.info.extent)
    source.close()
    assert said[0].startswith(f"{name} is not read")


@pytest.mark.parametrize("ending", ["-wal", "-journal"])
@pytest.mark.parametrize("form", ["mbtiles", "gpkg"])
def test_pipes_beside_a_database_do_not_hang(form: str, ending: str, tmp_path: Path) -> None:
    """Pipes in the place of a database's own side files."""
    path = tmp_path / f"a.{form}"
    if form == "gpkg":
        write_raster(path, BANDS, driver="GPKG")
    else:
        write_mbtiles(path, TileMap.block(13, 4661, 2371, 2, 1))
    os.mkfifo(f"{path}{ending}")
    with pytest.raises(SourceError, match="not a file"):
        open_source(path)
