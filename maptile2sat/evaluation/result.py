"""What an evaluation found, and how it is written as JSON."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from maptile2sat._version import __version__
from maptile2sat.evaluation.catalogue import METRICS, PUBLISHED, PUBLISHED_SOURCE, RANKING
from maptile2sat.evaluation.measure import Measured

FORMAT = 1
LIMIT = 100
"""Pairs that are measured unless told otherwise."""

DIGITS = 6
"""Significant digits in JSON."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        data: Name of the set.
        protocol: `crops` or `resize`.
        pairs: Pairs measured.
        squares: Squares of 256 px cut from them.
        seed: Of noise, patches and halves.
        style: Style of the maps, if it is known.
        fcn: Start of the hash of the network that reads classes.
        models: What was measured of each model, one or two.
        real_profile: Power in decibels at each radius of the real images' spectrum.
        better: With two models the better one's name by figure, or `even`.
        left_out: Why figures are missing, by what they are.
        warnings: What to mind.
        seconds: How long it took.
    """

    data: str
    protocol: str
    pairs: int
    squares: int
    seed: int
    style: str | None
    fcn: str
    models: list[Measured]
    real_profile: list[float]
    better: dict[str, str]
    left_out: dict[str, str]
    warnings: list[str]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, numbers that are not finite as None."""
        values = asdict(self)
        for model, measured in zip(values["models"], self.models, strict=True):
            model["figures"] = {name: figure._asdict() for name, figure in measured.figures.items()}
        plain = _plain(values)
        return {
            "format": FORMAT,
            "version": __version__,
            "ranking": [name for name in RANKING if name in self.models[0].figures],
            "meaning": {
                name: {"better": metric.better, "ranks": metric.ranks, "unit": metric.unit}
                for name, metric in METRICS.items()
            },
            "published": {**PUBLISHED[self.protocol], "source": PUBLISHED_SOURCE},
            **plain,
        }

    def to_record(self, name: str, said: Mapping[str, str | None]) -> dict[str, Any]:
        """Return what a bundle keeps of the first model's figures, as plain values.

        Figures that are none, such as the seams of pictures without a border, are left out.

        Args:
            name: What the model is called by itself; `name` of its figures differs where two
                models of one name are compared.
            said: Other options of the request that its command must repeat; None: not given.
        """
        model = self.models[0]
        words = f"maptile2sat evaluate {shlex.quote(name)} DATA -o REPORT"
        for option, value, usual in (
            ("protocol", self.protocol, "crops"),
            ("limit", self.pairs, LIMIT),
            ("seed", self.seed, 0),
            *((option, value, None) for option, value in said.items()),
        ):
            words += "" if value == usual else f" --{option} {value}"
        words += "" if "fid" in model.figures else " --inception-weights none"
        figures = {
            name: {
                "title": metric.title,
                "better": metric.better,
                "value": model.figures[name].value,
                "floor": model.figures[name].floor,
            }
            for name, metric in METRICS.items()
            if name in model.figures and math.isfinite(model.figures[name].value)
        }
        record = {
            "command": words,
            "data": self.data,
            "pairs": self.pairs,
            "version": __version__,
            "fcn": self.fcn,
            "figures": figures,
        }
        return _plain(record)  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
