"""Runs the endpoint: one process, one event loop, until it is told to stop."""

from __future__ import annotations

import os
import socket
import sys
import threading
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from recsys_tasks.engine.memory import return_what_is_freed
from recsys_tasks.errors import ConfigurationError
from recsys_tasks.serving.app import create_app
from recsys_tasks.serving.logs import configure
from recsys_tasks.serving.workers import WORKER, Place, own_port, run_workers
from recsys_tasks.settings import settings

_SWITCH_SECONDS = 0.0005
_BACKLOG = 2048
_DRAIN_SECONDS = 20
_CLOSE_SECONDS = 10  # what is left to do when every answer is given
_KEEP_SECONDS = 75  # callers with many connections use each of them seldom


def serve(host: str, port: int, workers: int = 1) -> None:
    """Serves until SIGINT or SIGTERM, then answers what is under way and stops.

    Raises:
        ConfigurationError: an address cannot be listened on.
    """
    worker = os.environ.get(WORKER)
    if workers > 1 and worker is None:
        for number in range(workers):
            _listening(host, own_port(port, number, workers)).close()  # says now what each worker would say again
        run_workers(host, port, workers, settings().drain_seconds + _DRAIN_SECONDS + _CLOSE_SECONDS)
    else:
        _serve_one(host, port, int(worker or 0), workers)


def _serve_one(host: str, port: int, worker: int, workers: int) -> None:
    # Whoever waits for an answer does not wait five milliseconds more for a thread that loads the next model.
    sys.setswitchinterval(_SWITCH_SECONDS)
    return_what_is_freed()
    configure(settings())
    sockets = [_listening(host, own_port(port, worker, workers))]
    if workers > 1:
        sockets.append(_listening(host, port, shared=True))
    app = create_app(settings(), Place.of_worker(settings().home, worker, workers))
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_SECONDS,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    _Server(config, app, settings().drain_seconds).run(sockets)


class _Server(uvicorn.Server):
    """Goes on for a while after it is told to stop, so that those who ask whether it is ready send nobody any more."""

    def __init__(self, config: uvicorn.Config, app: Starlette, drain_seconds: float) -> None:
        super().__init__(config)
        self._app, self._drain_seconds = app, drain_seconds
        app.state.endpoint.overload.arrived = lambda: len(self.server_state.tasks)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        endpoint = self._app.state.endpoint
        if endpoint.leaving or not self._drain_seconds:
            super().handle_exit(sig, frame)
            return
        endpoint.leaving = True
        threading.Timer(self._drain_seconds, super().handle_exit, (sig, frame)).start()


def _listening(host: str, port: int, shared: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        raise ConfigurationError(f"{host}:{port} cannot be listened on ({error}); give another --port") from error
    found.listen(_BACKLOG)
    return found
