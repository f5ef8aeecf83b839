"""The log of a training run: lines, TensorBoard events, curves, sample sheets and the report."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from maptile2sat.cli.train import training_display
from maptile2sat.errors import TrainingError
from maptile2sat.models.device import load_tensorflow
from maptile2sat.training import Progress, TrainConfig
from maptile2sat.training import samples as sheet
from maptile2sat.training.files import read_lines
from maptile2sat.training.log import Log
from maptile2sat.training.report import draw_curves, panels, smooth, spell_seconds, write_report
from tests.support_once import once, scratch
from tests.support_render import Pixels

CONFIG = TrainConfig(data="gone", steps=40, batch_size=4, crop=256, loss_crop=256)


def losses(step: int) -> dict[str, float]:
    return {"l1": 1.0 / step, "critic_real": 0.5, "adversarial": -float(step)}


def photo(seed: int, side: int = 272) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def samples(count: int = 3) -> list[tuple[Pixels, Pixels]]:
    return [(photo(seed), photo(seed + 50)) for seed in range(count)]


def negative(drawn: Pixels, row: int) -> Any:
    """Stand in for a generator: the map's negative, which shows what went in."""
    return 1.0 - drawn.astype(np.float32) / 127.5


def drive(
    run: Path,
    first: int,
    last: int,
    *,
    report: Callable[[Progress], None] = lambda progress: None,
    every: int = 10,
    config: TrainConfig = CONFIG,
    bare: bool = False,
) -> None:
    """Log the steps after `first` up to `last` as the training loop does; `bare`: no drawings."""
    run.mkdir(exist_ok=True)
    config.save(run / "config.json")
    with contextlib.ExitStack() as stack:
        if bare:
            nothing = {"draw_curves": mock.DEFAULT, "write_report": mock.DEFAULT}
            stack.enter_context(mock.patch.multiple("maptile2sat.training.log", **nothing))
        log = stack.enter_context(Log(run, config, report, first))
        for step in range(first + 1, last + 1):
            with log.waiting():
                pass
            log.add(step, losses(step))
            if step % every == 0:
                picture = run / "samples" / f"step-{step:08d}.png"
                log.sampled(step, sheet.draw(negative, samples(), picture, f"{step}"), picture)


@once
def whole_run() -> Path:
    """Return a run of 40 steps; do not change it."""
    run = scratch("log") / "town"
    drive(run, 0, 40)
    return run


def steps_in(path: Path) -> list[float]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


# lines


def test_lines_are_means_over_their_steps() -> None:
    first, second = read_lines(whole_run() / "metrics.jsonl")
    assert (first["step"], second["step"]) == (20, 40)
    assert first["crops"] == 20 * 4
    assert first["l1"] == pytest.approx(np.mean([1 / step for step in range(1, 21)]), abs=1e-5)
    assert second["adversarial"] == pytest.approx(-30.5)
    assert 0 <= first["waiting"] <= 1
    assert 0 <= first["seconds"] <= second["seconds"]


def test_full_disk_is_no_lack_of_memory(tmp_path: Path) -> None:
    """Which TensorFlow calls both: and what could not be logged is not logged twice."""
    tf = load_tensorflow()
    full = tf.errors.ResourceExhaustedError(None, None, "No space left on device")
    log = Log(tmp_path, CONFIG, lambda progress: None, 0)

    def run() -> None:
        with log, mock.patch.object(log.events, "_records") as records:
            records.write.side_effect = full
            for step in range(1, 21):
                log.add(step, losses(step))

    with pytest.raises(OSError, match=r"tfevents.*No space left"):
        run()
    assert steps_in(tmp_path / "metrics.jsonl") == [20]


def test_killed_and_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    """The run was killed in the middle of a line, far past its last checkpoint at step 20."""
    run = tmp_path / "run"
    drive(run, 0, 40, bare=True)
    metrics = run / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes() + b'{"step": 60, "l1": 0.\xff')
    seconds = read_lines(metrics)[0]["seconds"]
    drive(run, 20, 40, bare=True)
    assert steps_in(metrics) == [20, 40]
    assert steps_in(run / "validation.jsonl") == [10, 20, 30, 40]
    assert read_lines(metrics)[1]["seconds"] >= seconds


def test_killed_before_the_first_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    drive(run, 0, 40, bare=True)
    drive(run, 0, 20, bare=True)
    assert steps_in(run / "metrics.jsonl") == [20]
    assert steps_in(run / "validation.jsonl") == [10, 20]


