"""`python -m recsys_tasks.stack [--once] [--workers N]`: starts the stack and runs the whole loop on one machine."""

from __future__ import annotations

import argparse
import fcntl
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import httpx
from rich.console import Console

from recsys_tasks.errors import ConfigurationError, RecsysError
from recsys_tasks.settings import settings
from recsys_tasks.stack import summary
from recsys_tasks.stack.environment import Ports, find_dags_folder
from recsys_tasks.stack.loop import LoopRunner
from recsys_tasks.stack.services import running_stack


def main() -> int:
    """Starts the stack, runs the loop and prints a summary; exit status 0 if the loop closed."""
    parser = argparse.ArgumentParser(prog="make run", description="The whole loop on one machine.")
    parser.add_argument("--once", action="store_true", help="stop when the loop has closed; default: run until Ctrl-C")
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="run Airflow's tasks on N Celery workers, each with a home folder of its own, as on N hosts; needs"
        " redis-server and RECSYS_STORE",
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)  # a shell that starts it in the background ignores SIGINT
    console = Console()
    try:
        _run(console, options.once, options.workers)
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 0 if not options.once else 130
    except ConfigurationError as error:
        print(f"make run: {error}", file=sys.stderr)
        return 2
    except (RecsysError, httpx.HTTPError) as error:
        print(f"make run: {error}", file=sys.stderr)
        return 1
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(console: Console, once: bool, workers: int) -> None:
    started_at = time.monotonic()
    home = settings().home
    with _single_instance(home):
        _run_loop(console, once, workers, home, started_at)


@contextmanager
def _single_instance(home: Path) -> Iterator[None]:
    """Holds the lock that allows one stack in a home folder.

    Raises:
        ConfigurationError: another stack runs there, or the folder cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "stack.lock").open("w")
    except OSError as error:
        raise ConfigurationError(
            f"{home} cannot be written ({error.strerror}). Set RECSYS_HOME to a writable folder"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(f"Another stack runs in {home}. Stop it, or set another RECSYS_HOME") from error
        yield


def _run_loop(console: Console, once: bool, workers: int, home: Path, started_at: float) -> None:
    with running_stack(console, home, find_dags_folder(), workers) as (runner, ports):
        runner.stages.append(("starting the services", time.monotonic() - started_at))
        runner.run()
        _show_summary(runner, ports, time.monotonic() - started_at)
        if not once:
            console.print("\nThe stack stays up until Ctrl-C.")
            while True:
                runner.processes.check()
                time.sleep(1)


def _show_summary(runner: LoopRunner, ports: Ports, seconds: float) -> None:
    version = summary.verify_loop(runner, ports)
    summary.show_metrics(runner.console, ports.url("mlflow"), version)
    summary.show_recommendations(runner, ports)
    summary.show_report(runner)
    summary.show_stages(runner, seconds)
    summary.show_addresses(runner.console, ports)


if __name__ == "__main__":
    raise SystemExit(main())
