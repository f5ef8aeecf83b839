"""A table of the faults tried and survived, made from what ran.

`MAPTILE2SAT_FAULTS_TABLE=docs/reliability.md` puts it into that file, between its two marks. A row
is a test: the first line of its docstring, how many cases it had (its parameters, or what it says
by `record_property("tried", number)`), and how many of them passed.
"""

from __future__ import annotations

import datetime
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

START, END = "<!-- faults: start -->", "<!-- faults: end -->"
COMMAND = "make faults"


@dataclass
class Row:
    """A line of the table."""

    area: str
    what: str
    tried: int = 0
    survived: int = 0
    skipped: int = 0


_rows: dict[str, Row] = {}
_examples: Counter[str] = Counter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count the examples of tests by hypothesis as they run."""
    for item in items:
        test = getattr(item, "obj", None)
        if getattr(test, "is_hypothesis_test", False):
            test.hypothesis.inner_test = _counting(test.hypothesis.inner_test, item.nodeid)


def _counting(test: Callable[..., None], name: str) -> Callable[..., None]:
    @functools.wraps(test)
    def counted(*args: object, **kwargs: object) -> None:
        _examples[name] += 1
        test(*args, **kwargs)

    return counted


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:  # type: ignore[misc]
    """Count each test when it has run."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.when == "call" or (report.when == "setup" and not report.passed):
        _count(item, report)
    return report  # type: ignore[return-value]


def _count(item: pytest.Item, report: pytest.TestReport) -> None:
    function = item.function  # type: ignore[attr-defined]
    name = f"{item.path.stem}::{function.__name__}"
    words = (function.__doc__ or function.__name__.removeprefix("test_").replace("_", " ")).strip()
    area = item.path.stem.removeprefix("test_").replace("_", ", ")
    row = _rows.setdefault(name, Row(area, words.splitlines()[0].rstrip(".")))
    tried = int(dict(item.user_properties).get("tried", _examples.get(item.nodeid, 1)))
    if report.skipped:
        row.skipped += 1
        return
    row.tried += tried
    row.survived += tried if report.passed else 0


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table, if that is asked for and there is something to write."""
    place = os.environ.get("MAPTILE2SAT_FAULTS_TABLE")
    if place and _rows:
        path = Path(place)
        text = path.read_text(encoding="utf-8")
        before, _, rest = text.partition(START)
        _, _, after = rest.partition(END)
        path.write_text(f"{before}{START}\n{_table()}{END}{after}", encoding="utf-8")


def _table() -> str:
    form = "long" if os.environ.get("MAPTILE2SAT_FAULTS") == "long" else "short"
    today = datetime.datetime.now(datetime.UTC).date()
    total = sum(row.tried for row in _rows.values())
    lost = total - sum(row.survived for row in _rows.values())
    lines = [
        f"`{COMMAND}`, {form} form, {today}: {total:,} tries, {lost:,} not survived.",
        "",
        "| part | fault | tried | survived |",
        "|---|---|---:|---:|",
    ]
    for row in sorted(_rows.values(), key=lambda row: row.area):
        what = row.what.replace("|", "\\|")
        skipped = f" ({row.skipped} skipped)" if row.skipped else ""
        lines.append(f"| {row.area} | {what} | {row.tried:,}{skipped} | {row.survived:,} |")
    return "\n".join(lines) + "\n"
