"""Devices, precisions and interruptions: each changes how a run computes, none what it learns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maptile2sat.errors import TrainingError, UsageError
from maptile2sat.training import checkpoint as checkpoints
from maptile2sat.training import train
from maptile2sat.training.devices import Devices, check_devices, choose_devices, resolve_precision
from maptile2sat.training.loop import CollapseError, Watch
from tests.support_render import run_cli
from tests.training.test_training import data, finished_run, newest, run_training, tiny

pytestmark = pytest.mark.usefixtures("plain_charts")

LOSSES = """
import json, sys
from pathlib import Path
from tests.training.test_training import tiny
from maptile2sat.training.loop import build_trainer
from maptile2sat.training.devices import choose_devices
from maptile2sat.training.data import Pairs, make_batch

config = tiny(data=sys.argv[1], batch_size=4, critic_norm="spectral")
palette = [[234.0, 230.0, 222.0], [254.0, 254.0, 254.0], [163.0, 204.0, 255.0]]
found = []
for wanted in ("cpu:2", "cpu"):
    devices = choose_devices(wanted) if wanted == "cpu:2" else type(devices)()
    trainer = build_trainer(config, palette, devices)
    pairs = Pairs.of(config, "train")
    steps = [trainer.step(make_batch(pairs, config, step), step) for step in range(3)]
    found.append([{name: float(value) for name, value in step.items()} for step in steps])
    found[-1].append(len(devices.names))
print(json.dumps(found))
"""

RUN = """
import sys, time
from pathlib import Path
from unittest import mock
from tests.training.test_training import tiny
from maptile2sat.training import train

def report(progress):
    if progress.step == 7 and sys.argv[3] == "hang":
        print("hanging", flush=True)
        time.sleep(600)

def run(name):
    config = tiny(data=sys.argv[1], steps=10, deterministic=True)
    with mock.patch("maptile2sat.training.log.LOG_EVERY", 1):
        train(config, Path(sys.argv[2]) / name, checkpoint_every=3, report=report, devices="cpu")

run("killed")
if sys.argv[3] == "go on":
    run("whole")
