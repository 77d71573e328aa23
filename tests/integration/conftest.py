"""Session-wide bundles, since training and exporting even a small model takes seconds, and an S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs

from tests.integration.bundles import small_bundle
from tests.integration.s3 import KEYS, running_s3_server
from tests.shops import build_once


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles with model versions 1 and 2."""
    return [
        build_once(tmp_path_factory, f"bundle{n}", lambda folder, n=n: small_bundle(folder, str(n), n))  # type: ignore[misc]
        for n in (1, 2)
    ]


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an S3 server."""
    with running_s3_server(tmp_path_factory.mktemp("s3")) as address:
        yield address


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[fs.SubTreeFileSystem]:
    """An empty bucket named `shop`; the environment has what reads it."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": s3_server}.items():
        monkeypatch.setenv(name, value)
    store = fs.S3FileSystem(endpoint_override=s3_server, allow_bucket_creation=True)
    yield fs.SubTreeFileSystem("shop", store)
    store.delete_dir_contents("shop")
