"""What every request must fulfil, and what every answer says."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
    could read from it by letting its own name point here.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool) -> None:
        self._app, self._loopback = app, loopback
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
        if self._loopback and not _is_loopback(Headers(scope=scope).get("host", "")):
            return PlainTextResponse("this server answers to localhost only", 421)
        if self._requests >= MAX_REQUESTS:
            return PlainTextResponse("too many requests at once", 503, {"Retry-After": "2"})
        return None


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.lower() in ("localhost", "127.0.0.1", "[::1]")
