"""Tile URL templates: `https://host/{z}/{x}/{y}.png` and its relatives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from maptile2sat.errors import SourceError
from maptile2sat.sources.naming import safe_url

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([a-z])-([a-z])|([0-9])-([0-9])")
_KNOWN = ("z", "x", "y", "-y", "q", "s", "r")


def is_template(text: str) -> bool:
    """Whether `text` looks like a template of tiles."""
    return "{q}" in text or ("{x}" in text and "{z}" in text)


def quadkey(zoom: int, x: int, y: int) -> str:
    """Return the quadkey of a tile, empty for zoom 0."""
    return "".join(str((x >> bit & 1) + 2 * (y >> bit & 1)) for bit in range(zoom - 1, -1, -1))


@dataclass(frozen=True)
class Template:
    """A tile URL, or path, with placeholders.

    Attributes:
        text: The template: `{z}`, `{x}` and `{y}`, or `{-y}` (rows from the south), or `{q}`
            (quadkey); `{s}`, `{a-c}` or `{switch:a,b}` for servers; `{r}` stands for nothing.
        subdomains: What `{s}` stands for.
        tms: Whether `{y}` counts from the south.
    """

    text: str
    subdomains: Sequence[str] = ("a", "b", "c")
    tms: bool = False

    def __post_init__(self) -> None:
        """Check the placeholders."""
        names = _PLACEHOLDER.findall(self.text)
        unknown = [name for name in names if name not in _KNOWN and not _servers(name)]
        if unknown:
            raise SourceError(
                f"the tile URL {safe_url(self.text)} has an unknown part {{{unknown[0]}}}: "
                "known are {z} {x} {y} {-y} {q} {s} {r} and {a-c}"
            )
        if "q" not in names and not ({"z", "x"} <= set(names) and {"y", "-y"} & set(names)):
            raise SourceError(
                f"the tile URL {safe_url(self.text)} needs {{z}}, {{x}} and {{y}}, "
                "for example https://tiles.example.com/{z}/{x}/{y}.png"
            )

    @property
    def retina(self) -> bool:
        """Whether tiles have twice the pixels of their zoom."""
        return "@2x" in self.text

    @property
    def tile_size(self) -> int | None:
        """Pixels per side of the tiles, if a part of the path says it."""
        return next((size for size in (256, 512) if f"/{size}/" in self.text), None)

    def fill(self, zoom: int, x: int, y: int) -> str:
        """Return the address of a tile; the same tile always has the same server."""
        south = (1 << zoom) - 1 - y

        def value(match: re.Match[str]) -> str:
            name = match.group(1)
            if name == "s":
                return self.subdomains[(x + y) % len(self.subdomains)]
            if servers := _servers(name):
                return servers[(x + y) % len(servers)]
            return {
                "z": str(zoom),
                "x": str(x),
                "y": str(south if self.tms else y),
                "-y": str(south),
                "q": quadkey(zoom, x, y),
                "r": "",
            }[name]

        return _PLACEHOLDER.sub(value, self.text)


def _servers(name: str) -> list[str]:
    """Return the servers that `a-c`, `0-3` or `switch:a,b` stand for."""
    if name.startswith("switch:"):
        return [server for server in name[len("switch:") :].split(",") if server]
    match = _RANGE.fullmatch(name)
    if not match:
        return []
    first, last = (part for part in match.groups() if part)
    return [chr(code) for code in range(ord(first), ord(last) + 1)]
