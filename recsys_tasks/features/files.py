"""Files of snapshots: named by their content, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def parts_folder(snapshots: Path) -> Path:
    """Where in the folder of snapshots the files are that their manifests name."""
    return snapshots / "parts"


def put_table(folder: Path, name: str, table: pa.Table) -> str:
    """Writes a table to `<name>-<digest>.parquet` in the folder, and returns that file name."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue()
    file = f"{name}-{hashlib.sha256(content).hexdigest()[:20]}.parquet"
    put_file(folder / file, content)
    return file


def put_file(path: Path, content: bytes | pa.Buffer) -> None:
    """Writes a file whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
