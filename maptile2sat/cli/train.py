"""`maptile2sat train` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maptile2sat.cli.console import note, parse_duration, progress_bar, show_json


def train_command(
    data: Annotated[
        Path, typer.Argument(help="Folder with train/ and val/ of side-by-side pairs.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; resumed if it exists.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of the whole run.")] = 10_000,
    batch_size: Annotated[int, typer.Option(min=1, help="Crops per step.")] = 4,
    crop: Annotated[int, typer.Option(help="Pixels of map that the generator sees.")] = 384,
    loss_crop: Annotated[int, typer.Option(help="Their middle, which is compared.")] = 320,
    resize: Annotated[
        int, typer.Option(help="Resize pairs to this side first (classic: 286); 0: own pixels.")
    ] = 0,
    learning_rate: Annotated[
        float, typer.Option(help="Of the generator; the discriminator has twice it.")
    ] = 2e-4,
    map_side: Annotated[str, typer.Option(help="Half of a pair that is the map.")] = "right",
    style: Annotated[str, typer.Option(help="Name of the style that the maps have.")] = "maps",
    precision: Annotated[str, typer.Option(help="auto, bfloat16 or float32.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of weights, order, crops and noise.")] = 0,
    time_limit: Annotated[
        str | None, typer.Option(help="Save and stop after this long, for example 90m.")
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps.")] = 200,
    sample_every: Annotated[int, typer.Option(min=1, help="Steps between sample sheets.")] = 500,
    name: Annotated[str | None, typer.Option(help="Name of the model; default: of --out.")] = None,
    quiet: Annotated[int, typer.Option("--quiet", "-q", count=True, help="Say less.")] = 0,
) -> None:
    """Train a generator on pairs of map and aerial image, or go on with a run."""
    from maptile2sat.device import cpu_precision
    from maptile2sat.training import Progress, TrainConfig, train
    from maptile2sat.training.export import About, export

    config = TrainConfig(
        data=str(data),
        map_side=map_side,
        style=style,
        steps=steps,
        batch_size=batch_size,
        crop=crop,
        loss_crop=loss_crop,
        resize=resize,
        generator_rate=learning_rate,
        critic_rate=2 * learning_rate,
        precision=cpu_precision() if precision == "auto" else precision,
        seed=seed,
    )
    with progress_bar("steps", -quiet) as move:

        def report(progress: Progress) -> None:
            move(progress.step, progress.steps)
            if progress.step % 100 == 0:
                losses = ", ".join(f"{key} {value:.3f}" for key, value in progress.losses.items())
                note(
                    f"step {progress.step} of {progress.steps}: {progress.crops_per_second:.1f} "
                    f"crops of 256 px/s; {losses}",
                    -quiet,
                )

        done = train(
            config,
            out,
            time_limit=None if time_limit is None else parse_duration(time_limit),
            checkpoint_every=checkpoint_every,
            sample_every=sample_every,
            report=report,
        )
    bundle = export(out, out / "bundle", About(name or out.resolve().name))
    print(bundle.folder)
    if done < config.steps:
        note(f"stopped after step {done} of {config.steps}: say the same again to go on", -quiet)


def export_command(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bundle.")],
    name: Annotated[str | None, typer.Option(help="Name of the model; default: of -o.")] = None,
    zoom: Annotated[int, typer.Option(help="Zoom of the training maps.")] = 16,
    metres_per_pixel: Annotated[float, typer.Option(help="Ground size of their pixels.")] = 1.8,
    data: Annotated[str | None, typer.Option(help="What it was trained on, in words.")] = None,
    licence: Annotated[str | None, typer.Option(help="Terms of the weights.")] = None,
    attribution: Annotated[str, typer.Option(help="Who is to be named.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a run's newest checkpoint as a model bundle."""
    from maptile2sat.training.export import About, export

    about = About(
        name=name or output.resolve().name,
        zoom=zoom,
        metres_per_pixel=metres_per_pixel,
        attribution=attribution,
        **{key: value for key, value in (("data", data), ("licence", licence)) if value},
    )
    bundle = export(run, output, about)
    show_json({"bundle": bundle.folder, "id": bundle.id}) if as_json else print(bundle.folder)
