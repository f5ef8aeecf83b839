"""The output file: sound as a COG, exactly placed, masked where there is no map, all or nothing."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import mercantile
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio._err import CPLE_FileIOError
from rasterio.crs import CRS
from rasterio.enums import Interleaving, MaskFlags
from rio_cogeo.cogeo import cog_validate

from maptile2sat.errors import OutputError, UsageError
from maptile2sat.geo.grid import TILE, Window, mercator_grid
from maptile2sat.output.geotiff import (
    PROFILES,
    GeoTiffWriter,
    check_crs,
    check_destination,
    cog_block,
    creation_options,
)
from maptile2sat.paths import sample_map
from tests.conftest import TileMap, pattern, write_mbtiles
from tests.support_render import (
    FILL,
    Pixels,
    files_in,
    large_render,
    random_map,
    read_back,
    tiny_bundle,
    tiny_render,
)

GRID = mercator_grid(16)
CORNER = (37_307 * TILE + 13, 18_966 * TILE + 7)


def window_of(width: int, height: int) -> Window:
    return Window(*CORNER, width, height)


def blocks(window: Window, side: int = 300) -> list[Window]:
    return [
        Window(col, row, side, side).intersection(window)
        for row in range(window.row, window.bottom, side)
        for col in range(window.col, window.right, side)
    ]


def write(
    path: Path,
    window: Window,
    *,
    profile: str = "deflate",
    extra: dict[str, str] | None = None,
    cog: bool = True,
    hole: Window | None = None,
    tags: dict[str, str] | None = None,
    backwards: bool = False,
) -> Pixels:
    """Write patches of colour block by block; return the pixels."""
    image = random_map(window)
    mask = np.full(image.shape[:2], 255, np.uint8)
    if hole is not None:
        mask[hole.slices(window)] = 0
    options = creation_options(profile, extra or {}, cog=cog)
    with GeoTiffWriter(path, GRID, window, tags or {}, options, cog=cog) as writer:
        parts = blocks(window)
        for part in reversed(parts) if backwards else parts:
            there = part.slices(window)
            writer.write(part, image[there], mask[there])
        writer.finish()
    return image


def assert_valid_cog(path: Path) -> None:
    valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
    assert (valid, errors, warnings) == (True, [], [])


SIZES = [
    (1, 1),
    (37, 41),
    (511, 513),
    (512, 512),
    (512, 2048),
    (1024, 1100),
    (700, 1300),
    (40, 2100),
    (256, 1500),
    (2100, 40),
    (2048, 512),
]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_size_and_profile_is_a_valid_cog(
    tmp_path: Path, size: tuple[int, int], profile: str
) -> None:
    path = tmp_path / "out.tif"
    window = window_of(*size)
    image = write(path, window, profile=profile)
    assert_valid_cog(path)
    back = read_back(path)
    assert back.image.shape == image.shape
    if profile == "deflate":
        np.testing.assert_array_equal(back.image, image)
    else:
        difference = np.abs(back.image.astype(int) - image).mean()
        assert difference < 30
    assert files_in(tmp_path) == ["out.tif"]


@pytest.mark.parametrize("profile", PROFILES)
def test_masked_cogs_are_valid_too(tmp_path: Path, profile: str) -> None:
    for size in ((512, 1300), (1100, 600)):
        path = tmp_path / f"{size[0]}.tif"
        window = window_of(*size)
        hole = Window(window.col + 100, window.row + 200, 250, 300)
        write(path, window, profile=profile, hole=hole)
        assert_valid_cog(path)
        expected = np.full((size[1], size[0]), 255)
        expected[hole.slices(window)] = 0
        np.testing.assert_array_equal(read_back(path).mask, expected)


def test_mask_is_internal_and_per_dataset(tmp_path: Path) -> None:
    path = tmp_path / "out.tif"
    window = window_of(600, 600)
    write(path, window, hole=Window(window.col, window.row, 10, 10))
    assert files_in(tmp_path) == ["out.tif"]
    with rasterio.open(path) as dataset:
        assert dataset.mask_flag_enums == ([MaskFlags.per_dataset],) * 3
        assert dataset.nodata is None
        assert dataset.count == 3


def test_no_mask_if_all_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "out.tif"
    write(path, window_of(600, 600))
    with rasterio.open(path) as dataset:
        assert dataset.mask_flag_enums == ([MaskFlags.all_valid],) * 3
        assert dataset.nodata is None


def test_overviews_follow_the_mask(tmp_path: Path) -> None:
    path = tmp_path / "out.tif"
    window = window_of(1500, 1200)
    write(path, window, hole=Window(window.col, window.row, 750, 1200))
    with rasterio.open(path) as dataset:
        assert dataset.overviews(1) == [2, 4]
        small = dataset.read_masks(1, out_shape=(300, 375))
    assert not small[:, :187].any()
    assert small[:, 189:].all()


def test_exact_transform(tmp_path: Path) -> None:
    path = tmp_path / "out.tif"
    window = window_of(300, 200)
    write(path, window)
    back = read_back(path)
    assert back.transform == GRID.transform(window)
    assert back.crs == GRID.crs


@pytest.mark.parametrize("cog", [True, False])
def test_order_of_blocks_does_not_matter(tmp_path: Path, cog: bool) -> None:
    window = window_of(1100, 700)
    for name, backwards in (("a", False), ("b", True)):
        write(tmp_path / name, window, backwards=backwards, cog=cog)
    np.testing.assert_array_equal(read_back(tmp_path / "a").image, read_back(tmp_path / "b").image)


def test_same_blocks_are_the_same_bytes(tmp_path: Path) -> None:
    window = window_of(1100, 700)
    hole = Window(window.col, window.row, 30, 30)
    digests = set()
    for name in ("a.tif", "b.tif"):
        write(tmp_path / name, window, hole=hole, tags={"SEED": "1"})
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_tags_survive(tmp_path: Path) -> None:
    tags = {
        "TIFFTAG_SOFTWARE": "maptile2sat 9",
        "TIFFTAG_COPYRIGHT": '© OpenStreetMap <contributors> & "others"',
        "SOURCE": "https://t.example/{z}/{x}/{y}.png?a=1&b=2",
        "SYNTHETIC": "YES",
    }
    for cog in (True, False):
        path = tmp_path / f"{cog}.tif"
        write(path, window_of(40, 30), tags=tags, cog=cog)
        found = read_back(path).tags
        assert {key: found.get(key) for key in tags} == tags


def test_plain_geotiff(tmp_path: Path) -> None:
    path = tmp_path / "out.tif"
    window = window_of(1100, 700)
    image = write(path, window, cog=False, hole=Window(window.col, window.row, 9, 9))
    back = read_back(path)
    np.testing.assert_array_equal(back.image, image)
    assert not back.mask[:9, :9].any()
    with rasterio.open(path) as dataset:
        assert dataset.overviews(1) == []
        assert dataset.block_shapes[0] == (512, 512)
        assert dataset.compression.name == "deflate"
        assert dataset.mask_flag_enums[0] == [MaskFlags.per_dataset]
    assert files_in(tmp_path) == ["out.tif"]


@pytest.mark.parametrize("profile", PROFILES)
def test_plain_profiles(tmp_path: Path, profile: str) -> None:
    path = tmp_path / "out.tif"
    write(path, window_of(600, 600), cog=False, profile=profile)
    with rasterio.open(path) as dataset:
        assert dataset.compression.name == profile
        assert dataset.interleaving == Interleaving.pixel


def test_creation_options_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "out.tif"
    write(path, window_of(600, 600), extra={"blocksize": "256", "Compress": "LZW"})
    with rasterio.open(path) as dataset:
        assert dataset.block_shapes[0] == (256, 256)
        assert dataset.compression.name == "lzw"
    assert_valid_cog(path)


@pytest.mark.parametrize("cog", [True, False])
@pytest.mark.parametrize("name", ["COMPRES", "TILING_SCHEME", "", "WORLDFILE "])
def test_unknown_creation_options(name: str, cog: bool) -> None:
    with pytest.raises(UsageError, match=r"creation option .* these can: .*COMPRESS"):
        creation_options("deflate", {name: "1"}, cog=cog)


def test_unknown_profile() -> None:
    with pytest.raises(UsageError, match="'png' is not one of deflate, jpeg, webp"):
        creation_options("png", {}, cog=True)


@pytest.mark.parametrize(
    ("option", "cog"),
    [
        ("COMPRESS=RAR", True),
        ("COMPRESS=RAR", False),
        ("BLOCKSIZE=0", True),  # GDAL ends the process for this
        ("BLOCKSIZE=abc", True),
        ("BLOCKSIZE=100", True),
        ("BLOCKXSIZE=33", False),
        ("QUALITY=lots", True),
        ("QUALITY=101", True),
        ("LEVEL=-1", True),
        ("LEVEL=99", True),
        ("ZLEVEL=77", False),
        ("BIGTIFF=MAYBE", True),
        ("PREDICTOR=9", False),
        ("NUM_THREADS=many", True),
        ("OVERVIEW_RESAMPLING=magic", True),
        ("PHOTOMETRIC=CMYK", False),
    ],
)
def test_bad_value_of_a_creation_option(option: str, cog: bool) -> None:
    name, value = option.split("=")
    with pytest.raises(UsageError, match=f"creation option {name} cannot be") as refused:
        creation_options("deflate", {name: value}, cog=cog)
    assert "[" not in str(refused.value)  # no pattern in place of words


@pytest.mark.parametrize(
    ("profile", "extra"),
    [
        ("webp", {"INTERLEAVE": "BAND"}),  # of which GDAL says nothing
        ("jpeg", {"INTERLEAVE": "BAND"}),
        ("deflate", {"PHOTOMETRIC": "YCBCR"}),
    ],
)
def test_creation_options_that_do_not_go_together(profile: str, extra: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="do not go together") as refused:
        creation_options(profile, extra, cog=False)
    assert "\n" not in str(refused.value)
    assert "vsimem" not in str(refused.value)


@pytest.mark.parametrize("cog", [True, False])
@pytest.mark.parametrize("compress", ["DEFLATE", "LZW", "ZSTD", "JPEG", "WEBP", "NONE"])
@pytest.mark.parametrize("profile", PROFILES)
def test_another_compression_than_the_profile_s(
    profile: str, compress: str, cog: bool, tmp_path: Path
) -> None:
    """What the profile says of its own compression is not said of the other."""
    path = tmp_path / "out.tif"
    write(path, window_of(64, 64), profile=profile, extra={"COMPRESS": compress}, cog=cog)
    with rasterio.open(path) as dataset:
        held = "none" if dataset.compression is None else dataset.compression.name.lower()
    assert held == compress.lower()
    merged = creation_options(profile, {"COMPRESS": compress}, cog=cog)
    assert ("PREDICTOR" in merged) == (
        profile == "deflate" and compress in ("DEFLATE", "LZW", "ZSTD")
    )


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("EPSG:3857", True),
        ("EPSG:4326", True),
        ("EPSG:32635", True),
        ("+proj=laea +lat_0=60 +lon_0=25 +datum=WGS84", True),
        ("+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=45 +datum=WGS84", False),
        ("EPSG:5773", False),  # of heights
        ('LOCAL_CS["x",UNIT["metre",1]]', False),
    ],
)
def test_crs_that_a_geotiff_cannot_hold(text: str, held: bool) -> None:
    crs = CRS.from_user_input(text)
    with nullcontext() if held else pytest.raises(UsageError, match="GeoTIFF cannot be in"):
        check_crs(crs)


def test_block_is_512_unless_that_looks_like_strips() -> None:
    assert cog_block(1000, 1000) == 512
    assert cog_block(512, 512) == 512
    assert cog_block(512, 2000) < 512
    for width in (256, 512, 1024, 2048, 4096):
        for height in (600, 5000, 50_000):
            block = cog_block(width, height)
            levels = [(width >> level, height >> level) for level in range(12)]
            assert not [level for level in levels if level[0] == block and level[1] > 512]


def test_leaving_early_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        window = window_of(600, 600)
        options = creation_options("deflate", {}, cog=True)
        with GeoTiffWriter(tmp_path / "out.tif", GRID, window, {}, options) as writer:
            part = blocks(window)[0]
            writer.write(part, pattern(part), np.full((300, 300), 255, np.uint8))
            assert files_in(tmp_path) != []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files_in(tmp_path) == []


def test_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.tif"
    path.write_bytes(b"old")
    with (
        mock.patch("rasterio.shutil.copy", side_effect=CPLE_FileIOError(3, 1, "disk\nfull")),
        pytest.raises(OutputError, match=r"out\.tif cannot be written: .*disk full"),
    ):
        write(path, window_of(20, 20))
    assert path.read_bytes() == b"old"
    assert files_in(tmp_path) == ["out.tif"]


FULL_DISK = """
import resource, sys
import numpy as np
import rasterio.shutil
from pathlib import Path
from maptile2sat.errors import OutputError
from maptile2sat.output.geotiff import creation_options
from maptile2sat.output.geotiff import GeoTiffWriter
from maptile2sat.geo.grid import Window, mercator_grid

