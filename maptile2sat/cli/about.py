"""`maptile2sat models`, `info` and `doctor`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from maptile2sat.cli.common import (
    AllowVrt,
    CaBundle,
    Header,
    ReadZoom,
    SrcCrs,
    read_headers,
    show_json,
)
from maptile2sat.errors import UsageError

AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


def models_command(as_json: AsJson = False) -> None:
    """List the models that come with the package."""
    from maptile2sat.models.bundle import shipped_bundles

    bundles = shipped_bundles()
    if as_json:
        show_json([dataclasses.asdict(bundle.description) for bundle in bundles])
        return
    for bundle in bundles:
        about = bundle.description
        print(
            f"{about.name}  {about.version}  {about.kind}, style {about.style}, zoom {about.zoom}, "
            f"{about.metres_per_pixel} m per pixel"
        )
        print(f"    data     {about.data}")
        print(f"    licence  {about.licence}")
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in about.metrics.items())
        print(f"    metrics  {metrics or 'none measured'}")


def info_command(
    thing: Annotated[
        str,
        typer.Argument(
            help="A map, a rendered GeoTIFF, the folder of a sharded render, or a model."
        ),
    ],
    zoom: ReadZoom = None,
    src_crs: SrcCrs = None,
    header: Header = None,
    ca_bundle: CaBundle = None,
    allow_vrt: AllowVrt = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare the checksums of a sharded render's files."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a map, a rendered file, the folder of a sharded render or a model is.

    Of such a folder it compares sizes of files, and ends with exit code 1 if it is not whole.
    """
    from maptile2sat.info import inspect, inspect_folder, is_folder
    from maptile2sat.sources.redact import safe_url

    folder = is_folder(thing)
    if verify and not folder:
        raise UsageError(
            f"--verify is for the folder of a sharded render, which {safe_url(thing)} is not"
        )
    if folder:
        facts = inspect_folder(thing, verify=verify)
    else:
        facts = inspect(
            thing,
            zoom=zoom,
            src_crs=src_crs,
            headers=read_headers(header),
            ca_bundle=ca_bundle,
            allow_vrt=allow_vrt,
        )
    if as_json:
        show_json(facts)
    else:
        for key, value in facts.items():
            print(f"{key:16} {_shown(value)}")
    if facts.get("faults"):
        raise typer.Exit(1)


def _shown(value: object) -> object:
    """Return a list of texts as lines below each other, and none as such."""
    if value == []:
        return "none"
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return f"\n{'':16} ".join(value)
    return value


def doctor_command(as_json: AsJson = False) -> None:
    """Check Python, TensorFlow, GPU, GDAL, models and cache; say how to mend what is wrong."""
    from maptile2sat.doctor import examine

    findings = examine()
    if as_json:
        show_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.good else 'BAD '} {finding.name:12} {finding.text}")
            if finding.advice:
                print(f"     {'':12} {finding.advice}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)
