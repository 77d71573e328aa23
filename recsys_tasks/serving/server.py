"""Server of the endpoint: one process and one event loop per worker, with graceful shutdown."""

from __future__ import annotations

import logging
import os
import resource
import socket
import sys
import threading
from contextlib import suppress
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from recsys_tasks.engine.memory import collect_recent_garbage, freeze_garbage_collector, return_freed_memory
from recsys_tasks.errors import ConfigurationError
from recsys_tasks.serving.app import create_app
from recsys_tasks.serving.connections import bounded_protocol
from recsys_tasks.serving.logs import configure_logging
from recsys_tasks.serving.workers import WORKER_VARIABLE, WorkerFolders, run_workers, worker_port
from recsys_tasks.settings import settings

log = logging.getLogger(__name__)

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_THREAD_SWITCH_SECONDS = 0.0005
_BACKLOG = 2048
_GRACEFUL_SHUTDOWN_SECONDS = 20
_MAX_FILES = 65_536
_CLEANUP_SECONDS = 10  # after the last answer
_KEEP_ALIVE_SECONDS = 75  # callers with many connections use each of them rarely


def serve(host: str, port: int, workers: int = 1, is_open: bool = False) -> None:
    """Serves until SIGINT or SIGTERM, then answers the requests in progress and stops.

    Args:
        host, port: address to listen on.
        workers: number of processes.
        is_open: whether a public address needs no keys.

    Raises:
        ConfigurationError: an address is in use or invalid, or public without keys.
    """
    worker = os.environ.get(WORKER_VARIABLE)
    if worker is None:
        _check_keys(host, is_open)
    if workers > 1 and worker is None:
        for number in range(workers):
            _listen(host, worker_port(port, number, workers)).close()  # fails here once, not in every worker
        run_workers(host, port, workers, settings().drain_seconds + _GRACEFUL_SHUTDOWN_SECONDS + _CLEANUP_SECONDS)
    else:
        _serve_worker(host, port, int(worker or 0), workers)


def _check_keys(host: str, is_open: bool) -> None:
    missing = [name for name in ("read_keys", "write_keys") if not getattr(settings(), name)]
    if host in _LOOPBACK or not missing or settings().keys_file:
        return
    names = " and ".join(f"RECSYS_{name.upper()}" for name in missing)
    if not is_open:
        raise ConfigurationError(
            f"{host} is a public address, but {names} are not set: everybody who reaches it could use the endpoint. Set"
            " them or RECSYS_KEYS_FILE, or pass --open"
        )
    log.warning("The endpoint at %s is open to everybody who reaches it: %s are not set", host, names)


def _serve_worker(host: str, port: int, worker: int, workers: int) -> None:
    # Below the default of 5 ms: requests do not wait that long for a thread that loads the next model.
    sys.setswitchinterval(_THREAD_SWITCH_SECONDS)
    return_freed_memory()
    _raise_file_limit()
    configure_logging(settings())
    sockets = [_listen(host, worker_port(port, worker, workers))]
    if workers > 1:
        sockets.append(_listen(host, port, is_shared=True))
    app = create_app(settings(), WorkerFolders.for_worker(settings().home, worker, workers))
    collect_recent_garbage()
    freeze_garbage_collector()
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=bounded_protocol(settings().max_connections_per_address),
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACEFUL_SHUTDOWN_SECONDS,
    )
    _DrainingServer(config, app, settings().drain_seconds).run(sockets)


def _raise_file_limit() -> None:
    """Allows as many open files as the machine does: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # not every system allows what it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _MAX_FILES) if most > 0 else _MAX_FILES, most))


class _DrainingServer(uvicorn.Server):
    """Serves on for `drain_seconds` after a stop signal, not ready, so that load balancers send new requests away."""

    def __init__(self, config: uvicorn.Config, app: Starlette, drain_seconds: float) -> None:
        super().__init__(config)
        self._app, self._drain_seconds = app, drain_seconds
        app.state.endpoint.queue.count_arrived = lambda: len(self.server_state.tasks)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        endpoint = self._app.state.endpoint
        if endpoint.is_draining or not self._drain_seconds:
            super().handle_exit(sig, frame)
            return
        endpoint.is_draining = True
        threading.Timer(self._drain_seconds, super().handle_exit, (sig, frame)).start()


def _listen(host: str, port: int, is_shared: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigurationError(f"Cannot listen on {host}:{port} ({error}); choose another --port") from error
    listener.listen(_BACKLOG)
    return listener
