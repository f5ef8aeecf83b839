"""What every request must fulfil, and what every answer says."""

from __future__ import annotations

import functools
import re
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maptile2sat.serving.options import ServeOptions

_HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
MAX_PATH = 512
MAX_QUERY = 512
MAX_REQUESTS = 2048
"""Requests answered at the same time."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


class Guard:
    """Refuses requests that no viewer or GIS program makes.

    A server on loopback answers only to names of loopback: otherwise a page of some other site
    could read from it by letting its own name point here. The name of a proxy in front of it, if
    one is given, is answered to as well.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool, public: str | None = None) -> None:
        self._app, self._loopback = app, loopback
        self._public = {urlsplit(public).hostname or ""} if public else set()
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        self._requests += 1
        try:
            await self._app(scope, receive, send_guarded)
        finally:
            self._requests -= 1

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            return PlainTextResponse("only GET is served", 405, {"Allow": "GET, HEAD"})
        if len(scope["raw_path"]) > MAX_PATH or len(scope["query_string"]) > MAX_QUERY:
            return PlainTextResponse("the address is too long", 414)
        host = Headers(scope=scope).get("host", "")
        if self._loopback and not _is_loopback(host) and not _is_of(host, self._public):
            return PlainTextResponse("this server answers to localhost only", 421)
        if self._requests >= MAX_REQUESTS:
            return PlainTextResponse("too many requests at once", 503, {"Retry-After": "2"})
        return None


def base_address(options: ServeOptions, scope: Scope) -> str:
    """Return the address of the server as a client is to use it, without a slash at its end.

    What the client calls it (`Host`) is taken only if it is a name or an address of this machine:
    a cache in front of the server would hand another on to everybody.
    """
    if options.public_url is not None:
        return options.public_url.rstrip("/")
    said = Headers(scope=scope).get("host", "")
    server = scope.get("server") or (options.host, options.port)
    if _is_loopback(said) or _is_of(said, {server[0], options.host, *_own_names()}):
        return f"http://{said}"
    host = f"[{server[0]}]" if ":" in server[0] else server[0]
    return f"http://{host}:{server[1]}"


@functools.cache
def _own_names() -> frozenset[str]:
    """Return what this machine is called."""
    name = socket.gethostname()
    return frozenset({name, name.partition(".")[0]})


def _is_of(host: str, names: Collection[str]) -> bool:
    """Whether a `Host` is one of some names, with or without a port."""
    match = _HOST.fullmatch(host)
    return match is not None and match[1].strip("[]").lower() in {name.lower() for name in names}


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.lower() in ("localhost", "127.0.0.1", "[::1]")
