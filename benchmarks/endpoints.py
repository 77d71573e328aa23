"""Endpoints on this machine, as processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from recsys_tasks.stack.environment import any_free_port


@contextmanager
def running_endpoint(home: Path) -> Iterator[tuple[str, int]]:
    """Address and process of an endpoint on one thread, in a folder of its own."""
    home.mkdir()
    port = any_free_port()
    command = [sys.executable, "-W", "ignore", "-m", "recsys_tasks", "serve", "--port", str(port)]
    environment = {**os.environ, "RECSYS_HOME": str(home), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)  # noqa: S603
    try:
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/healthz")
                break
            except httpx.TransportError:
                if process.poll() is not None:
                    raise
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def resident_megabytes(pid: int) -> float:
    """Megabytes of a process and those it started."""
    process = psutil.Process(pid)
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 1e6
