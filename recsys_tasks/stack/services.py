"""The stack, from its first process to its last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import httpx
from rich.console import Console

from recsys_tasks.errors import UnavailableError
from recsys_tasks.settings import settings
from recsys_tasks.stack import summary
from recsys_tasks.stack.airflow_api import Airflow
from recsys_tasks.stack.environment import Ports, choose_ports, stack_environment
from recsys_tasks.stack.loop import Walk
from recsys_tasks.stack.processes import Processes, sweep, wait_until
from recsys_tasks.warehouse import embedded, engine

_FREE_BYTES = 4 << 30
_START_SECONDS = 180


@contextmanager
def running(console: Console, home: Path, dags: Path) -> Iterator[tuple[Walk, Ports]]:
    """PostgreSQL, MLflow, Airflow and the endpoint in a home, as long as the context; the settings here are theirs.

    Raises:
        UnavailableError: the disk is too full, or a service does not come up.
    """
    _check_disk(home)
    sweep(home)
    ports = choose_ports()
    server = embedded.start(home)
    environment = stack_environment(home, dags, embedded.socket_folder(server), ports)
    os.environ.update(environment)
    settings.cache_clear()
    with Processes(home, environment, ports) as processes:
        airflow = Airflow(ports.url("airflow"))
        console.print("[bold]Starting[/] PostgreSQL, MLflow, Airflow and the endpoint")
        wait_until(airflow.ready, _START_SECONDS, processes, "Airflow")
        wait_until(lambda: _answers(f"{ports.url('mlflow')}/health"), _START_SECONDS, processes, "MLflow")
        wait_until(lambda: _answers(f"{ports.url('endpoint')}/healthz"), _START_SECONDS, processes, "The endpoint")
        summary.show_addresses(console, ports)
        replay_from = datetime.fromisoformat(environment["RECSYS_SIMULATION_START"])
        yield Walk(airflow, processes, console, engine(), replay_from), ports


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _check_disk(home: Path) -> None:
    free = shutil.disk_usage(home).free
    if free < _FREE_BYTES:
        raise UnavailableError(
            f"{home} has {free >> 20} MiB of free disk; {_FREE_BYTES >> 20} are needed. Free some, or set RECSYS_HOME"
        )
