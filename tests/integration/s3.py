"""A real S3 server (SeaweedFS, from a package) for tests."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyarrow import fs

_SERVERS, _STARTS = ("master", "volume", "filer", "s3"), 5
KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}


@contextmanager
def running_s3_server(folder: Path) -> Iterator[str]:
    """Runs an S3 server with its data in a folder for the context; yields its address. It has a bucket `shop`."""
    server = shutil.which("weed", path=sysconfig.get_path("scripts"))
    assert server is not None
    identity = {"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}
    users = [{"name": "tester", "credentials": [identity], "actions": ["Admin"]}]
    (folder / "s3.json").write_text(json.dumps({"identities": users}), encoding="utf-8")
    for _ in range(_STARTS):  # another process may take one of its ports
        ports = _free_ports(2 * len(_SERVERS))
        options = [f"-{name}.port={port}" for name, port in zip(_SERVERS, ports, strict=False)]
        options += [f"-{name}.port.grpc={port}" for name, port in zip(_SERVERS, ports[len(_SERVERS) :], strict=True)]
        options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", f"-dir={folder}"]
        options += ["-ip=127.0.0.1", "-filer", "-s3", f"-s3.config={folder}/s3.json"]
        with (folder / "log").open("a") as log:
            process = subprocess.Popen([server, "server", *options], stdout=log, stderr=log)
        url = f"http://127.0.0.1:{ports[_SERVERS.index('s3')]}"
        if _is_up(process, url):
            break
    try:
        yield url
    finally:
        process.kill()  # an orderly end takes half a minute
        process.wait(timeout=30)


def _is_up(process: subprocess.Popen[bytes], url: str) -> bool:
    """Waits until the server answers; False if it has ended."""
    store = fs.S3FileSystem(
        endpoint_override=url,
        allow_bucket_creation=True,
        access_key=KEYS["AWS_ACCESS_KEY_ID"],
        secret_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region=KEYS["AWS_REGION"],
    )
    deadline = time.monotonic() + 60
    while process.poll() is None:
        try:
            store.create_dir("shop")
        except OSError:
            assert time.monotonic() < deadline, f"{url} does not answer after 60 s"
            time.sleep(0.2)
        else:
            return True
    return False


def _free_ports(count: int) -> list[int]:
    """Returns distinct free ports."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]
