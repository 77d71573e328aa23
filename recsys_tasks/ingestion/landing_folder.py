"""The landing folder: `<landing>/<source>/` holds a source's files and, unless built in, its `mapping.toml`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, text

from recsys_tasks.warehouse import statement

MAPPING = "mapping.toml"
_PARTIAL_SUFFIXES = (".part", ".tmp", ".crdownload")
_MIN_FILE_AGE_SECONDS = 2.0


@dataclass(frozen=True)
class LandingFile:
    """A file in the landing folder, with its state at listing time.

    Attributes:
        source: name of a built-in source, or path of a mapping file.
        path: path of the file.
        bytes: size in bytes.
        modified_ns: modification time in nanoseconds since the epoch.
    """

    source: str
    path: str
    bytes: int
    modified_ns: int


def find_new_files(engine: Engine, folder: Path) -> list[LandingFile]:
    """Returns the files that were not landed yet, oldest first; skips files modified in the last 2 seconds.

    Files are compared by path, size and modification time, without reading them. The digest of the content later
    decides whether a file is a new batch.
    """
    with engine.connect() as connection:
        known = {
            (row.path, row.bytes, row.modified_ns)
            for row in connection.execute(text("select path, bytes, modified_ns from landed_files"))
        }
    candidates = [(path, path.stat()) for path in folder.glob("*/*") if path.is_file() and _is_data_file(path)]
    candidates.sort(key=lambda item: (item[1].st_mtime_ns, item[0]))
    return [
        LandingFile(_find_source(path), str(path), status.st_size, status.st_mtime_ns)
        for path, status in candidates
        if (str(path), status.st_size, status.st_mtime_ns) not in known and _is_settled(status)
    ]


def record_landed_file(engine: Engine, file: LandingFile, batch_ids: Sequence[str]) -> None:
    """Records a file as landed in its listed state; a file changed since then is listed again."""
    values = [
        {
            "path": file.path,
            "bytes": file.bytes,
            "modified_ns": file.modified_ns,
            "batch_id": batch_id,
        }
        for batch_id in batch_ids
    ]
    with engine.begin() as connection:
        connection.execute(statement("ingestion/insert_landed_file"), values)


def _is_data_file(path: Path) -> bool:
    hidden = path.name.startswith((".", "_"))
    return not hidden and path.name != MAPPING and path.suffix not in _PARTIAL_SUFFIXES


def _is_settled(status: os.stat_result) -> bool:
    """Whether the file was not modified recently, so that no writer is likely to be active."""
    return time.time() - status.st_mtime > _MIN_FILE_AGE_SECONDS


def _find_source(path: Path) -> str:
    mapping = path.parent / MAPPING
    return str(mapping) if mapping.is_file() else path.parent.name
