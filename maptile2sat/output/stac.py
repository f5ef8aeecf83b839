"""STAC: what a render is and where, in a JSON that catalogues of geodata read.

An Item (and, for folders, a Collection) of STAC 1.1 by pystac, with the extensions projection,
raster, file and machine-learning-model. All is from the render's grid and tags, so that it is the
same however the render was made. That it shows nothing real is in title, description, keywords
and properties.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from rasterio.enums import WktVersion

from maptile2sat.errors import MissingExtraError
from maptile2sat.geo.footprint import Footprint, footprint
from maptile2sat.geo.grid import Grid, Window

if TYPE_CHECKING:
    import pystac

# What a render's model is, in the words of STAC's machine-learning-model extension


def multihash(sha256: str) -> str:
    """Return a SHA-256 in hexadecimal as a multihash: its kind and length in front."""
    return f"1220{sha256}"


def add_model(item: pystac.Item, tags: Mapping[str, str], architecture: Mapping[str, Any]) -> None:
    """Add to an Item what made its pixels.

    Args:
        item: The Item of a render; gets properties and the asset `model`.
        tags: Metadata of the output, as a GeoTIFF has it.
        architecture: Settings of the generator's network; its palette is left out.
    """
    import pystac
    from pystac.extensions.file import FileExtension
    from pystac.extensions.mlm import AssetGeneralMLMExtension, MLMExtension, TaskType

    version = re.match(r"tensorflow (\d+\.\d+\.\d+)", tags.get("NUMERICS", ""))
    MLMExtension.ext(item, add_if_missing=True).apply(
        name=_name(tags.get("MODEL", "")),
        architecture="pix2pix generator",
        tasks=[TaskType.GENERATIVE],
        framework="TensorFlow",
        framework_version=version[1] if version else None,
        hyperparameters=_hyperparameters(tags, architecture),
        **_ends(),
    )
    digest = tags.get("MODEL_SHA256", "")
    named = base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip("=")
    weights = pystac.Asset(
        f"ni:///sha-256;{named}",
        title=f"Weights of the model {tags.get('MODEL')} {tags.get('MODEL_VERSION')}, which are "
        "not part of this Item: the link is their SHA-256",
        media_type="application/x-hdf5",
        roles=["mlm:model", "mlm:weights"],
    )
    item.add_asset("model", weights)
    FileExtension.ext(weights, add_if_missing=True).apply(checksum=multihash(digest))
    AssetGeneralMLMExtension.ext(weights).apply(artifact_type="maptile2sat bundle")


def _name(name: str) -> str:
    """Return a model's name with what the extension takes: letters, digits, `_.-` and blanks."""
    plain = re.sub(r"[^a-zA-Z0-9_.-]", "-", name).strip("_.-")
    return f"maptile2sat {plain}" if plain else "maptile2sat"


def _hyperparameters(tags: Mapping[str, str], architecture: Mapping[str, Any]) -> Any:
    """Return what the generator's settings are."""
    from pystac.extensions.mlm import Hyperparameters

    cell = re.search(r"cell (\d+)", tags.get("NUMERICS", ""))
    known = {
        **{key: value for key, value in architecture.items() if key != "palette"},
        "seed": int(tags.get("SEED", "0")),
        "precision": tags.get("PRECISION", ""),
        **({"cell": int(cell[1])} if cell else {}),
    }
    return Hyperparameters(known)


def _ends() -> dict[str, Any]:
    """Return what the model takes and gives."""
    from pystac.extensions.mlm import (
        InputStructure,
        ModelInput,
        ModelOutput,
        ResultStructure,
        TaskType,
    )
    from pystac.extensions.raster import DataType

    shape, order = [-1, -1, -1, 3], ["batch", "height", "width", "channel"]
    drawn = ModelInput.create(
        name="map",
        bands=[],  # drawn colours, not what a sensor saw
        input=InputStructure.create(shape, order, DataType.UINT8),
        description="Red, green and blue of a map, with what surrounds the area; and noise, "
        "which is a function of the seed and the place",
    )
    made = ModelOutput.create(
        name="imagery",
        tasks=[TaskType.GENERATIVE],
        result=ResultStructure.create(shape, order, DataType.UINT8),
        description="Synthetic red, green and blue, one pixel for each pixel of the map",
    )
    return {"input": [drawn], "output": [made]}


COG = "image/tiff; application=geotiff; profile=cloud-optimized"
GEOTIFF = "image/tiff; application=geotiff"
MEDIA_TYPES = {
    ".tif": COG,
    ".tiff": COG,
    ".vrt": "application/xml",
    ".json": "application/json",
    ".gpkg": "application/geopackage+sqlite3",
    ".mbtiles": "application/vnd.mapbox-mbtiles",
    ".pmtiles": "application/vnd.pmtiles",
    ".png": "image/png",
}
"""Media type by the ending of a file's name."""

COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Render:
    """A render, as far as STAC describes it.

    Attributes:
        name: The Item's id: the name of the file or folder without its ending.
        grid: The pixel grid.
        window: The pixels of it.
        tags: Metadata of the output, as a GeoTIFF has it.
        masked: Whether any pixel is masked.
        created: ISO 8601 time in UTC.
        architecture: Settings of the generator's network; its palette is left out.
    """

    name: str
    grid: Grid
    window: Window
    tags: Mapping[str, str]
    masked: bool
    created: str
    architecture: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class File:
    """A file of a render.

    Attributes:
        key: What the Item calls it.
        href: Its name, relative to the Item.
        title: What it is.
        roles: STAC's words for that: `data`, `overview`, `visual`, `metadata`.
        media_type: None for that of its ending.
        size: Bytes, if known.
        sha256: In hexadecimal, if known.
    """

    key: str
    href: str
    title: str
    roles: Sequence[str]
    media_type: str | None = None
    size: int | None = None
    sha256: str | None = None

    @property
    def resolved_type(self) -> str | None:
        """Its media type, None if neither given nor known."""
        return self.media_type or MEDIA_TYPES.get(PurePosixPath(self.href.lower()).suffix)


def check_pystac() -> None:
    """Make sure that STAC can be written, before any work is done.

    Raises:
        MissingExtraError: If pystac or one of its extensions is not installed.
    """
    try:
        import pystac.extensions.file
        import pystac.extensions.mlm
        import pystac.extensions.projection
        import pystac.extensions.raster  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("writing STAC", "stac") from error


def check_place(grid: Grid, window: Window) -> None:
    """Make sure, before any work is done, that STAC can say where a render lies.

    Raises:
        UsageError: If its middle lies beyond where its CRS is defined.
    """
    footprint(grid, window)
    grid.metres_per_pixel(window)


def now() -> str:
    """Return the time in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def item_json(render: Render, files: Sequence[File], *, in_collection: bool = False) -> str:
    """Return the STAC Item of a render.

    Args:
        render: The render.
        files: What it consists of, the pixels first.
        in_collection: Whether a `collection.json` lies beside the Item.

    Raises:
        MissingExtraError: If pystac is not installed.
        UsageError: If `check_place` refuses it.
    """
    check_pystac()
    import pystac

    place = footprint(render.grid, render.window)
    item = pystac.Item(
        id=render.name,
        geometry=place.geometry,
        bbox=list(place.bbox),
        datetime=_time(render.created),
        properties=_properties(render),
        collection=_collection_id(render) if in_collection else None,
    )
    _add_projection(item, render)
    for number, file in enumerate(files):
        item.add_asset(file.key, _asset(file))
        _add_file_facts(item.assets[file.key], file)
        if number == 0:
            _add_bands(item.assets[file.key], render)
    add_model(item, render.tags, render.architecture)
    if in_collection:
        for rel in ("root", "parent", "collection"):
            item.add_link(pystac.Link(rel, "./collection.json", pystac.MediaType.JSON))
    return _text(item.to_dict(include_self_link=False, transform_hrefs=False))


def collection_json(render: Render, files: Sequence[File]) -> str:
    """Return the STAC Collection that holds the Item of a render, `item.json` beside it.

    Args:
        render: The render.
        files: What it consists of, the pixels first.

    Raises:
        MissingExtraError: If pystac is not installed.
        UsageError: If `check_place` refuses it.
    """
    check_pystac()
    import pystac
    from pystac.extensions.projection import ProjectionExtension

    place, time = footprint(render.grid, render.window), _time(render.created)
    collection = pystac.Collection(
        id=_collection_id(render),
        title=_title(render),
        description=_description(render),
        extent=_extent(place, time),
        license="other",
        keywords=["synthetic", "generated", "satellite-style imagery"],
        providers=_providers(render),
    )
    collection.extra_fields["maptile2sat:synthetic"] = True
    collection.extra_fields["attribution"] = render.tags.get("TIFFTAG_COPYRIGHT", "")
    summary = ProjectionExtension.summaries(collection, add_if_missing=True)
    code = _code(render.grid)
    if code is not None:
        summary.code = [code]
    collection.summaries.add("gsd", [_gsd(render)])
    collection.item_assets = {  # the machine-learning-model extension forbids summaries: not here
        file.key: pystac.ItemAssetDefinition.create(
            file.title, None, file.resolved_type, list(file.roles)
        )
        for file in files[:1]
    }
    for definition in collection.item_assets.values():
        _add_bands(definition, render)
    collection.add_link(
        pystac.Link("item", "./item.json", pystac.MediaType.GEOJSON, title=_title(render))
    )
    collection.add_link(pystac.Link("root", "./collection.json", pystac.MediaType.JSON))
    return _text(collection.to_dict(include_self_link=False, transform_hrefs=False))


def _text(found: Mapping[str, Any]) -> str:
    return json.dumps(found, ensure_ascii=False, indent=2) + "\n"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _collection_id(render: Render) -> str:
    return f"{render.name}-collection"


def _title(render: Render) -> str:
    return f"SYNTHETIC satellite-style imagery: {render.name}"


def _description(render: Render) -> str:
    tags = render.tags
    said = tags.get("TIFFTAG_IMAGEDESCRIPTION", "SYNTHETIC satellite-style imagery")
    parts = [
        f"{said}.",
        f"Made from the map {tags['SOURCE']}." if "SOURCE" in tags else "",
        f"Credit: {tags['TIFFTAG_COPYRIGHT']}." if tags.get("TIFFTAG_COPYRIGHT") else "",
        "Pixels without map are masked." if render.masked else "",
    ]
    return " ".join(part for part in parts if part)


def _properties(render: Render) -> dict[str, Any]:
    """Return the Item's properties that are of no extension."""
    tags = render.tags
    own = {
        f"maptile2sat:{key.lower()}": value
        for key, value in sorted(tags.items())
        if not key.startswith("TIFFTAG_") and key not in ("SYNTHETIC", "AREA_OR_POINT")
    }
    return {
        "title": _title(render),
        "description": _description(render),
        "created": render.created,
        "license": "other",
        "attribution": tags.get("TIFFTAG_COPYRIGHT", ""),
        "keywords": ["synthetic", "generated", "satellite-style imagery"],
        "providers": [provider.to_dict() for provider in _providers(render)],
        "gsd": _gsd(render),
        "maptile2sat:synthetic": True,
        "maptile2sat:software": tags.get("TIFFTAG_SOFTWARE", "maptile2sat"),
        **own,
    }


