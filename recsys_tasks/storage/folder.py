"""A folder that several hosts share: of this machine, or of a remote store that Arrow or fsspec knows.

A file is written whole or not at all: here and in most stores a temporary file is renamed; an object store shows an
object only once it is complete. Files whose name contains the digest of their content never change, so that two hosts
may write the same one.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from recsys_tasks.errors import ConfigurationError, UnavailableError
from recsys_tasks.locks import file_lock
from recsys_tasks.storage.addresses import (
    check_address,
    describe_error,
    is_remote,
    is_web,
    object_store,
    without_secrets,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import fs

_FILE = "file://"
_ONE_SLASH = re.compile(r"[a-z0-9+]+:/(?!/)")
_UNFINISHED = ".writing-"
_REFUSED = ("ACCESS_DENIED", "SIGNATURE_DOES_NOT_MATCH", "INVALID_ACCESS_KEY_ID")  # as Arrow names a store's errors
_OBJECT_STORES = ("s3", "gs", "abfs")  # which show an object once it is complete
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AZURE_STORAGE_ACCOUNT_NAME")


@dataclass(frozen=True)
class Folder:
    """A folder of files; names of files may have parts, separated by `/`.

    All methods raise `UnavailableError` if a remote store does not answer, and `ConfigurationError` if its address
    cannot be used, or S3 refuses the credentials.

    Attributes:
        address: absolute path, or address in a remote store, such as `s3://bucket/shop`.
    """

    address: str

    @classmethod
    def of(cls, address: Path | str) -> Folder:
        """Returns the folder of a path or an address, which is `file://` for a path of this machine, too.

        Raises:
            ConfigurationError: it is no address of a folder, or contains credentials.
        """
        text = str(address)
        if text.startswith(_FILE) and not text.startswith(f"{_FILE}/"):
            raise ConfigurationError(f"{text}: a path of this machine begins with file:///")
        if is_remote(text) and not text.startswith(_FILE):
            check_address(text)
            if is_web(text) or "?" in text or not urlsplit(text).netloc:
                shown = without_secrets(text).partition("?")[0]
                raise ConfigurationError(
                    f"{shown} cannot be written: use an address such as s3://bucket/shop, without a query"
                )
            return cls(text.rstrip("/"))
        if _ONE_SLASH.match(text):
            raise ConfigurationError(f"{text} is neither a path nor an address; an address has two slashes after the :")
        return cls(str(Path(text.removeprefix(_FILE)).absolute()))

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.address}/{name}")

    def __str__(self) -> str:
        return without_secrets(self.address)

    @property
    def local_path(self) -> Path | None:
        """The folder's path, if it is one of this machine."""
        return None if is_remote(self.address) else Path(self.address)

    def file(self, name: str) -> StoredFile:
        """Returns a file of the folder, which need not exist."""
        return StoredFile(self, name)

    def exists(self, name: str) -> bool:
        """Whether the folder has a file."""
        from pyarrow import fs

        with _connected(self.address) as (store, path):
            return bool(store.get_file_info(_join(path, name)).type == fs.FileType.File)

    def names(self, suffix: str = "", recursive: bool = False) -> list[str]:
        """Returns the names of the complete files whose names end with `suffix`, sorted; none if there is no folder.

        Args:
            suffix: end of the names.
            recursive: whether files of folders below count, too.
        """
        with _connected(self.address) as (store, path):
            found = (info.path for info in _list_files(store, path, recursive) if _UNFINISHED not in info.path)
            return sorted(name[len(path) :].lstrip("/") for name in found if name.endswith(suffix))

    def modified(self, suffix: str) -> dict[str, datetime]:
        """Returns the modification time of each file whose name ends with `suffix`, not of folders below; a store that
        keeps none has no such file."""
        with _connected(self.address) as (store, path):
            files = (info for info in _list_files(store, path) if info.base_name.endswith(suffix))
            return {info.base_name: info.mtime for info in files if info.mtime is not None}

    def read(self, name: str) -> bytes:
        """Returns the content of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with _connected(self.address) as (store, path), store.open_input_stream(_join(path, name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Writes a file, or replaces it."""
        with _connected(self.address) as (store, path):
            target = _join(path, name)
            if self.address.partition("://")[0] in _OBJECT_STORES:
                _write_stream(store, target, content)
                return
            parent, _, last = target.rpartition("/")
            unfinished = f"{parent}/{_UNFINISHED}{uuid.uuid4().hex}-{last}"
            store.create_dir(parent, recursive=True)
            try:
                _write_stream(store, unfinished, content)
                _move(store, unfinished, target)
            except BaseException:
                _delete(store, unfinished)
                raise

    def remove(self, name: str) -> None:
        """Deletes a file, if it exists."""
        with _connected(self.address) as (store, path):
            _delete(store, _join(path, name))

    def remove_unfinished(self, before: datetime) -> int:
        """Deletes what killed processes left of files, here and in folders below, if it is older than a time; returns
        the number. An object store has none."""
        with _connected(self.address) as (store, path):
            if self.address.partition("://")[0] in _OBJECT_STORES:
                return 0
            found = [info for info in _list_files(store, path, True) if info.base_name.startswith(_UNFINISHED)]
            old = [info.path for info in found if info.mtime is None or info.mtime < before]
            for name in old:
                _delete(store, name)
            return len(old)

    def write_table(self, name: str, table: pa.Table) -> str:
        """Writes a table to `<name>-<digest>.parquet`; returns the file's name."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        content = sink.getvalue()
        file = f"{name}-{hashlib.sha256(content).hexdigest()[:20]}.parquet"
        self.write(file, content)
        return file

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Returns the table in a Parquet file, or some of its columns.

        Raises:
            FileNotFoundError: there is no such file.
        """
        import pyarrow.parquet as pq

        with _connected(self.address) as (store, path):
            return pq.read_table(_join(path, name), columns=columns and list(columns), filesystem=store)

    def read_tables(
        self, names: Sequence[str], columns: Sequence[str] | None = None, dictionaries: Sequence[str] = ()
    ) -> pa.Table:
        """Returns the tables in Parquet files, one after the other.

        Args:
            names: of the files; the schema of the first one counts.
            columns: to read; those that the files lack are left out. None for all.
            dictionaries: columns to read as dictionaries.

        Raises:
            FileNotFoundError: one of the files does not exist.
        """
        from pyarrow import dataset

        options = dataset.ParquetReadOptions(dictionary_columns=list(dictionaries))
        with _connected(self.address) as (store, path):
            files = [_join(path, name) for name in names]
            found = dataset.dataset(files, format=dataset.ParquetFileFormat(read_options=options), filesystem=store)
            present = None if columns is None else [name for name in columns if name in found.schema.names]
            return found.to_table(columns=present).unify_dictionaries()

    def lock(self) -> AbstractContextManager[None]:
        """Waits for other processes of this machine that hold the folder's lock. Other machines do not take part."""
        if self.local_path is not None:
            return file_lock(self.local_path / ".lock")
        name = hashlib.sha256(self.address.encode()).hexdigest()[:20]
        return file_lock(Path(tempfile.gettempdir()) / f"recsys-{os.getuid()}-{name}.lock")