def test_run_that_goes_on_keeps_its_lines(tmp_path: Path) -> None:
    """A stop between two lines writes what is left; nothing of it is lost or written twice."""
    run = tmp_path / "run"
    drive(run, 0, 27, bare=True)
    before = (run / "metrics.jsonl").read_text()
    drive(run, 27, 40, bare=True)
    assert steps_in(run / "metrics.jsonl") == [20, 27, 40]
    assert (run / "metrics.jsonl").read_text().startswith(before)
    assert read_lines(run / "metrics.jsonl")[2]["adversarial"] == pytest.approx(-34.0)


@pytest.mark.parametrize("torn", [b"", b"\n", b"{", b"[]\n", b'{"l1": 1}\n', b"\xff\xfe"])
def test_torn_lines_end_a_log(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "l1": 0.5}\n' + torn)
    assert read_lines(path) == [{"step": 1, "l1": 0.5}]
    assert read_lines(tmp_path / "none.jsonl") == []


def test_time_left_follows_the_steps() -> None:
    reports: list[Progress] = []
    run = scratch("left") / "run"
    clock = [float(second) for second in range(1000)]
    with mock.patch("maptile2sat.training.log.time.monotonic", side_effect=clock):
        drive(run, 0, 40, report=reports.append, every=1000, bare=True)
    first, last = reports
    assert first.seconds_left > 0
    assert last.seconds_left == 0
    spent = [line["seconds"] for line in read_lines(run / "metrics.jsonl")]
    assert first.seconds_left == pytest.approx(spent[0] * (40 - 20) / 20)
    assert first.crops_per_second == pytest.approx(80 / spent[0], rel=1e-3)
    # two looks at the clock for each wait, one second between them
    assert first.waiting == pytest.approx(20 / spent[0], abs=1e-3)


# TensorBoard


def events(run: Path) -> list[Any]:
    import tensorflow as tf

    files = sorted((run / "tensorboard").iterdir())
    assert all(path.name.startswith("events.out.tfevents.") for path in files)
    return [event for path in files for event in tf.compat.v1.train.summary_iterator(str(path))]


def test_tensorboard_events() -> None:
    import tensorflow as tf

    run = whole_run()
    found = events(run)
    assert found[0].file_version == "brain.Event:2"
    values = {(value.tag, event.step): value for event in found for value in event.summary.value}
    for line in read_lines(run / "metrics.jsonl"):
        for name in ("l1", "critic_real", "adversarial"):
            value = values[f"losses/{name}", line["step"]]
            assert float(tf.make_ndarray(value.tensor)) == pytest.approx(line[name], rel=1e-6)
            assert value.metadata.plugin_data.plugin_name == "scalars"
        assert ("speed/crops_per_second", line["step"]) in values
    shown = values["samples/sheet", 30]
    assert shown.metadata.plugin_data.plugin_name == "images"
    width, height, content = tf.make_ndarray(shown.tensor)
    assert content == (run / "samples" / "step-00000030.png").read_bytes()
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (int(width), int(height))


def test_tensorboard_forgets_what_was_lost(tmp_path: Path) -> None:
    """A resumed run says from which step on the earlier events are void."""
    run = tmp_path / "run"
    drive(run, 0, 40, bare=True)
    drive(run, 20, 40, bare=True)
    starts = [event.step for event in events(run) if event.HasField("session_log")]
    assert starts == [1, 21]


# sample sheets


def test_sheet_can_be_cut_again(tmp_path: Path) -> None:
    path = tmp_path / "sheets" / "a.png"
    sheet.draw(negative, samples(), path, "after 3 steps")
    rows = sheet.cut(path)
    assert len(rows) == 3
    for row, (drawn, image) in zip(rows, samples(), strict=True):
        np.testing.assert_array_equal(row.map, drawn[8:264, 8:264])
        np.testing.assert_array_equal(row.photo, image[8:264, 8:264])
        np.testing.assert_array_equal(row.made, 255 - row.map)
    with Image.open(path) as picture:
        caption = np.asarray(picture)[: sheet.CAPTION]
    assert len(np.unique(caption)) > 1


def test_figures_of_a_sheet(tmp_path: Path) -> None:
    """Closed forms: a perfect generator, a flat grey one, and one of half the contrast."""
    image = photo(7, 256)
    perfect = image.astype(np.float32) / 127.5 - 1.0

    def figures(made: Any) -> dict[str, float]:
        return sheet.draw(lambda drawn, row: made, [(photo(1, 256), image)], tmp_path / "a.png")

    assert figures(perfect) == {"sample_l1": 0.0, "sample_detail": 1.0}
    grey = figures(np.zeros((256, 256, 3)))
    assert grey["sample_detail"] == 0.0
    # the grey that is nearest to 0 is 128
    assert grey["sample_l1"] == pytest.approx(np.abs(image / 127.5 - 128 / 127.5).mean(), abs=1e-5)
    assert figures(perfect / 2)["sample_detail"] == pytest.approx(0.5, abs=0.01)


