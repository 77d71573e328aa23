"""`python -m recsys_tasks.stack [--once]`: the whole loop on one machine."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType

import httpx
from rich.console import Console

from recsys_tasks.errors import ConfigurationError, RecsysError, UnavailableError
from recsys_tasks.settings import settings
from recsys_tasks.stack import closing
from recsys_tasks.stack.airflow_api import Airflow
from recsys_tasks.stack.environment import Ports, choose_ports, stack_environment
from recsys_tasks.stack.loop import Walk
from recsys_tasks.stack.processes import Processes, sweep, wait_until
from recsys_tasks.warehouse import embedded, engine

_FREE_BYTES = 4 << 30
_START_SECONDS = 180


def main() -> int:
    """Starts the stack, walks the loop, shows what came of it; exit status 0 if the loop closed."""
    parser = argparse.ArgumentParser(prog="make run", description="The whole loop on one machine.")
    parser.add_argument("--once", action="store_true", help="stop when the loop has closed, instead of at Ctrl-C")
    once = parser.parse_args().once
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)  # also where a shell that started it in the background had it ignored
    console = Console()
    try:
        _run(console, once)
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 0 if not once else 130
    except ConfigurationError as error:
        print(f"make run: {error}", file=sys.stderr)
        return 2
    except (RecsysError, httpx.HTTPError) as error:
        print(f"make run: {error}", file=sys.stderr)
        return 1
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(console: Console, once: bool) -> None:
    began = time.monotonic()
    home = settings().home
    with _alone(home):
        _walk(console, once, home, began)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One stack at a time in a home.

    Raises:
        ConfigurationError: another one runs there, or the folder cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "stack.lock").open("w")
    except OSError as error:
        raise ConfigurationError(f"{home} cannot be written ({error.strerror}); set RECSYS_HOME") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(f"Another stack runs in {home}; stop it, or set another RECSYS_HOME") from error
        yield


def _walk(console: Console, once: bool, home: Path, began: float) -> None:
    _check_disk(home)
    sweep(home)
    ports = choose_ports()
    server = embedded.start(home)
    environment = stack_environment(home, _dags(), embedded.socket_folder(server), ports)
    os.environ.update(environment)
    settings.cache_clear()
    with Processes(home, environment, ports) as processes:
        airflow = Airflow(ports.url("airflow"))
        console.print("[bold]Starting[/] PostgreSQL, MLflow, Airflow and the endpoint")
        wait_until(airflow.ready, _START_SECONDS, processes, "Airflow")
        wait_until(lambda: _answers(f"{ports.url('mlflow')}/health"), _START_SECONDS, processes, "MLflow")
        wait_until(lambda: _answers(f"{ports.url('endpoint')}/healthz"), _START_SECONDS, processes, "The endpoint")
        closing.show_addresses(console, ports)
        walk = Walk(
            airflow=airflow,
            processes=processes,
            console=console,
            warehouse=engine(),
            endpoint_url=ports.url("endpoint"),
            replay_from=datetime.fromisoformat(environment["RECSYS_REPLAY_FROM"]),
        )
        walk.stages.append(("starting the services", time.monotonic() - began))
        walk.go()
        _close(walk, ports, time.monotonic() - began)
        if not once:
            console.print("\nEverything stays up until Ctrl-C.")
            while True:
                processes.check()
                time.sleep(1)


def _close(walk: Walk, ports: Ports, seconds: float) -> None:
    version = closing.verify(walk, ports)
    closing.show_metrics(walk.console, ports.url("mlflow"), version)
    closing.show_recommendations(walk, ports)
    closing.show_report(walk)
    closing.show_stages(walk, seconds)
    closing.show_addresses(walk.console, ports)


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


def _dags() -> Path:
    package = Path(__file__).parent.parent
    return next(folder for folder in (package.parent / "dags", package / "dags") if folder.is_dir())


if __name__ == "__main__":
    raise SystemExit(main())
