"""Worker processes on one machine: each is an endpoint with its own folder and port; all listen on a shared port too.

Callers use the shared port. The pipeline promotes to each worker's own port, and collects its event log there.
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

WORKER_VARIABLE = "RECSYS_WORKER"
_POLL_SECONDS = 0.1
_STABLE_SECONDS = 60.0  # a worker that runs this long resets its backoff
_MIN_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.5, 30.0


@dataclass(frozen=True)
class WorkerFolders:
    """The home folder of one worker, and those of the others."""

    home: Path
    other_homes: tuple[Path, ...] = ()

    @classmethod
    def for_worker(cls, home: Path, worker: int, workers: int) -> WorkerFolders:
        """Returns the folders of a worker, counted from 0, under `RECSYS_HOME`."""
        folders = [home / (f"endpoint-{number}" if number else "endpoint") for number in range(workers)]
        return cls(folders.pop(worker), tuple(folders))


def worker_port(port: int, worker: int, workers: int) -> int:
    """Returns a worker's own port: one of those after the shared port; a single worker has the port itself."""
    return port if workers == 1 else port + 1 + worker


def run_workers(host: str, port: int, workers: int, stop_seconds: float) -> None:
    """Runs worker processes until SIGINT or SIGTERM; restarts a worker that exits, with exponential backoff.

    Args:
        host: address to listen on.
        port: shared port.
        workers: number of workers.
        stop_seconds: time between SIGTERM and SIGKILL at the end.
    """
    supervised = [_Worker(host, port, number, workers) for number in range(workers)]
    is_stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        is_stopping = True

    previous_handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not is_stopping:
            for worker in supervised:
                worker.ensure_running()
            time.sleep(_POLL_SECONDS)
    finally:
        _stop([worker.process for worker in supervised if worker.process], stop_seconds)
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


class _Worker:
    """One supervised worker; it gets a new process after each exit."""

    def __init__(self, host: str, port: int, number: int, workers: int) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._arguments = host, port, number, workers
        self._started_at = self._restart_at = time.monotonic()
        self._backoff_seconds = 0.0

    def ensure_running(self) -> None:
        """Starts a process if there is none and the backoff has passed."""
        if self.process is not None and self.process.poll() is not None:
            self._schedule_restart(self.process.returncode)
            self.process = None
        if self.process is None and time.monotonic() >= self._restart_at:
            self._started_at = time.monotonic()
            self.process = _start(*self._arguments)

    def _schedule_restart(self, status: int) -> None:
        now = time.monotonic()
        was_stable = now - self._started_at >= _STABLE_SECONDS
        doubled = min(max(2 * self._backoff_seconds, _MIN_BACKOFF_SECONDS), _MAX_BACKOFF_SECONDS)
        self._backoff_seconds = _MIN_BACKOFF_SECONDS if was_stable else doubled
        self._restart_at = now + self._backoff_seconds
        number = self._arguments[2]
        log.error("Worker %d exited with status %s; restart in %.1f s", number, status, self._backoff_seconds)


def _stop(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Terminates all processes at once; kills those that still run after some seconds."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            log.error("Process %d did not exit within %.0f s; killing it", process.pid, seconds)
            process.kill()
            process.wait()


def _start(host: str, port: int, worker: int, workers: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "recsys_tasks", "serve", "--host", host, "--port", str(port)]
    command += ["--workers", str(workers)]
    environment = {**os.environ, WORKER_VARIABLE: str(worker)}
    # A new session: Ctrl-C in the terminal reaches only the supervisor, which terminates the workers itself.
    return subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603
