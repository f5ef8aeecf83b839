"""Checkpoints: all state of a run in one file, written whole or not at all."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from maptile2sat.errors import TrainingError

NAME = re.compile(r"step-(\d{8})\.npz")
NUMBERED = re.compile(r"^([a-z_]+)/\d{3}/")
"""How names began that counted a network's weights, whose order is not the network's business."""

BEST = "best.json"
BARE, LABELLED = "bare", "labelled"
"""Of which maps the images were made by which checkpoints are compared."""

KEEP = 2


def save(
    folder: Path,
    step: int,
    variables: dict[str, Any],
    keep: int = KEEP,
    *,
    well: int | None = None,
) -> Path:
    """Write a checkpoint and delete all but the newest `keep`, the best, and the last well one.

    It is on the disk, under its name, when this returns; before, it has no name.

    Args:
        folder: Made if missing.
        step: Number of steps done.
        variables: Name to variable.
        keep: How many to keep.
        well: Step up to which all was well, if something seems wrong since.

    Raises:
        TrainingError: If a value is not finite or the disk is full; the older checkpoints stay.
    """
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in variables.items()}
    wrong = next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)
    if wrong is not None:
        raise TrainingError(
            f"{wrong} became infinite by step {step}: start another run (--out) with "
            "--precision float32 or a lower --learning-rate; the last checkpoint is kept"
        )
    path = folder / f"step-{step:08d}.npz"
    temporary = path.with_suffix(".tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise TrainingError(
            f"checkpoint {path} cannot be written: {error.strerror or error}; older ones are kept"
        ) from error
    _prune(folder, keep, well)
    return path


def _sync(folder: Path) -> None:
    """Bring a folder's names to the disk: a new name is no safer than its folder."""
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def drop_after(folder: Path, step: int) -> Path | None:
    """Delete the checkpoints past `step` if there is an older one, and return that."""
    older = [path for path in find(folder) if step_of(path) <= step]
    for path in find(folder)[len(older) :] if older else []:
        path.unlink()
    return older[-1] if older else None


def _prune(folder: Path, keep: int, well: int | None) -> None:
    found = find(folder)
    kept = {find_best(folder), *found[-keep:]}
    if well is not None:
        kept.update([path for path in found if step_of(path) <= well][-1:])
    for old in set(found) - kept:
        old.unlink()
    for torn in folder.glob("step-*.tmp"):  # of a run that was killed while it wrote
        torn.unlink()


def find(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*.npz") if NAME.fullmatch(path.name))


def mark_best(folder: Path, path: Path, score: float, maps: str = BARE) -> bool:
    """Remember a checkpoint as the best if its score is the lowest so far.

    Args:
        folder: Of the checkpoints.
        path: A checkpoint in it.
        score: Its distance from the held-out images.
        maps: Of which maps they were made: scores of others are not compared with it.

    Returns:
        Whether it is.
    """
    noted = _noted(folder)
    comparable = find_best(folder) is not None and noted.get("maps", BARE) == maps
    if comparable and noted["score"] <= score:
        return False
    temporary = folder / f"{BEST}.tmp"
    temporary.write_text(json.dumps({"step": step_of(path), "score": score, "maps": maps}) + "\n")
    temporary.replace(folder / BEST)
    return True


def find_best(folder: Path) -> Path | None:
    """Return the checkpoint with the lowest score, None if none was measured."""
    noted = _noted(folder)
    path = folder / f"step-{noted['step']:08d}.npz" if noted else None
    return path if path is not None and path.exists() else None


def _noted(folder: Path) -> dict[str, Any]:
    try:
        noted = json.loads((folder / BEST).read_text())
    except (OSError, ValueError):
        return {}  # none yet; it only decides what is deleted, so a damaged one is none either
    right = isinstance(noted, dict) and isinstance(noted.get("step"), int) and "score" in noted
    return noted if right else {}


def step_of(path: Path) -> int:
    """Return the number of steps done when the checkpoint was written."""
    match = NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is not named like a checkpoint")
    return int(match[1])


def load(path: Path, variables: dict[str, Any]) -> int:
    """Set `variables` from a checkpoint and return the number of steps done.

    Raises:
        TrainingError: If the checkpoint is damaged or of another architecture.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            names = {NUMBERED.sub(r"\1/", name): name for name in stored.files}
            if set(names) != set(variables):
                raise TrainingError(
                    f"checkpoint {path} is of another network: start a new run in another folder"
                )
            for name, variable in variables.items():
                variable.assign(stored[names[name]])
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise TrainingError(f"checkpoint {path} cannot be read: {error}; delete it") from error
    return step_of(path)
