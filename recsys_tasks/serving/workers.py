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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

log = logging.getLogger(__name__)

WORKER = "RECSYS_WORKER"
_LOOK_SECONDS = 0.1
_STEADY_SECONDS = 60.0  # who lasts so long has started well
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


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


def run_workers(host: str, port: int, workers: int, stop_seconds: float) -> None:
    """Runs so many workers until SIGINT or SIGTERM; one that ends before is started again.

    The more often in a row one ends soon after its start, the longer it is left alone before the next.

    Args:
        host: the address they listen on.
        port: the one they share.
        workers: how many.
        stop_seconds: how long they have to end once they are told to; then they are killed.
    """
    watched = [_Worker(host, port, number, workers) for number in range(workers)]
    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not stopping:
            for worker in watched:
                worker.keep_up()
            time.sleep(_LOOK_SECONDS)
    finally:
        _stop([worker.process for worker in watched if worker.process], stop_seconds)
        for number, handler in before.items():
            signal.signal(number, handler)


class _Worker:
    """One of the workers, whose process is another after each end."""

    def __init__(self, host: str, port: int, number: int, workers: int) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._given = host, port, number, workers
        self._started = self._due = time.monotonic()
        self._pause = 0.0

    def keep_up(self) -> None:
        """Starts the process when there is none and it is time for one."""
        if self.process is not None and self.process.poll() is not None:
            self._plan_next(self.process.returncode)
            self.process = None
        if self.process is None and time.monotonic() >= self._due:
            self._started = time.monotonic()
            self.process = _start(*self._given)

    def _plan_next(self, status: int) -> None:
        now = time.monotonic()
        steady = now - self._started >= _STEADY_SECONDS
        self._pause = _SHORTEST_PAUSE if steady else min(max(2 * self._pause, _SHORTEST_PAUSE), _LONGEST_PAUSE)
        self._due = now + self._pause
        number = self._given[2]
        log.error("Worker %d ended with status %s and is started again in %.1f s", number, status, self._pause)


def _stop(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Tells processes to end, all at once, and kills those that have not after so many seconds."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            log.error("Process %d did not end within %.0f s and is killed", process.pid, seconds)
            process.kill()
            process.wait()


def _start(host: str, port: int, worker: int, workers: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "recsys_tasks", "serve", "--host", host, "--port", str(port)]
    command += ["--workers", str(workers)]
    # In a group of its own: a Ctrl-C in the terminal is for the one who started it to pass on.
    return subprocess.Popen(command, env={**os.environ, WORKER: str(worker)}, start_new_session=True)  # noqa: S603
