"""Model bundles: a folder with `model.json`, `generator.weights.h5` and a model card.

`integers.h5` holds the same generator in whole numbers: what is rendered with, if it is there.
For those who train on from a model, `discriminator.weights.h5` may be there too.

Loading a bundle executes nothing from it: the description is JSON, the weights are plain
arrays in HDF5, and every one of them is checked against what the architecture expects.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maptile2sat.errors import BundleError, refuse_undecodable
from maptile2sat.models.description import FORMAT, Description, check_description, is_plain_name
from maptile2sat.models.weights import (
    Integers,
    Weights,
    file_sha256,
    read_arrays,
    read_integers,
    write_arrays,
    write_integers,
)
from maptile2sat.paths import models_folder

# The model card: what a bundle's description says, for people

STATISTICS = {"local": "none over a window: seamless", "unet": "each window's own: blended"}


def write_card(about: Mapping[str, Any]) -> str:
    """Return the model card in Markdown.

    Args:
        about: The fields of `description.Description`.
    """
    parts = [
        _head(about),
        _data(about),
        _uses(about),
        _limits(about),
        _figures(about),
        _training(about),
        about.get("notes", "").strip(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(about: Mapping[str, Any]) -> str:
    facts = {
        "scale": f"zoom {about['zoom']}, about {about['metres_per_pixel']} m per pixel",
        "version": about["version"],
        "precision": about["precision"],
        "statistics in a render": STATISTICS[about["kind"]],
        "licence of the weights": about["licence"],
        "attribution": about["attribution"] or "none",
        "sha256 of the weights": f"`{about['weights_sha256']}`",
    }
    if whole := about.get("integers"):
        facts["whole numbers"] = (
            f"specification {whole['specification']}, sha256 `{whole['sha256']}`: renders are the "
            "same on every machine"
        )
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items())
    return f"""# Model card: {about["name"]}

A `{about["kind"]}` generator of maptile2sat that turns maps of the style `{about["style"]}` into
satellite-style imagery. Its output is **synthetic**: it shows what could be there, not what is.

| | |
|---|---|
{rows}"""


def _data(about: Mapping[str, Any]) -> str:
    return f"""## Training data and its terms

Trained on {about["data"]}.
Terms: {about["licence"]}.

No picture of the training set is part of the bundle, but what the model paints is modelled on them:
who may use the weights for what depends on the terms of that imagery. For weights of your own, cut
pairs from imagery whose terms you know (open aerial photos, for example) and train on them:

    maptile2sat dataset build --map region.osm.pbf --image ortho.tif --out data/region
    maptile2sat train data/region --out runs/region
    maptile2sat export runs/region -o region"""


def _uses(about: Mapping[str, Any]) -> str:
    return """## Intended use

Illustration, games and simulators, placeholders for imagery that is missing, teaching, research on
synthetic imagery.

## Must not be used for

- Passing generated images off as real. Outputs carry the tag `SYNTHETIC=YES`: leave it there, and
  say so where a picture is shown.
- Evidence, news, navigation, planning, or any decision about a place or the people in it.
- Measuring: counts, areas, heights, change over time, or tests of detectors as if the images were
  real."""


def _limits(about: Mapping[str, Any]) -> str:
    # a U-Net is given no noise
    how = "anew with every" if about["kind"] == "local" else "the same whatever the"
    return f"""## Limits

- What the map does not say (roofs, trees, cars, colours) is invented, {how} `--seed`.
- Maps of another style, drawing or colour, and scales other than zoom {about["zoom"]} (about
  {about["metres_per_pixel"]} m per pixel), give poorer pictures; `render` warns.
- Every place looks like those of the training set: buildings, streets, vegetation, season and light
  are theirs."""


def _figures(about: Mapping[str, Any]) -> str:
    found = about.get("evaluation", {})
    if not found:
        plain = ", ".join(f"{name} {value:g}" for name, value in about.get("metrics", {}).items())
        return f"## Figures\n\nOn held-out pairs: {plain}." if plain else ""
    rows = "\n".join(
        f"| {_cell(figure['title'])} | {_number(figure['value'])} | {_number(figure['floor'])} "
        f"| {figure['better']} |"
        for figure in found["figures"].values()
    )
    return f"""## Figures

