"""Snapshot files: content-addressed names and atomic writes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def partitions_folder(snapshots: Path) -> Path:
    """Returns the subfolder of the snapshots folder that holds the files the manifests name."""
    return snapshots / "parts"


def write_table(folder: Path, name: str, table: pa.Table) -> str:
    """Writes a table to `<name>-<digest>.parquet` in the folder; returns the file name."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue()
    file = f"{name}-{hashlib.sha256(content).hexdigest()[:20]}.parquet"
    write_file(folder / file, content)
    return file


def write_file(path: Path, content: bytes | pa.Buffer) -> None:
    """Writes a file atomically: to a temporary file that then replaces `path`."""
    handle, name = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