real_copy = rasterio.shutil.copy

def fill_disk():
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))

def copy(*args, **kwargs):
    fill_disk()
    return real_copy(*args, **kwargs)

if sys.argv[2] in ("blocks", "cells"):
    fill_disk()
else:
    rasterio.shutil.copy = copy
window = Window(0, 0, 1024, 1024)
noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3)).astype(np.uint8)
cog = sys.argv[2] != "plain"
try:
    options = creation_options("deflate", {}, cog=cog)
    path = Path(sys.argv[1])
    with GeoTiffWriter(path, mercator_grid(16), window, {}, options, cog=cog) as writer:
        # cells do not lie on the file's blocks, so GDAL keeps parts of blocks back
        side = 300 if sys.argv[2] == "cells" else 1024
        for row in range(0, 1024, side):
            for col in range(0, 1024, side):
                cell = Window(col, row, side, side).intersection(window)
                rows, cols = cell.slices(window)
                mask = np.full((cell.height, cell.width), 255, np.uint8)
                writer.write(cell, noise[rows, cols], mask)
        writer.finish()
except OutputError as error:
    print(f"refused: {error}")
else:
    print("written")
"""


def write_until_full(path: Path, when: str, limit: int) -> str:
    """Write in a process that can make files of `limit` bytes, from the start or at the end."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), when, str(limit)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("limit", [50 << 10, 1 << 20, 3 << 20])
