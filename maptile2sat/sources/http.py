"""Downloading politely: pooled, paced, retried, cached, and never from where it is not allowed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import NamedTuple, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
from cachecontrol.controller import CacheController
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.util import Retry

from maptile2sat.errors import BlockedError, SourceError
from maptile2sat.sources.decode import MAX_TILE_BYTES
from maptile2sat.sources.hosts import Hosts
from maptile2sat.sources.http_cache import open_cache
from maptile2sat.sources.options import SourceOptions
from maptile2sat.sources.policy import check_host
from maptile2sat.sources.transport import REDIRECTS, PlainSession, Transfer, adapter, under_way

MAX_WAIT = 60.0
"""Ceiling in seconds for a server's Retry-After."""

MAX_BACKOFF = 8.0
"""Ceiling in seconds for the pauses between tries of which the server says nothing."""

MAX_CONNECT = 10.0
"""Ceiling in seconds for the time to wait for a connection."""

_RETRIED = (429, 500, 502, 503, 504)
_GONE = (204, 404, 410)
_MAX_REDIRECTS = 5
_PORTS = {"http": 80, "https": 443}
T = TypeVar("T")


class Reply(NamedTuple):
    """A downloaded body and the address that it came from in the end."""

    body: bytes
    url: str


class _Passing(Exception):  # noqa: N818 - not an error yet
    """Trouble that may pass: the message if it does not, and what pause the server asks for."""

    def __init__(self, message: str, url: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.url, self.pause = url, pause


class HttpClient:
    """Downloads small files from several threads, and large ones as streams.

    Args:
        options: User-Agent, headers, cache, certificates, time-outs, rate and connections.
        homes: Addresses of the hosts that the extra headers may be sent to.
        cache: Whether answers are kept; not for streams, which would be copied on the way.
    """

    def __init__(self, options: SourceOptions, *homes: str, cache: bool = True) -> None:
        for home in homes:
            check_host(home)
        self._options = options
        self._timeout = (min(options.timeout, MAX_CONNECT), options.timeout)
        self._homes = [urlsplit(home) for home in homes]
        self._headers = dict(options.headers)
        named = {name.lower() for name in self._headers}
        self._auth = _as_given if "authorization" in named else None
        self._lock = threading.Lock()
        self._stopped: str | None = None
        self._blocked = False
        self._transfers: set[Transfer] = set()
        self._cache = open_cache(options) if cache else None
        self._session = PlainSession()
        self._session.headers["User-Agent"] = options.agent
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._hosts = options.hosts or Hosts(options.rate, options.max_connections)
        polite = adapter(self._cache, self._hosts, options.gate)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, polite)

    def get(
        self,
        url: str,
        what: str,
        *,
        headers: Mapping[str, str] | None = None,
        limit: int = MAX_TILE_BYTES,
    ) -> Reply | None:
        """Download `url`; what breaks off or fails is asked for again, for a bounded time.

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
        with self._transfer(self._options.patience) as transfer:
            return self._persist(transfer, lambda: self._download(url, what, headers or {}, limit))

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
        with ExitStack() as stack:
            transfer = stack.enter_context(self._transfer(None))
            yield self._persist(
                transfer, lambda: stack.enter_context(self._ask(url, what, headers or {}))
            )

    def forget(self, url: str) -> None:
        """Delete the cached copy of an answer that is of no use."""
        if self._cache is not None:
            self._cache.delete(CacheController.cache_url(url))

    def close(self) -> None:
        """End downloads under way in other threads; close connections that nobody else uses."""
        with self._lock:
            self._stopped = self._stopped or "the source is closed"
            transfers = list(self._transfers)
        for transfer in transfers:
            transfer.abort()
        self._session.close()

    @contextmanager
    def _transfer(self, patience: float | None) -> Iterator[Transfer]:
        """Keep a download known, so that `close` can end it."""
        transfer = Transfer(patience)
        with self._lock:
            self._transfers.add(transfer)
        try:
            with under_way(transfer):
                yield transfer
        finally:
            transfer.leave()
            with self._lock:
                self._transfers.discard(transfer)

    def _persist(self, transfer: Transfer, attempt: Callable[[], T]) -> T:
        """Try again while trouble may pass: for some times, and for some time."""
        for tried in range(self._options.retries + 1):
            if self._stopped is not None:
                raise (BlockedError if self._blocked else SourceError)(self._stopped)
            try:
                return attempt()
            except _Passing as trouble:
                transfer.leave()
                if tried == self._options.retries or transfer.over:
                    raise SourceError(str(trouble)) from None
                if trouble.pause is None:
                    transfer.wait(min(0.3 * 2**tried, MAX_BACKOFF))
                else:  # all who ask that host keep back
                    self._hosts.of(trouble.url).pace.pause(min(trouble.pause, MAX_WAIT))
        raise AssertionError("unreachable")

    def _download(
        self, url: str, what: str, headers: Mapping[str, str], limit: int
    ) -> Reply | None:
        with self._ask(url, what, headers) as response:
            if "Range" in headers and response.status_code == 200:
                raise SourceError(f"{what}: the server does not serve parts of files")
            try:
                return self._body(response, what, limit)
            except (requests.exceptions.RequestException, HTTPError) as error:
                self.forget(url)
                self.forget(response.url)
                if _timed_out(error):
                    message = f"{what}: the server does not answer in time"
                else:
                    message = f"{what}: the answer broke off"
                raise _Passing(message, response.url) from None

    @contextmanager
    def _ask(self, url: str, what: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        """Ask once, following redirects."""
        for _ in range(_MAX_REDIRECTS + 1):
            check_host(url)
            try:
                at_home = self._at_home(url)
                response = self._session.get(
                    url,
                    headers={**(self._headers if at_home else {}), **headers},
                    auth=self._auth if at_home else None,
                    stream=True,
                    timeout=self._timeout,
                    allow_redirects=False,
                    # given here, since the environment would win over the session's
                    verify=None
                    if self._options.ca_bundle is None
                    else str(self._options.ca_bundle),
                )
            except (OSError, HTTPError, ValueError) as error:  # the last two for odd addresses
                raise _explain(what, url, error) from None  # its text may hold the address
            with response:
                if response.status_code not in REDIRECTS:
                    self._check_status(response, what)
                    yield response
                    return
                url = self._target(url, response, what)
        raise SourceError(f"{what}: the server redirects in circles")

    def _target(self, url: str, response: requests.Response, what: str) -> str:
        """Return where a redirect leads."""
        try:
            target = urljoin(url, response.headers.get("location", ""))
            scheme = urlsplit(target).scheme
        except ValueError as error:
            raise SourceError(f"{what}: the server redirects to no valid address") from error
        if scheme not in _PORTS:
            raise SourceError(f"{what}: the server redirects to something that is not HTTP")
        return target

    def _at_home(self, url: str) -> bool:
        """Whether the extra headers may go there: same host and port, and not in clear instead."""
        there = urlsplit(url)
        return any(
            there.scheme in {home.scheme, "https"}
            and there.hostname == home.hostname
            and _port(there) == _port(home)
            for home in self._homes
        )

    def _check_status(self, response: requests.Response, what: str) -> None:
        """Raise for the answers that ask for patience, and for those that refuse."""
        status = response.status_code
        if status in (401, 403):
            self._stop(
                f"{what}: the server refuses with HTTP {status} (is the key right, and are you "
                "allowed to download this map?); nothing more is asked of it"
            )
        if status in _RETRIED:
            message = f"{what}: the server keeps answering HTTP {status}"
            raise _Passing(message, response.url, _retry_after(response))

    def _body(self, response: requests.Response, what: str, limit: int) -> Reply | None:
        status = response.status_code
        if status in _GONE:
            return None
        if status not in (200, 203, 206):
            raise SourceError(f"{what}: the server answered HTTP {status}")
        declared = response.headers.get("content-length", "")
        if not declared.isascii():  # some of it are digits to Python that are no numbers
            raise SourceError(f"{what}: the server sends a length that is no number")
        if declared.isdigit() and int(declared[:20]) > limit:
            raise SourceError(f"{what}: {declared[:20]} bytes are too many")
        body = bytearray()
        for block in response.iter_content(64 << 10):
            body += block
            if len(body) > limit:
                raise SourceError(f"{what}: more than {limit} bytes are too many")
        if not body and declared != "0":  # cut off within the headers, which looks like their end
            raise HTTPError("no body and no word of that")
        return Reply(bytes(body), response.url)

    def _stop(self, message: str) -> None:
        """Refuse all further downloads: a blocked client must not go on asking."""
        with self._lock:
            self._stopped = self._stopped or message
            self._blocked = True
        raise BlockedError(self._stopped)


def _as_given(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Leave the user's own `Authorization` as it is: else that of a .netrc would replace it."""
    return request


