"""Training of the network that reads map classes from aerial images (see `fcn.py`).

Run once, before a release, on all pairs at hand:

    python -m maptile2sat.evaluation.train_fcn DATA/maps:maps DATA/osm:osm -o models/fcn

Each DATA is a set of pairs and the style of its maps. Crops of `train` teach; `val` measures.
Checkpoints are kept in `-o`.work, so that the same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maptile2sat._version import __version__
from maptile2sat.datasets.pairs import Pixels, list_pairs, read_pair, write_json
from maptile2sat.errors import Maptile2satError, UsageError
from maptile2sat.evaluation import fcn
from maptile2sat.evaluation.fcn import CLASSES, NONE, PALETTES, Confusion, Labels, label
from maptile2sat.models.device import cpu_precision, load_tensorflow
from maptile2sat.models.weights import write_arrays

CROP = 192
BATCH = 8
RATE = 2e-3
STEPS = 3200
KEEP_EVERY = 100
MEASURED = 150
SCALE_BATCHES = 100


class Set(NamedTuple):
    """A set of pairs and the style of its maps."""

    folder: Path
    style: str

    def files(self, split: str) -> list[Path]:
        """Return the pairs of one split."""
        return list_pairs(self.folder / split)


def parse_set(text: str) -> Set:
    """Return the set that `FOLDER:STYLE` names.

    Raises:
        UsageError: If the style is none of those known.
    """
    folder, _, style = text.rpartition(":")
    if style not in PALETTES or not folder:
        raise UsageError(f"'{text}': say FOLDER:STYLE, the style one of {', '.join(PALETTES)}")
    return Set(Path(folder), style)


def crops(sets: list[Set], first: int, steps: int) -> Iterator[tuple[Pixels, Labels]]:
    """Yield the batches of steps `first`..`steps`; each is a function of its step alone."""
    files = [(path, each.style) for each in sets for path in each.files("train")]
    weights = np.concatenate(
        [np.full(len(each.files("train")), 1 / len(each.files("train"))) for each in sets]
    )
    for step in range(first, steps):
        random = np.random.default_rng([0, step])
        chosen = random.choice(len(files), BATCH, p=weights / weights.sum())
        parts = [_crop(files[index][0], files[index][1], random) for index in chosen]
        yield np.stack([image for image, _ in parts]), np.stack([labels for _, labels in parts])


def _crop(path: Path, style: str, random: np.random.Generator) -> tuple[Pixels, Labels]:
    """Return a crop of a pair, turned and a little brighter or darker."""
    drawn, image = read_pair(path, "right")
    row, col = random.integers(0, image.shape[0] - CROP + 1, 2)
    square = (slice(row, row + CROP), slice(col, col + CROP))
    turns, mirrored = int(random.integers(4)), bool(random.integers(2))
    lit = np.clip(image[square] * random.uniform(0.9, 1.1), 0, 255).astype(np.uint8)
    one, other = (np.rot90(part, turns) for part in (lit, label(drawn[square], style)))
    return (one[:, ::-1], other[:, ::-1]) if mirrored else (one, other)


def train(sets: list[Set], work: Path, steps: int) -> Any:
    """Train, or go on from the newest checkpoint in `work`; return the network."""
    load_tensorflow()
    import keras
    import tensorflow as tf

    if cpu_precision() == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    model = fcn.build_fcn()
    keras.config.set_dtype_policy("float32")
    schedule = keras.optimizers.schedules.CosineDecay(RATE, steps)
    adam = keras.optimizers.Adam(schedule, clipnorm=1.0)
    adam.build(model.trainable_variables)
    variables = [*model.variables, *adam.variables]
    kept = work / "checkpoint.npz"
    first = _restore(kept, variables)
    balance = tf.constant(_class_weights(sets), tf.float32)

    def run(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            logits, _ = model(tf.cast(images, tf.float32), training=True)
            logits = tf.image.resize(tf.cast(logits, tf.float32), (CROP, CROP), "bilinear")
            known = labels < len(CLASSES)
            chosen = tf.where(known, labels, 0)
            weight = tf.gather(balance, chosen) * tf.cast(known, tf.float32)
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(chosen, logits)
            loss = tf.reduce_sum(each * weight) / (tf.reduce_sum(weight) + 1.0)
        adam.apply(tape.gradient(loss, model.trainable_variables))
        return loss

    step = tf.function(run)
    started = time.monotonic()
    for number, (images, labels) in enumerate(crops(sets, first, steps), first + 1):
        loss = step(images, labels.astype(np.int32))
        if number % KEEP_EVERY == 0 or number == steps:
            _keep(kept, variables, number)
            pace = (time.monotonic() - started) / (number - first)
            print(
                f"step {number} of {steps}: loss {float(loss):.3f}, {pace:.2f} s a step", flush=True
            )
    return model


def _restore(path: Path, variables: list[Any]) -> int:
    if not path.exists():
        return 0
    with np.load(path) as stored:
        for index, variable in enumerate(variables):
            variable.assign(stored[f"v{index}"])
        return int(stored["step"])


def _keep(path: Path, variables: list[Any], step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp.npz")
    arrays = {f"v{index}": np.asarray(variable) for index, variable in enumerate(variables)}
    np.savez(temporary, step=np.array(step), **arrays)  # type: ignore[arg-type]  # the stubs take them for flags
    temporary.replace(path)


def _class_weights(sets: list[Set]) -> npt.NDArray[np.float64]:
    """Return one over the root of each class's share, so that rare classes are learned."""
    counts = np.zeros(len(CLASSES))
    for each in sets:
        files = each.files("train")
        mine = np.zeros(len(CLASSES))
        for path in files[:: max(1, len(files) // 100)]:
            labels = label(read_pair(path, "right")[0], each.style)
            mine += np.bincount(labels[labels != NONE], minlength=len(CLASSES))
        counts += mine / mine.sum()
    weights = 1 / np.sqrt(np.maximum(counts / counts.sum(), 1e-3))
    return np.asarray(weights / weights.mean(), np.float64)


def feature_scale(model: Any, sets: list[Set]) -> dict[str, npt.NDArray[np.float32]]:
    """Return mean and standard deviation of each feature over real training crops."""
    batches = crops(sets, 1_000_000, 1_000_000 + SCALE_BATCHES)  # not those of any step
    found = np.concatenate([np.asarray(model(images)[1], np.float32) for images, _ in batches])
    return {"features/mean": found.mean(0), "features/std": np.maximum(found.std(0), 1e-3)}


def measure(net: fcn.Fcn, sets: list[Set]) -> dict[str, Any]:
    """Return accuracy and intersection over union on held-out pairs, by style and class."""
    figures = {}
    for each in sets:
        files = each.files("val")
        confusion = Confusion()
        for path in files[:: max(1, len(files) // MEASURED)]:
            drawn, image = read_pair(path, "right")
            side = image.shape[0] // fcn.STRIDE * fcn.STRIDE
            labels = label(drawn, each.style)[:side, :side]
            confusion.add(labels[None], net.read(image[None, :side, :side]).classes)
        score = confusion.score()
        figures[each.style] = {
            "pixel_accuracy": round(score.accuracy, 4),
            "mean_iou": round(score.mean_iou, 4),
            "iou": {name: round(value, 4) for name, value in score.iou.items()},
        }
    return figures


def save(model: Any, sets: list[Set], folder: Path, steps: int) -> None:
    """Write weights, description and card; the figures are those of the weights as stored."""
    weights = {**fcn.get_weights(model), **feature_scale(model, sets)}
    digest = write_arrays(folder / fcn.WEIGHTS, weights)
    about: dict[str, Any] = {
        "format": fcn.FORMAT,
        "name": "fcn",
        "version": __version__,
        "kind": "classifier of aerial images for `maptile2sat evaluate`; generates nothing",
        "classes": list(CLASSES),
        "palettes": PALETTES,
        "palettes_sha256": fcn.palettes_sha256(),
        "data": [f"{len(each.files('train')):,} pairs of style {each.style}" for each in sets],
        "training": {"steps": steps, "crops": steps * BATCH, "crop": CROP},
        "parameters": int(sum(array.size for array in fcn.get_weights(model).values())),
        "weights_sha256": digest,
    }
    write_json(folder / fcn.DESCRIPTION, about)
    about["held_out"] = measure(fcn.load_fcn(folder), sets)
    write_json(folder / fcn.DESCRIPTION, about)
    (folder / fcn.CARD).write_text(_card(about), encoding="utf-8")
    print(json.dumps(about["held_out"], indent=2))


def _card(about: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {style} | {found['pixel_accuracy']:.3f} | {found['mean_iou']:.3f} | "
        + " | ".join(f"{found['iou'].get(name, float('nan')):.3f}" for name in CLASSES)
        + " |"
        for style, found in about["held_out"].items()
    )
    return f"""# Card of the network `fcn`

A fully convolutional network of {about["parameters"]:,} parameters that reads the classes of a map
({", ".join(CLASSES)}) from an aerial image. `maptile2sat evaluate` uses it to judge generated
images. It generates nothing and cannot be given to `render`.

Trained on {" and ".join(about["data"])}, {about["training"]["crops"]:,} crops of
{about["training"]["crop"]} px, labelled by the nearest colour of the map; pixels far from any
colour and beside an edge are left out. On held-out pairs (real images), intersection over union:

| style | pixel accuracy | mean IoU | {" | ".join(CLASSES)} |
|---|---|---|{"---|" * len(CLASSES)}
{rows}

Made by `python -m maptile2sat.evaluation.train_fcn DATA/maps:maps DATA/osm:osm -o models/fcn`.
For research and demonstration; the imagery of the training sets belongs to its providers.
sha256 of the weights: `{about["weights_sha256"]}`
"""


def main() -> None:
    """Run the training from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="+", type=str, metavar="DATA:STYLE")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    try:
        sets = [parse_set(text) for text in options.sets]
        work = options.output.with_name(options.output.name + ".work")
        model = train(sets, work, options.steps)
        save(model, sets, options.output, options.steps)
    except Maptile2satError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