@pytest.mark.parametrize("when", ["blocks", "cells", "cog", "plain"])
def test_full_disk_leaves_nothing(tmp_path: Path, when: str, limit: int) -> None:
    """The file system takes no more: in the temporary file, or in the finished one."""
    said = write_until_full(tmp_path / "out.tif", when, limit)
    assert said.startswith("refused: ")
    assert "out.tif cannot be written" in said
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("when", ["cog", "plain"])
def test_last_byte_counts(tmp_path: Path, when: str) -> None:
    """GDAL does not report this one, so the finished file is read through."""
    path = tmp_path / "out.tif"
    assert write_until_full(path, when, 1 << 30) == "written\n"
    size = path.stat().st_size
    path.unlink()
    assert write_until_full(path, when, size - 1).startswith("refused: ")
    assert files_in(tmp_path) == []
    assert write_until_full(path, when, size) == "written\n"


def test_destination_must_be_free(tmp_path: Path) -> None:
    path = tmp_path / "out.tif"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists: pass --overwrite"):
        check_destination(path, overwrite=False)
    check_destination(path, overwrite=True)
    with pytest.raises(OutputError, match="is a folder"):
        check_destination(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="does not exist: make it first"):
        check_destination(tmp_path / "no" / "out.tif", overwrite=False)
    for letters in (240, 300):  # the name of what is not finished is longer
        with pytest.raises(OutputError, match="choose a shorter name"):
            check_destination(tmp_path / ("a" * letters + ".tif"), overwrite=False)
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody can write")
def test_destination_must_be_writable() -> None:
    with pytest.raises(OutputError, match="the folder /proc cannot be written"):
        check_destination(Path("/proc/out.tif"), overwrite=False)