Measured on {found["pairs"]} pairs that it was not trained on, by

    {found["command"]}

"Real" is what real photos of other places score in place of generated ones. Distances pixel by
pixel (L1 and below) prefer blur, and are for comparison with the literature.

| figure | generated | real | better |
|---|---:|---:|---|
{rows}"""


def _training(about: Mapping[str, Any]) -> str:
    done = about.get("training", {})
    counts = ("crops_of_256_px", "steps", "of_steps", "pairs")
    known = isinstance(done.get("command"), str)
    if not known or not all(isinstance(done.get(name), int) for name in counts):
        return ""  # made by hand
    before = _earlier(done)
    earlier = "".join(
        f"    {run['command']}   # {run['steps']:,} steps, {run['crops_of_256_px']:,} crops\n"
        for run in before
    )
    crops = {True: 0, False: 0}
    for run in (*before, done):
        crops["--preset cleaner" in run["command"]] += run["crops_of_256_px"]
    whole, cleaner = crops[False], crops[True]
    more = (
        f"; the part that takes labels off maps\nsaw {cleaner:,} more by itself" if cleaner else ""
    )
    lead = "The last of these runs" if before else "The run"
    return f"""## How it was made

{earlier}    {done["command"]}
    maptile2sat export RUN -o {about["name"]}

It saw {whole:,} crops of 256 px or their equal, from {done["pairs"]:,} pairs{more}.
{lead} was over after {done["steps"]:,} of {done["of_steps"]:,} steps.{_by_hand(done)}"""


def _by_hand(done: Mapping[str, Any]) -> str:
    """Return what the scripts in `examples` did to the weights."""
    changes = []
    if isinstance(done.get("averaged"), dict):
        changes.append(f"{done['averaged'].get('share')} of an earlier stage mixed in")
    if isinstance(done.get("colours_told"), list):
        changes.append(f"colours added: {len(done['colours_told'])}")
    contrast, amount = (
        done.get(name, usual) for name, usual in (("contrast", 1), ("brightened", 0))
    )
    tones = [f"times {contrast}"] if contrast != 1 else []
    if amount != 0:
        tones.append(f"plus {amount}" if amount > 0 else f"less {-amount}")
    if tones:
        changes.append(f"colours {', '.join(tones)}, before the last tanh")
    if not changes:
        return ""
    return f"\nWithout training, by the scripts in `examples`: {'; '.join(changes)}."


def _earlier(done: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the runs that this one built on, but for what is noted wrongly."""
    runs = done.get("before")
    kinds = {"command": str, "steps": int, "crops_of_256_px": int}
    return [
        run
        for run in (runs if isinstance(runs, list) else [])
        if isinstance(run, dict)
        and all(isinstance(run.get(name), kind) for name, kind in kinds.items())
    ]


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


DESCRIPTION = "model.json"
WEIGHTS = "generator.weights.h5"
DISCRIMINATOR = "discriminator.weights.h5"
INTEGERS = "integers.h5"
CARD = "README.md"
MAX_DESCRIPTION_BYTES = 1 << 20
WHOLE_CELL = 1024
"""Largest side of what a whole-number generator makes at once: a matter of speed and memory."""

FROM_FILES = ("format", "weights_sha256", "discriminator_sha256", "integers")
"""Fields of a description that writing the files gives."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose description was read and checked.

    Attributes:
        folder: Where it is.
        description: What it says about itself.
    """

    folder: Path
    description: Description

    @property
    def id(self) -> str:
        """Name, version and the start of the weights' hash."""
        about = self.description
        return f"{about.name} {about.version} ({about.identity[:12]})"

    @property
    def exact(self) -> bool:
        """Whether it holds a whole-number form, which renders the same bits everywhere."""
        return bool(self.description.integers)

    def integers(self) -> Integers:
        """Read the whole-number form, after checking its hash.

        Returns:
            Arrays of whole numbers by name `layer/array`.

        Raises:
            BundleError: If there is none, or it is damaged.
        """
        if not self.exact:
            raise BundleError(f"{self.folder} has no whole-number form: see 'maptile2sat quantise'")
        path = self.folder / INTEGERS
        _check(path, self.description.integers["sha256"])
        return read_integers(path)

    def weights(self) -> Weights:
        """Read the weights, after checking their hash.

        Returns:
            Arrays by name `layer/weight`, float32.

        Raises:
            BundleError: If they are missing, damaged, or not plain arrays.
        """
        return _read(self.folder / WEIGHTS, self.description.weights_sha256)

    def discriminator(self) -> Weights | None:
        """Read the weights of the discriminator that it was trained with; None: not kept.

        Raises:
            BundleError: As for `weights`.
        """
        expected = self.description.discriminator_sha256
        return _read(self.folder / DISCRIMINATOR, expected) if expected else None


