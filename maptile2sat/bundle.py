"""Model bundles: a folder with `model.json`, `generator.weights.h5` and a model card.

Loading a bundle executes nothing from it: the description is JSON, the weights are plain
arrays in HDF5, and every one of them is checked against what the architecture expects.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maptile2sat.errors import BundleError, refuse_undecodable
from maptile2sat.resources import models_folder
from maptile2sat.weights import Weights, file_sha256, read_arrays, write_arrays

FORMAT = 1
DESCRIPTION = "model.json"
WEIGHTS = "generator.weights.h5"
CARD = "README.md"
MAX_DESCRIPTION_BYTES = 1 << 20
KINDS = ("local", "unet")
RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Description:
    """What `model.json` says.

    Attributes:
        name: Short name, as in `--model`.
        version: Version of the weights.
        kind: `local` or `unet`.
        architecture: Arguments of the network's configuration.
        cell: Side in pixels of the unit that is generated at once; a multiple of 256.
        fill: Colour that the generator sees where there is no map (its style's ground).
        style: Name of the map style that it was trained on.
        palette: Dominant colours of that style.
        zoom: Web mercator zoom that it was trained at.
        metres_per_pixel: Ground size of a pixel that it was trained at.
        precision: What its training computed in.
        data: What it was trained on.
        licence: Terms of the weights.
        attribution: Who is to be named.
        metrics: Measured figures, by name.
        training: Steps, crops and settings of its training.
        weights_sha256: Hash of the weights file.
        format: Version of this description.
    """

    name: str
    version: str
    kind: str
    architecture: dict[str, Any]
    cell: int
    fill: RGB
    style: str
    palette: list[RGB]
    zoom: int
    metres_per_pixel: float
    precision: str
    data: str
    licence: str
    attribution: str
    weights_sha256: str
    metrics: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT


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
        return f"{about.name} {about.version} ({about.weights_sha256[:12]})"

    def weights(self) -> Weights:
        """Read the weights, after checking their hash.

        Returns:
            Arrays by name `layer/weight`, float32.

        Raises:
            BundleError: If they are missing, damaged, or not plain arrays.
        """
        path = self.folder / WEIGHTS
        _refuse_strays(path)
        found = file_sha256(path)
        if found != self.description.weights_sha256:
            raise BundleError(
                f"{path} is damaged or belongs to another bundle: its sha256 is {found[:12]}…, "
                f"{DESCRIPTION} says {self.description.weights_sha256[:12]}…; fetch it again"
            )
        return read_arrays(path)


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
        folder = shipped if _is_plain(name) and shipped.is_dir() else Path(name)
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
    return Bundle(folder, _checked(path, values))


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


def _checked(path: Path, values: Any) -> Description:
    """Return the description that `values` hold, or say what is wrong with them."""
    if not isinstance(values, dict):
        raise BundleError(f"{path} is not a model description")
    if values.get("format") != FORMAT:
        raise BundleError(
            f"{path} has format {values.get('format')!r}, this version reads {FORMAT}: "
            "update maptile2sat"
        )
    known = {item.name: item for item in dataclasses.fields(Description)}
    missing = [
        name
        for name, item in known.items()
        if name not in values
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise BundleError(f"{path} lacks {', '.join(missing)}")
    given = {name: value for name, value in values.items() if name in known}
    problem = next((text for text, wrong in _problems(given) if wrong), None)
    if problem:
        raise BundleError(f"{path}: {problem}")
    given["fill"] = tuple(given["fill"])
    given["palette"] = [tuple(colour) for colour in given["palette"]]
    return Description(**given)


def _problems(given: dict[str, Any]) -> list[tuple[str, bool]]:
    """Return (message, whether it applies) for every rule of a description."""
    texts = ("name", "version", "style", "precision", "data", "licence", "attribution")
    cell, zoom, metres = given["cell"], given["zoom"], given["metres_per_pixel"]
    return [
        *(
            (f"{name} must be text in one line", not str(given[name]).isprintable())
            if isinstance(given[name], str)
            else (f"{name} must be text", True)
            for name in texts
        ),
        ("name must be a plain file name", not _is_plain(str(given["name"]))),
        (f"kind must be one of {', '.join(KINDS)}", given["kind"] not in KINDS),
        ("architecture must be an object", not isinstance(given["architecture"], dict)),
        (
            "cell must be a multiple of 256 from 256 to 8192",
            not _is_int(cell) or cell % 256 != 0 or not 256 <= cell <= 8192,
        ),
        ("fill must be a colour, three numbers 0..255", not _is_colour(given["fill"])),
        (
            "palette must be a list of at most 256 colours",
            not isinstance(given["palette"], list)
            or len(given["palette"]) > 256
            or not all(_is_colour(colour) for colour in given["palette"]),
        ),
        ("zoom must be in 0..30", not _is_int(zoom) or not 0 <= zoom <= 30),
        (
            "metres_per_pixel must be above 0",
            not isinstance(metres, (int, float)) or not 0 < metres < 1e6,
        ),
        ("weights_sha256 must be a sha256", len(str(given["weights_sha256"])) != 64),
        ("metrics must be an object of numbers", not _are_numbers(given.get("metrics", {}))),
        ("training must be an object", not isinstance(given.get("training", {}), dict)),
    ]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(item, (int, float)) and math.isfinite(item) for item in value.values()
    )


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(_is_int(part) and 0 <= part <= 255 for part in value)
    )


def _is_plain(name: str) -> bool:
    return Path(name).name == name and name not in ("", ".", "..")


def save_bundle(
    folder: Path, description: Mapping[str, Any], weights: Weights, card: str
) -> Bundle:
    """Write a bundle, weights as float16, and read it back.

    Args:
        folder: Made if missing; files of an older bundle in it are replaced.
        description: The fields of `Description` except `weights_sha256` and `format`.
        weights: Arrays by name `layer/weight`.
        card: Text of the model card; `{sha256}` in it becomes the weights' hash.

    Raises:
        BundleError: If the description is wrong, a weight is not finite as float16, or the
            folder cannot be written; an older bundle in it stays.
    """
    _checked(folder / DESCRIPTION, {"format": FORMAT, **description, "weights_sha256": "0" * 64})
    digest = write_arrays(folder / WEIGHTS, weights)
    values = {"format": FORMAT, **description, "weights_sha256": digest}
    try:
        (folder / DESCRIPTION).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        (folder / CARD).write_text(card.replace("{sha256}", digest), encoding="utf-8")
    except OSError as error:
        raise BundleError(f"{folder} cannot be written: {error.strerror or error}") from error
    return open_bundle(folder)