"""


def python(code: str, *arguments: Any) -> subprocess.Popen[str]:
    """Run code in a process of its own, since some of TensorFlow is set up once per process."""
    words = [sys.executable, "-c", code, *map(str, arguments)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, text=True)


def test_two_devices_compute_the_losses_of_one() -> None:
    process = python(LOSSES, data())
    output, _ = process.communicate(timeout=300)
    two, one = json.loads(output.splitlines()[-1])
    assert (two.pop(), one.pop()) == (2, 1)
    for step, other in zip(two, one, strict=True):
        assert step.keys() == other.keys()
        for name, value in step.items():
            assert value == pytest.approx(other[name], abs=1e-4), name


@pytest.mark.slow
def test_killed_run_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    """Killed with -9 one step after a checkpoint; identical to the last bit."""
    process = python(RUN, data(), tmp_path, "hang")
    assert process.stdout is not None
    # a test that hangs with its child would tell nothing
    timer = threading.Timer(300, process.kill)
    timer.start()
    assert process.stdout.readline() == "hanging\n"
    timer.cancel()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    left = checkpoints.find(tmp_path / "killed" / "checkpoints")
    assert [checkpoints.step_of(path) for path in left] == [3, 6]
    (tmp_path / "killed" / "checkpoints" / "step-00000009.tmp").write_bytes(b"torn")
    process = python(RUN, data(), tmp_path, "go on")
    process.communicate(timeout=300)
    assert process.returncode == 0
    killed, whole = newest(tmp_path / "killed"), newest(tmp_path / "whole")
    assert killed.keys() == whole.keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(killed[name], values, err_msg=name)
    for name in ("killed", "whole"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, 11))
        assert not list((tmp_path / name / "checkpoints").glob("*.tmp"))


@pytest.mark.slow
def test_float16_scales_each_loss(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_training(tiny(precision="float16", steps=2), run) == 2
    stored = newest(run)
    scales = [name for name in stored if name.endswith("dynamic_scale")]
    assert sorted(name.split("/")[0] for name in scales) == [
        "critic_optimizer",
        "generator_optimizer",
    ]
    assert all(stored[name] >= 1 for name in scales)
    # at least one of two steps was not skipped
    start = tmp_path / "start"
    run_training(tiny(precision="float16", steps=2), start, time_limit=-1.0)
    before = newest(start)
    moved = [name for name in stored if "kernel" in name and name.startswith("critic/")]
    assert any(not np.array_equal(stored[name], before[name]) for name in moved)


@pytest.mark.parametrize("wanted", ["tpu", "", "0", "-1", "cpu:0", "gpu:1", "1.5"])
def test_devices_that_make_no_sense(wanted: str) -> None:
    with pytest.raises(UsageError, match="is not one of auto, cpu, gpu, or a number of GPUs"):
        check_devices(wanted)


def test_gpus_that_are_not_there() -> None:
    for wanted in ("gpu", "64"):
        with pytest.raises(TrainingError, match=rf"devices {wanted}: TensorFlow sees \d+ GPUs"):
            choose_devices(wanted)


def test_devices_of_the_cpu() -> None:
    chosen = choose_devices("cpu")
    assert chosen.names == ("/CPU:0",)
    assert resolve_precision("auto", chosen) == chosen.precision
    assert resolve_precision("float16", chosen) == "float16"


def test_batch_that_cannot_be_shared_out() -> None:
    from maptile2sat.training import _fitting

    two = Devices(("/CPU:0", "/CPU:1"))
    with pytest.raises(UsageError, match="a batch of 3 cannot be shared out among 2 devices"):
        _fitting(tiny(batch_size=3), two)
    with pytest.raises(UsageError, match="--deterministic computes on one device"):
        _fitting(tiny(deterministic=True), two)


def test_precision_is_that_of_the_run(tmp_path: Path) -> None:
    """A run goes on in its own precision on a machine that would choose another."""
    from maptile2sat.training import _agreed

    tiny(precision="bfloat16").save(tmp_path / "config.json")
    assert _agreed(tmp_path, tiny(precision="auto")).precision == "bfloat16"
    with pytest.raises(TrainingError, match="precision: bfloat16 != float32"):
        _agreed(tmp_path, tiny(precision="float32"))


def test_memory_that_does_not_suffice(tmp_path: Path) -> None:
    """One line, not a traceback, of a network whose arrays no address space holds."""
    shape = ["--crop", "64", "--loss-crop", "64", "--steps", "1", "--precision", "float32"]
    parts = ["cleaner=", "deep=", "critic_photo=false", "photo_weight=0", "critic_base=1200000"]
    words = [word for part in parts for word in ("--set", part)]
    done = run_cli("train", data(), "--out", tmp_path / "run", *shape, *words)
    assert (done.code, done.err.count("\n")) == (1, 1), done.err
    assert "memory does not suffice" in done.err
    assert "--batch-size" in done.err


@pytest.mark.usefixtures("idle_steps")
def test_second_signal_does_not_wait(tmp_path: Path) -> None:
    def impatient(progress: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_training(tiny(), tmp_path / "run", report=impatient)


@pytest.mark.usefixtures("idle_steps")
def test_a_stop_saves_before_it_draws(tmp_path: Path) -> None:
    """A report that cannot be written costs no step."""
    run = tmp_path / "run"
    (run / "report.html").mkdir(parents=True)

    def stop(progress: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingError, match=r"broke off: .*report"):
        run_training(tiny(), run, report=stop, checkpoint_every=100)
    (found,) = checkpoints.find(run / "checkpoints")
    assert checkpoints.step_of(found) == 2


# discriminators that collapse


def feed(watch: Watch, loss: float) -> None:
    for step in range(1, 2000):
        watch.add(step, loss)


def test_discriminator_that_wins() -> None:
    watch = Watch(2.0, patience=50)
    with pytest.raises(CollapseError, match=r"for 50 steps, up to step .*, it told every"):
        feed(watch, 1e-4)
    assert watch.since is not None


def test_discriminator_that_guesses() -> None:
    with pytest.raises(CollapseError, match="it told no generated image"):
        feed(Watch(2.0, patience=50), 2.0001)


def test_discriminator_that_learns_is_left_alone() -> None:
    """Noise around the cost of guessing, lucky batches, and short weak spells are no collapse."""
    random = np.random.default_rng(0)
    watch = Watch(1.386, patience=200)
    for step in range(1, 3000):
        lucky = step % 700 < 150
        watch.add(step, 0.001 if lucky else abs(random.normal(1.386, 0.1)))
    assert watch.since is None


def test_collapse_keeps_the_last_good_checkpoint(tmp_path: Path, monkeypatch: Any) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr("maptile2sat.training.loop.SMOOTHING", 0.0)
    monkeypatch.setattr("maptile2sat.training.loop.Watch", lambda chance: Watch(chance, 6))
    step = 0

    def spoilt(self: Any, given: Any, number: int) -> dict[str, float]:
        nonlocal step
        step = number + 1
        loss = 0.0 if step > 3 else 0.7
        return {"critic_real": loss, "critic_fake": loss, "l1": 1.0}

    monkeypatch.setattr("maptile2sat.training.trainer.Trainer.step", spoilt)
    with pytest.raises(
        CollapseError, match=r"for 6 steps, up to step 9.*step-00000002\.npz is kept"
    ):
        run_training(tiny(steps=20), run)
    left = checkpoints.find(run / "checkpoints")
    assert [checkpoints.step_of(path) for path in left] == [2]


# which checkpoints are kept


def test_best_checkpoint_is_kept(tmp_path: Path) -> None:
    scores = {1: 0.5, 2: 0.3, 3: 0.4, 4: 0.6, 5: 0.35}
    for step, score in scores.items():
        path = checkpoints.save(tmp_path, step, {"a": np.ones(2)})
        assert checkpoints.mark_best(tmp_path, path, score) == (step in (1, 2))
    kept = [checkpoints.step_of(path) for path in checkpoints.find(tmp_path)]
    assert kept == [2, 4, 5]
    best = checkpoints.find_best(tmp_path)
    assert best is not None
    assert checkpoints.step_of(best) == 2
    (tmp_path / "best.json").write_text("{")
    assert checkpoints.find_best(tmp_path) is None


@pytest.mark.slow
def test_scores_of_other_maps_are_not_compared(tmp_path: Path) -> None:
    paths = [tmp_path / f"step-{step:08d}.npz" for step in (2, 4, 6)]
    for path in paths:
        path.write_bytes(b"")
    assert checkpoints.mark_best(tmp_path, paths[0], 0.1)
    assert checkpoints.mark_best(tmp_path, paths[1], 0.3, checkpoints.LABELLED)
    assert not checkpoints.mark_best(tmp_path, paths[2], 0.4, checkpoints.LABELLED)
    assert checkpoints.find_best(tmp_path) == paths[1]


def test_best_checkpoint_of_a_run() -> None:
    best = checkpoints.find_best(finished_run()[0] / "checkpoints")
    assert best is not None
    assert best.exists()


def test_checkpoint_for_which_there_is_no_room(tmp_path: Path, monkeypatch: Any) -> None:
    checkpoints.save(tmp_path, 1, {"a": np.ones(2)})

    def full(*arguments: Any, **arrays: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maptile2sat.training.checkpoint.np.savez", full)
    with pytest.raises(
        TrainingError, match=r"cannot be written: No space left.*older ones are kept"
    ):
        checkpoints.save(tmp_path, 2, {"a": np.ones(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.npz"]


@pytest.mark.usefixtures("idle_steps")
@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard", "samples"])
def test_run_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    """Something lies where the log is to go: an error that says where, and what to do."""
    run = tmp_path / "run"
    run.mkdir()
    if name == "metrics.jsonl":
        (run / name).mkdir()
    else:
        (run / name).write_text("in the way")
    with pytest.raises(TrainingError, match=rf"broke off: .*{name}.*run the same command again"):
        train(tiny(steps=1), run)


@pytest.mark.slow
def test_two_cannot_train_in_one_folder(tmp_path: Path) -> None:
    """A second start is refused while the first goes on, and changes nothing of it."""
    config, said = tiny(steps=1), []

    def meanwhile(progress: Any) -> None:
        with pytest.raises(TrainingError, match="another process trains in") as caught:
            train(config, tmp_path / "run")
        said.append(str(caught.value))

    assert train(config, tmp_path / "run", report=meanwhile) == 1
    assert said
    assert train(config, tmp_path / "run") == 1


def test_time_limit_of_nothing_saves(tmp_path: Path) -> None:
    assert train(tiny(), tmp_path / "run", time_limit=-1.0) == 0
    assert checkpoints.find(tmp_path / "run" / "checkpoints")


def test_checkpoint_that_numbers_its_weights(tmp_path: Path) -> None:
    """As those written before 0.1.0 do, in an order that the code of the network decided."""
    np.savez(tmp_path / "step-00000004.npz", **{"critic/007/conv0/kernel": np.ones(2)})

    class Holder:
        def assign(self, value: Any) -> None:
            self.value = value

    holder = Holder()
    assert checkpoints.load(tmp_path / "step-00000004.npz", {"critic/conv0/kernel": holder}) == 4
    np.testing.assert_array_equal(holder.value, [1, 1])


@pytest.mark.parametrize("changes", [{"critic_scales": 2, "critic_norm": "spectral"}, {}])
def test_every_variable_has_a_name_of_its_own(changes: dict[str, Any]) -> None:
    from maptile2sat.training.loop import build_trainer

    trainer = build_trainer(tiny(precision="float16", **changes), [[1.0, 2.0, 3.0]])
    networks = (trainer.generator, trainer.average, trainer.critic)
    optimizers = (trainer.generator_optimizer, trainer.critic_optimizer)
    parts = [*(model.weights for model in networks), *(each.variables for each in optimizers)]
    assert len(trainer.variables()) == sum(map(len, parts))