@dataclass(frozen=True)
class StoredFile:
    """A file of a folder, which need not exist."""

    folder: Folder
    name: str

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"

    @property
    def url(self) -> str:
        """The file's URL."""
        return str(self) if self.folder.local_path is None else f"{_FILE}{self}"

    def exists(self) -> bool:
        """Whether the file exists."""
        return self.folder.exists(self.name)

    def read(self) -> bytes:
        """Returns the content.

        Raises:
            FileNotFoundError: the file does not exist.
        """
        return self.folder.read(self.name)

    def write(self, content: bytes) -> None:
        """Writes the file, or replaces it; whole or not at all."""
        self.folder.write(self.name, content)

    def remove(self) -> None:
        """Deletes the file, if it exists."""
        self.folder.remove(self.name)


@contextmanager
def _connected(address: str) -> Iterator[tuple[fs.FileSystem, str]]:
    """Yields the file system of an address and the path in it; translates a remote store's errors."""
    if not is_remote(address):
        yield _local(), address
        return
    try:
        yield _connect(address)
    except (FileNotFoundError, ConfigurationError):
        raise
    except ImportError as error:
        raise ConfigurationError(f"{without_secrets(address)} cannot be used: {error}") from error
    except Exception as error:  # each store has errors of its own
        reason = describe_error(error)
        if any(name in reason for name in _REFUSED):
            raise ConfigurationError(f"{without_secrets(address)} cannot be used: {reason}") from error
        raise UnavailableError(f"{without_secrets(address)} does not answer: {reason}") from error


def _connect(address: str) -> tuple[fs.FileSystem, str]:
    scheme, _, path = address.partition("://")
    if scheme in _OBJECT_STORES:
        return _object_store(scheme, *map(os.environ.get, _ENDPOINTS)), path
    import fsspec
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    try:
        store, path = fsspec.core.url_to_fs(address)
    except ValueError as error:
        raise ConfigurationError(f"{without_secrets(address)}: {error}") from error
    store.invalidate_cache()  # other hosts write, too
    return PyFileSystem(FSSpecHandler(store)), path.rstrip("/")


@lru_cache
def _object_store(scheme: str, *_: str | None) -> fs.FileSystem:
    """Keeps the connections of a store; the endpoints that the environment names tell two stores apart."""
    return object_store(f"{scheme}://")


@lru_cache
def _local() -> fs.FileSystem:
    from pyarrow import fs

    return fs.LocalFileSystem()


def _list_files(store: fs.FileSystem, path: str, recursive: bool = False) -> list[fs.FileInfo]:
    from pyarrow import fs

    listed = store.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=recursive))
    return [info for info in listed if info.type == fs.FileType.File]


def _write_stream(store: fs.FileSystem, path: str, content: bytes | pa.Buffer) -> None:
    # At once: a stream that an error closes early would leave part of an object.
    with store.open_output_stream(path) as stream:
        stream.write(content)


def _join(path: str, name: str) -> str:
    """Returns the path of a file in a folder.

    Raises:
        ConfigurationError: the name leads out of the folder, or is empty.
    """
    parts = name.split("/")
    if ".." in parts or "" in parts:
        raise ConfigurationError(f"{name!r} is no name of a file in a folder")
    return f"{path}/{name}"


def _move(store: fs.FileSystem, source: str, target: str) -> None:
    handler = getattr(store, "handler", None)
    if handler is None:
        store.move(source, target)
    else:  # Arrow passes an argument that not every file system of fsspec takes
        handler.fs.mv(source, target)


def _delete(store: fs.FileSystem, path: str) -> None:
    with suppress(FileNotFoundError):
        store.delete_file(path)
