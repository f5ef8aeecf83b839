"""Checkpoints: all state of a run in one file, written whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from maptile2sat.errors import TrainingError

NAME = re.compile(r"step-(\d{8})\.npz")
KEEP = 2


def save(folder: Path, step: int, variables: dict[str, Any], keep: int = KEEP) -> Path:
    """Write a checkpoint and delete all but the newest `keep`.

    Args:
        folder: Made if missing.
        step: Number of steps done.
        variables: Name to variable.
        keep: How many to keep.

    Raises:
        TrainingError: If a value is not finite; the older checkpoints stay.
    """
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in variables.items()}
    wrong = next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)
    if wrong is not None:
        raise TrainingError(
            f"{wrong} became infinite by step {step}: start another run (--out) with "
            "--precision float32 or a lower --learning-rate; the last checkpoint is kept"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.npz"
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        np.savez(stream, **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    for old in find(folder)[:-keep]:
        old.unlink()
    return path


def find(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*.npz") if NAME.fullmatch(path.name))


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
            if set(stored.files) != set(variables):
                raise TrainingError(
                    f"checkpoint {path} is of another network: start a new run in another folder"
                )
            for name, variable in variables.items():
                variable.assign(stored[name])
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise TrainingError(f"checkpoint {path} cannot be read: {error}; delete it") from error
    return step_of(path)
