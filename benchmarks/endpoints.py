"""Endpoint processes on this host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from recsys_tasks.serving.workers import worker_port
from recsys_tasks.stack.environment import find_free_port


@contextmanager
def running_endpoint(home: Path, workers: int = 1) -> Iterator[tuple[str, int]]:
    """Starts an endpoint in a new folder, one thread per worker; yields its URL and process id."""
    port = find_free_port()
    command = [sys.executable, "-W", "ignore", "-m", "recsys_tasks", "serve", "--port", str(port)]
    with running_server(
        [*command, "--workers", str(workers)], home, [worker_port(port, n, workers) for n in range(workers)]
    ) as process:
        yield f"http://127.0.0.1:{port}", process


def worker_urls(url: str, workers: int) -> list[str]:
    """Returns the URL of each worker, to which bundles are deployed."""
    host, port = url.rsplit(":", 1)
    return [f"{host}:{worker_port(int(port), worker, workers)}" for worker in range(workers)]


@contextmanager
def running_server(command: Sequence[str], home: Path, ports: Sequence[int]) -> Iterator[int]:
    """Starts a server, waits for `/healthz` on all ports and yields its process id."""
    home.mkdir()
    environment = {**os.environ, "RECSYS_HOME": str(home), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)  # noqa: S603
    try:
        for port in ports:
            _wait_for(f"http://127.0.0.1:{port}/healthz", process)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    while True:
        try:
            httpx.get(url)
            return
        except httpx.TransportError:
            if process.poll() is not None:
                raise
            time.sleep(0.1)


def resident_memory_mb(pid: int) -> float:
    """Returns the memory in MB of a process and its children; shared pages count proportionally (PSS)."""
    process = psutil.Process(pid)
    return sum(one.memory_full_info().pss for one in (process, *process.children(recursive=True))) / 1e6
