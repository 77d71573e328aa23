"""Endpoints as processes of their own."""

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
from recsys_tasks.serving.model_store import Serving
from recsys_tasks.serving.workers import own_port
from recsys_tasks.stack.environment import any_free_port

TOKEN = "secret"  # noqa: S105


@contextmanager
def running_endpoint(home: Path, token: str = TOKEN, port: int | None = None) -> Iterator[str]:
    """The address of an endpoint that lives as long as the context, with what its home remembers."""
    port = port or any_free_port()
    with running_process(home, token, port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running_process(home: Path, token: str, port: int, workers: int = 1, **more: str) -> Iterator[int]:
    """The process of an endpoint whose workers all answer, or of the one that watches them."""
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "RECSYS_HOME": str(home), "RECSYS_ADMIN_TOKEN": token, **more}
    command = [sys.executable, "-m", "recsys_tasks", "serve", "--port", str(port), "--workers", str(workers)]
    process = subprocess.Popen(command, env=environment, cwd=home)
    try:
        for worker in range(workers):
            wait_for(f"http://127.0.0.1:{own_port(port, worker, workers)}")
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def wait_for(url: str) -> None:
    """Returns when an endpoint answers."""
    deadline = time.monotonic() + 30
    while True:
        try:
            httpx.get(f"{url}/healthz")
            return
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the endpoint did not come up"


def serves_already(home: Path, bundle: Path) -> None:
    """Makes a home what an endpoint leaves that took a bundle."""
    folder, digest = home / "endpoint" / "bundles", bundle_digest(bundle)
    shutil.copytree(bundle, folder / digest)
    (folder / "serving.json").write_bytes(msgspec.json.encode(Serving(active=digest)))


def served_versions(urls: list[str]) -> list[str | None]:
    """The version that each endpoint serves."""
    return [httpx.get(f"{url}/v1/model").json().get("model_version") for url in urls]