# what a render writes


def test_sample_lies_where_its_tiles_do() -> None:
    back = large_render().raster
    height, width = back.image.shape[:2]
    upper_left = mercantile.xy_bounds(37_307, 18_966, 16)
    lower_right = mercantile.xy_bounds(37_310, 18_971, 16)
    left, top = back.transform @ (0, 0)
    right, bottom = back.transform @ (width, height)
    assert left == pytest.approx(upper_left.left, abs=1e-6)
    assert top == pytest.approx(upper_left.top, abs=1e-6)
    assert right == pytest.approx(lower_right.right, abs=1e-6)
    assert bottom == pytest.approx(lower_right.bottom, abs=1e-6)
    assert (width, height) == (4 * TILE, 6 * TILE)
    assert back.transform == GRID.transform(Window(37_307 * TILE, 18_966 * TILE, width, height))
    assert back.crs.to_epsg() == 3857


def test_result_says_what_the_file_holds() -> None:
    result, back = large_render()
    assert (result.height, result.width) == back.image.shape[:2]
    with rasterio.open(large_render().result.output) as dataset:
        assert tuple(result.bounds) == pytest.approx(tuple(dataset.bounds), abs=1e-6)
    assert result.crs == "EPSG:3857"
    assert (result.cells, result.skipped_cells, result.tiles) == (24, 0, 24)
    assert result.exact
    assert result.attribution == "© OpenStreetMap contributors; model by nobody"


