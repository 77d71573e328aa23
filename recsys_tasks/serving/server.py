"""Runs the endpoint: one process, one event loop, until it is told to stop."""

from __future__ import annotations

from granian import Granian
from granian.constants import Interfaces
from starlette.applications import Starlette

from recsys_tasks.serving.app import create_app
from recsys_tasks.settings import settings


def application() -> Starlette:
    """What the server's worker process loads."""
    return create_app(settings())


def serve(host: str, port: int) -> None:
    """Serves until SIGINT or SIGTERM, then answers what is under way and stops."""
    Granian(
        "recsys_tasks.serving.server:application",
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        factory=True,
        workers=1,
        websockets=False,
        process_name="recsys-endpoint",
    ).serve()
