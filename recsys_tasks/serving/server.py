"""Runs the endpoint: one process, one event loop, until it is told to stop."""

from __future__ import annotations

import sys

from granian import Granian
from granian.constants import Interfaces
from starlette.applications import Starlette

from recsys_tasks.serving.app import create_app
from recsys_tasks.serving.logs import configure
from recsys_tasks.serving.memory import return_what_is_freed
from recsys_tasks.settings import settings

_SWITCH_SECONDS = 0.0005


def application() -> Starlette:
    """What the server's worker process loads."""
    # Whoever waits for an answer does not wait five milliseconds more for a thread that loads the next model.
    sys.setswitchinterval(_SWITCH_SECONDS)
    return_what_is_freed()
    configure(settings())
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
