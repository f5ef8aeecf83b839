"""The cache of downloads: what servers say counts, else a week; private to the user."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from datetime import timedelta
from email.utils import formatdate
from typing import Any

from cachecontrol.caches import FileCache
from cachecontrol.heuristics import BaseHeuristic
from cachecontrol.serialize import Serializer

from maptile2sat.sources.options import SourceOptions

CACHE_FOR = timedelta(days=7)
"""How long answers without cache headers are kept."""


class KeepAWeek(BaseHeuristic):  # type: ignore[misc,unused-ignore]
    """Lets answers without cache headers stay for `CACHE_FOR`."""

    def update_headers(self, response: Any) -> dict[str, str]:
        """Return the headers to add."""
        if response.status != 200:
            return {}
        added = {} if "date" in response.headers else {"date": formatdate(usegmt=True)}
        if not {"cache-control", "expires", "pragma"} & {name.lower() for name in response.headers}:
            added["expires"] = formatdate(time.time() + CACHE_FOR.total_seconds(), usegmt=True)
        return added

    def warning(self, response: Any) -> str | None:
        """Add no warning header."""


class BlindSerializer(Serializer):  # type: ignore[misc,unused-ignore]
    """Stores hashes of the headers by which answers vary: they may be keys."""

    def dumps(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the bytes of an answer."""
        return super().dumps(_hashed(request), *args, **kwargs)

    def loads(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the answer of bytes, None if it is not one to this request."""
        return super().loads(_hashed(request), *args, **kwargs)


def _hashed(request: Any) -> Any:
    copy = request.copy()
    for name, value in request.headers.items():
        text = value if isinstance(value, bytes) else value.encode()
        copy.headers[name] = hashlib.sha256(text).hexdigest()
    return copy


class LenientCache(FileCache):  # type: ignore[misc,unused-ignore]
    """A file cache without which life goes on when the disk is full or read-only.

    Args:
        folder: Where it lies.
        warn: Told why it does not work.
        mark: Keeps answers to requests with other headers apart, which may be refusals in the
            shape of a picture. Names of files are digests of it and the address.
    """

    def __init__(self, folder: str, warn: Callable[[str], None], mark: str = "") -> None:
        super().__init__(folder)
        self._mark = mark
        self.warn = warn
        self._warned = False

    def get(self, key: str) -> bytes | None:
        """Return a stored answer."""
        try:
            data: bytes | None = super().get(self._mark + key)
        except OSError:
            return None
        return data

    def set(self, key: str, value: bytes, expires: Any = None) -> None:
        """Store an answer, if that is possible."""
        try:
            super().set(self._mark + key, value, expires)
        except OSError as error:
            if not self._warned:
                self._warned = True
                self.warn(f"downloads are not cached: {error.strerror or error}")

    def delete(self, key: str) -> None:
        """Remove an answer, if that is possible."""
        try:
            super().delete(self._mark + key)
        except OSError as error:
            self.warn(f"the cache cannot be changed: {error.strerror or error}")


def open_cache(options: SourceOptions) -> LenientCache | None:
    """Return the cache, or None if there is no place for one."""
    folder = options.cache_folder / "http"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        options.warn(f"downloads are not cached: {folder}: {error.strerror or error}")
        return None
    given = sorted((name.lower(), value) for name, value in options.headers.items())
    mark = hashlib.sha256(repr(given).encode()).hexdigest() if given else ""
    return LenientCache(str(folder), options.warn, mark)
