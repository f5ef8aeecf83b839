"""`maptile2sat evaluate`."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maptile2sat.cli.common import note, progress_bar, set_logging, show_json, warn

if TYPE_CHECKING:
    from maptile2sat.evaluation import Evaluation


class Protocol(StrEnum):
    """How pairs become squares of 256 px."""

    crops = "crops"
    resize = "resize"


class MapSide(StrEnum):
    """Half of a pair that is the map."""

    left = "left"
    right = "right"


def evaluate_command(
    model: Annotated[str, typer.Argument(help="Name of a shipped model, or a bundle's folder.")],
    data: Annotated[Path, typer.Argument(help="Set of pairs; those in its val/ are used.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for JSON, contact sheet and report.")
    ],
    compare: Annotated[
        str | None, typer.Option(metavar="MODEL2", help="Put a second model beside it.")
    ] = None,
    protocol: Annotated[
        Protocol,
        typer.Option(help="crops: own pixels; resize: halves resized to 256, as in papers."),
    ] = Protocol.crops,
    limit: Annotated[int, typer.Option(min=4, help="Most pairs to use, evenly chosen.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of noise, patches and halves.")] = 0,
    map_side: Annotated[
        MapSide | None,
        typer.Option(help="Half that is the map; default: of dataset.json, the model, or right."),
    ] = None,
    inception_weights: Annotated[
        str,
        typer.Option(
            metavar="FILE|auto|none",
            help="InceptionV3 weights for FID and KID; auto downloads them once (84 MB).",
        ),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, gpu or gpu:N.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, integer, float32, bfloat16 or float16.")
    ] = "auto",
    record: Annotated[
        bool, typer.Option("--record", help="Write MODEL's figures into its model.json and card.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more.")] = 0,
    quiet: Annotated[int, typer.Option("--quiet", "-q", count=True, help="Say less.")] = 0,
) -> None:
    """Measure how real a model's pictures are, on pairs that it was not trained on."""
    from maptile2sat.evaluation import evaluate

    level = verbose - quiet
    set_logging(level)
    with ExitStack() as stack:
        bars: dict[str, object] = {}
        current = ExitStack()
        stack.push(current)

        def move(what: str, done: int, total: int) -> None:
            if what not in bars:
                current.close()
                bars.clear()
                bars[what] = current.enter_context(progress_bar(what, level))
            bars[what](done, total)  # type: ignore[operator]

        found = evaluate(
            model,
            data,
            output,
            compare=compare,
            protocol=protocol.value,
            limit=limit,
            seed=seed,
            map_side=None if map_side is None else map_side.value,
            inception_weights=inception_weights,
            device=device,
            precision=precision,
            overwrite=overwrite,
            record=record,
            progress=move,
        )
    for text in found.warnings:
        warn(text, level)
    for what, why in found.left_out.items():
        note(f"left out: {what}: {why}", level)
    if as_json:
        show_json(found.to_json())
        return
    _show_table(found)
    note(f"report: {output / 'report.html'} ({found.seconds:.0f} s)", level)


def _show_table(found: Evaluation) -> None:
    """Print the figures with what they mean."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from maptile2sat.evaluation.catalogue import METRICS, PUBLISHED, show

    title = f"{found.pairs} pairs of {found.data}, {found.squares} pictures, {found.protocol}"
    table = Table(title=title, title_justify="left", show_lines=False, pad_edge=False)
    table.add_column("figure")
    for model in found.models:
        table.add_column(model.name, justify="right")
    table.add_column("real", justify="right")
    table.add_column("better")
    table.add_column("what it tells", style="dim", ratio=1, min_width=24)
    for name, metric in METRICS.items():
        figures = [model.figures[name] for model in found.models if name in model.figures]
        if len(figures) < len(found.models):
            continue
        cells = []
        for model, figure in zip(found.models, figures, strict=True):
            spread = "" if figure.spread is None else f" ±{figure.spread:.{metric.digits}f}"
            best = "bold" if found.better.get(name) == model.name else ""
            cells.append(Text(show(name, figure.value) + spread, style=best))
        words = metric.words
        if name in PUBLISHED[found.protocol]:
            words += f" Published for pix2pix: {show(name, PUBLISHED[found.protocol][name])}."
        way = metric.better if metric.ranks else f"{metric.better}, does not rank"
        way = "–" if metric.better == "neither" else way
        table.add_row(metric.title, *cells, show(name, figures[0].floor), way, words)
    Console(width=None if Console().is_terminal else 150).print(table)
    if found.better:
        names = [model.name for model in found.models]
        counts = ", ".join(
            f"{name} better in {list(found.better.values()).count(name)}" for name in names
        )
        print(f"of {len(found.better)} figures that rank: {counts}, the others even")
    print("real: what real photos score in place of generated ones; ±: over halves of the places")