def test_detail_of_flat_photos_is_not_a_figure(tmp_path: Path) -> None:
    flat = np.full((256, 256, 3), 90, np.uint8)
    assert "sample_detail" not in sheet.draw(negative, [(flat, flat)], tmp_path / "a.png")


# curves


def test_curves_show_what_was_logged(tmp_path: Path) -> None:
    run = whole_run()
    metrics, validation = (read_lines(run / f"{n}.jsonl") for n in ("metrics", "validation"))
    distance, contest, held_out, detail = panels(metrics, validation)
    assert distance.curves["pixel by pixel"] == ([80, 160], [line["l1"] for line in metrics])
    assert len(contest.curves) == 2
    assert held_out.curves["held-out crops"][0] == [40, 80, 120, 160]
    assert detail.level == 1.0
    with Image.open(run / "curves.png") as picture:
        few = picture.height
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    draw_curves(metrics, [], tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.height < few
    draw_curves([], [], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_every_curve_of_a_diagram_looks_different() -> None:
    """With all terms of the `local` preset, in colour and without."""
    from matplotlib.figure import Figure

    from maptile2sat.training.report import DARK, LIGHT, _plot

    names = ("l1", "l1_pooled", "features", "photo", "critic_real", "critic_fake", "adversarial")
    names += ("labels_found", "labels_classes", "labels_cleaned", "grid", "grid_photos", "other")
    lines = [{"step": n, "crops": n, **dict.fromkeys(names, float(n))} for n in (1, 2)]
    for theme in (LIGHT, DARK):
        for panel in panels(lines, []):
            axes = Figure().subplots()
            _plot(axes, panel, theme)
            named = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
            assert len(named) == len(panel.curves)
            assert len({line.get_color() for line in named}) == len(named)
            assert len({str(line._dash_pattern) for line in named}) == len(named)
    assert len(panels(lines, [])[0].curves) == 5  # one more than is known


def test_losses_without_a_known_name_are_drawn_too() -> None:
    lines = [{"step": 1, "crops": 1, "new_loss": 0.5, "critic_half": 0.25}]
    distance, contest = panels(lines, [])
    assert distance.curves == {"new loss": ([1], [0.5])}
    assert contest.curves == {"critic half": ([1], [0.25])}


def test_the_grid_has_its_own_diagram() -> None:
    """Its numbers are a hundredth of the others', which would make a flat line of it."""
    values = {"l1": 0.3, "grid": 0.003, "grid_photos": 0.001}
    distance, grid = panels([{"step": n, "crops": n, **values} for n in (1, 2)], [])
    assert list(distance.curves) == ["pixel by pixel"]
    assert list(grid.curves.values()) == [([1, 2], [0.003] * 2), ([1, 2], [0.001] * 2)]


def test_smoothing() -> None:
    values = np.random.default_rng(1).normal(3.0, 1.0, 400)
    assert smooth(values).std() < 0.4 * values.std()
    assert smooth(values).mean() == pytest.approx(values.mean(), abs=0.05)
    np.testing.assert_allclose(smooth([2.0] * 90), 2.0)
    assert smooth([1.0, 5.0]).tolist() == [1.0, 5.0]


# report


class Page(HTMLParser):
    """Collects what a page says, what it refers to, and whether its elements are closed."""

    VOID = ("meta", "img", "source", "br")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.words, self.references, self.open = "", [], []
        self.tags: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        names = ("src", "srcset", "href", "action", "data", "poster")
        self.references += [value or "" for name, value in attrs if name in names]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_report_is_one_file_with_everything_in_it() -> None:
    path = whole_run() / "report.html"
    page = Page(path)
    assert not {"script", "link", "iframe"} & set(page.tags)
    # sheet, 3 places of map, 4 stages and photo, and 4 diagrams, light and dark
    assert len(page.references) == 1 + 3 * 6 + 4 * 2
    for reference in page.references:
        kind, content = reference.split(";base64,")
        assert kind in ("data:image/png", "data:image/jpeg")
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as picture:
            picture.load()
    assert "url(" not in path.read_text()
    assert "@import" not in path.read_text()
    for words in (
        "Complete: 40 of 40 steps",
        "160 crops",
        "gone (no longer there)",
        "after 40 steps",
        "Fine detail",
        "Not measured yet",
        f"maptile2sat render MAP -o out.tif -m {path.parent / 'bundle'}",
        "generator_rate",
    ):
        assert words in page.words
    assert path.stat().st_size < 4_000_000


@pytest.mark.usefixtures("plain_charts")
def test_report_of_a_run_that_stopped(tmp_path: Path) -> None:
    drive(tmp_path / "run", 0, 27, every=1000)
    words = Page(tmp_path / "run" / "report.html").words
    assert "Stopped after 27 of 40 steps (68%)" in words
    assert "maptile2sat export" in words


@pytest.mark.usefixtures("plain_charts")
def test_report_of_a_run_that_broke_off(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    CONFIG.save(run / "config.json")
    log = Log(run, CONFIG, lambda progress: None, 0)

    def explode() -> None:
        with log:
            log.add(1, losses(1))
            log.add(2, {"l1": math.nan})

    with pytest.raises(TrainingError, match="a loss became infinite at step 2"):
        explode()
    words = Page(run / "report.html").words
    assert "Broke off after 1 of 40 steps: a loss became infinite at step 2" in words
    assert steps_in(run / "metrics.jsonl") == [1]


@pytest.mark.usefixtures("plain_charts")
def test_report_escapes_every_name(tmp_path: Path) -> None:
    nasty = "<script>alert('x')</script>&\"'>"
    run = tmp_path / "<b>run & 'co'"
    data = tmp_path / "data"
    for split in ("train", "val"):
        (data / split).mkdir(parents=True)
        Image.new("RGB", (512, 256)).save(data / split / "a.png")
    (data / "dataset.json").write_text(json.dumps({"attribution": nasty}))
    drive(run, 0, 20, every=1000, config=TrainConfig(data=str(data), style=nasty, steps=20))
    write_report(run, failure=nasty)
    page = Page(run / "report.html")
    assert not {"script", "b"} & set(page.tags)
    assert page.words.count(nasty) == 3
    assert "Training of <b>run & 'co'" in page.words
    assert "1 pairs, and 1 held out" in page.words


@pytest.mark.usefixtures("plain_charts")
def test_report_without_a_readable_sheet(tmp_path: Path) -> None:
    drive(tmp_path / "run", 0, 20, every=20)
    for path in (tmp_path / "run" / "samples").iterdir():
        path.write_bytes(path.read_bytes()[:2000])
    assert write_report(tmp_path / "run") is not None
    assert "What it makes of maps" not in Page(tmp_path / "run" / "report.html").words


def test_report_of_an_untrained_run(tmp_path: Path) -> None:
    CONFIG.save(tmp_path / "config.json")
    assert write_report(tmp_path) is None
    assert not (tmp_path / "report.html").exists()


def test_lengths_of_time() -> None:
    spelled = [spell_seconds(seconds) for seconds in (3.2, 89, 600, 5399, 7500, 90000)]
    assert spelled == ["3 s", "89 s", "10 min", "1 h 30 min", "2 h 05 min", "25 h 00 min"]


# display


def progress(step: int) -> Progress:
    return Progress(step, 100, step * 4, 12.34, {"l1": 0.25}, (100 - step) * 60.0, 0.3)


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """The first line at once, then one a minute, then the last."""
    clock = [0.0, 10.0, 59.0, 61.0, 70.0, 71.0]
    with (
        mock.patch("maptile2sat.cli.train.time.monotonic", side_effect=clock),
        training_display(0) as show,
    ):
        for step in (20, 40, 60, 80, 90, 100):
            show(progress(step))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "step 20 of 100: 12.3 images/s, 30% of the time waiting for data, 80 min left; l1 0.250",
        "step 80 of 100: 12.3 images/s, 30% of the time waiting for data, 20 min left; l1 0.250",
        "step 100 of 100: 12.3 images/s, 30% of the time waiting for data; l1 0.250",
    ]


def test_display_is_silent_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    with training_display(-1) as show:
        show(progress(20))
    assert capsys.readouterr() == ("", "")


def test_bar_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        mock.patch("sys.stderr.isatty", return_value=True),
        mock.patch.dict("os.environ", {"COLUMNS": "120", "TERM": "xterm"}),
        training_display(0) as show,
    ):
        show(progress(20))
    out, err = capsys.readouterr()
    assert out == ""
    for words in ("20/100", "12.3 images/s", "80 min left", "l1 0.250"):
        assert words in err