def _read(path: Path, expected: str) -> Weights:
    """Read a weights file after checking its hash."""
    _check(path, expected)
    return read_arrays(path)


def _check(path: Path, expected: str) -> None:
    """Refuse a file of another bundle, or one that is damaged."""
    _refuse_strays(path)
    found = file_sha256(path)
    if found != expected:
        raise BundleError(
            f"{path} is damaged or belongs to another bundle: its sha256 is {found[:12]}…, "
            f"{DESCRIPTION} says {expected[:12]}…; fetch it again"
        )


def find_bundle(name: str) -> Bundle:
    """Open a shipped bundle by name, or any bundle by its folder.

    Raises:
        BundleError: If there is none, or it cannot be used.
    """
    if not name or "\0" in name:
        raise BundleError("the model's name is empty: give a name or a bundle's folder")
    refuse_undecodable(name, BundleError)
    shipped = models_folder() / name
    try:
        folder = shipped if is_plain_name(name) and shipped.is_dir() else Path(name)
        found = folder.is_dir()
    except OSError as error:  # a name longer than the file system takes, for example
        raise BundleError(f"no model '{name[:100]}': {error.strerror or error}") from error
    if not found:
        names = ", ".join(bundle.description.name for bundle in shipped_bundles()) or "none"
        raise BundleError(f"no model '{name}': give a bundle's folder or one of: {names}")
    return open_bundle(folder)


def shipped_bundles() -> list[Bundle]:
    """Return the bundles that come with the package, by name."""
    folders = sorted(path.parent for path in models_folder().glob(f"*/{DESCRIPTION}"))
    return [open_bundle(folder) for folder in folders]


def open_bundle(folder: Path) -> Bundle:
    """Read and check a bundle's description.

    Raises:
        BundleError: If it is missing or wrong.
    """
    path = folder / DESCRIPTION
    _refuse_strays(path)
    try:
        if path.stat().st_size > MAX_DESCRIPTION_BYTES:
            raise BundleError(f"{path} is larger than a description can be: not a bundle")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(
            f"{folder} is not a model bundle: {DESCRIPTION} {error.strerror or error}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON: {error}") from error
    return Bundle(folder, check_description(path, values))


def _refuse_strays(path: Path) -> None:
    """Refuse what lies outside of the bundle, and what is no file: to open a pipe would hang.

    Raises:
        BundleError: If it is such.
    """
    try:
        there = path.resolve()
        if path.is_symlink() and not there.is_relative_to(path.parent.resolve()):
            raise BundleError(
                f"{path} is a link that leads out of the bundle: put the file itself there"
            )
        if there.exists() and not there.is_file():
            raise BundleError(f"{path} is not a file: not a bundle")
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise BundleError(f"{path} cannot be read: {error}") from error


def check_place(folder: Path) -> None:
    """Make sure that a bundle may be written into a folder.

    Raises:
        BundleError: If something other than a bundle is there, whose README would be replaced.
    """
    try:
        if (folder / DESCRIPTION).exists() or not folder.exists():
            return
        others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise BundleError(f"{folder} cannot be written: {error.strerror or error}") from error
    if others:
        raise BundleError(
            f"{folder} holds '{min(others)}' and is no model bundle: give a new or empty folder"
        )


