"""The addresses that are served, as a Starlette application."""

from __future__ import annotations

import asyncio
import functools
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Coroutine
from importlib.resources import files
from typing import Any, TypeVar
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maptile2sat.errors import Maptile2satError, MissingExtraError, UsageError
from maptile2sat.geo.grid import MAX_ZOOM
from maptile2sat.serving.cache import Kept
from maptile2sat.serving.images import MEDIA, transparent
from maptile2sat.serving.options import ServeOptions
from maptile2sat.serving.queue import BusyError
from maptile2sat.serving.service import Service, area_response, viewer_settings
from maptile2sat.serving.tiles import TileMaker

# What every request must fulfil, and what every answer says

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


Result = TypeVar("Result")
Handler = Callable[[Request], Awaitable[Response]]

FOREVER = "public, max-age=31536000, immutable"
"""For addresses that name the digest of all that decides a tile."""

A_WHILE = "public, max-age=3600"
NEVER = "no-store"

_VIEWER = {
    "viewer.js": "text/javascript",
    "tiles.js": "text/javascript",
    "viewer.css": "text/css",
}
_LEAFLET = {"leaflet.js": "text/javascript", "leaflet.css": "text/css"}


class _GoneError(Exception):
    """The client has left."""


def build_app(service: Service) -> Starlette:
    """Return the application of a service.

    Raises:
        MissingExtraError: If the package that carries Leaflet is not installed.
    """
    options = service.options
    routes = [
        Route("/", _page()),
        Route("/static/{name}", _static()),
        Route("/healthz", _handler(service, _health)),
        Route("/viewer.json", _handler(service, _settings)),
        Route("/{layer}/tilejson.json", _handler(service, _tilejson)),
        Route("/{layer}/area.tif", _handler(service, _area)),
        Route("/{layer}/{zoom}/{col}/{row}.{form}", _handler(service, _tile)),
    ]
    middleware = [Middleware(Guard, loopback=options.loopback, public=options.public_url)]
    if options.cors:
        allowed = Middleware(
            CORSMiddleware, allow_origins=list(options.cors), allow_methods=["GET", "HEAD"]
        )
        middleware.append(allowed)
    return Starlette(routes=routes, middleware=middleware)


def _handler(
    service: Service, answer: Callable[[Service, Request], Awaitable[Response]]
) -> Handler:
    """Return an address's handler: errors become answers that say what was wrong."""

    async def handle(request: Request) -> Response:
        counts = service.counts.requests
        try:
            return await answer(service, request)
        except BusyError as error:
            counts["busy"] += 1
            headers = {"Retry-After": str(error.seconds), "Cache-Control": NEVER}
            return PlainTextResponse(str(error), 503, headers)
        except UsageError as error:
            counts["wrong"] += 1
            return PlainTextResponse(str(error), 400, {"Cache-Control": NEVER})
        except Maptile2satError as error:
            counts["failed"] += 1
            return PlainTextResponse(str(error), 502, {"Cache-Control": NEVER})
        except _GoneError:
            counts["gone"] += 1
            return Response(status_code=499)
        except asyncio.CancelledError:  # the server is being stopped and has waited for a while
            return PlainTextResponse("the server is being stopped", 503, {"Cache-Control": NEVER})

    return handle


def _page() -> Handler:
    page = (files("maptile2sat.serving") / "viewer" / "index.html").read_bytes()

    async def show(request: Request) -> Response:
        return Response(page, media_type="text/html", headers={"Cache-Control": "no-cache"})

    return show


def _static() -> Handler:
    """Serve a fixed list of files, read now: no path of a request reaches the disk."""
    own = files("maptile2sat.serving") / "viewer"
    try:
        leaflet = files("xstatic.pkg.leaflet") / "data"
    except ModuleNotFoundError as error:
        raise MissingExtraError("serve", "serve") from error
    known = {name: ((own / name).read_bytes(), kind) for name, kind in _VIEWER.items()}
    known |= {name: ((leaflet / name).read_bytes(), kind) for name, kind in _LEAFLET.items()}

    async def send(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in known:
            return PlainTextResponse("not found", 404)
        content, kind = known[name]
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return send


async def _health(service: Service, request: Request) -> Response:
    return JSONResponse(service.health(), headers={"Cache-Control": NEVER})


async def _settings(service: Service, request: Request) -> Response:
    return JSONResponse(viewer_settings(service), headers={"Cache-Control": NEVER})


async def _tilejson(service: Service, request: Request) -> Response:
    name = request.path_params["layer"]
    if name not in service.layers.images:
        return PlainTextResponse(f"there is no model {name[:40]!r} here", 404)
    base = base_address(service.options, request.scope)
    return JSONResponse(service.tilejson(name, base), headers={"Cache-Control": "no-cache"})


async def _area(service: Service, request: Request) -> Response:
    layer = service.layers.images.get(request.path_params["layer"])
    if layer is None:
        return PlainTextResponse("there is no such model here", 404)
    _check_query(request, {"bbox"})
    return await area_response(service, layer, request.query_params.get("bbox", ""))


async def _tile(service: Service, request: Request) -> Response:
    """Answer with a tile."""
    counts = service.counts.requests
    counts["tiles"] += 1
    path = request.path_params
    maker = service.makers.get(path["layer"])
    if maker is None or path["form"] not in MEDIA:
        return PlainTextResponse("there is no such layer or format here", 404)
    _check_query(request, {"v"})
    zoom, col, row = (_whole(path[name]) for name in ("zoom", "col", "row"))
    if zoom > MAX_ZOOM or max(col, row) >= 1 << zoom:
        raise UsageError(f"there is no tile {zoom}/{col}/{row} in the world")
    if not maker.covers(zoom, col, row):
        counts["empty"] += 1
        return _answer(request, maker, Kept(b"", "0"), path["form"])
    found = maker.kept(zoom, col, row, path["form"])
    if found is not None:
        kept, hit = found, True
    else:
        kept, hit = await _unless_gone(request, maker.get(zoom, col, row, path["form"]))
    counts["hits"] += hit
    answer = _answer(request, maker, kept, path["form"])
    counts["unchanged"] += answer.status_code == 304
    return answer


def _answer(request: Request, maker: TileMaker, kept: Kept, form: str) -> Response:
    """Return the answer for a tile; one without a tag changes with what is kept."""
    headers = {"Cache-Control": NEVER}
    if kept.tag:
        fixed = request.query_params.get("v") == maker.layer.digest[:12]
        tag = f'"{kept.tag}"'
        headers = {"ETag": tag, "Cache-Control": FOREVER if fixed else A_WHILE}
        known = request.headers.get("if-none-match", "")
        if known == "*" or tag in (word.strip().removeprefix("W/") for word in known.split(",")):
            return Response(status_code=304, headers=headers)
    content = kept.content or transparent(form)
    if content is None:
        return Response(status_code=204, headers=headers)
    return Response(content, media_type=MEDIA[form], headers=headers)


def _whole(text: str) -> int:
    """Return a number from an address, written in the one way that a cache should see."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and str(int(text)) == text):
        raise UsageError("zoom, column and row are whole numbers, as in /maps/16/37301/18970.png")
    return int(text)


def _check_query(request: Request, known: set[str]) -> None:
    for name, _ in request.query_params.multi_items():
        if name not in known:
            raise UsageError(f"the parameter {name[:40]!r} is not known here")


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Do some work, but only as long as the client is there.

    Raises:
        _GoneError: If it leaves.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise _GoneError
    finally:
        task.cancel()
        leaving.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
