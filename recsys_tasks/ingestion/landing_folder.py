"""The landing folder: `<landing>/<source>/` holds a source's files and, unless built in, its `mapping.toml`.

The folder is one of this machine or of a remote store. Files may lie in folders below, which may have mappings of their
own. Hidden names, and those that begin with `_`, are no data.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sqlalchemy import Engine, text

from recsys_tasks.ingestion.remote_files import FileEntry, list_folder
from recsys_tasks.storage.addresses import is_remote
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
        source: name of a built-in source, or path or address of a mapping file.
        path: path or address of the file.
        bytes: size in bytes.
        modified_ns: modification time in nanoseconds since the epoch.
    """

    source: str
    path: str
    bytes: int
    modified_ns: int


def find_new_files(engine: Engine, folder: Path | str) -> list[LandingFile]:
    """Returns the files that were not landed yet, oldest first; skips files modified in the last 2 seconds.

    Files are compared by path, size and modification time, without reading them. The digest of the content later
    decides whether a file is a new batch.

    Raises:
        ConfigurationError: the remote store reports no modification times.
        UnavailableError: the remote store does not answer.
    """
    with engine.connect() as connection:
        known = {
            (row.path, row.bytes, row.modified_ns)
            for row in connection.execute(text("select path, bytes, modified_ns from landed_files"))
        }
    files = _list_files(folder)
    mappings = {file.names[:-1]: file.address for file in files if file.names[-1] == MAPPING}
    candidates = [file for file in _iterate_data(files) if _find_problem(file) is None]
    candidates.sort(key=lambda file: (file.modified_ns, file.names))
    return [
        LandingFile(_find_source(file, mappings), file.address, file.bytes, file.modified_ns)
        for file in candidates
        if (file.address, file.bytes, file.modified_ns) not in known and _is_settled(file)
    ]


def find_skipped_files(folder: Path | str) -> dict[str, str]:
    """Returns the files that are no data of a source, by path, and why."""
    problems = {file.address: _find_problem(file) for file in _iterate_data(_list_files(folder))}
    return {address: problem for address, problem in problems.items() if problem is not None}


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


def _list_files(folder: Path | str) -> list[FileEntry]:
    """Returns all files in a landing folder and below, sorted by name."""
    if is_remote(str(folder)):
        return list_folder(str(folder))
    found = []
    for entry in sorted(Path(folder).glob("*")):
        for path in _walk(entry) if entry.is_dir() else [entry]:  # a folder of a source may be a link
            if path.is_file():
                status = path.stat()
                names = path.relative_to(folder).parts
                found.append(FileEntry(str(path), names, status.st_size, status.st_mtime_ns))
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Yields all files of a folder; does not follow links to other folders."""
    for root, _, names in os.walk(folder):
        yield from (Path(root) / name for name in names)


def _iterate_data(files: Sequence[FileEntry]) -> Iterator[FileEntry]:
    """Yields the files that are meant as data: no mappings, no hidden and no partial ones."""
    for file in files:
        name = file.names[-1]
        hidden = any(part.startswith((".", "_")) for part in file.names)
        if not hidden and name != MAPPING and PurePosixPath(name).suffix.lower() not in _PARTIAL_SUFFIXES:
            yield file


def _find_problem(file: FileEntry) -> str | None:
    """Returns what keeps a file from being data of a source, if anything does."""
    name = PurePosixPath(file.names[-1])
    if len(file.names) == 1:
        return "it is in no folder of a source"
    if name.stem.lower() in _DOCUMENTATION and name.suffix.lower() in ("", ".txt"):
        return "it is named like documentation"
    if name.suffix.lower() in _OTHER_SUFFIXES:
        return f"files ending in {name.suffix} are not read"
    return None


def _is_settled(file: FileEntry) -> bool:
    """Whether the file was not modified recently, so that no writer is likely to be active."""
    return time.time() - file.modified_ns / 1e9 > _MIN_FILE_AGE_SECONDS


def _find_source(file: FileEntry, mappings: Mapping[tuple[str, ...], str]) -> str:
    """Returns the nearest mapping above a file, or without any the name of its folder in the landing folder."""
    for count in range(len(file.names) - 1, 0, -1):
        if file.names[:count] in mappings:
            return mappings[file.names[:count]]
    return file.names[0]
