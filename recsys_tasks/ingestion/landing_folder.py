"""The landing folder: `<landing>/<source>/` holds a source's files and, unless built in, its `mapping.toml`.

Files may lie in folders below, which may have mappings of their own. Hidden names, and those that begin with `_`, are
no data.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, text

from recsys_tasks.warehouse import statement

MAPPING = "mapping.toml"
_PARTIAL_SUFFIXES = (".part", ".tmp", ".crdownload")
_OTHER_SUFFIXES = (
    *(".md", ".rst", ".pdf", ".html", ".doc", ".docx", ".xls", ".xlsx", ".png", ".jpg", ".jpeg", ".gif", ".svg"),
    *(".tar", ".tgz", ".py", ".sql", ".sh", ".toml", ".yaml", ".yml", ".xml", ".crc", ".md5", ".sha256"),
)
_DOCUMENTATION = ("readme", "license", "licence", "changelog", "notice", "note", "notes")
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
    candidates = [(path, path.stat()) for path, problem in _list_files(folder) if problem is None]
    candidates.sort(key=lambda item: (item[1].st_mtime_ns, item[0]))
    return [
        LandingFile(_find_source(path, folder), str(path), status.st_size, status.st_mtime_ns)
        for path, status in candidates
        if (str(path), status.st_size, status.st_mtime_ns) not in known and _is_settled(status)
    ]


def find_skipped_files(folder: Path) -> dict[str, str]:
    """Returns the files that are no data of a source, by path, and why."""
    return {str(path): problem for path, problem in _list_files(folder) if problem is not None}


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


def _list_files(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Yields the files of a landing folder, without mappings, hidden and partial ones, each with what keeps it from
    being data of a source, if anything does."""
    for entry in sorted(folder.glob("*")):
        for path in _walk(entry) if entry.is_dir() else [entry]:  # a folder of a source may be a link
            hidden = any(name.startswith((".", "_")) for name in path.relative_to(folder).parts)
            if not hidden and path.name != MAPPING and path.suffix.lower() not in _PARTIAL_SUFFIXES and path.is_file():
                yield path, _find_problem(path, folder)


def _walk(folder: Path) -> Iterator[Path]:
    """Yields all files of a folder; does not follow links to other folders."""
    for root, _, names in os.walk(folder):
        yield from (Path(root) / name for name in names)


def _find_problem(path: Path, folder: Path) -> str | None:
    if path.parent == folder:
        return "it is in no folder of a source"
    if path.stem.lower() in _DOCUMENTATION and path.suffix.lower() in ("", ".txt"):
        return "it is named like documentation"
    if path.suffix.lower() in _OTHER_SUFFIXES:
        return f"files ending in {path.suffix} are not read"
    return None


def _is_settled(status: os.stat_result) -> bool:
    """Whether the file was not modified recently, so that no writer is likely to be active."""
    return time.time() - status.st_mtime > _MIN_FILE_AGE_SECONDS


def _find_source(path: Path, folder: Path) -> str:
    """Returns the nearest mapping above a file, or without any the name of its folder in the landing folder."""
    parts = path.relative_to(folder).parts[:-1]
    for count in range(len(parts), 0, -1):
        mapping = folder.joinpath(*parts[:count], MAPPING)
        if mapping.is_file():
            return str(mapping)
    return parts[0]
