"""HTTP headers that the user adds, such as keys: read, checked, and never shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

from maptile2sat.errors import UsageError
from maptile2sat.sources.redact import HIDDEN

VARIABLE = "MAPTILE2SAT_HEADERS"
"""The variable of the environment that holds headers, one a line."""

OPTIONS = ("--header", "--map-header", "--image-header")
"""The command line's options whose value is a header."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x20-\x7e\xa0-\xff\t]*")
_OURS = frozenset(
    (
        *("host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade"),
        *("range", "if-range", "accept-encoding", "proxy-authorization", "proxy-connection"),
    )
)
"""Those that a request's own address and range decide."""


def parse_headers(lines: Iterable[str], where: str) -> dict[str, str]:
    """Return headers by their names, from lines `NAME: VALUE`; the last of a name counts.

    Args:
        lines: The lines.
        where: Where they were given, for messages, which never show what was given.

    Raises:
        UsageError: If a line is no header.
    """
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name.strip()):
            raise UsageError(
                f"{where} is not of the form 'NAME: VALUE', for example "
                "'Referer: https://example.com/' (quotes included)"
            )
        found = merged(found, {name.strip(): value.strip()})
    check_headers(found)
    return found


def environment_headers() -> dict[str, str]:
    """Return the headers of the environment.

    Raises:
        UsageError: If a line of the variable is no header.
    """
    lines = os.environ.get(VARIABLE, "").splitlines()
    return parse_headers((line for line in lines if line.strip()), f"a line of {VARIABLE}")


def merged(*several: Mapping[str, str]) -> dict[str, str]:
    """Return all headers of several mappings; of one name, in whatever case, the last counts."""
    found: dict[str, tuple[str, str]] = {}
    for headers in several:
        found |= {name.lower(): (name, value) for name, value in headers.items()}
    return dict(found.values())


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers that HTTP cannot say, or that are not the user's to say.

    Raises:
        UsageError: If there are such; the message shows no value.
    """
    for name, value in headers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError("the name of an HTTP header is empty or has characters it cannot have")
        if not isinstance(value, str) or not _VALUE.fullmatch(value) or value != value.strip():
            raise UsageError(
                f"the HTTP header {name} has a value that HTTP cannot carry: it must be one line "
                "of Latin letters, without blanks at its ends"
            )
        if name.lower() in _OURS:
            raise UsageError(f"the HTTP header {name} is set by the program: leave it out")


def without_headers(words: Sequence[str]) -> list[str]:
    """Return the words of a command with the values of headers hidden."""
    shown: list[str] = []
    for word in words:
        option, equals, value = word.partition("=")
        if shown and shown[-1] in OPTIONS:
            shown.append(_named(word))
        elif equals and option in OPTIONS:
            shown.append(f"{option}={_named(value)}")
        else:
            shown.append(word)
    return shown


def _named(line: str) -> str:
    name, colon, _ = line.partition(":")
    return f"{name}: {HIDDEN}" if colon and _NAME.fullmatch(name) else HIDDEN
