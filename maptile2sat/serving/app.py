"""The addresses that are served, as a Starlette application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from importlib.resources import files
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from maptile2sat.errors import Maptile2satError, MissingExtraError, UsageError
from maptile2sat.grid import MAX_ZOOM
from maptile2sat.serving.area import area_response, viewer_settings
from maptile2sat.serving.cache import Kept
from maptile2sat.serving.cell_queue import BusyError
from maptile2sat.serving.guard import Guard, base_address
from maptile2sat.serving.pictures import MEDIA, transparent
from maptile2sat.serving.service import Service
from maptile2sat.serving.tiles import TileMaker

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
