"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from maptile2sat._version import __version__
from maptile2sat.cli.about import doctor_command, info_command, models_command
from maptile2sat.cli.dataset import app as dataset_app
from maptile2sat.cli.draw import draw_command
from maptile2sat.cli.evaluate import evaluate_command
from maptile2sat.cli.render import merge_command, render_command
from maptile2sat.cli.serve import serve_command
from maptile2sat.cli.train import export_command, quantise_command, train_command

app = typer.Typer(
    help="Turn maps into satellite-style imagery for GIS.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("render")(render_command)
app.command("merge")(merge_command)
app.command("draw")(draw_command)
app.command("serve")(serve_command)
app.command("models")(models_command)
app.command("info")(info_command)
app.command("doctor")(doctor_command)
app.command("train")(train_command)
app.command("export")(export_command)
app.command("quantise")(quantise_command)
app.command("evaluate")(evaluate_command)
app.add_typer(dataset_app, name="dataset")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"maptile2sat {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Turn maps into satellite-style imagery for GIS."""
