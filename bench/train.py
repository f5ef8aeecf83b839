"""Time training steps against the classic notebook's, as ratios measured in one run.

    python bench/train.py [--repeat 7] [--precision auto] [--presets seed,local]

The notebook's step is written out plainly below: float32, three discriminator calls, two tapes,
Keras' own Adam. Steps of all kinds take turns, so that what else the machine does falls on each
alike; medians are compared. The pictures are random, since no step's time depends on them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from notebook import notebook_discriminator, notebook_generator

from maptile2sat.models.device import load_tensorflow
from maptile2sat.models.noise import noise
from maptile2sat.training.config import TrainConfig
from maptile2sat.training.data import Batch, random_window
from maptile2sat.training.devices import choose_devices
from maptile2sat.training.loop import build_trainer
from maptile2sat.training.presets import PRESETS

TARGETS = {"seed": 0.50, "local": 0.17}


def notebook_step() -> Callable[[], Any]:
    """Return the classic training step at batch 1, on a random pair."""
    import keras
    import tensorflow as tf

    generator, discriminator = notebook_generator(), notebook_discriminator()
    counted = (generator.count_params(), discriminator.count_params())
    if counted != (54_425_859, 2_770_433):
        raise AssertionError(f"not the networks of the notebook: {counted} parameters")
    generator_optimizer = keras.optimizers.Adam(2e-4, beta_1=0.5)
    discriminator_optimizer = keras.optimizers.Adam(2e-4, beta_1=0.5)
    cross_entropy = keras.losses.BinaryCrossentropy()

    @tf.function
    def step(drawn: Any, real: Any) -> Any:
        with tf.GradientTape() as tape:
            fake = generator(drawn, training=True)
            told = discriminator([drawn, fake], training=True)
            loss = cross_entropy(tf.ones_like(told), told)
            loss += 100.0 * tf.reduce_mean(tf.abs(real - fake))
        with tf.GradientTape() as discriminator_tape:
            told_real = discriminator([drawn, real], training=True)
            told_fake = discriminator([drawn, fake], training=True)
            discriminator_loss = cross_entropy(tf.ones_like(told_real), told_real)
            discriminator_loss += cross_entropy(tf.zeros_like(told_fake), told_fake)
        weights = generator.trainable_variables
        generator_optimizer.apply(tape.gradient(loss, weights), weights)
        weights = discriminator.trainable_variables
        gradients = discriminator_tape.gradient(discriminator_loss, weights)
        discriminator_optimizer.apply(gradients, weights)
        return loss

    random = np.random.default_rng(0)
    pair = [tf.constant(random.uniform(-1, 1, (1, 256, 256, 3)), tf.float32) for _ in range(2)]
    return lambda: float(step(*pair))


def preset_step(preset: str, precision: str) -> tuple[Callable[[], Any], TrainConfig]:
    """Return a step of ours on a random batch, and its configuration."""
    devices = choose_devices("cpu")
    if precision == "auto":
        precision = devices.precision
    config = TrainConfig(data="", preset=preset, precision=precision, **PRESETS[preset])
    random = np.random.default_rng(0)
    count, sides = config.batch_size, (config.crop, config.loss_crop)
    drawn, image = (random.integers(0, 256, (count, s, s, 3), np.uint8) for s in sides)
    if config.kind == "local":
        grains = [noise(place, random_window(random, config.crop)) for place in range(count)]
        fine, coarse = (np.stack(parts) for parts in zip(*grains, strict=True))
    else:
        fine, coarse = (np.zeros((count, 0, 0, n), np.int16) for n in (1, 3))
    covered = random.integers(0, 2, (count, config.crop, config.crop, 1), np.uint8)
    batch = Batch(drawn, image, fine, coarse, drawn, covered)
    palette = random.uniform(0, 255, (config.colours, 3)).tolist()
    trainer = build_trainer(config, palette, devices)
    return lambda: float(trainer.step(batch, 0)["l1"]), config


def seconds(step: Callable[[], Any], count: int) -> float:
    """Return the time of one step, over `count` of them."""
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


def main() -> None:
    """Run the benchmark and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--presets", default="seed,local")
    options = parser.parse_args()
    load_tensorflow()
    steps = {"notebook": (notebook_step(), 1.0)}
    for preset in options.presets.split(","):
        step, config = preset_step(preset, options.precision)
        steps[preset] = (step, config.crops_per_step)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step, _ in steps.values():
        seconds(step, 2)
    for _ in range(options.repeat):
        for name, (step, crops) in steps.items():
            times[name].append(seconds(step, 2) / crops)
    base = statistics.median(times["notebook"])
    shown: dict[str, Any] = {"notebook_seconds_per_image": round(base, 3)}
    for name in list(steps)[1:]:
        pairs = zip(times[name], times["notebook"], strict=True)
        shown[name] = {
            "seconds_per_256_px_crop": round(statistics.median(times[name]), 3),
            "ratio": round(statistics.median(times[name]) / base, 3),
            "median_of_ratios": round(statistics.median(a / b for a, b in pairs), 3),
            "target": TARGETS.get(name),
        }
    print(json.dumps(shown, indent=2))


if __name__ == "__main__":
    main()
