"""`python -m recsys_tasks.stack [--once]`: the whole loop on one machine."""

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
from recsys_tasks.stack.environment import Ports
from recsys_tasks.stack.loop import Walk
from recsys_tasks.stack.services import running


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
    with running(console, home, _dags()) as (walk, ports):
        walk.stages.append(("starting the services", time.monotonic() - began))
        walk.go()
        _close(walk, ports, time.monotonic() - began)
        if not once:
            console.print("\nEverything stays up until Ctrl-C.")
            while True:
                walk.processes.check()
                time.sleep(1)


def _close(walk: Walk, ports: Ports, seconds: float) -> None:
    version = summary.verify(walk, ports)
    summary.show_metrics(walk.console, ports.url("mlflow"), version)
    summary.show_recommendations(walk, ports)
    summary.show_report(walk)
    summary.show_stages(walk, seconds)
    summary.show_addresses(walk.console, ports)


def _dags() -> Path:
    package = Path(__file__).parent.parent
    return next(folder for folder in (package.parent / "dags", package / "dags") if folder.is_dir())


if __name__ == "__main__":
    raise SystemExit(main())