def test_render_is_a_valid_cog() -> None:
    assert_valid_cog(large_render().result.output)


def test_tags_of_a_render() -> None:
    import maptile2sat

    about = (tiny_bundle() / "model.json").read_text()
    tags = large_render().raster.tags
    expected = {
        "TIFFTAG_SOFTWARE": f"maptile2sat {maptile2sat.__version__}",
        "TIFFTAG_COPYRIGHT": "© OpenStreetMap contributors; model by nobody",
        "SYNTHETIC": "YES",
        "MODEL": "tiny",
        "MODEL_VERSION": "1.2.3",
        "SEED": "0",
        "PRECISION": "integer",
        "EXACT": "YES",
        "NUMERICS": "whole numbers 1",
        "ZOOM": "16",
    }
    assert {key: tags.get(key) for key in expected} == expected
    assert tags["TIFFTAG_IMAGEDESCRIPTION"].startswith("SYNTHETIC")
    assert tags["MODEL_SHA256"] in about
    assert tags["SOURCE"].endswith("helsinki.mbtiles")
    assert not [key for key in tags if "DATE" in key or "TIME" in key]


def test_same_input_same_bytes(tmp_path: Path) -> None:
    bbox = "24.940,60.166,24.945,60.169"
    for profile in ("deflate", "jpeg"):
        files = [
            tiny_render(sample_map(), tmp_path, bbox=bbox, profile=profile).result.output
            for _ in range(2)
        ]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.fixture
def holed(tmp_path: Path) -> tuple[TileMap, Path]:
    """A map of 4 x 3 tiles in which two tiles lack."""
    whole = TileMap.block(16, 37_307, 18_966, 4, 3)
    tiles = tuple(tile for tile in whole.tiles if tile not in {(37_308, 18_967), (37_310, 18_966)})
    tile_map = TileMap(16, tiles, random_map)
    return tile_map, write_mbtiles(tmp_path / "holed.mbtiles", tile_map)


