"""The viewer in a real browser: headless Chromium, driven by Playwright."""

from __future__ import annotations

import io
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maptile2sat.paths import sample_map
from tests.support_once import scratch
from tests.support_render import read_back, run_cli, write_tiny_bundle
from tests.support_serve import SIDE, Running, model, running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
VIEW = "map=16/60.17157/24.94446"

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
if CHROMIUM is None:
    pytest.skip("there is no Chromium on this machine", allow_module_level=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of two models."""
    other = write_tiny_bundle(scratch("viewer") / "other", 2, cell=SIDE, name="other")
    models = (str(model()), str(other))
    with running(sample_map(), tmp_path_factory.mktemp("tiles"), models=models) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser without a window."""
    with playwright.sync_playwright() as runs:
        chromium = runs.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, server: Running) -> Iterator[Any]:
    """A page that fails the test if its scripts fail, or ask anything of other servers."""
    context = browser.new_context(viewport={"width": 800, "height": 600}, accept_downloads=True)
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "request",
        lambda request: (
            request.url.startswith((server.url, "blob:", "data:")) or wrong.append(request.url)
        ),
    )
    opened.on("console", lambda said: "Security Policy" in said.text and wrong.append(said.text))
    yield opened
    context.close()
    assert wrong == []


LOADED = """() => {
  const tiles = [...document.querySelectorAll('.leaflet-tile')];
  return tiles.length > 8 && tiles.every((tile) => tile.complete && tile.naturalWidth === 256
      && getComputedStyle(tile).opacity === '1')
    && document.querySelectorAll('.leaflet-imagery-pane img').length > 4;
}"""


def show(page: Any, server: Running, hash_: str = VIEW) -> None:
    """Open the viewer and wait for its tiles."""
    page.goto(f"{server.url}/#{hash_}")
    page.wait_for_function(LOADED, timeout=60_000)
    page.wait_for_timeout(300)  # tiles of another zoom go


def colour(page: Any, across: int, down: int) -> np.ndarray:
    """Return the mean colour around a point of the page."""
    clip = {"x": across - 8, "y": down - 8, "width": 16, "height": 16}
    with Image.open(io.BytesIO(page.screenshot(clip=clip))) as picture:
        pixels = np.asarray(picture.convert("RGB"), np.float64)
    return pixels.mean(axis=(0, 1))


def test_tiles_load_and_say_that_they_are_synthetic(page: Any, server: Running) -> None:
    show(page, server)
    assert page.locator("#badge").is_visible()
    assert "Synthetic imagery" in page.locator("#badge").inner_text()
    credit = page.locator(".leaflet-control-attribution").inner_text()
    assert "OpenStreetMap" in credit
    assert "model by nobody" in credit
    assert not page.locator("#status").is_visible()


def test_the_border_moves_by_pointer_and_by_key(page: Any, server: Running) -> None:
    show(page, server)
    place = (300, 420)
    map_there = colour(page, *place)
    box = page.locator("#swipe").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert abs(middle[0] - 400) < 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(200, middle[1], steps=4)
    page.mouse.up()
    page.wait_for_timeout(100)
    imagery_there = colour(page, *place)
    assert abs(map_there - imagery_there).max() > 10
    assert "swipe=25" in page.url
    page.locator("#swipe").focus()
    page.keyboard.press("End")
    assert page.locator("#swipe").get_attribute("aria-valuenow") == "100"
    np.testing.assert_allclose(colour(page, *place), map_there, atol=1)
    page.keyboard.press("ArrowLeft")
    assert "swipe=98" in page.url


