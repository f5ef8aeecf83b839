"""Running the server."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
import threading
import webbrowser
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from maptile2sat.errors import AddressError, MissingExtraError, UsageError
from maptile2sat.serving.options import ServeOptions

if TYPE_CHECKING:
    from uvicorn import Server


def serve(
    source: str | os.PathLike[str] | None = None,
    options: ServeOptions | None = None,
    *,
    ready: Callable[[str], None] = lambda url: None,
    warn: Callable[[str], None] = lambda text: None,
    open_browser: bool = False,
    **changes: Any,
) -> None:
    """Serve imagery made of a map as tiles, with a viewer, until interrupted.

    Args:
        source: What `open_source` takes; None for the sample map.
        options: Everything else; see `ServeOptions`.
        ready: Called with the viewer's address once connections are taken.
        warn: Called with what the user should know, from any thread.
        open_browser: Whether to show the viewer in a browser.
        **changes: Fields of `ServeOptions` to set, for example `models=("maps",), port=8080`.

    Raises:
        MissingExtraError: If the optional parts that it needs are not installed.
        Maptile2satError: If the map, a model, the cache or the address cannot be used.
    """
    options = dataclasses.replace(options or ServeOptions(), **changes)
    for module in ("starlette", "uvicorn", "xstatic"):
        if find_spec(module) is None:
            raise MissingExtraError("serve", "serve")
    from maptile2sat.serving.app import build_app
    from maptile2sat.serving.service import open_service

    # first of all: a port in use should not be found out after loading a model
    with listening(options) as listener, open_service(source, options, warn) as service:
        if not options.loopback:
            warn(
                f"listening at {options.host}: everyone who reaches this machine can use its "
                "processors and see the map; there is no encryption and no password"
            )
        server = server_of(build_app(service))
        url = address(options.host, listener)
        ready(url)
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        server.run(sockets=[listener])


def server_of(app: Any) -> Server:
    """Return the HTTP server of an application."""
    import uvicorn

    from maptile2sat.serving.connections import IDLE_SECONDS, Connections, limits_here

    limits = limits_here()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        http=Connections(limits).protocol(),
        backlog=limits.backlog,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)


def listening(options: ServeOptions) -> socket.socket:
    """Return a socket that listens at the address asked for.

    Raises:
        UsageError: If the host is none of this machine.
        AddressError: If the port is in use, or not for this user.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family, backlog=512)
    except (OSError, TypeError) as error:  # names that cannot be sent are a TypeError
        reason = getattr(error, "strerror", None) or "that is no name of a host"
        there = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
        kind = AddressError if there else UsageError
        raise kind(
            f"cannot listen at {options.host} port {options.port}: {reason}: "
            "give another --port or --host"
        ) from error


def address(host: str, listener: socket.socket) -> str:
    """Return the viewer's address."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}/"
