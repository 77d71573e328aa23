"""Files that are whole after a crash and a power loss, or absent."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file; readers see the earlier content or the new one."""
    with _written(path, content) as temporary:
        temporary.replace(path)
    sync_folder(path.parent)


def create_file(path: Path, content: bytes) -> None:
    """Writes a new file.

    Raises:
        FileExistsError: another process was first.
    """
    with _written(path, content) as temporary:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            raise
        except OSError:  # the file system has no hard links
            with path.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the directory entries of new files durable."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def _written(path: Path, content: bytes) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
