"""Downloading one large file: what is there already is not fetched again."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from maptile2sat.datasets.layout import write_json
from maptile2sat.errors import MissingTileError, OutputError, SourceError
from maptile2sat.sources.http import HttpClient
from maptile2sat.sources.naming import keep_logs_safe
from maptile2sat.sources.options import SourceOptions

Progress = Callable[[int, int], None]
"""Called with the bytes there so far and those of the whole file (0 if not known)."""

MAX_BYTES = 16 << 30
"""Largest file that is accepted."""

TRIES = 4
"""Attempts in a row that may bring nothing new."""

_BLOCK = 256 << 10
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


@dataclass(frozen=True)
class _Known:
    """What the server said of a file that is being downloaded.

    Attributes:
        address: Hash of the address, which may hold a key.
        validator: Strong ETag or date by which to ask whether the file is still the same.
        total: Its bytes, None if the server does not say.
    """

    address: str
    validator: str
    total: int | None


class Download:
    """A file on its way: `NAME.part` beside `NAME.whole`, and what is known of it.

    Args:
        url: Where it comes from.
        target: Where it goes, such as `NAME.whole`; there only once it is complete.
        what: What to call it in messages.
        options: User-Agent, time-out and retries.
        progress: Called as it grows.
    """

    def __init__(
        self,
        url: str,
        target: Path,
        what: str,
        options: SourceOptions,
        progress: Progress,
    ) -> None:
        self._url, self._target, self._what = url, target, what
        self._options, self._progress = options, progress
        self._part = target.with_suffix(".part")
        self._notes = target.with_suffix(".part.json")
        self._address = hashlib.sha256(url.encode()).hexdigest()
        self.received = 0

    def run(self) -> None:
        """Download until the file is whole; what breaks off is asked for again.

        Raises:
            SourceError: If the server refuses, or keeps breaking off; the part stays.
            OutputError: If the disk is full or cannot be written.
        """
        keep_logs_safe()
        client = HttpClient(self._options, self._url, cache=False)
        most, idle = self._have(), 0
        try:
            while not self._attempt(client):
                idle = 0 if self._have() > most else idle + 1
                most = max(most, self._have())
                if idle >= TRIES:
                    raise SourceError(
                        f"{self._what}: the download keeps breaking off; say the same again later "
                        f"to go on after {most:,} bytes"
                    )
                time.sleep(0.2 * idle)
        except OSError as error:
            raise OutputError(
                f"cannot write {self._part} ({error.strerror or error}): check the disk"
            ) from error
        finally:
            client.close()
        self._notes.unlink(missing_ok=True)

    def _have(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _attempt(self, client: HttpClient) -> bool:
        """Ask once for what is missing; return whether the file is whole now."""
        known = self._load()
        have = self._have() if known is not None else 0
        headers = {"Accept-Encoding": "identity"}
        if known is not None and have:
            headers |= {"Range": f"bytes={have}-", "If-Range": known.validator}
        try:
            with client.stream(self._url, self._what, headers) as response:
                if "Range" in headers and response.status_code in (206, 416):
                    return self._go_on(response, have, known)
                return self._start(response)
        except (requests.exceptions.RequestException, HTTPError, MissingTileError):
            return False

    def _start(self, response: requests.Response) -> bool:
        """Take the file from its first byte."""
        if response.status_code != 200:
            raise SourceError(
                f"{self._what}: the server answered HTTP {response.status_code}: "
                "check the address, or give another with --url"
            )
        declared = response.headers.get("content-length", "")
        total = int(declared[:20]) if declared.isascii() and declared.isdigit() else None
        self._check_room(total or 0)
        self._notes.unlink(missing_ok=True)  # it is of another part than the one to come
        self._part.unlink(missing_ok=True)
        etag = response.headers.get("etag", "")
        validator = response.headers.get("last-modified", "") if etag[:1] != '"' else etag
        if validator:
            write_json(self._notes, asdict(_Known(self._address, validator, total)))
        return self._receive(response, 0, total)

    def _go_on(self, response: requests.Response, have: int, known: _Known | None) -> bool:
        """Take the rest of the file, if it is the rest."""
        shown = _RANGE.fullmatch(response.headers.get("content-range", "").strip())
        total = int(shown[2]) if shown and shown[2] != "*" else None
        if response.status_code == 416 and total == have:
            return self._finish()
        fits = shown is not None and shown[1] == str(have) and known is not None
        if response.status_code == 416 or not fits or (known and known.total not in (None, total)):
            self._notes.unlink(missing_ok=True)  # the next attempt starts anew
            return False
        return self._receive(response, have, total)

    def _receive(self, response: requests.Response, have: int, total: int | None) -> bool:
        """Write a body behind the `have` bytes that are there."""
        with self._part.open("ab") as stream:
            stream.truncate(have)
            # not decoded: a .tar.gz that a server calls gzip-encoded is to stay what it is
            for block in response.raw.stream(_BLOCK, decode_content=False):
                stream.write(block)
                have += len(block)
                self.received += len(block)
                self._progress(have, total or 0)
                if have > MAX_BYTES:
                    raise SourceError(f"{self._what}: more than {MAX_BYTES:,} bytes are too many")
        if total is not None and have > total:
            raise SourceError(
                f"{self._what}: the server sent more than the {total:,} bytes it said"
            )
        return self._finish() if total in (None, have) else False

    def _finish(self) -> bool:
        self._part.replace(self._target)
        return True

    def _check_room(self, total: int) -> None:
        if total > MAX_BYTES:
            raise SourceError(f"{self._what}: {total:,} bytes are too many")
        free = shutil.disk_usage(self._target.parent).free + self._have()
        if total > free:
            raise OutputError(
                f"{self._what} has {total:,} bytes, and {self._target.parent} has room for "
                f"{free:,}: free some, or give another --dir"
            )

    def _load(self) -> _Known | None:
        """Return what is known of the part, None if it cannot be gone on with."""
        try:
            said: dict[str, Any] = json.loads(self._notes.read_text(encoding="utf-8"))
            known = _Known(**said)
        except (OSError, ValueError, TypeError):
            return None
        return known if known.address == self._address else None
