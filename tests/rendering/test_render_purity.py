"""A pixel is a function of the map around it, whatever area, container or batch it came in."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio

from maptile2sat.errors import MissingTileError
from maptile2sat.geo.grid import TILE, Window, mercator_grid
from maptile2sat.paths import sample_map
from maptile2sat.rendering import render
from maptile2sat.sources import open_source
from tests.conftest import TileServer
from tests.support_once import scratch
from tests.support_render import (
    Pixels,
    Raster,
    bbox_of,
    large_render,
    read_back,
    tiny_render,
)

ZOOM = 16
GRID = mercator_grid(ZOOM)
WHOLE = Window(37_307 * TILE, 18_966 * TILE, 4 * TILE, 6 * TILE)


def random_windows(count: int, seed: int, longest: int = 300) -> list[Window]:
    """Return windows inside the sample map: some tiny, some across cells, some at its edge."""
    random = np.random.default_rng(seed)
    windows = [
        Window(WHOLE.col, WHOLE.row, 17, 5),
        Window(WHOLE.right - 3, WHOLE.bottom - 270, 3, 270),
    ]
    while len(windows) < count:
        width, height = (int(value) for value in random.integers(1, longest, 2))
        col = WHOLE.col + int(random.integers(0, WHOLE.width - width))
        row = WHOLE.row + int(random.integers(0, WHOLE.height - height))
        windows.append(Window(col, row, width, height))
    return windows


def assert_same_as_in(large: Raster, small: Raster, window: Window, outer: Window = WHOLE) -> None:
    assert small.image.shape[:2] == (window.height, window.width)
    assert small.transform == GRID.transform(window)
    np.testing.assert_array_equal(small.image, large.image[window.slices(outer)])
    np.testing.assert_array_equal(small.mask, large.mask[window.slices(outer)])


@pytest.mark.parametrize("window", random_windows(12, 1), ids=lambda window: str(tuple(window)))
def test_small_boxes_are_parts_of_the_large_render(window: Window, tmp_path: Path) -> None:
    small = tiny_render(sample_map(), tmp_path, bbox=bbox_of(GRID, window))
    assert_same_as_in(large_render().raster, small.raster, window)


def test_small_boxes_in_bfloat16(tmp_path: Path) -> None:
    large = large_render("bfloat16").raster
    assert not np.array_equal(large.image, large_render().image)
    for window in random_windows(6, 2):
        small = tiny_render(
            sample_map(), tmp_path, bbox=bbox_of(GRID, window), precision="bfloat16"
        )
        assert_same_as_in(large, small.raster, window)


def test_output_is_worth_comparing() -> None:
    """The other tests would pass on a flat picture."""
    image = large_render().image.astype(int)
    assert image.std((0, 1)).min() > 20
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10_000


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_batch_size_does_not_matter(batch_size: int, tmp_path: Path) -> None:
    window = Window(WHOLE.col + 100, WHOLE.row + 300, 520, 400)
    small = tiny_render(sample_map(), tmp_path, bbox=bbox_of(GRID, window), batch_size=batch_size)
    assert_same_as_in(large_render().raster, small.raster, window)


@pytest.mark.parametrize("cell", [512, 768, 1024])
def test_cells_of_any_size_change_nothing(cell: int, tmp_path: Path) -> None:
    other = tiny_render(sample_map(), tmp_path, cell=cell)
    np.testing.assert_array_equal(other.image, large_render().image)
    for window in random_windows(4, cell)[3:]:
        small = tiny_render(sample_map(), tmp_path, bbox=bbox_of(GRID, window), cell=cell)
        assert_same_as_in(large_render().raster, small.raster, window)


@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
def test_engines_agree(engine: str, tmp_path: Path) -> None:
    window = Window(WHOLE.col + 100, WHOLE.row + 300, 210, 170)
    small = tiny_render(sample_map(), tmp_path, bbox=bbox_of(GRID, window), engine=engine)
    assert small.result.engine.lower().startswith(engine)
    assert_same_as_in(large_render().raster, small.raster, window)


def test_cells_of_floats_change_a_level_at_most(tmp_path: Path) -> None:
    large = large_render("float32")
    other = tiny_render(sample_map(), tmp_path, cell=512, precision="float32")
    assert np.abs(other.image.astype(int) - large.image).max() <= 1


def test_seed_changes_the_picture(tmp_path: Path) -> None:
    window = Window(WHOLE.col + 100, WHOLE.row + 300, 300, 200)
    box = bbox_of(GRID, window)
    pictures = [tiny_render(sample_map(), tmp_path, bbox=box, seed=seed) for seed in (0, 1, 2)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        a, b = (pictures[index].image.astype(int) for index in (one, other))
        assert np.abs(a - b).mean() > 3
    assert [picture.raster.tags["SEED"] for picture in pictures] == ["0", "1", "2"]


def sample_tiles() -> dict[tuple[int, int], bytes]:
    """Return the encoded tiles of the sample map as (x, y)."""
    with closing(sqlite3.connect(f"file:{sample_map()}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT tile_column, tile_row, tile_data FROM tiles")
        return {(x, (1 << ZOOM) - 1 - row): data for x, row, data in rows}


def as_folder() -> Path:
    root = scratch("folder")
    for (x, y), data in sample_tiles().items():
        path = root / str(ZOOM) / str(x) / f"{y}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def as_raster(window: Window = WHOLE) -> Path:
    path = scratch("raster") / "map.tif"
    with closing(open_source(sample_map())) as source:
        image, mask = source.read(window)
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "width": window.width,
        "height": window.height,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:3857",
        "transform": GRID.transform(window),
    }
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **profile) as dataset,
    ):
        dataset.write(np.moveaxis(image, -1, 0))
        if not mask.all():
            dataset.write_mask(mask)
    return path


def test_folder_of_tiles(tmp_path: Path) -> None:
    made = tiny_render(as_folder(), tmp_path)
    assert_same_as_in(large_render().raster, made.raster, WHOLE)


def test_folder_template(tmp_path: Path) -> None:
    made = tiny_render(f"{as_folder()}/{{z}}/{{x}}/{{y}}.png", tmp_path)
    assert_same_as_in(large_render().raster, made.raster, WHOLE)


def test_geotiff(tmp_path: Path) -> None:
    made = tiny_render(as_raster(), tmp_path)
    assert_same_as_in(large_render().raster, made.raster, WHOLE)


def test_crop_of_a_geotiff(tmp_path: Path) -> None:
    """A crop with a margin as wide as the halo holds all that its middle depends on."""
    inner = Window(WHOLE.col + 301, WHOLE.row + 507, 211, 199)
    made = tiny_render(as_raster(inner.grown(80)), tmp_path, bbox=bbox_of(GRID, inner))
    assert_same_as_in(large_render().raster, made.raster, inner)


def test_tile_server(server: TileServer, tmp_path: Path) -> None:
    tiles = sample_tiles()
    server.pages = {f"/{ZOOM}/{x}/{y}.png": data for (x, y), data in tiles.items()}
    made = tiny_render(
        server.url + "/{z}/{x}/{y}.png", tmp_path, bbox=bbox_of(GRID, WHOLE), missing="mask"
    )
    assert_same_as_in(large_render().raster, made.raster, WHOLE)
    inside = {f"/{ZOOM}/{x}/{y}.png" for x, y in tiles}
    assert inside <= set(server.log)


def test_tile_server_reads_the_halo_beyond_the_box(server: TileServer, tmp_path: Path) -> None:
    tiles = sample_tiles()
    server.pages = {f"/{ZOOM}/{x}/{y}.png": data for (x, y), data in tiles.items()}
    window = Window(37_308 * TILE, 18_968 * TILE, TILE, TILE)
    made = tiny_render(server.url + "/{z}/{x}/{y}.png", tmp_path, bbox=bbox_of(GRID, window))
    assert_same_as_in(large_render().raster, made.raster, window)
    assert made.result.tiles == 9
    assert len(set(server.log)) == 9


def test_tile_server_needs_nothing_beyond_the_box(server: TileServer, tmp_path: Path) -> None:
    """Context that the server does not have is ground, in a large render as in a small one."""
    server.pages = {f"/{ZOOM}/{x}/{y}.png": data for (x, y), data in sample_tiles().items()}
    template = server.url + "/{z}/{x}/{y}.png"
    for window in (WHOLE, Window(WHOLE.col, WHOLE.row, 24, 20)):
        made = tiny_render(template, tmp_path, bbox=bbox_of(GRID, window))
        assert_same_as_in(large_render().raster, made.raster, window)


def test_only_what_the_box_depends_on_is_fetched(server: TileServer, tmp_path: Path) -> None:
    """A cell of 1024 px with its halo covers 36 tiles, the box and its context one."""
    server.pages = {f"/{ZOOM}/{x}/{y}.png": data for (x, y), data in sample_tiles().items()}
    window = Window(37_308 * TILE + 100, 18_968 * TILE + 90, 30, 40)
    template = server.url + "/{z}/{x}/{y}.png"
    made = tiny_render(template, tmp_path, bbox=bbox_of(GRID, window), cell=1024)
    whole = tiny_render(sample_map(), tmp_path, cell=1024)
    assert_same_as_in(whole.raster, made.raster, window)
    assert set(server.log) == {f"/{ZOOM}/37308/18968.png"}
    assert made.result.tiles == 1


def test_tile_missing_in_the_box_is_an_error(server: TileServer, tmp_path: Path) -> None:
    pages = {f"/{ZOOM}/{x}/{y}.png": data for (x, y), data in sample_tiles().items()}
    del pages[f"/{ZOOM}/37308/18968.png"]
    server.pages = pages
    window = Window(37_308 * TILE + 100, 18_968 * TILE - 300, 30, 301)
    with pytest.raises(MissingTileError, match="16/37308/18968"):
        tiny_render(server.url + "/{z}/{x}/{y}.png", tmp_path, bbox=bbox_of(GRID, window))


def test_missing_tiles_are_listed_in_one_line(server: TileServer, tmp_path: Path) -> None:
    server.pages = {f"/{ZOOM}/{x}/{y}.png": data for (x, y), data in sample_tiles().items()}
    window = Window(37_308 * TILE, 18_968 * TILE, 2 * TILE, 2 * TILE)
    for column in (37_308, 37_309):
        del server.pages[f"/{ZOOM}/{column}/18968.png"]
    made = tiny_render(
        server.url + "/{z}/{x}/{y}.png", tmp_path, bbox=bbox_of(GRID, window), missing="mask"
    )
    lines = [text for text in made.result.warnings if "missing" in text]
    assert len(lines) == 1
    assert lines[0].startswith("2 tiles are missing in http://127")
    assert lines[0].endswith("masked: 16/37308/18968, 16/37309/18968")


def neighbours(image: Pixels) -> npt.NDArray[np.float64]:
    """Return the mean difference between columns beside each other, column by column."""
    return np.abs(np.diff(image.astype(int), axis=1)).mean((0, 2))


def test_cells_have_no_seams() -> None:
    """Columns at the borders of cells differ no more than columns elsewhere."""
    for image in (large_render().image, large_render().image.transpose(1, 0, 2)):
        steps = neighbours(image)
        borders = steps[np.arange(255, len(steps), 256)]
        # other borders of the generator's 4 px grid, which cells share
        others = steps[np.arange(3, len(steps), 4)]
        assert borders.max() <= np.sort(others)[-3]


def test_shipped_model_in_its_own_precision(tmp_path: Path) -> None:
    # across the border of two cells
    outer = Window(WHOLE.col + 300, 2_371 * 2048 - 150, 300, 400)
    result = render(sample_map(), tmp_path / "large.tif", bbox=bbox_of(GRID, outer), cell=256)
    assert result.precision == "integer"
    assert result.exact
    assert result.cells == 4
    large = read_back(tmp_path / "large.tif")
    assert large.image.std() > 5
    for number, shift in enumerate((7, 340)):
        window = Window(outer.col + 11, outer.row + shift, 233, 37)
        path = tmp_path / f"{number}.tif"
        render(sample_map(), path, bbox=bbox_of(GRID, window))
        assert_same_as_in(large, read_back(path), window, outer)
