"""A SuperLink whose public address serves SuperNodes only.

Flower's SuperLink serves SuperNodes, those who submit runs, and the processes of runs on one port,
and authenticates SuperNodes only: whoever reaches it may submit an app. Here Flower listens on
loopback, and a second server on the public address passes on what SuperNodes need, and no more.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import uvicorn

FLOWER = "flwr.superlink.cli.flower_superlink"  # private: it runs Flower's app by `uvicorn.run`
OPEN = "/v1/fleet/"
HEALTH = "/health"
MAX_BODY = 64 << 20  # bytes of a request; Flower sends arrays in parts of 5 MiB
NOT_FOUND, TOO_LARGE = 404, 413


class Door:
    """Flower's ASGI app as SuperNodes see it; everything else is answered 404, not passed on.

    Args:
        app: Flower's.
    """

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":  # no web sockets; the app's life is Flower's own server's
            return
        if not (scope["path"] == HEALTH or scope["path"].startswith(OPEN)):
            await _answer(send, NOT_FOUND)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers or not length.isdigit() or int(length) > MAX_BODY:
            await _answer(send, TOO_LARGE)
            return
        await self._app(scope, receive, send)


async def _answer(send: Any, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def serve(host: str, port: int, options: Sequence[str]) -> None:
    """Run Flower's SuperLink on loopback, with a door at `host:port`, until it is stopped.

    Args:
        host: of the door.
        port: of the door.
        options: of `flower-superlink`, among them the port on loopback and the certificates.
    """

    def run(app: Any, **flowers: Any) -> None:
        inner = uvicorn.Server(_config(app, flowers))
        outer = uvicorn.Server(
            _config(Door(app), flowers | {"host": host, "port": port, "lifespan": "off"})
        )
        asyncio.run(_both(inner, outer))

    sys.argv = ["flower-superlink", *options, "--host", "127.0.0.1"]
    flower: Any = import_module(FLOWER)
    flower.uvicorn = SimpleNamespace(run=run)
    flower.flower_superlink()


def _config(app: Any, flowers: dict[str, Any]) -> uvicorn.Config:
    """Return the configuration of a server, as `uvicorn.run` makes it of Flower's arguments."""
    given = {key: value for key, value in flowers.items() if key not in ("reload", "workers")}
    return uvicorn.Config(app, **given)


async def _both(inner: uvicorn.Server, outer: uvicorn.Server) -> None:
    """Serve with both until one ends, such as by a signal; then the other ends too."""
    tasks = [asyncio.create_task(server.serve()) for server in (inner, outer)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    inner.should_exit = outer.should_exit = True
    await asyncio.gather(*tasks)
