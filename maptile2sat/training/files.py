"""What a run has logged: files of JSON lines that survive a kill at any moment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

METRICS = "metrics.jsonl"
"""Means of the losses and the speed, every few steps."""

VALIDATION = "validation.jsonl"
"""What the sample sheets show, in figures."""

CURVES = "curves.png"
SAMPLES = "samples"
TENSORBOARD = "tensorboard"
BUNDLE = "bundle"
"""Folder in a run into which `maptile2sat train` exports."""

REPORT = "report.html"

Line = dict[str, float]
"""One line of a log: its `step` and `crops`, and numbers by name."""


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a log, up to the first that a killed run has left torn.

    A file that is missing has no lines.
    """
    lines: list[Line] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                break
            if not isinstance(line, dict) or "step" not in line:
                break
            lines.append(line)
    return lines


def keep_lines(path: Path, step: int) -> list[Line]:
    """Drop lines past `step` and a torn last one from a log; return the others."""
    lines = [line for line in read_lines(path) if line["step"] <= step]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(path)
    return lines


def append_line(path: Path, line: Mapping[str, float]) -> None:
    """Add a line to a log."""
    with path.open("a") as stream:
        stream.write(json.dumps(line) + "\n")
