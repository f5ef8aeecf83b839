"""What a render's model is, in the words of STAC's machine-learning-model extension.

The extension wants an asset that is the model. A render does not hold its model, so that this is
a link that names the weights by their hash (RFC 6920) wherever they are.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pystac


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
