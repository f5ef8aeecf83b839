"""What `model.json` says about a model, and the rules that it must keep."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maptile2sat.errors import BundleError

FORMAT = 1
SPECIFICATION = 1
"""Version of `docs/whole-numbers.md`: the same integers make the same of a map within it."""

KINDS = ("local", "unet")
RGB = tuple[int, int, int]
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Description:
    """What `model.json` says.

    Attributes:
        name: Short name, as in `--model`.
        version: Version of the weights.
        kind: `local` or `unet`.
        architecture: Arguments of the network's configuration.
        cell: Side in pixels of what is generated at once, a multiple of 256: the largest for whole
            numbers, for others that of fixed cells.
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
        evaluation: What `evaluate --record` found: `command`, `pairs`, `protocol`, and `figures`,
            by name objects of `title`, `better`, `value` and `floor` (null: there is none).
        notes: What else is worth knowing, in Markdown; part of the card.
        training: Steps, crops and settings of its training.
        weights_sha256: Hash of the weights file.
        discriminator_sha256: Hash of the discriminator's; empty if it was not kept.
        integers: Of its whole-number form, empty without one: `sha256` of the file, `specification`
            (the version of it), `golden` (hash of what a fixed input becomes), `bound` (largest
            sum of any layer), `calibrated_on` (crops of training maps).
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
    evaluation: dict[str, Any] = field(default_factory=dict)
    notes: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    discriminator_sha256: str = ""
    integers: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def identity(self) -> str:
        """The hash that tells a model from others: of its whole numbers, or else its weights."""
        return str(self.integers.get("sha256", self.weights_sha256))


def check_description(path: Path, values: Any) -> Description:
    """Return the description that a JSON value holds.

    Args:
        path: Where it was read; named in errors.
        values: What was read.

    Raises:
        BundleError: If it is not a description; says what is wrong.
    """
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
        ("name must be a plain file name", not is_plain_name(str(given["name"]))),
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
        ("weights_sha256 must be a sha256", not _is_sha256(given["weights_sha256"])),
        (
            "discriminator_sha256 must be a sha256 or empty",
            given.get("discriminator_sha256", "") != ""
            and not _is_sha256(given["discriminator_sha256"]),
        ),
        ("integers is not what a conversion writes", not _is_integers(given)),
        (
            f"its whole numbers are not of specification {SPECIFICATION}, which this version "
            "computes: update maptile2sat, or convert the model again",
            _is_integers(given)
            and given.get("integers", {}).get("specification", SPECIFICATION) != SPECIFICATION,
        ),
        ("metrics must be an object of numbers", not _are_numbers(given.get("metrics", {}))),
        ("training must be an object", not isinstance(given.get("training", {}), dict)),
        ("evaluation is not what `evaluate --record` writes", not _is_evaluation(given)),
        ("notes must be text", not isinstance(given.get("notes", ""), str)),
        ("all of it must be text in UTF-8, and not nested deeply", not _can_be_written(given)),
    ]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
    """Whether they are numbers that a float can hold; whole ones of JSON may be longer."""
    return isinstance(value, dict) and all(
        isinstance(item, (int, float)) and abs(item) <= sys.float_info.max
        for item in value.values()
    )


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _can_be_written(given: dict[str, Any]) -> bool:
    """Whether there is no half of a character in it, which JSON can name and no file can hold."""
    try:
        json.dumps(given, ensure_ascii=False, default=str).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _is_integers(given: dict[str, Any]) -> bool:
    found = given.get("integers", {})
    return found == {} or (
        isinstance(found, dict)
        and given["kind"] == "local"
        and _is_sha256(found.get("sha256"))
        and _is_sha256(found.get("golden"))
        and _is_int(found.get("specification"))
    )


def _is_evaluation(given: dict[str, Any]) -> bool:
    found = given.get("evaluation", {})
    if found == {}:
        return True
    return (
        isinstance(found, dict)
        and isinstance(found.get("command"), str)
        and _is_int(found.get("pairs"))
        and isinstance(found.get("figures"), dict)
        and all(_is_figure(figure) for figure in found["figures"].values())
    )


def _is_figure(figure: Any) -> bool:
    return (
        isinstance(figure, dict)
        and all(isinstance(figure.get(key), str) for key in ("title", "better"))
        and _are_numbers({"value": figure.get("value")})
        and "floor" in figure
        and (figure["floor"] is None or _are_numbers({"floor": figure["floor"]}))
    )


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(_is_int(part) and 0 <= part <= 255 for part in value)
    )


def is_plain_name(name: str) -> bool:
    """Return whether a name is one file's, without folders."""
    return Path(name).name == name and name not in ("", ".", "..")
