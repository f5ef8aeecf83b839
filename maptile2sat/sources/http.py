"""Downloading politely: pooled, paced, retried, cached, and never from where it is not allowed."""

from __future__ import annotations

import hashlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from email.utils import formatdate
from http.client import HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NamedTuple, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
from cachecontrol import CacheControlAdapter
from cachecontrol.caches import FileCache
from cachecontrol.controller import CacheController
from cachecontrol.heuristics import BaseHeuristic
from cachecontrol.serialize import Serializer
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.util import Retry

from maptile2sat.errors import BlockedError, SourceError
from maptile2sat.sources.hosts import POOLS, Host, Hosts
from maptile2sat.sources.options import Gate, SourceOptions
from maptile2sat.sources.tiles import MAX_TILE_BYTES

# The cache of downloads: what servers say counts, else a week; private to the user

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


# Servers that do not allow what this package does

_OSM_HOSTS = ("tile.openstreetmap.org", "tile.osm.org")

OSM_REFUSAL = (
    "tile.openstreetmap.org does not allow bulk downloads (its tile usage policy), so it is not "
    "used: take your own tile server, a licensed provider, an MBTiles file, or draw the map from "
    "an OpenStreetMap extract, maptile2sat draw EXTRACT.osm.pbf -o map.mbtiles"
)


def check_host(url: str) -> None:
    """Refuse servers that do not allow this use.

    Raises:
        SourceError: With the reason and the alternatives.
    """
    try:
        address = urlsplit(url)
        host, _ = (address.hostname or "").rstrip(".").lower(), address.port
    except ValueError as error:
        raise SourceError("the tile URL is not a valid address") from error
    if host in _OSM_HOSTS or host.endswith(tuple("." + name for name in _OSM_HOSTS)):
        raise SourceError(OSM_REFUSAL)


# Below HTTP: connections that end in time, requests that keep their distance

REDIRECTS = (301, 302, 303, 307, 308)
"""Answers that name another address."""


class Transfer:
    """One download under way.

    Args:
        patience: Seconds until it is given up; None for never.
    """

    def __init__(self, patience: float | None) -> None:
        self._end = None if patience is None else time.monotonic() + patience
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._leave: list[Callable[[], None]] = []
        self._aborted = threading.Event()

    @property
    def left(self) -> float | None:
        """Seconds left; None for ever, 0 or less when it is over."""
        return None if self._end is None else self._end - time.monotonic()

    @property
    def over(self) -> bool:
        """Whether it is to end now."""
        left = self.left
        return self._aborted.is_set() or (left is not None and left <= 0)

    def wait(self, seconds: float) -> None:
        """Sleep without this counting against the deadline; less long if aborted."""
        if seconds > 0:
            start = time.monotonic()
            self._aborted.wait(seconds)
            if self._end is not None:
                self._end += time.monotonic() - start

    def enter(self, gate: Gate) -> None:
        """Wait for a gate to let a request through, without this counting against the deadline."""
        start = time.monotonic()
        self._leave.append(gate(self._aborted.is_set))
        if self._end is not None:
            self._end += time.monotonic() - start

    def leave(self) -> None:
        """Tell all gates that have let the request through that it is answered."""
        while self._leave:
            self._leave.pop()()

    def listens_to(self, connection: socket.socket) -> None:
        """Take note of the socket that an answer comes from."""
        with self._lock:
            self._socket = connection
        if self._aborted.is_set():
            self.abort()

    def abort(self) -> None:
        """End it from another thread, whatever it waits for; a connection once it is there."""
        self._aborted.set()
        with self._lock, suppress(OSError):
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)


_current: ContextVar[Transfer | None] = ContextVar("maptile2sat transfer", default=None)


@contextmanager
def under_way(transfer: Transfer) -> Iterator[None]:
    """Let the requests of this thread belong to `transfer`."""
    token = _current.set(transfer)
    try:
        yield
    finally:
        _current.reset(token)