def _providers(render: Render) -> list[pystac.Provider]:
    """Return who is to be named: for the map, the model, and the work."""
    import pystac
    from pystac import ProviderRole

    owners = render.tags.get("TIFFTAG_COPYRIGHT", "").split("; ")
    named = [pystac.Provider(name, roles=[ProviderRole.LICENSOR]) for name in owners if name]
    software = render.tags.get("TIFFTAG_SOFTWARE", "maptile2sat")
    return [*named, pystac.Provider(software, roles=[ProviderRole.PROCESSOR])]


def _gsd(render: Render) -> float:
    """Return the ground size of a pixel in metres, at the middle."""
    return round(sum(render.grid.metres_per_pixel(render.window)) / 2, 4)


def _extent(place: Footprint, time: datetime) -> pystac.Extent:
    import pystac

    return pystac.Extent(
        pystac.SpatialExtent([list(place.bbox)]), pystac.TemporalExtent([[time, time]])
    )


def _code(grid: Grid) -> str | None:
    """Return `EPSG:3857` or such; None if EPSG has no code for the CRS."""
    code = grid.crs.to_epsg()
    return None if code is None else f"EPSG:{code}"


def _add_projection(item: pystac.Item, render: Render) -> None:
    """Add where the pixels lie in their own CRS."""
    from pystac.extensions.projection import ProjectionExtension

    grid, window = render.grid, render.window
    at = grid.transform(window)
    code = _code(grid)
    projection = ProjectionExtension.ext(item, add_if_missing=True)
    projection.apply(
        code=code,
        wkt2=grid.crs.to_wkt(version=WktVersion.WKT2_2019) if code is None else None,
        bbox=list(grid.bounds(window)),
        shape=[window.height, window.width],
        transform=list(at[:6]),
    )


def _asset(file: File) -> pystac.Asset:
    import pystac

    roles = list(file.roles)
    return pystac.Asset(file.href, title=file.title, media_type=file.resolved_type, roles=roles)


def _add_file_facts(asset: pystac.Asset, file: File) -> None:
    """Add size and checksum, as far as they are known."""
    from pystac.extensions.file import FileExtension

    if file.size is not None or file.sha256 is not None:
        checksum = None if file.sha256 is None else multihash(file.sha256)
        FileExtension.ext(asset, add_if_missing=True).apply(size=file.size, checksum=checksum)


def _add_bands(asset: Any, render: Render) -> None:
    """Add what the bands are, in the words of STAC 1.1 and of the raster extension."""
    from pystac.extensions.raster import DataType, RasterBand, RasterExtension, Sampling

    metres = _gsd(render)
    bands = [
        RasterBand.create(
            data_type=DataType.UINT8, sampling=Sampling.AREA, spatial_resolution=metres
        )
        for _ in COLOURS
    ]
    RasterExtension.ext(asset, add_if_missing=True).apply(bands)
    fields = asset.properties if hasattr(asset, "properties") else asset.extra_fields
    fields["bands"] = [
        {"name": colour, "description": f"Synthetic {colour}, 0 to 255", "data_type": "uint8"}
        for colour in COLOURS
    ]
