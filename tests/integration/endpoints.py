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

from recsys_tasks.serving.bundle import bundle_digest
from recsys_tasks.serving.models import Serving
from recsys_tasks.stack.environment import any_free_port

TOKEN = "secret"  # noqa: S105


@contextmanager
def running_endpoint(home: Path, token: str = TOKEN, port: int | None = None) -> Iterator[str]:
    """The address of an endpoint that lives as long as the context, with what its home remembers."""
    home.mkdir(exist_ok=True)
    port = port or any_free_port()
    environment = {**os.environ, "RECSYS_HOME": str(home), "RECSYS_ADMIN_TOKEN": token}
    command = [sys.executable, "-m", "recsys_tasks", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, cwd=home)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 30
    while True:
        try:
            httpx.get(f"{url}/healthz")
            break
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the endpoint did not come up"
    try:
        yield url
    finally:
        process.terminate()
        process.wait(20)


def serves_already(home: Path, bundle: Path) -> None:
    """Makes a home what an endpoint leaves that took a bundle."""
    folder, digest = home / "endpoint" / "bundles", bundle_digest(bundle)
    shutil.copytree(bundle, folder / digest)
    (folder / "serving.json").write_bytes(msgspec.json.encode(Serving(active=digest)))


def served_versions(urls: list[str]) -> list[str | None]:
    """The version that each endpoint serves."""
    return [httpx.get(f"{url}/v1/model").json().get("model_version") for url in urls]