class PoliteAdapter(requests.adapters.HTTPAdapter):
    """Sends requests when it is their turn, over connections that end in time.

    Args:
        hosts: Keeps the limits of hosts, and the connections to them.
        gate: What else must let each request through.
    """

    def __init__(self, *, hosts: Hosts, gate: Gate | None = None, **kwargs: Any) -> None:
        self._hosts = hosts
        self._gate = gate
        super().__init__(
            pool_connections=POOLS,
            pool_maxsize=hosts.connections,
            pool_block=True,
            max_retries=0,
            **kwargs,
        )
        hosts.join(self)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Use the connections that are shared, and of them those of this module."""
        self.poolmanager, self.proxy_manager = self._hosts.pools, self._hosts.proxies
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Use them through proxies too."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        """Send a request that the cache could not answer."""
        transfer = _current.get()
        if transfer is not None:
            self._wait(transfer, self._hosts.of(request.url or ""))
        return super().send(request, *args, **kwargs)

    def _wait(self, transfer: Transfer, host: Host) -> None:
        """Wait for a free connection first: a turn that is not used at once would be no limit."""
        transfer.leave()  # the host that has redirected here has answered
        transfer.enter(host.connection)
        if not transfer.over:
            transfer.wait(host.pace.turn())
        while not transfer.over and (left := host.pace.paused) > 0:
            transfer.wait(left)
        if transfer.over:
            raise requests.exceptions.Timeout("timed out")
        if self._gate is not None:
            transfer.enter(self._gate)

    def close(self) -> None:
        """Close the connections, unless others use them."""
        self._hosts.leave(self)


class CachedAdapter(CacheControlAdapter, PoliteAdapter):  # type: ignore[misc,unused-ignore]
    """Asks the cache first; only what it does not have is a request."""

    def build_response(  # type: ignore[override,unused-ignore]
        self, request: Any, response: Any, from_cache: bool = False, *args: Any, **kwargs: Any
    ) -> Any:
        """Leave redirects to where they lead: CacheControl would read all of their bodies."""
        if not from_cache and response.status in REDIRECTS:
            plain: Any = requests.adapters.HTTPAdapter.build_response
            return plain(self, request, response)
        caching: Any = super()  # CacheControl has no types
        return caching.build_response(request, response, from_cache, *args, **kwargs)


class PlainSession(requests.Session):
    """A session that never looks at redirects itself, for which it reads all of their bodies."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: whoever asks follows redirects."""


def adapter(cache: LenientCache | None, hosts: Hosts, gate: Gate | None = None) -> PoliteAdapter:
    """Return what sends requests, with a cache in front if there is one."""
    if cache is None:
        return PoliteAdapter(hosts=hosts, gate=gate)
    kept: dict[str, Any] = {
        "cache": cache,
        "heuristic": KeepAWeek(),
        "serializer": BlindSerializer(),
    }
    return CachedAdapter(hosts=hosts, gate=gate, **kept)


class _BoundedReader(io.RawIOBase):
    """Reads a socket until the transfer's deadline."""

    def __init__(self, raw: Any, connection: socket.socket, transfer: Transfer) -> None:
        self._raw = raw
        self._connection = connection
        self._silence = connection.gettimeout()
        self._transfer = transfer

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._transfer.over:
            raise TimeoutError("timed out")
        left, silence = self._transfer.left, self._silence
        bounds = [value for value in (left, silence) if value is not None]
        self._connection.settimeout(max(min(bounds), 1e-3) if bounds else None)
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _BoundedResponse(HTTPResponse):
    """An answer that is read through a `_BoundedReader` from its first byte."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        transfer = _current.get()
        if transfer is not None:
            transfer.listens_to(sock)
            reader: Any = self.fp
            self.fp = io.BufferedReader(_BoundedReader(reader.detach(), sock, transfer))


def _check_wanted() -> None:
    """Ask the server nothing over a new connection if nobody waits for the answer any more."""
    transfer = _current.get()
    if transfer is not None and transfer.over:
        raise TimeoutError("timed out")


class _Http(HTTPConnection):
    response_class = _BoundedResponse

    def connect(self) -> None:
        """Connect, unless nobody waits for it any more when it is done."""
        super().connect()
        _check_wanted()


class _Https(HTTPSConnection):
    response_class = _BoundedResponse

    def connect(self) -> None:
        """Connect, unless nobody waits for it any more when it is done."""
        super().connect()
        _check_wanted()


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


_POOLS = {"http": _HttpPool, "https": _HttpsPool}


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
