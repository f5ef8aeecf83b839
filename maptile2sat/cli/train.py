"""`maptile2sat train` and `export`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maptile2sat.cli.common import note, parse_duration, show_json

if TYPE_CHECKING:
    from maptile2sat.training import Progress, TrainConfig

# How a training run shows where it is: a live bar on a terminal, a line a minute elsewhere

LINE_EVERY = 60.0
"""Seconds between lines where there is no terminal."""


@contextmanager
def training_display(verbosity: int) -> Iterator[Callable[[Progress], None]]:
    """Give a function that shows on stderr where a run is, unless the user asked for quiet."""
    if verbosity < 0:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _live() as show:
            yield show
    else:
        yield _lines(verbosity)


def describe(progress: Progress) -> str:
    """Return the speed and the time left in words."""
    from maptile2sat.training.report import spell_seconds

    words = f"{progress.crops_per_second:.1f} images/s"
    if progress.waiting >= 0.02:
        words += f", {progress.waiting:.0%} of the time waiting for data"
    left = progress.seconds_left
    return f"{words}, {spell_seconds(left)} left" if progress.step < progress.steps else words


def losses(progress: Progress) -> str:
    """Return the losses in words."""
    return ", ".join(f"{key} {value:.3f}" for key, value in progress.losses.items())


def _lines(verbosity: int) -> Callable[[Progress], None]:
    last = float("-inf")

    def show(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_EVERY or progress.step == progress.steps:
            last = now
            where = f"step {progress.step:,} of {progress.steps:,}"
            note(f"{where}: {describe(progress)}; {losses(progress)}", verbosity)

    return show


@contextmanager
def _live() -> Iterator[Callable[[Progress], None]]:
    from rich import progress as rich_progress
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    bar = rich_progress.Progress(
        "steps",
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[words]}", markup=False),
    )
    task = bar.add_task("", total=None, words="starting")
    under = Text(style="dim")
    console = Console(stderr=True)
    with Live(Group(bar, under), console=console, transient=True, redirect_stdout=False):

        def show(progress: Progress) -> None:
            words = describe(progress)
            bar.update(task, completed=progress.step, total=progress.steps, words=words)
            under.plain = losses(progress)

        yield show


def train_command(
    data: Annotated[
        Path, typer.Argument(help="Folder with train/ and val/ of side-by-side pairs.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; resumed if it exists.")],
    preset: Annotated[
        str,
        typer.Option(
            help="local: exact and seamless; cleaner: that part of a local model alone which "
            "takes labels off maps; pix2pix: the paper's U-Net, its known faults mended; "
            "seed: the classic notebook as it was."
        ),
    ] = "local",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Length of the run; U-Nets: 200.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="The same in steps; local: 10,000, cleaner: 4,000.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Crops per step; local: 4, U-Nets: 1.")
    ] = None,
    crop: Annotated[
        int | None, typer.Option(help="Pixels of map that the generator sees; local: 384.")
    ] = None,
    loss_crop: Annotated[
        int | None, typer.Option(help="Their middle, which is compared; local: 320.")
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(help="Resize pairs to this side first; 0: own pixels. U-Nets: 286."),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Of the generator: 2e-4, cleaner: 1e-3; local's discriminator has twice it."
        ),
    ] = None,
    map_side: Annotated[
        str | None, typer.Option(help="Half that is the map; default: dataset.json, or right.")
    ] = None,
    style: Annotated[
        str | None,
        typer.Option(help="Name of the maps' style; default: of dataset.json, else own or maps."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Model to start from: a bundle's folder or name. cleaner needs one."),
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    devices: Annotated[
        str, typer.Option(help="auto, cpu, gpu (all of them) or a number of GPUs.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of weights, order, crops and noise.")] = 0,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Same bits at every run; slower.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another field of the recipe."),
    ] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="Save and stop after this long, for example 90m.")
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(min=1, help="Steps; local: 200, U-Nets: 10 epochs.")
    ] = None,
    sample_every: Annotated[
        int | None, typer.Option(min=1, help="Steps between sample sheets; 500, or an epoch.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; default: of --out.")] = None,
    quiet: Annotated[int, typer.Option("--quiet", "-q", count=True, help="Say less.")] = 0,
) -> None:
    """Train a generator on pairs of map and aerial image, or go on with a run.

    Ctrl-C, SIGTERM and --time-limit save first and end well; the same words go on from there.
    """
    from maptile2sat.models.bundle import redescribe
    from maptile2sat.training import preset_config
    from maptile2sat.training.export import About, export, exported
    from maptile2sat.training.files import BUNDLE
    from maptile2sat.training.presets import parse_settings

    about = About(name or out.resolve().name)  # what it refuses should not wait for the training
    config = preset_config(
        preset,
        data.resolve(),
        epochs=epochs,
        steps=steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        crop=crop,
        loss_crop=loss_crop,
        resize=resize,
        map_side=map_side,
        style=style,
        init=init,
        precision=precision,
        seed=seed,
        deterministic=deterministic,
        **parse_settings(settings or []),
    )
    limit = None if time_limit is None else parse_duration(time_limit)
    before = exported(out)
    done = _train(config, out, devices, limit, (checkpoint_every, sample_every), -quiet)
    if done < config.steps:
        note(
            f"saved and stopped after step {done:,} of {config.steps:,}"
            f": run the same command again to go on, or "
            f"make a model of it with 'maptile2sat export {out} -o FOLDER'",
            -quiet,
        )
        return
    from maptile2sat.training.report import write_report

    if before is None or before.description.training["steps"] != config.steps:
        export(out, out / BUNDLE, about)
    elif name not in (None, before.description.name):
        redescribe(before, name=name)
    else:
        note(f"nothing was left to do: {out / BUNDLE} stays as it is", -quiet)
    print(out / BUNDLE)
    note(f"how it went: {write_report(out)}", -quiet)  # now with the model's figures


def _train(
    config: TrainConfig,
    out: Path,
    devices: str,
    time_limit: float | None,
    every: tuple[int | None, int | None],
    verbosity: int,
) -> int:
    """Train and show how it goes; return the steps done."""
    from maptile2sat.training import train

    with training_display(verbosity) as report:
        return train(
            config,
            out,
            devices=devices,
            time_limit=time_limit,
            checkpoint_every=every[0],
            sample_every=every[1],
            report=report,
            say=lambda line: note(line, verbosity),
        )


def export_command(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bundle.")],
    name: Annotated[str | None, typer.Option(help="Name of the model; default: of -o.")] = None,
    zoom: Annotated[
        int | None, typer.Option(help="Zoom of the training maps; default: of dataset.json, or 16.")
    ] = None,
    metres_per_pixel: Annotated[
        float | None,
        typer.Option(help="Ground size of their pixels; default: of dataset.json, or 1.8."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="What it was trained on, in words.")] = None,
    licence: Annotated[str | None, typer.Option(help="Terms of the weights.")] = None,
    attribution: Annotated[
        str | None, typer.Option(help="Who is to be named; default: of dataset.json.")
    ] = None,
    notes: Annotated[
        Path | None,
        typer.Option(metavar="FILE.md", help="Markdown to add to the card: what looks wrong, say."),
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Where the run's pairs are, if they have been moved.")
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="Take the checkpoint nearest to held-out images.")
    ] = False,
    discriminator: Annotated[
        bool,
        typer.Option("--discriminator", help="Keep the discriminator too, for train --init."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a run's newest checkpoint, or its best, as a model bundle."""
    from maptile2sat.training.export import About, export

    about = About(
        name=name or output.resolve().name,
        zoom=zoom,
        metres_per_pixel=metres_per_pixel,
        attribution=attribution,
        notes=notes,
        **{key: value for key, value in (("data", data), ("licence", licence)) if value},
    )
    bundle = export(run, output, about, best=best, discriminator=discriminator, moved=pairs)
    show_json({"bundle": bundle.folder, "id": bundle.id}) if as_json else print(bundle.folder)


def quantise_command(
    model: Annotated[str, typer.Argument(help="A shipped model or a bundle's folder.")],
    data: Annotated[
        Path, typer.Argument(help="Pairs as for train; maps of their training part set the scales.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the new bundle; default: the model's own."),
    ] = None,
    crops: Annotated[int, typer.Option(min=1, help="How many maps.")] = 16,
    map_side: Annotated[
        str | None, typer.Option(help="left or right; default: of dataset.json, or right.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Give a model its whole-number form: faster, and the same pixels on every machine."""
    from maptile2sat.training.quantise import quantise

    bundle = quantise(model, data, output, crops=crops, map_side=map_side)
    show_json({"bundle": bundle.folder, "id": bundle.id}) if as_json else print(bundle.folder)