def test_a_link_restores_what_was_seen(page: Any, server: Running, browser: Any) -> None:
    show(page, server)
    page.locator("#model").select_option("other")
    page.locator("#opacity").fill("70")
    page.locator("#swipe").focus()
    page.keyboard.press("Home")
    page.locator("#map").focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(600)
    page.keyboard.press("-")
    page.wait_for_function("() => location.hash.includes('map=15/')")
    page.wait_for_timeout(600)
    page.wait_for_function(LOADED)
    link = page.url
    assert all(word in link for word in ("model=other", "opacity=70", "swipe=0"))
    assert VIEW.rpartition("/")[0] not in link
    before = page.screenshot(clip={"x": 60, "y": 60, "width": 400, "height": 450})
    with browser.new_context(viewport={"width": 800, "height": 600}) as context:
        again = context.new_page()
        again.goto(link)
        again.wait_for_function(LOADED)
        again.wait_for_timeout(300)
        assert again.url == link
        assert again.locator("#model").input_value() == "other"
        after = again.screenshot(clip={"x": 60, "y": 60, "width": 400, "height": 450})
    pixels = [
        np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), int) for shot in (before, after)
    ]
    assert np.mean(abs(pixels[0] - pixels[1]).max(axis=2) > 8) < 0.05  # the handle has no focus


def test_an_area_is_downloaded_and_its_command_makes_the_same(
    page: Any, server: Running, tmp_path: Path
) -> None:
    show(page, server)
    page.locator("#select").click()
    page.mouse.move(150, 250)
    page.mouse.down()
    page.mouse.move(420, 430, steps=4)
    page.mouse.up()
    words = shlex.split(page.locator("#command").inner_text())
    assert words[:2] == ["maptile2sat", "render"]
    stated = re.match(r"([\d,]+) × ([\d,]+) px", page.locator("#size").inner_text())
    assert stated is not None
    with page.expect_download(timeout=60_000) as waits:
        page.locator("#download").click()
    waits.value.save_as(tmp_path / "area.tif")
    served = read_back(tmp_path / "area.tif")
    assert served.image.shape[:2] == (int(stated[2]), int(stated[1]))
    assert abs(served.image.shape[1] - 270) <= 2
    words[words.index("area.tif")] = str(tmp_path / "made.tif")
    assert run_cli(*words[1:]).code == 0
    made = read_back(tmp_path / "made.tif")
    np.testing.assert_array_equal(made.image, served.image)
    page.keyboard.press("Escape")
    assert not page.locator("#area").is_visible()


def test_keys_select_an_area_and_switch_models(page: Any, server: Running) -> None:
    show(page, server)
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    assert page.locator("#command").is_visible()
    page.keyboard.press("m")
    assert "model=other" in page.url
    assert "other" in page.locator("#command").inner_text()
    page.keyboard.press("[")
    assert "swipe=45" in page.url


def test_large_areas_are_for_the_command_only(page: Any, server: Running) -> None:
    show(page, server, "map=12/60.17157/24.94446")
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    assert page.locator("#download").is_disabled()
    assert "too large" in page.locator("#size").inner_text()


def test_tiles_refused_for_now_are_asked_for_again(page: Any, server: Running) -> None:
    refused: list[str] = []

    def busy(route: Any) -> None:
        if len(refused) < 3:
            refused.append(route.request.url)
            route.fulfill(status=503, headers={"Retry-After": "1"}, body="busy")
        else:
            route.continue_()

    page.route(re.compile(r"/tiny/16/"), busy)
    show(page, server)
    assert len(refused) == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything(browser: Any, server: Running, scheme: str) -> None:
    size = {"width": 360, "height": 740}
    with browser.new_context(viewport=size, color_scheme=scheme, has_touch=True) as context:
        page = context.new_page()
        show(page, server)
        page.locator("#select").tap()
        page.keyboard.press("Enter")
        for name in ("badge", "model", "opacity", "select", "swipe", "copy", "download", "clear"):
            box = page.locator(f"#{name}").bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        paper = page.evaluate("getComputedStyle(document.querySelector('#panel')).backgroundColor")
        red = int(re.findall(r"\d+", paper)[0])
        assert (red < 80) is (scheme == "dark")