@pytest.mark.parametrize("profile", PROFILES)
def test_holes_are_masked_and_not_black(
    tmp_path: Path, holed: tuple[TileMap, Path], profile: str
) -> None:
    tile_map, source = holed
    made = tiny_render(source, tmp_path, profile=profile)
    _, mask = tile_map.read(tile_map.extent)
    np.testing.assert_array_equal(made.mask, mask)
    assert (made.result.cells, made.result.skipped_cells) == (10, 2)
    hidden = made.image[mask == 0].astype(int)
    assert np.abs(hidden.mean(0) - FILL).max() < 3
    assert hidden.min() > 60  # compression mixes edges, but no black comes in
    assert_valid_cog(made.result.output)


def test_preview_is_map_beside_result(tmp_path: Path) -> None:
    preview = tmp_path / "seen.png"
    whole = TileMap.block(16, 37_307, 18_966, 3, 2)
    source = write_mbtiles(tmp_path / "map.mbtiles", TileMap(16, whole.tiles, random_map))
    made = tiny_render(source, tmp_path, preview=preview)
    assert made.result.preview == preview
    with Image.open(preview) as picture:
        seen = np.asarray(picture.convert("RGB"))
        notes: dict[str, Any] = dict(picture.text)  # type: ignore[attr-defined]
    width, height = 3 * TILE, 2 * TILE
    gap = seen.shape[1] - 2 * width
    assert seen.shape[0] == height
    assert 0 < gap < 40
    np.testing.assert_array_equal(
        seen[:, :width], TileMap(16, whole.tiles, random_map).read(whole.extent)[0]
    )
    np.testing.assert_array_equal(seen[:, width + gap :], made.image)
    assert (seen[:, width : width + gap] == 255).all()
    assert notes["SYNTHETIC"] == "YES"
    assert notes["TIFFTAG_COPYRIGHT"] == "© test; model by nobody"
    assert notes["MODEL"] == "tiny"


def test_preview_of_holes_is_paper(tmp_path: Path, holed: tuple[TileMap, Path]) -> None:
    tile_map, source = holed
    preview = tmp_path / "seen.png"
    tiny_render(source, tmp_path, preview=preview)
    with Image.open(preview) as picture:
        seen = np.asarray(picture.convert("RGB"))
    _, mask = tile_map.read(tile_map.extent)
    width = tile_map.extent.width
    for half in (seen[:, :width], seen[:, -width:]):
        assert (half[mask == 0] == 255).all()
        assert half[mask > 0].std() > 10


def test_preview_averages_large_renders(tmp_path: Path) -> None:
    """Off every multiple of the factor, so that a shift would show."""
    from maptile2sat.rendering.mosaic import Cell
    from maptile2sat.rendering.preview import GAP, LONGEST, Preview

    window = Window(1_001, 2_003, 3 * LONGEST - 100, 1_501)
    image = np.zeros((window.height, window.width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, window.width)
    image[..., 1] = np.linspace(0, 255, window.height)[:, None]
    preview = Preview(window)
    for col in range(768, window.right, 256):
        for row in range(1_792, window.bottom, 256):
            part = Window(col, row, 256, 256).intersection(window)
            there = part.slices(window)
            mask = np.full(image[there].shape[:2], 255, np.uint8)
            preview.add(Cell(part, image[there], 255 - image[there], mask))
    with preview.saving(tmp_path / "p.png", {}):
        assert not (tmp_path / "p.png").exists()
    with Image.open(tmp_path / "p.png") as picture:
        seen = np.asarray(picture).astype(int)
    width = (seen.shape[1] - GAP) // 2
    assert max(width, seen.shape[0]) <= LONGEST
    factor = 3
    assert (seen.shape[0], width) == (-(-1_501 // factor), -(-window.width // factor))
    whole = image[:1_500, : width * factor - factor].astype(float)
    expected = whole.reshape(500, factor, -1, factor, 3).mean((1, 3))
    np.testing.assert_allclose(seen[:500, : width - 1], expected, atol=0.51)
    np.testing.assert_allclose(seen[:500, width + GAP : -1], 255 - expected, atol=0.51)
    assert files_in(tmp_path) == ["p.png"]
