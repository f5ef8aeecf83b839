"""From OpenStreetMap tags to the classes of the style tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Tags = Mapping[str, str]

_AREAS: dict[str, dict[str, str]] = {
    "natural": {
        "water": "water", "wood": "wood", "scrub": "scrub", "heath": "heath",
        "grassland": "grass", "fell": "grass", "wetland": "scrub", "beach": "sand",
        "sand": "sand", "shoal": "sand",
    },
    "waterway": {"riverbank": "water", "dock": "water"},
    "landuse": {
        "reservoir": "water", "basin": "water", "forest": "wood", "grass": "grass",
        "meadow": "grass", "village_green": "grass", "recreation_ground": "park",
        "greenery": "grass", "flowerbed": "grass", "residential": "residential",
        "industrial": "industrial", "port": "industrial", "commercial": "commercial",
        "retail": "retail", "farmland": "farmland", "orchard": "scrub", "vineyard": "scrub",
        "plant_nursery": "scrub", "farmyard": "farmyard", "construction": "construction",
        "brownfield": "construction", "railway": "railway", "cemetery": "cemetery",
        "allotments": "allotments", "education": "education",
    },
    "leisure": {
        "park": "park", "garden": "garden", "golf_course": "golf", "dog_park": "park",
        "common": "park", "pitch": "pitch", "track": "pitch", "playground": "playground",
        "sports_centre": "sports", "stadium": "sports", "swimming_pool": "pool",
        "nature_reserve": "", "marina": "",
    },
    "amenity": {
        "grave_yard": "cemetery", "parking": "parking", "school": "education",
        "university": "education", "college": "education", "kindergarten": "education",
        "hospital": "hospital", "fountain": "pool",
    },
    "aeroway": {
        "aerodrome": "aerodrome", "apron": "apron", "runway": "apron", "taxiway": "apron",
        "helipad": "apron",
    },
    "man_made": {"pier": "pier", "breakwater": "pier", "groyne": "pier", "quay": "pier",
                 "bridge": "bridge"},
}  # fmt: skip

_ROADS = {
    "motorway": "motorway", "motorway_link": "link", "trunk": "trunk", "trunk_link": "link",
    "primary": "primary", "primary_link": "primary", "secondary": "secondary",
    "secondary_link": "secondary", "tertiary": "tertiary", "tertiary_link": "tertiary",
    "unclassified": "street", "residential": "street", "living_street": "street",
    "road": "street", "busway": "street", "service": "service", "pedestrian": "pedestrian",
    "track": "track", "footway": "path", "path": "path", "cycleway": "path",
    "bridleway": "path", "steps": "path",
}  # fmt: skip

_WATERWAYS = {"river": "river", "canal": "canal", "stream": "stream", "ditch": "stream",
              "drain": "stream", "tidal_channel": "stream"}  # fmt: skip
_RAILWAYS = ("rail", "light_rail", "narrow_gauge", "subway", "funicular")
_AISLES = ("parking_aisle", "driveway", "drive-through")
_REMARKS = ("type", "source", "created_by", "converted_by", "note", "fixme", "FIXME", "comment",
            "attribution", "test")  # fmt: skip
_MINOR_WAYS = ("path", "service", "aisle", "track", "pedestrian", "rail")


@dataclass(frozen=True)
class LineClass:
    """What a way is when it is drawn as a line.

    Attributes:
        name: Class of the style's `lines`.
        tunnel: Whether it runs underground.
        bridge: Whether it is a bridge.
        sheltered: Whether a building stands over it.
        layer: OpenStreetMap's `layer`.
    """

    name: str
    tunnel: bool = False
    bridge: bool = False
    sheltered: bool = False
    layer: int = 0


def meaningful(tags: Tags) -> dict[str, str]:
    """Return the tags without those that say nothing of the object, but of how it came about."""
    return {key: value for key, value in tags.items() if key.partition(":")[0] not in _REMARKS}


def area_class(tags: Tags, *, relation: bool = False) -> str | None:
    """Return the class of a closed way or multipolygon with `tags`; `None` if not an area."""
    if tags.get("area") == "no" or _hidden(tags):
        return None
    if tags.get("building", "no") != "no":
        return "building" if _layer(tags) >= 0 else None
    if "highway" in tags:
        paved = relation or tags.get("area") == "yes"
        drawn = tags["highway"] in ("pedestrian", "footway", "service", "residential", "platform")
        return "pedestrian" if paved and drawn and not _is_tunnel(tags) else None
    for key, values in _AREAS.items():
        name = values.get(tags.get(key, ""))
        if name == "water" and (_is_tunnel(tags) or tags.get("covered") == "yes"):
            continue
        if name == "parking" and tags.get("parking", "surface") not in ("surface", "lane"):
            continue
        if name:
            return name
    return "pedestrian" if tags.get("place") == "square" else None


def line_class(tags: Tags, *, closed: bool = False) -> LineClass | None:
    """Return the class of a way with `tags` that is drawn as a line; `None` if it is not."""
    name = _line_name(tags, closed=closed)
    if name is None or _hidden(tags) or (closed and tags.get("area") == "yes"):
        return None
    tunnel = _is_tunnel(tags)
    if tunnel and (name in _MINOR_WAYS or name in _WATERWAYS.values()):
        return None
    bridge = tags.get("bridge", "no") not in ("no", "abandoned", "proposed")
    sheltered = tags.get("tunnel") == "building_passage" or tags.get("covered", "no") != "no"
    layer = _layer(tags) or (1 if bridge else -1 if tunnel else 0)
    return LineClass(name, tunnel, bridge, sheltered and not bridge, layer)


def _line_name(tags: Tags, *, closed: bool) -> str | None:
    road = _ROADS.get(tags.get("highway", ""))
    if road:
        return _road_name(road, tags)
    if tags.get("railway") in _RAILWAYS:
        return "rail"
    if tags.get("waterway", "") in _WATERWAYS:
        return _WATERWAYS[tags["waterway"]]
    if closed:
        return None
    if tags.get("aeroway") in ("runway", "taxiway"):
        return tags["aeroway"]
    return "pier" if tags.get("man_made") in ("pier", "breakwater", "groyne") else None


def _road_name(road: str, tags: Tags) -> str | None:
    """Tell small service ways from others; leave pavements and crossings out."""
    if road == "service" and tags.get("service") in _AISLES:
        return "aisle"
    if road == "path" and (
        tags.get("footway") in ("sidewalk", "crossing", "traffic_island")
        or tags.get("cycleway") == "crossing"
    ):
        return None
    return road


def _hidden(tags: Tags) -> bool:
    return (
        tags.get("location") == "underground"
        or tags.get("indoor", "no") not in ("no", "")
        or tags.get("level", "0").startswith("-")
    )


def _is_tunnel(tags: Tags) -> bool:
    return tags.get("tunnel", "no") not in ("no", "building_passage")


def _layer(tags: Tags) -> int:
    try:
        return max(-9, min(9, round(float(tags.get("layer", "0")))))
    except (ValueError, OverflowError):  # no number, or one without end
        return 0
