"""What README and docs show is what there is: commands, options, names of the API."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import maptile2sat
from maptile2sat.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS: Any = typer.main.get_command(app)
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def shown(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command that a page shows."""
    for block in SHELL.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["maptile2sat"]:
                yield words[1:]


def unknown(words: list[str]) -> list[str]:
    """Return the words of a command that are neither commands nor options of it."""
    command = COMMANDS
    while hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            return words[:1] or ["nothing"]
        command, words = command.commands[words[0]], words[1:]
    options = {name for param in command.params for name in param.opts}
    return [word for word in words if word.startswith("-") and word not in options]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    assert [words for words in shown(page) if unknown(words)] == []


def test_commands_are_found() -> None:
    assert sum(len(list(shown(page))) for page in PAGES) > 30
    assert unknown(["render", "map.tif", "-o", "out.tif", "--boxx", "1"]) == ["--boxx"]
    assert unknown(["dataset", "brew"]) == ["brew"]


def test_every_option_of_render_is_described() -> None:
    text = "".join(page.read_text() for page in PAGES)
    said = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))
    names = [param.opts for param in COMMANDS.commands["render"].params if param.opts[0][0] == "-"]
    assert len(names) > 40
    assert [opts for opts in names if said.isdisjoint(opts)] == []


def test_api_has_every_public_name() -> None:
    names = re.findall(r"^::: maptile2sat\..*?(\w+)$", (ROOT / "docs/api.md").read_text(), re.M)
    assert sorted(names) == sorted(set(maptile2sat.__all__) - {"__version__"})


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_citation_has_the_version() -> None:
    assert f"\nversion: {maptile2sat.__version__}\n" in (ROOT / "CITATION.cff").read_text()
