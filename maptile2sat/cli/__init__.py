"""The command line: each command parses and makes one call of the library."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    import click

    from maptile2sat.cli.app import app
    from maptile2sat.errors import Maptile2satError

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        code = app(standalone_mode=False)
    except click.ClickException as error:
        _complain(error.format_message() + _hint(error))
        code = error.exit_code
    except Maptile2satError as error:
        _complain(str(error))
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted")
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)


def _hint(error: Exception) -> str:
    """Say more where people go wrong often."""
    if "unexpected extra argument" in str(error) and "--bbox" in sys.argv:
        return " (give --bbox as one argument: --bbox west,south,east,north)"
    return " (--help shows what can be said)"
