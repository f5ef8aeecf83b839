"""Whose folder it is: a build goes on only with the arguments that it was begun with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maptile2sat._version import __version__
from maptile2sat.datasets.layout import DESCRIPTION, read_description, write_json
from maptile2sat.datasets.workshop import FOLDER
from maptile2sat.errors import OutputError, TrainingError
from maptile2sat.sources.naming import address_mark, safe_url

ARGUMENTS = "arguments.json"


def identity(source: str) -> dict[str, Any]:
    """Return how a source is recognised: no secrets, and no folders of this machine.

    Args:
        source: Its path or address, as `located` returns it.
    """
    if "://" in source:
        # two maps of one server may differ in nothing but what is hidden of its address
        mark = address_mark(source)
        return {"name": safe_url(source), **({} if mark is None else {"mark": mark})}
    path = Path(source)
    parts = path.parts
    first = next((place for place, part in enumerate(parts) if "{" in part), None)
    if first is not None:  # a template of paths: its own folder and what follows
        return {"name": "/".join(parts[max(0, first - 1) :])}
    try:
        if path.is_dir():
            return {"name": path.resolve().name}
        return {"name": path.name, "bytes": path.stat().st_size}
    except OSError:  # it is not there, or never can be: opening it says so
        return {"name": path.name}


def is_complete(out: Path, arguments: Mapping[str, Any]) -> bool:
    """Return whether the set in `out` is complete already; nothing is written.

    Args:
        out: Folder of the set.
        arguments: What decides its content, as JSON can hold it.

    Raises:
        TrainingError: If `out` is a set of other arguments; the message names them.
        OutputError: If it holds something else.
    """
    if (out / DESCRIPTION).exists():
        _compare(out, read_description(out).get("arguments"), _as_json(arguments))
        return True
    begun = out / FOLDER / ARGUMENTS
    if begun.exists():
        _compare(out, json.loads(begun.read_text(encoding="utf-8")), _begun(arguments))
    elif out.exists() and any(entry.name != FOLDER for entry in out.iterdir()):
        raise OutputError(f"{out} is not empty and no set that was begun: give another --out")
    return False


def claim(out: Path, arguments: Mapping[str, Any]) -> None:
    """Begin a build in `out`, which from then on is of these arguments.

    Args:
        out: Folder of the set, which `is_complete` has found to be free or of these arguments.
        arguments: What decides its content, as JSON can hold it.
    """
    begun = out / FOLDER / ARGUMENTS
    if not begun.exists():
        begun.parent.mkdir(parents=True, exist_ok=True)
        write_json(begun, _begun(arguments))


def _begun(arguments: Mapping[str, Any]) -> dict[str, Any]:
    # another version may draw the map otherwise
    return {**_as_json(arguments), "version": __version__}


def _as_json(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(arguments)))


def _compare(out: Path, old: Any, new: dict[str, Any]) -> None:
    if not isinstance(old, dict):
        raise TrainingError(f"{out} is a data set that was not built here: give another --out")
    different = [
        f"{key}: {_show(old.get(key))} != {_show(new.get(key))}"
        for key in {**old, **new}
        if not _same(old.get(key), new.get(key))
    ]
    if different:
        raise TrainingError(
            f"{out} was built with other arguments ({'; '.join(different)}): "
            "repeat them, or give another --out"
        )


def _same(old: Any, new: Any) -> bool:
    """Whether two values are equal; sources of older versions have no mark."""
    if isinstance(old, dict) and isinstance(new, dict) and "mark" not in old:
        new = {name: value for name, value in new.items() if name != "mark"}
    return bool(old == new)


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(str(part) for part in value.values())
    return "none" if value is None else str(value)
