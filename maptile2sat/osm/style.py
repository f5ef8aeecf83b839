"""The map styles: one colour and one width per class of feature.

Widths are pixels at zoom 16, where both styles have their training maps; other zooms scale
them with the ground. The order of a table is the order of painting, least important first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from maptile2sat.errors import UsageError

STYLE_ZOOM = 16
"""The zoom for which widths are given."""

Rgb = tuple[int, int, int]


def rgb(text: str) -> Rgb:
    """Return the colour of `#rrggbb`."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


@dataclass(frozen=True)
class Area:
    """How an area is painted.

    Attributes:
        fill: Its colour.
        outline: Colour of its border, inside the area, if it has one.
        edge: Width of that border in pixels.
    """

    fill: str
    outline: str | None = None
    edge: float = 0.7


@dataclass(frozen=True)
class Line:
    """How a road, railway or watercourse is painted.

    Attributes:
        width: Width of the fill.
        fill: Its colour.
        casing: Colour of the casing, if it has one.
        edge: Width of the casing on each side.
        tunnel: Colour of the fill in a tunnel; `None`: not drawn there.
        dash: Lengths of dash and gap; solid if absent.
        below_paving: Whether squares cover it.
    """

    width: float
    fill: str
    casing: str | None = None
    edge: float = 0.8
    tunnel: str | None = None
    dash: tuple[float, float] | None = None
    below_paving: bool = False


@dataclass(frozen=True)
class Style:
    """A map style.

    Attributes:
        name: `maps` or `osm`.
        background: Colour of land without any feature.
        palette: Dominant colours, background first.
        areas: Class of area -> look; what is absent is not drawn.
        lines: Class of line -> look, least important first.
        shore: Colours of the water from the shore outwards, and the step between them.
        shadow: Colour of the south-east walls of buildings, and how far they reach.
    """

    name: str
    background: str
    palette: tuple[str, ...]
    areas: Mapping[str, Area]
    lines: Mapping[str, Line]
    shore: tuple[str, ...] = ()
    shore_step: float = 2.0
    shadow: str | None = None
    shadow_reach: float = 1.0
    rank: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """Number the lines in the order of their table."""
        object.__setattr__(self, "rank", {name: at for at, name in enumerate(self.lines)})


_PARK, _WHITE, _CASING = "#cbdfac", "#fefefe", "#d9d5ce"

MAPS = Style(
    name="maps",
    background="#e9e5dd",
    palette=(
        "#e9e5dd",
        "#b1d0fe",
        "#f3f0e9",
        "#fefefe",
        "#cbdfac",
        "#bad2ba",
        "#e8ddbd",
        "#fa9e25",
        "#fedb62",
        "#e3e3e3",
        "#edd1ce",
        "#c2da9e",
    ),
    areas={
        "water": Area("#b1d0fe"),
        "pool": Area("#b1d0fe"),
        "wood": Area("#bad2ba"),
        "scrub": Area(_PARK),
        "grass": Area(_PARK),
        "park": Area(_PARK),
        "garden": Area(_PARK),
        "golf": Area(_PARK),
        "cemetery": Area(_PARK),
        "allotments": Area(_PARK),
        "pitch": Area("#c2da9e"),
        "sports": Area("#cbdfac"),
        "playground": Area("#c2da9e"),
        "sand": Area("#eee3d1"),
        "education": Area("#e8ddbd"),
        "hospital": Area("#edd1ce"),
        "parking": Area("#e3e3e3"),
        "aerodrome": Area("#dfdad4"),
        "apron": Area("#d3c9bd"),
        "pier": Area("#e9e5dd"),
        "bridge": Area("#e9e5dd"),
        "building": Area("#f3f0e9", "#e4e0d8", 0.4),
        "pedestrian": Area("#fbfaf8"),
    },
    lines={
        "runway": Line(26.0, "#d3c9bd"),
        "taxiway": Line(10.0, "#d3c9bd"),
        "river": Line(8.0, "#b1d0fe"),
        "canal": Line(6.0, "#b1d0fe"),
        "stream": Line(1.8, "#b1d0fe"),
        "pier": Line(4.0, "#e9e5dd"),
        "path": Line(1.3, "#dcd8cf", below_paving=True),
        "track": Line(3.0, "#f3f0ea", _CASING, 0.6),
        "pedestrian": Line(5.0, "#fbfaf8", _CASING, 0.6),
        "aisle": Line(2.4, "#f4f2ee"),
        "service": Line(4.2, "#f7f5f1", _CASING, 0.6),
        "rail": Line(0.9, "#c6c2bb"),
        "street": Line(9.4, _WHITE, _CASING, tunnel="#f2efea"),
        "tertiary": Line(10.4, _WHITE, _CASING, tunnel="#f2efea"),
        "secondary": Line(11.6, _WHITE, "#cfcbc4", tunnel="#f2efea"),
        "link": Line(7.5, "#ffe2a6", "#e3c48c", tunnel="#f5e6c8"),
        "primary": Line(11.0, "#fedb62", "#e2be62", tunnel="#f7e3a6"),
        "trunk": Line(11.5, "#fcc243", "#d9a23c", tunnel="#f5d69a"),
        "motorway": Line(11.5, "#fa9e25", "#c98a35", tunnel="#f3c88f"),
    },
    shore=("#a2c4fc", "#a4c6fe", "#a7c8fe", "#a9cafe", "#abcbfe", "#adcdfe", "#afcefe"),
    shore_step=2.2,
    shadow="#d8d4ce",
)

