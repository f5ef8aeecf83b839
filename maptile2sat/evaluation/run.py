"""The evaluation: one model or two on held-out pairs, written as JSON, sheet and report."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maptile2sat.datasets.pairs import choose_map_side, doubt_of_side
from maptile2sat.errors import BundleError, OutputError, UsageError, refuse_undecodable
from maptile2sat.evaluation.fcn import load_fcn
from maptile2sat.evaluation.inception import LeftOutError, find_weights, load_inception
from maptile2sat.evaluation.measure import Held, Pixels, Progress, judge, measure, prepare
from maptile2sat.evaluation.metrics import decibels
from maptile2sat.evaluation.report import draw_sheet
from maptile2sat.evaluation.result import LIMIT, Evaluation
from maptile2sat.evaluation.samples import PROTOCOLS, choose_files, read_pairs
from maptile2sat.models.bundle import Bundle, find_bundle, redescribe
from maptile2sat.models.device import choose_device
from maptile2sat.models.noise import MAX_SEED
from maptile2sat.sources.base import STYLES

METRICS_FILE, SHEET_FILE, REPORT_FILE = "metrics.json", "sheet.png", "report.html"
FILES = (METRICS_FILE, SHEET_FILE, REPORT_FILE)
CLASS_FIGURES = "FCN-score and figures by class"


def evaluate(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    compare: str | os.PathLike[str] | None = None,
    protocol: str = "crops",
    limit: int = LIMIT,
    seed: int = 0,
    map_side: str | None = None,
    inception_weights: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
    record: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Evaluation:
    """Measure how real a model's pictures are, on pairs that it was not trained on.

    Args:
        model: Name of a shipped model, or a bundle's folder.
        data: A set of pairs; those in its `val` are used.
        output: Folder for `metrics.json`, `sheet.png` and `report.html`; None writes nothing.
        compare: A second model.
        protocol: `crops` (squares of 256 px of the pairs' own pixels) or `resize` (each half
            resized to 256 px, as in the literature).
        limit: Most pairs to use, evenly chosen; at least 4.
        seed: Of noise, patches and halves.
        map_side: `left` or `right`; default: what `dataset.json` says, else that
            on which the model was trained, else `right`.
        inception_weights: File of InceptionV3's weights for FID and KID; `auto` looks for them
            where Keras keeps them and else downloads them (84 MB); `none` leaves both out.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.
        precision: `auto` (whole numbers if the model has them), `integer`, `float32`, `bfloat16` or
            `float16`.
        overwrite: Whether the files may be replaced if they exist.
        record: Whether the figures of `model` are written into its bundle's description and card.
        progress: Called as it goes on.

    Raises:
        UsageError: If an option makes no sense.
        TrainingError: If the pairs cannot be used.
        BundleError: If a model cannot be used.
        OutputError: If the output exists or cannot be written.
    """
    started = time.monotonic()
    folder = None if output is None else Path(output)
    bundles = _bundles(model, compare)
    for path in (data, output):  # whose names are in what is written
        if path is not None:
            refuse_undecodable(path, OutputError)
    _check(protocol, seed, folder, overwrite=overwrite)
    if record and not os.access(bundles[0].folder, os.W_OK):
        raise BundleError(f"{bundles[0].folder} cannot be written: leave --record out, or copy it")
    side = choose_map_side(Path(data), map_side, _trained_side(bundles[0]))
    files = choose_files(Path(data), limit)
    pairs = read_pairs(files, side, protocol)
    inception, left_out = _inception(inception_weights)
    fcn = load_fcn()
    progress("real images", 0, 1)
    held = prepare(pairs, fcn, inception, seed)
    progress("real images", 1, 1)
    if held.labels is None:
        left_out[CLASS_FIGURES] = "the maps' colours are of no known style (maps, osm)"
    results = [
        measure(
            held,
            bundle,
            choose_device(device, precision, exact=bundle.exact),
            name,
            fcn,
            inception,
            seed,
            progress,
        )
        for name, bundle in zip(_names(bundles), bundles, strict=True)
    ]
    measured = [found for found, _ in results]
    evaluation = Evaluation(
        data=Path(data).resolve().name,
        protocol=protocol,
        pairs=len(pairs),
        squares=len(held.maps),
        seed=seed,
        style=held.style,
        fcn=fcn.id,
        models=measured,
        real_profile=[round(float(value), 3) for value in decibels(held.description.profiles)],
        better=judge(*measured) if len(measured) == 2 else {},
        left_out=left_out,
        warnings=[
            *(text for text in (doubt_of_side(files, side),) if text),
            *_warnings(held, bundles, protocol),
        ],
        seconds=round(time.monotonic() - started, 1),
    )
    if folder is not None:
        _write(evaluation, held, [made for _, made in results], folder)
    if record:
        said = {"map-side": map_side, "precision": None if precision == "auto" else precision}
        record_of = evaluation.to_record(bundles[0].description.name, said)
        redescribe(bundles[0], evaluation=record_of)
    return evaluation


def _trained_side(bundle: Bundle) -> str:
    """Return the half of its pairs that was the map when a model was trained, else `right`."""
    settings = bundle.description.training.get("settings")
    side = settings.get("map_side") if isinstance(settings, dict) else None
    return side if side in ("left", "right") else "right"


def _inception(wanted: str) -> tuple[Any, dict[str, str]]:
    """Return InceptionV3, or None and why it is left out."""
    try:
        return load_inception(find_weights(wanted)), {}
    except LeftOutError as reason:
        return None, {"FID and KID on InceptionV3": str(reason)}


def _check(protocol: str, seed: int, folder: Path | None, *, overwrite: bool) -> None:
    """Refuse before the work what would be refused after it."""
    if protocol not in PROTOCOLS:
        raise UsageError(f"protocol '{protocol}' is not one of {', '.join(PROTOCOLS)}")
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"seed {seed} is not in 0..{MAX_SEED}")
    if folder is None:
        return
    try:
        if not folder.parent.is_dir():
            raise OutputError(f"the folder {folder.parent} does not exist: create it first")
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file: give a folder")
        if folder.is_dir() and any(folder.iterdir()) and not overwrite:
            raise OutputError(f"{folder} exists: choose another name or pass --overwrite")
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise OutputError(
            f"{folder} cannot be written ({error.strerror or error}): choose another name"
        ) from error


def _bundles(model: str | os.PathLike[str], compare: str | os.PathLike[str] | None) -> list[Bundle]:
    given = [model] if compare is None else [model, compare]
    return [find_bundle(os.fspath(name)) for name in given]


def _names(bundles: Sequence[Bundle]) -> list[str]:
    """Return short names that differ."""
    names = [bundle.description.name for bundle in bundles]
    if len(set(names)) == len(names):
        return names
    hashes = [bundle.description.weights_sha256[:6] for bundle in bundles]
    if len(set(hashes)) == len(hashes):
        return [f"{name} {digest}" for name, digest in zip(names, hashes, strict=True)]
    return [f"{name} #{number}" for number, name in enumerate(names, 1)]


def _warnings(held: Held, bundles: Sequence[Bundle], protocol: str) -> list[str]:
    found = []
    if len(held.pairs) < 50:
        found.append(
            f"{len(held.pairs)} pairs are few: look at the spread, and use 100 or more to rank"
        )
    for bundle in bundles:
        about = bundle.description
        if held.style is not None and about.style in STYLES and about.style != held.style:
            found.append(
                f"model '{about.name}' is for maps of style {about.style}; these are {held.style}"
            )
        if about.kind == "unet" and protocol == "resize":
            found.append(
                f"model '{about.name}' is rendered as `render` does, in blended windows; the "
                "literature gives a U-Net one window per picture"
            )
    return found


def _write(evaluation: Evaluation, held: Held, made: Sequence[Pixels], folder: Path) -> None:
    from maptile2sat.evaluation.report import write_page

    columns = [("map", held.maps)]
    columns += [
        (f"{model.name} (generated)", squares)
        for model, squares in zip(evaluation.models, made, strict=True)
    ]
    sheet = draw_sheet([*columns, ("real", held.real)], held.places)
    with _files_beside(folder) as work:
        text = json.dumps(evaluation.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        (work / METRICS_FILE).write_text(text + "\n", encoding="utf-8")
        sheet.save(work / SHEET_FILE, "PNG")
        (work / REPORT_FILE).write_text(write_page(evaluation, sheet), encoding="utf-8")


@contextmanager
def _files_beside(folder: Path) -> Iterator[Path]:
    """Give a temporary folder; afterwards its files go into `folder`, all or, on error, none.

    Raises:
        OutputError: If they cannot be written.
    """
    work: Path | None = None
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        yield work
        folder.mkdir(exist_ok=True)
        for name in FILES:
            (work / name).replace(folder / name)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
