"""Downloading politely: pooled, retried, cached, and never from where it is not allowed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
from cachecontrol import CacheControlAdapter
from cachecontrol.controller import CacheController
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from maptile2sat.errors import SourceError
from maptile2sat.sources.decode import MAX_TILE_BYTES
from maptile2sat.sources.http_cache import KeepAWeek, LenientCache, open_cache
from maptile2sat.sources.options import SourceOptions
from maptile2sat.sources.policy import check_host

_MAX_WAIT = 60.0
"""Ceiling in seconds for a server's Retry-After."""

_RETRIED = (429, 500, 502, 503, 504)
_GONE = (204, 404, 410)
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_BODY_TRIES = 3


class Reply(NamedTuple):
    """A downloaded body and the address that it came from in the end."""

    body: bytes
    url: str


class HttpClient:
    """Downloads small files from several threads, and large ones as streams.

    Args:
        options: User-Agent, headers, cache, time-out, number of connections.
        home: An address of the host that the extra headers may be sent to.
        cache: Whether answers are kept; not for streams, which would be copied on the way.
    """

    def __init__(self, options: SourceOptions, home: str, *, cache: bool = True) -> None:
        check_host(home)
        self._timeout = options.timeout
        self._home = urlsplit(home).netloc
        self._headers = dict(options.headers)
        self._stop_lock = threading.Lock()
        self._stopped: str | None = None
        self._cache = open_cache(options) if cache else None
        self._session = requests.Session()
        self._session.headers["User-Agent"] = options.agent
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = _adapter(self._cache, options)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def get(
        self,
        url: str,
        what: str,
        *,
        headers: Mapping[str, str] | None = None,
        limit: int = MAX_TILE_BYTES,
    ) -> Reply | None:
        """Download `url`.

        Args:
            url: The address; messages never show it.
            what: What is downloaded, for messages.
            headers: More headers, such as Range.
            limit: Most bytes that are accepted.

        Returns:
            The answer, or None if the server says that there is nothing.

        Raises:
            SourceError: If the server refuses, or answers with what cannot be right.
        """
        for attempt in range(1, _BODY_TRIES + 1):
            if self._stopped is not None:
                raise SourceError(self._stopped)
            try:
                return self._follow(url, what, headers or {}, limit)
            except (requests.exceptions.ChunkedEncodingError, HTTPError):
                if attempt == _BODY_TRIES:
                    raise SourceError(f"{what}: the answer broke off") from None
                time.sleep(0.2 * attempt)
            except requests.exceptions.RequestException as error:
                raise _explain(what, error) from None  # its text holds the address
        raise AssertionError("unreachable")

    def forget(self, url: str) -> None:
        """Delete the cached copy of an answer that is of no use."""
        if self._cache is not None:
            self._cache.delete(CacheController.cache_url(url))

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    @contextmanager
    def stream(
        self, url: str, what: str, headers: Mapping[str, str] | None = None
    ) -> Iterator[requests.Response]:
        """Follow redirects to wherever is allowed; give an answer whose body is still unread.

        Args:
            url: The address; messages never show it.
            what: What is downloaded, for messages.
            headers: More headers, such as Range.

        Raises:
            SourceError: If it cannot be reached, keeps failing, or may not be asked.
        """
        for _ in range(_MAX_REDIRECTS + 1):
            check_host(url)
            own = self._headers if urlsplit(url).netloc == self._home else {}
            try:
                response = self._session.get(
                    url,
                    headers={**own, **(headers or {})},
                    stream=True,
                    timeout=self._timeout,
                    allow_redirects=False,
                )
            except requests.exceptions.RequestException as error:
                raise _explain(what, error) from None  # its text holds the address
            with response:
                if response.status_code not in _REDIRECTS:
                    yield response
                    return
                target = urljoin(url, response.headers.get("location", ""))
            if urlsplit(target).scheme not in ("http", "https"):
                raise SourceError(f"{what}: the server redirects to something that is not HTTP")
            url = target
        raise SourceError(f"{what}: the server redirects in circles")

    def _follow(self, url: str, what: str, headers: Mapping[str, str], limit: int) -> Reply | None:
        """Download, following redirects."""
        with self.stream(url, what, headers) as response:
            if "Range" in headers and response.status_code == 200:
                raise SourceError(f"{what}: the server does not serve parts of files")
            return self._body(response, what, limit)

    def _body(self, response: requests.Response, what: str, limit: int) -> Reply | None:
        status = response.status_code
        if status in _GONE:
            return None
        if status in (401, 403):
            self._stop(
                f"{what}: the server refuses with HTTP {status} (is the key right, and are you "
                "allowed to download this map?); nothing more is asked of it"
            )
        if status in _RETRIED:
            raise SourceError(f"{what}: the server keeps answering HTTP {status}")
        if status not in (200, 203, 206):
            raise SourceError(f"{what}: the server answered HTTP {status}")
        declared = response.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise SourceError(f"{what}: {declared} bytes are too many")
        body = bytearray()
        for block in response.iter_content(64 << 10):
            body += block
            if len(body) > limit:
                raise SourceError(f"{what}: more than {limit} bytes are too many")
        return Reply(bytes(body), response.url)

    def _stop(self, message: str) -> None:
        """Refuse all further downloads: a blocked client must not go on asking."""
        with self._stop_lock:
            self._stopped = self._stopped or message
        raise SourceError(self._stopped)


def _explain(what: str, error: requests.exceptions.RequestException) -> SourceError:
    """Say what went wrong without the address, which may hold a key."""
    if isinstance(error, requests.exceptions.SSLError):
        return SourceError(f"{what}: the server's certificate is not trusted")
    if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error):
        return SourceError(f"{what}: the server does not answer in time")
    if isinstance(error, requests.exceptions.RetryError):
        return SourceError(f"{what}: the server keeps failing")
    if isinstance(error, requests.exceptions.ConnectionError):
        return SourceError(
            f"{what}: the server cannot be reached; check the address and the network"
        )
    return SourceError(f"{what}: the address or the answer is not valid HTTP")


class _Retry(Retry):
    """Retries that wait as long as the server says, within reason."""

    def get_retry_after(self, response: Any) -> float | None:
        """Return the seconds to wait."""
        seconds = super().get_retry_after(response)
        return None if seconds is None else min(seconds, _MAX_WAIT)


def _adapter(cache: LenientCache | None, options: SourceOptions) -> requests.adapters.HTTPAdapter:
    """Return what retries, caches and bounds the connections."""
    tries = options.retries
    retry = _Retry(
        total=tries + 1,
        connect=min(2, tries),
        read=min(2, tries),
        status=tries,
        redirect=0,
        other=0,
        status_forcelist=_RETRIED,
        backoff_factor=0.3,
        raise_on_status=False,
    )
    pool: dict[str, Any] = {
        "pool_connections": 4,
        "pool_maxsize": options.max_connections,
        "pool_block": True,
        "max_retries": retry,
    }
    if cache is None:
        return requests.adapters.HTTPAdapter(**pool)
    adapter: requests.adapters.HTTPAdapter = CacheControlAdapter(
        cache, heuristic=KeepAWeek(), **pool
    )
    return adapter
