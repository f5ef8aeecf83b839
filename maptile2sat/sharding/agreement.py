"""Whether two processes make the same pixels: the facts that decide them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from maptile2sat.partial import differences
from maptile2sat.rendering.job import Job, made_of


def facts_of(job: Job, numerics: str) -> dict[str, Any]:
    """Return all that decides the pixels of a render here.

    Args:
        job: The render.
        numerics: What computes: the specification of whole numbers, or a fingerprint.
    """
    return _plain(made_of(job, numerics))


def facts_without_computing(job: Job) -> dict[str, Any]:
    """Return those that are known where nothing is generated: of map, model and request."""
    facts = made_of(job, "")
    del facts["numerics"]
    return _plain(facts)


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(facts))  # as a file gives it back
    return plain


def disagreements(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return in what two processes differ, a text for each.

    Maps may be copies of each other: their time of change does not count.
    """
    return differences(_comparable(expected), _comparable(found), ("here", "there"))


def _comparable(facts: Mapping[str, Any]) -> dict[str, Any]:
    state = facts.get("source_file")
    names = ("window", "grid", "model", "architecture", "fill", "numerics", "seed", "labels")
    return {
        **{name: facts[name] for name in names if name in facts},
        "source_bytes": None if state is None else state[0],
    }
