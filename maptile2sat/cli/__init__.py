"""The command line: each command parses and makes one call of the library."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from typing import Any, NoReturn

__all__ = ["main", "process"]

INTERRUPTED = 130
TERMINATED = 143
UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _TerminatedError(BaseException):
    """SIGTERM came: an exception, so that temporary files go on the way out."""


def _terminate(number: int, frame: Any) -> None:
    raise _TerminatedError


def main() -> None:
    """Run the command line and exit.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated.
    """
    _settle_streams()
    import typer

    from maptile2sat.cli.app import app
    from maptile2sat.errors import Maptile2satError

    # typer has used click's exceptions, then its own copy of them, and exports only some
    usage_errors: Any = next(
        base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
    )
    in_main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, _terminate) if in_main else None
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer turns Ctrl-C into this
            _complain("interrupted")
    except usage_errors as error:
        if error.format_message():  # nothing to say after a bare `maptile2sat`: help was shown
            _complain(_told(error.format_message()) + _hint(error))
        code = error.exit_code
    except Maptile2satError as error:
        _complain("; ".join([str(error), *getattr(error, "__notes__", [])]))
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted")
        code = INTERRUPTED
    except _TerminatedError:
        _complain("terminated")
        code = TERMINATED
    except OSError as error:
        # what else cannot be written is told as an error of ours: this is what was printed
        if error.errno not in UNWRITTEN or error.filename is not None:
            raise
        _give_up_stdout(error)
        code = 1
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, previous)
    _leave(code if isinstance(code, int) else 0)


def _leave(code: int) -> NoReturn:
    """Exit, once all that was printed is written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _give_up_stdout(error)
        code = code or 1
    sys.exit(code)


def process() -> None:
    """Be the whole process: as `main`, but who interrupts does not wait for a slow server."""
    try:
        main()
    except SystemExit as leaving:
        if leaving.code not in (INTERRUPTED, TERMINATED):
            raise
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(leaving.code)  # or Python waits for the threads that download


def _give_up_stdout(error: OSError) -> None:
    """Say why what was printed cannot be written, and have Python not try it again at the end."""
    if not isinstance(error, BrokenPipeError):  # who reads has enough, as `head` has
        _complain(f"the result cannot be written: {error.strerror or error}")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _settle_streams() -> None:
    """Make sure that there is something to write to, and that any name can be written."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller; libraries write to the numbers all the same
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
            setattr(sys, name, os.fdopen(number, "w"))
        elif name == "stdout" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")  # names are bytes: print them as they are
    # GDAL's threads would write to stderr what is told as an error of ours anyway
    os.environ.setdefault("CPL_LOG", os.devnull)


def _complain(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)


def _told(message: str) -> str:
    """Return a message without the words of a header that was not given as one argument."""
    if "extra argument" not in message:
        return message
    from maptile2sat.sources.headers import OPTIONS

    if any(word.startswith(OPTIONS) for word in sys.argv):
        return "there is a word too many: give a header as one argument, --header 'NAME: VALUE'"
    return message


def _hint(error: Exception) -> str:
    """Say more where people go wrong often."""
    if "unexpected extra argument" in str(error) and "--bbox" in sys.argv:
        return " (give --bbox as one argument: --bbox west,south,east,north)"
    return " (--help shows what can be said)"
