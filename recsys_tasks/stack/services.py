"""Lifecycle of the stack: starts its services, waits for them, stops them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from rich.console import Console

from recsys_tasks.errors import ConfigurationError, UnavailableError
from recsys_tasks.settings import settings
from recsys_tasks.stack import summary
from recsys_tasks.stack.airflow_api import AirflowClient
from recsys_tasks.stack.environment import Ports, choose_ports, save_ports, stack_environment
from recsys_tasks.stack.loop import LoopRunner
from recsys_tasks.stack.processes import StackProcesses, responds, stop_stack_processes, wait_until
from recsys_tasks.warehouse import embedded, engine

_MIN_FREE_BYTES = 4 << 30
_START_TIMEOUT_SECONDS = 180


@contextmanager
def running_stack(console: Console, home: Path, dags: Path, workers: int = 0) -> Iterator[tuple[LoopRunner, Ports]]:
    """Runs PostgreSQL, MLflow, Airflow and the endpoint in a home folder for the duration of the context.

    The settings of this process become those of the stack.

    Args:
        console: where addresses are printed.
        home: the folder.
        dags: folder of the DAG files.
        workers: number of Celery workers that run the tasks, each with a home folder of its own; 0: the scheduler runs
            them.

    Raises:
        ConfigurationError: workers need a Redis server, or an address in `RECSYS_STORE`.
        UnavailableError: the disk is too full, or a service does not start.
    """
    _check_disk(home)
    _check_workers(workers)
    stop_stack_processes(home)
    ports = choose_ports()
    console.print(
        f"[bold]Storefront[/]  {ports.url('endpoint')}/shop/  (on the first start, lists appear within two minutes)",
        highlight=False,
    )
    console.print("[bold]Starting[/] PostgreSQL, MLflow, Airflow, the endpoint and the console")
    save_ports(home, ports)
    server = embedded.start(home)
    environment = stack_environment(home, dags, embedded.socket_folder(server), ports, workers)
    os.environ.update(environment)
    settings.cache_clear()
    with StackProcesses(home, environment, ports, workers) as processes:
        starter = processes.start_program(
            "recsys_tasks.stack.starter", RECSYS_TEXT_ENCODER="none"
        )  # encoding takes a minute
        processes.start_services()
        airflow = AirflowClient(ports.url("airflow"))
        wait_until(airflow.is_ready, _START_TIMEOUT_SECONDS, processes, "Airflow")
        wait_until(lambda: responds(f"{ports.url('mlflow')}/health"), _START_TIMEOUT_SECONDS, processes, "MLflow")
        wait_until(
            lambda: responds(f"{ports.url('endpoint')}/healthz"), _START_TIMEOUT_SECONDS, processes, "The endpoint"
        )
        summary.show_addresses(console, ports)
        replay_from = datetime.fromisoformat(environment["RECSYS_SIMULATION_START"])
        yield LoopRunner(airflow, processes, starter, console, engine(), replay_from), ports


def _check_workers(workers: int) -> None:
    if workers and shutil.which("redis-server") is None:
        raise ConfigurationError("Workers need Redis: install redis-server, or start without --workers")
    if workers and not settings().store:
        raise ConfigurationError("Workers need a common store: set RECSYS_STORE, for example to s3://bucket/shop")


def _check_disk(home: Path) -> None:
    free = shutil.disk_usage(home).free
    if free < _MIN_FREE_BYTES:
        raise UnavailableError(
            f"{home} has {free >> 20} MiB free; the stack needs {_MIN_FREE_BYTES >> 20}. Free some, or set RECSYS_HOME"
        )