def save_bundle(
    folder: Path,
    description: Mapping[str, Any],
    weights: Weights,
    discriminator: Weights | None = None,
) -> Bundle:
    """Write a bundle, weights as float16, with its card, and read it back.

    Args:
        folder: Made if missing; files of an older bundle in it are replaced.
        description: The fields of `Description` except the hashes and `format`.
        weights: Arrays by name `layer/weight`.
        discriminator: Likewise, if it is to be kept.

    Raises:
        BundleError: If the description is wrong, a weight is not finite as float16, something
            else is in the folder, or it cannot be written; an older bundle in it stays.
    """
    check_place(folder)
    unhashed = {"format": FORMAT, **description, "weights_sha256": "0" * 64}
    check_description(folder / DESCRIPTION, unhashed)
    arrays = {WEIGHTS: ("weights_sha256", weights)}
    if discriminator is not None:
        arrays[DISCRIMINATOR] = ("discriminator_sha256", discriminator)
    with _replacing(folder, *arrays, CARD, DESCRIPTION):
        hashes = {
            field: write_arrays(_beside(folder, name), values)
            for name, (field, values) in arrays.items()
        }
        _describe(folder, {**unhashed, **hashes})
    if discriminator is None:
        (folder / DISCRIMINATOR).unlink(missing_ok=True)  # of an older bundle
    (folder / INTEGERS).unlink(missing_ok=True)  # likewise: of other weights
    return open_bundle(folder)


def save_integers(bundle: Bundle, arrays: Integers, **about: Any) -> Bundle:
    """Add a whole-number form to a bundle, or replace the one it has.

    Args:
        bundle: The bundle.
        arrays: Arrays of whole numbers by name `layer/array`.
        about: What `Description.integers` says, but for the hash.

    Raises:
        BundleError: If the folder cannot be written.
    """
    folder = bundle.folder
    with _replacing(folder, INTEGERS, CARD, DESCRIPTION):
        digest = write_integers(_beside(folder, INTEGERS), arrays)
        cell = min(bundle.description.cell, WHOLE_CELL)
        values = dataclasses.asdict(bundle.description) | {
            "cell": cell,
            "integers": {"sha256": digest, **about},
        }
        check_description(folder / DESCRIPTION, values)
        _describe(folder, values)
    return open_bundle(folder)


def save_variant(
    bundle: Bundle,
    folder: Path,
    weights: Weights,
    discriminator: Weights | None,
    **changes: Any,
) -> Bundle:
    """Write a bundle with other weights than the one that it was made from.

    Figures are of the weights that were measured: the new bundle has none.

    Args:
        bundle: What it was made from, which stays.
        folder: As for `save_bundle`.
        weights: Arrays by name `layer/weight`.
        discriminator: Likewise, if it is to be kept.
        changes: New values of fields of `Description`.

    Raises:
        BundleError: As for `save_bundle`.
    """
    about = dataclasses.asdict(bundle.description)
    unhashed = {name: value for name, value in about.items() if name not in FROM_FILES}
    described = unhashed | {"evaluation": {}, "metrics": {}} | changes
    return save_bundle(folder, described, weights, discriminator)


def redescribe(bundle: Bundle, **changes: Any) -> Bundle:
    """Change what a bundle says about itself, in `model.json` and card; its weights stay.

    Args:
        bundle: The bundle.
        changes: New values of fields of `Description`.

    Raises:
        BundleError: If a value is wrong, or the folder cannot be written.
    """
    values = dataclasses.asdict(dataclasses.replace(bundle.description, **changes))
    check_description(bundle.folder / DESCRIPTION, values)
    with _replacing(bundle.folder, CARD, DESCRIPTION):
        _describe(bundle.folder, values)
    return open_bundle(bundle.folder)


@contextmanager
def _replacing(folder: Path, *names: str) -> Iterator[None]:
    """Let files be written beside those of a bundle, and take their places when all are there."""
    try:
        yield
        for name in names:
            _beside(folder, name).replace(folder / name)
    except OSError as error:
        raise BundleError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        for name in names:
            with suppress(OSError):
                _beside(folder, name).unlink(missing_ok=True)


def _beside(folder: Path, name: str) -> Path:
    return folder / f".{name}.new"


def _describe(folder: Path, values: Mapping[str, Any]) -> None:
    """Write description and card beside those that are there."""
    texts = {DESCRIPTION: json.dumps(values, indent=2) + "\n", CARD: write_card(values)}
    if len(texts[DESCRIPTION].encode()) > MAX_DESCRIPTION_BYTES:
        raise BundleError(
            f"the description for {folder} is larger than {MAX_DESCRIPTION_BYTES:,} bytes: shorten "
            "its notes"
        )
    for name, text in texts.items():
        _beside(folder, name).write_text(text, encoding="utf-8")
