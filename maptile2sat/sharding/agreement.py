"""Whether two processes make the same pixels: the facts that decide them, and a self-check."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from maptile2sat.grid import Window
from maptile2sat.noise import noise
from maptile2sat.partial import differences
from maptile2sat.rendering.job import Job, made_of
from maptile2sat.translator import Translator, generate

PATCH = 16
COLOURS = 24


def facts_of(job: Job, numerics: str, probe: str) -> dict[str, Any]:
    """Return all that decides the pixels of a render here.

    Args:
        job: The render.
        numerics: The fingerprint of what computes.
        probe: What `probe_of` returned.
    """
    return _plain({**made_of(job, numerics), "self_check": probe})


def facts_without_computing(job: Job) -> dict[str, Any]:
    """Return those that are known where nothing is generated: of map, model and request."""
    facts = made_of(job, "")
    del facts["numerics"]
    return _plain(facts)


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(facts))  # as a file gives it back
    return plain


def probe_of(translator: Translator) -> str:
    """Generate one fixed cell; return the SHA-256 of its pixels.

    Where fingerprints are equal and only the number of threads differs, results are the same if
    and only if this is.
    """
    side = translator.cell + 2 * translator.halo
    patches = -(-side // PATCH)
    rows, cols = np.indices((patches, patches), np.int64)
    mixed = (rows * 0x9E3779B1 + cols * 0x85EBCA77) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
    number = (mixed >> 16) % COLOURS
    colours = np.stack([(number * step + 40) % 256 for step in (61, 97, 139)], axis=-1)
    image = colours.astype(np.uint8).repeat(PATCH, axis=0).repeat(PATCH, axis=1)[:side, :side]
    packed = translator.pack(np.ascontiguousarray(image), noise(0, Window(0, 0, side, side)))
    return hashlib.sha256(generate(translator, packed).tobytes()).hexdigest()


def disagreements(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return in what two processes differ, a text for each.

    Maps may be copies of each other: their time of change does not count.
    """
    return differences(_comparable(expected), _comparable(found), ("here", "there"))


def _comparable(facts: Mapping[str, Any]) -> dict[str, Any]:
    state = facts.get("source_file")
    names = ("window", "grid", "model", "architecture", "fill", "numerics", "seed", "self_check")
    return {
        **{name: facts[name] for name in names if name in facts},
        "source_bytes": None if state is None else state[0],
    }
