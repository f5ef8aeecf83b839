"""Checks STAC without a network: the core by the schemas in pystac, extensions by rules here.

The extensions' own schemas are only online. What they demand of the fields that we write is put
here in our words, from their documentation; the machine-learning-model extension is checked by
its authors' package too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pystac
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from stac_model.schema import MLModelProperties

SITE = "https://stac-extensions.github.io"


def _numbers(*counts: int) -> dict[str, Any]:
    lengths = [{"minItems": count, "maxItems": count} for count in counts]
    return {"type": "array", "items": {"type": "number"}, "anyOf": lengths}


def _of(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, **more}


def _extension(uri: str, prefix: str, fields: dict[str, Any], **item: Any) -> dict[str, Any]:
    """Return a schema: the extension is stated, and its fields are as they should be anywhere."""
    known = {
        "type": "object",
        "properties": fields,
        "patternProperties": {f"^(?!{prefix})": {}},
        "additionalProperties": False,
    }
    each = {"type": "object", "additionalProperties": known}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": uri,
        "type": "object",
        "required": ["stac_extensions"],
        "properties": {
            "stac_extensions": {"contains": {"const": uri}},
            "properties": {**known, **item},
            "assets": each,
            "item_assets": each,
        },
    }


PROJECTION = _extension(
    f"{SITE}/projection/v2.0.0/schema.json",
    "proj:",
    {
        "proj:code": {"type": ["string", "null"], "pattern": "^[A-Za-z]+:[0-9A-Za-z]+$"},
        "proj:wkt2": {"type": ["string", "null"]},
        "proj:bbox": _numbers(4, 6),
        "proj:shape": {**_numbers(2), "items": _of("integer", minimum=1)},
        "proj:transform": _numbers(6, 9),
    },
)
RASTER = _extension(
    f"{SITE}/raster/v1.1.0/schema.json",
    "raster:",
    {
        "raster:bands": _of(
            "array",
            minItems=1,
            items=_of(
                "object",
                minProperties=1,
                properties={
                    "data_type": {"enum": ["uint8", "uint16", "float32"]},
                    "sampling": {"enum": ["area", "point"]},
                    "nodata": _of("number"),
                    "spatial_resolution": _of("number", exclusiveMinimum=0),
                },
                additionalProperties=False,
            ),
        )
    },
)
FILE = _extension(
    f"{SITE}/file/v2.1.0/schema.json",
    "file:",
    {
        "file:size": _of("integer", minimum=0),
        "file:checksum": _of("string", pattern="^1220[a-f0-9]{64}$"),
    },
)
MLM = _extension(
    f"{SITE}/mlm/v1.4.0/schema.json",
    "mlm:",
    {
        "mlm:name": _of("string", pattern=r"^[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]$"),
        "mlm:architecture": _of("string", minLength=1),
        "mlm:tasks": _of("array", items={"const": "generative"}),
        "mlm:framework": {"const": "TensorFlow"},
        "mlm:framework_version": _of("string", pattern=r"^\d+\.\d+\.\d+$"),
        "mlm:pretrained": _of("boolean"),
        "mlm:pretrained_source": {"type": ["string", "null"]},
        "mlm:accelerator": {"type": "null"},
        "mlm:input": _of("array", items=_of("object", required=["name", "bands", "input"])),
        "mlm:output": _of("array", items=_of("object", required=["name", "tasks", "result"])),
        "mlm:hyperparameters": _of(
            "object", minProperties=1, propertyNames={"pattern": r"^[\w.-]+$"}
        ),
        "mlm:artifact_type": _of("string"),
    },
    required=["mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"],
)


def validate(path: Path) -> dict[str, Any]:
    """Return what a STAC file says, after checking it without a network.

    Raises:
        pystac.STACValidationError: If it breaks a rule.
    """
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    validator = JsonSchemaSTACValidator()
    for rules in (PROJECTION, RASTER, FILE, MLM):
        validator.schema_cache[rules["$id"]] = rules
    kind = pystac.STACObjectType.ITEM if found["type"] == "Feature" else "Collection"
    validator.validate(
        found, pystac.STACObjectType(kind), "1.1.0", found["stac_extensions"], str(path)
    )
    assert set(found["stac_extensions"]) <= validator.schema_cache.keys()
    if found["type"] == "Feature":
        models = [asset for asset in found["assets"].values() if "mlm:model" in asset["roles"]]
        assert len(models) == 1
        assert models[0]["mlm:artifact_type"]
        properties = found["properties"].items()
        MLModelProperties.model_validate({k: v for k, v in properties if k.startswith("mlm:")})
    return found
