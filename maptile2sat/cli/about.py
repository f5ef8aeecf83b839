"""`maptile2sat models`, `info` and `doctor`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from maptile2sat.cli.console import show_json

AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


def models_command(as_json: AsJson = False) -> None:
    """List the models that come with the package."""
    from maptile2sat.bundle import shipped_bundles

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
    thing: Annotated[str, typer.Argument(help="A map, a rendered GeoTIFF, or a model.")],
    allow_vrt: Annotated[
        bool, typer.Option("--allow-vrt", help="Trust a raster that reads other files or servers.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a map, a rendered file or a model is."""
    from maptile2sat.inspection import inspect

    facts = inspect(thing, allow_vrt=allow_vrt)
    if as_json:
        show_json(facts)
        return
    for key, value in facts.items():
        print(f"{key:16} {value}")


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
