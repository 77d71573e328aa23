"""Several workers on one machine: each is an endpoint with a folder and an address of its own, and all share a port.

The port is the callers'. The pipeline promotes to each worker's own address, and collects its journal there.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

log = logging.getLogger(__name__)

WORKER = "RECSYS_WORKER"
_LOOK_SECONDS = 0.1
_STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Place:
    """The folder of one worker, and those of the others."""

    home: Path
    others: tuple[Path, ...] = ()

    @classmethod
    def of_worker(cls, home: Path, worker: int, workers: int) -> Place:
        """The place of a worker, counted from 0, in the folder of everything."""
        folders = [home / (f"endpoint-{number}" if number else "endpoint") for number in range(workers)]
        return cls(folders.pop(worker), tuple(folders))


def own_port(port: int, worker: int, workers: int) -> int:
    """A worker's own port: after the shared one, unless it is alone."""
    return port if workers == 1 else port + 1 + worker


def run_workers(host: str, port: int, workers: int) -> None:
    """Runs so many workers until SIGINT or SIGTERM; one that ends before is started again."""
    running: dict[int, subprocess.Popen[bytes]] = {}
    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not stopping:
            for worker in range(workers):
                process = running.get(worker)
                if process is None or process.poll() is not None:
                    if process is not None:
                        log.error("Worker %d ended with status %s and is started again", worker, process.returncode)
                    running[worker] = _start(host, port, worker, workers)
            time.sleep(_LOOK_SECONDS)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait(_STOP_SECONDS)
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(host: str, port: int, worker: int, workers: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "recsys_tasks", "serve", "--host", host, "--port", str(port)]
    command += ["--workers", str(workers)]
    # In a group of its own: a Ctrl-C in the terminal is for the one who started it to pass on.
    return subprocess.Popen(command, env={**os.environ, WORKER: str(worker)}, start_new_session=True)  # noqa: S603
