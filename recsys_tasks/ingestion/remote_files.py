"""Files to ingest from remote stores: `s3://`, `gs://` and `abfs://` through Arrow, all other addresses that fsspec
knows (`https`, `sftp`, …) through it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from recsys_tasks.errors import ConfigurationError, MalformedFile, UnavailableError
from recsys_tasks.storage.addresses import (
    WILDCARD,
    check_address,
    describe_error,
    is_web,
    object_store,
    without_secrets,
)

_MODIFIED_NAMES = ("mtime", "LastModified", "last_modified", "updated", "modified")


class FileEntry(NamedTuple):
    """A file below a folder: its address, the names from the folder down to it, size and modification time."""

    address: str
    names: tuple[str, ...]
    bytes: int
    modified_ns: int


class _Found(NamedTuple):
    """A file as a store lists it."""

    path: str
    bytes: int | None
    modified: datetime | None


def find_files(pattern: str) -> list[str]:
    """Returns the addresses of the files that match a pattern with `*`, sorted. A plain address is returned if the file
    exists.

    Raises:
        ConfigurationError: the address cannot be used; the message says why.
        UnavailableError: the store does not answer.
    """
    with _open_store(pattern) as (store, path):
        if WILDCARD not in path:
            return [pattern] if store.exists(path) else []
        parts = path.split("/")
        depth = next(index for index, part in enumerate(parts) if WILDCARD in part)
        is_match = re.compile(re.escape(path).replace(r"\*", "[^/]*")).fullmatch
        folder = "/".join(parts[:depth]) or ("/" if path.startswith("/") else "")
        listed = store.list_files(folder, len(parts) - depth)
        return [_address(pattern, path, found.path) for found in listed if is_match(found.path)]


def list_folder(address: str) -> list[FileEntry]:
    """Returns all files in a folder and below, sorted by path.

    Raises:
        ConfigurationError: the store reports no modification times, by which changed files are known.
        UnavailableError: the store does not answer.
    """
    address = address.rstrip("/")
    with _open_store(address) as (store, root):
        found = store.list_files(root)
    files = []
    for path, size, modified in found:
        if modified is None:
            raise ConfigurationError(
                f"{without_secrets(address)} reports no modification times, so it cannot be a landing folder. Name its"
                " files in the [delivery] of a mapping"
            )
        names = tuple(path.removeprefix(root).strip("/").split("/"))
        files.append(FileEntry(_address(address, root, path), names, size or 0, int(modified.timestamp() * 1e9)))
    return files


def read_text(address: str) -> str:
    """Returns the content of a remote text file.

    Raises:
        MalformedFile: there is no such file.
        UnavailableError: the store does not answer.
    """
    with local_copy(address) as copy:
        return copy.read_text(encoding="utf-8")


@contextmanager
def local_copy(address: str) -> Iterator[Path]:
    """Yields a local copy of a remote file, under its own name; deletes it afterwards.

    Raises:
        MalformedFile: there is no such file.
        UnavailableError: the store does not answer, or the transfer broke off.
    """
    with tempfile.TemporaryDirectory(prefix="recsys-") as folder:
        with _open_store(address) as (store, path):
            name = urlsplit(path).path if is_web(address) else path
            copy = Path(folder) / (name.rsplit("/", 1)[-1] or "file")
            store.filesystem.get_file(path, str(copy))
        yield copy


class _Store(Protocol):
    """A file system that raises the errors of a listing, instead of leaving files out."""

    filesystem: Any

    def exists(self, path: str) -> bool: ...

    def list_files(self, folder: str, depth: int | None = None) -> list[_Found]: ...


class _ArrowStore:
    def __init__(self, filesystem: Any) -> None:
        from fsspec.implementations.arrow import ArrowFSWrapper

        self.filesystem = ArrowFSWrapper(filesystem)

    def exists(self, path: str) -> bool:
        from pyarrow import fs

        return bool(self.filesystem.fs.get_file_info(path).type == fs.FileType.File)

    def list_files(self, folder: str, depth: int | None = None) -> list[_Found]:
        from pyarrow import fs

        selector = fs.FileSelector(folder, allow_not_found=True, recursive=True)
        found = (info for info in self.filesystem.fs.get_file_info(selector) if info.type == fs.FileType.File)
        return sorted(_Found(info.path, info.size, info.mtime) for info in found)


class _FsspecStore:
    def __init__(self, filesystem: Any, is_web: bool) -> None:
        self.filesystem, self._is_web = filesystem, is_web

    def exists(self, path: str) -> bool:
        if self._is_web:  # its `info` takes every error for a missing file
            return bool(self.filesystem.exists(path, strict=True))
        try:
            return bool(self.filesystem.info(path)["type"] == "file")
        except FileNotFoundError:
            return False

    def list_files(self, folder: str, depth: int | None = None) -> list[_Found]:
        try:
            return sorted(self._walk(folder, depth, self.filesystem.ls(folder, detail=True)))
        except FileNotFoundError:
            return []

    def _walk(self, folder: str, depth: int | None, entries: Sequence[dict[str, Any]]) -> Iterator[_Found]:
        """Yields the files below a folder. The library's own walk leaves out folders that it cannot list."""
        for entry in entries:
            path = entry["name"].rstrip("/")
            if not path.startswith(folder.rstrip("/") + "/") or (self._is_web and "?" in path):
                continue  # a link on a web page that leads elsewhere, or sorts the page
            if entry["type"] != "directory":
                yield _Found(path, entry.get("size"), _modified(entry))
            elif depth is None or depth > 1:
                below = self.filesystem.ls(path, detail=True)
                yield from self._walk(path, depth and depth - 1, below)


def _modified(info: dict[str, Any]) -> datetime | None:
    value = next((info[name] for name in _MODIFIED_NAMES if info.get(name) is not None), None)
    if isinstance(value, (int, float)):
        return datetime.fromtimestamp(value).astimezone()
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _address(known: str, path: str, found: str) -> str:
    """The address of another file of the store in which the address `known` has that path."""
    return known.removesuffix(path) + found


@contextmanager
def _open_store(address: str) -> Iterator[tuple[_Store, str]]:
    """Yields the store of an address and the path in it; translates its errors into those of `recsys_tasks.errors`."""
    check_address(address)
    try:
        yield _connect(address)
    except FileNotFoundError as error:
        raise MalformedFile(without_secrets(address), 0, "No such file or directory") from error
    except ImportError as error:
        raise ConfigurationError(f"{without_secrets(address)} cannot be read: {error}") from error
    except ConfigurationError:
        raise
    except Exception as error:  # each store has errors of its own
        reason = describe_error(error)
        cause = None if is_web(address) else error  # it may show a signed address
        raise UnavailableError(f"{without_secrets(address)} cannot be read: {reason}") from cause


def _connect(address: str) -> tuple[_Store, str]:
    import fsspec

    store = object_store(address)
    if store is not None:
        return _ArrowStore(store), address.partition("://")[2]
    try:
        filesystem, path = fsspec.core.url_to_fs(address, skip_instance_cache=True)
    except ValueError as error:
        raise ConfigurationError(f"{without_secrets(address)}: {error}") from error
    return _FsspecStore(filesystem, is_web(address)), path