def _explain(what: str, url: str, error: Exception) -> SourceError | _Passing:
    """Say what went wrong without the address, which may hold a key."""
    if isinstance(error, requests.exceptions.SSLError):
        return SourceError(
            f"{what}: the server's certificate is not trusted; if it is your own server, give its "
            "authority's certificate, --ca-bundle FILE.pem"
        )
    if _timed_out(error):
        return _Passing(f"{what}: the server does not answer in time", url)
    if isinstance(error, requests.exceptions.ConnectionError):
        return _Passing(
            f"{what}: the server cannot be reached; check the address and the network", url
        )
    if isinstance(error, OSError) and not isinstance(error, requests.exceptions.RequestException):
        # of a file that the environment names, such as REQUESTS_CA_BUNDLE
        return SourceError(f"{what}: {error}")
    return SourceError(f"{what}: the address or the answer is not valid HTTP")


def _timed_out(error: Exception) -> bool:
    return isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error)


def _retry_after(response: requests.Response) -> float | None:
    """Return the seconds that the server asks to wait, by number or date."""
    said = response.headers.get("retry-after")
    if said is None:
        return None
    try:
        return Retry().parse_retry_after(said)
    except (InvalidHeader, ValueError, OverflowError):
        return None


def _port(address: SplitResult) -> int | None:
    """Return the port of an address; plain and secure standard ports count as one."""
    return None if address.port in (None, _PORTS.get(address.scheme)) else address.port
