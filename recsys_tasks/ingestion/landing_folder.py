"""The landing folder: `<landing>/<source>/` holds a source's files and, unless one comes along, its `mapping.toml`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, text

from recsys_tasks.warehouse import statement

MAPPING = "mapping.toml"
_UNFINISHED = (".part", ".tmp", ".crdownload")
_SETTLED_SECONDS = 2.0


@dataclass(frozen=True)
class DroppedFile:
    """A file of a source, as it was when it was found.

    Attributes:
        source: the name of one that comes along, or the path of a mapping.
        path: where the file is.
        bytes: its size.
        modified_ns: when it was last changed.
    """

    source: str
    path: str
    bytes: int
    modified_ns: int


def new_files(engine: Engine, folder: Path) -> list[DroppedFile]:
    """The files that were not landed yet, oldest first, but for those somebody may still be writing.

    A file is known by path, size and time of change here, which costs no reading; whether it says anything new its
    content decides later.
    """
    with engine.connect() as connection:
        known = {
            (row.path, row.bytes, row.modified_ns)
            for row in connection.execute(text("select path, bytes, modified_ns from landed_files"))
        }
    found = [(path, path.stat()) for path in folder.glob("*/*") if path.is_file() and _is_data(path)]
    found.sort(key=lambda item: (item[1].st_mtime_ns, item[0]))
    return [
        DroppedFile(_source_of(path), str(path), status.st_size, status.st_mtime_ns)
        for path, status in found
        if (str(path), status.st_size, status.st_mtime_ns) not in known and _is_settled(status)
    ]


def note_landed(engine: Engine, dropped: DroppedFile, batch_ids: Sequence[str]) -> None:
    """Remembers that a file was landed as it was when it was found; one that has changed since is found again."""
    values = [
        {
            "path": dropped.path,
            "bytes": dropped.bytes,
            "modified_ns": dropped.modified_ns,
            "batch_id": batch_id,
        }
        for batch_id in batch_ids
    ]
    with engine.begin() as connection:
        connection.execute(statement("ingestion/insert_landed_file"), values)


def _is_data(path: Path) -> bool:
    hidden = path.name.startswith((".", "_"))
    return not hidden and path.name != MAPPING and path.suffix not in _UNFINISHED


def _is_settled(status: os.stat_result) -> bool:
    """Whether nobody has written to a file for a moment."""
    return time.time() - status.st_mtime > _SETTLED_SECONDS


def _source_of(path: Path) -> str:
    mapping = path.parent / MAPPING
    return str(mapping) if mapping.is_file() else path.parent.name