OSM = Style(
    name="osm",
    background="#f2efe9",
    palette=(
        "#f2efe9",
        "#fefefe",
        "#e1e1e1",
        "#afd19f",
        "#b6d0d0",
        "#cdf7c9",
        "#c3b1b1",
        "#b5e3b5",
        "#ebdaea",
        "#f0f0d8",
        "#cfeca9",
        "#f8f8ba",
        "#f8d6a9",
        "#df9fa0",
        "#88a4cb",
    ),
    areas={
        "water": Area("#b6d0d0"),
        "pool": Area("#b6d0d0", "#8cb8c8"),
        "residential": Area("#e1e1e1"),
        "industrial": Area("#ebdaea"),
        "commercial": Area("#efc8c8"),
        "retail": Area("#f2dada"),
        "farmland": Area("#eeddc9"),
        "farmyard": Area("#ead8bd"),
        "construction": Area("#b5b591"),
        "railway": Area("#dfd1d6"),
        "education": Area("#f0f0d8", "#d8c8a8"),
        "hospital": Area("#f0f0d8", "#d8c8a8"),
        "parking": Area("#f7efb7", "#eee0a0"),
        "wood": Area("#afd19f"),
        "scrub": Area("#b5e3b5"),
        "heath": Area("#d6d99f"),
        "grass": Area("#cfeca9"),
        "park": Area("#cdf7c9"),
        "garden": Area("#cfeca9"),
        "golf": Area("#b5e3b5"),
        "cemetery": Area("#a9caae"),
        "allotments": Area("#e5c7ab"),
        "pitch": Area("#89d3ae", "#6cb897"),
        "sports": Area("#33cb98"),
        "playground": Area("#ccfff1", "#8fdcc4"),
        "sand": Area("#f0e3c0"),
        "aerodrome": Area("#e8e4e0"),
        "apron": Area("#e9d1ff"),
        "pier": Area("#f2efe9"),
        "bridge": Area("#b8b8b8"),
        "building": Area("#c3b1b1", "#a79b9b", 0.8),
        "pedestrian": Area("#ededed", "#b4b4b4"),
    },
    lines={
        "runway": Line(18.0, "#bbbbcc"),
        "taxiway": Line(6.0, "#bbbbcc"),
        "river": Line(8.0, "#b6d0d0"),
        "canal": Line(7.0, "#b6d0d0"),
        "stream": Line(2.0, "#b6d0d0"),
        "pier": Line(4.0, "#f2efe9"),
        "path": Line(1.4, "#f3877d", "#f6f0ea", 0.7, dash=(2.0, 2.2)),
        "track": Line(1.6, "#b08a50", "#f6f0ea", 0.7, dash=(6.0, 3.0)),
        "aisle": Line(3.0, _WHITE, "#c9c9c9", 0.6),
        "pedestrian": Line(6.5, "#ededed", "#9a9a9a", 0.6),
        "service": Line(5.0, _WHITE, "#b8b8b8", 0.6),
        "rail": Line(1.6, "#7a7a7a"),
        "street": Line(9.4, _WHITE, "#c4c2be", tunnel="#f5f3f0"),
        "tertiary": Line(9.6, "#f8f8ba", "#c6c68a", tunnel="#f8f8dc"),
        "secondary": Line(10.4, "#f8d6a9", "#cda97c", tunnel="#f8e6cc"),
        "primary": Line(10.8, "#df9fa0", "#c07f82", tunnel="#ecc9c8"),
        "trunk": Line(11.0, "#94d595", "#68a86a", tunnel="#c5e6c2"),
        "link": Line(7.5, "#df9fa0", "#c07f82", tunnel="#ecc9c8"),
        "motorway": Line(11.0, "#88a4cb", "#5f7ba6", tunnel="#bccadf"),
    },
)

STYLES: dict[str, Style] = {style.name: style for style in (MAPS, OSM)}
"""The styles by name."""


def find_style(name: str) -> Style:
    """Return the style called `name`.

    Raises:
        UsageError: If there is none.
    """
    if name not in STYLES:
        raise UsageError(f"there is no map style '{name}': choose {' or '.join(sorted(STYLES))}")
    return STYLES[name]
