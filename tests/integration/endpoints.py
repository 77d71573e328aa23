"""Endpoint processes for tests and benchmarks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec

from recsys_tasks.engine.bundle import bundle_digest
from recsys_tasks.serving.model_store import ServingState
from recsys_tasks.serving.workers import worker_port
from recsys_tasks.stack.environment import find_free_port

TOKEN = "secret"  # noqa: S105


@contextmanager
def running_endpoint(home: Path, token: str = TOKEN, port: int | None = None) -> Iterator[str]:
    """Runs an endpoint in a home folder; yields its URL."""
    port = port or find_free_port()
    with running_process(home, token, port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running_process(home: Path, token: str, port: int, workers: int = 1, **environment: str) -> Iterator[int]:
    """Runs an endpoint until all its workers answer; yields the process id, with several workers the supervisor's."""
    home.mkdir(exist_ok=True)
    variables = {**os.environ, "RECSYS_HOME": str(home), "RECSYS_ADMIN_TOKEN": token, **environment}
    command = [sys.executable, "-m", "recsys_tasks", "serve", "--port", str(port), "--workers", str(workers)]
    process = subprocess.Popen(command, env=variables, cwd=home)
    try:
        for worker in range(workers):
            wait_for(f"http://127.0.0.1:{worker_port(port, worker, workers)}")
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def wait_for(url: str) -> None:
    """Waits until an endpoint answers, at most 30 s."""
    deadline = time.monotonic() + 30
    while True:
        try:
            httpx.get(f"{url}/healthz")
            return
        except httpx.TransportError:
            assert time.monotonic() < deadline, f"{url} does not answer after 30 s"


def install_bundle(home: Path, bundle: Path) -> None:
    """Writes a bundle into a home folder as the active one."""
    folder, digest = home / "endpoint" / "bundles", bundle_digest(bundle)
    shutil.copytree(bundle, folder / digest)
    (folder / "serving.json").write_bytes(msgspec.json.encode(ServingState(active=digest)))


def served_versions(urls: list[str]) -> list[str | None]:
    """Returns the active model version of each endpoint."""
    return [httpx.get(f"{url}/v1/model").json().get("model_version") for url in urls]
