"""Files in remote stores: `s3://`, `gs://` and `abfs://` through Arrow, all other addresses that fsspec knows (`http`,
`sftp`, …) through it.

Credentials come from the environment, under the names that the stores' own tools use; an address holds none.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from recsys_tasks.errors import ConfigurationError, MalformedFile, UnavailableError

WILDCARD = "*"
_MODIFIED_NAMES = ("mtime", "LastModified", "last_modified", "updated", "modified")


class FileEntry(NamedTuple):
    """A file below a folder: its address, the names from the folder down to it, size and modification time."""

    address: str
    names: tuple[str, ...]
    bytes: int
    modified_ns: int


def is_remote(address: str) -> bool:
    """Whether an address is one of a remote store, and no path of this machine."""
    return "://" in address


def find_files(pattern: str) -> list[str]:
    """Returns the addresses of the files that match a pattern with `*`, sorted; of a plain address, whether it exists.

    Raises:
        ConfigurationError: the address cannot be used; the message says why.
        UnavailableError: the store does not answer.
    """
    with _store(pattern) as (filesystem, path):
        if WILDCARD not in pattern:
            return [pattern] if filesystem.exists(path) else []
        return [_address(pattern, path, found) for found in sorted(filesystem.glob(path)) if filesystem.isfile(found)]


def list_folder(address: str) -> list[FileEntry]:
    """Returns all files in a folder and below, sorted by name.

    Raises:
        ConfigurationError: the store tells no modification times, by which changed files are known.
        UnavailableError: the store does not answer.
    """
    with _store(address.rstrip("/")) as (filesystem, root):
        found = filesystem.find(root, detail=True)
    files = []
    for path, info in sorted(found.items()):
        modified = next((info[name] for name in _MODIFIED_NAMES if info.get(name) is not None), None)
        if modified is None:
            raise ConfigurationError(
                f"{address} tells no modification times, so that it cannot be a landing folder: name its files in the"
                " [delivery] of a mapping"
            )
        names = tuple(path.removeprefix(root).strip("/").split("/"))
        files.append(FileEntry(_address(address.rstrip("/"), root, path), names, info["size"], _nanoseconds(modified)))
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
        with _store(address) as (filesystem, path):
            name = re.split(r"[?#]", path)[0].rsplit("/", 1)[-1]
            copy = Path(folder) / (name or "file")
            filesystem.get_file(path, str(copy))
        yield copy


def _address(pattern: str, path: str, found: str) -> str:
    """The address of another file of the store in which `pattern` has that path."""
    return pattern.removesuffix(path) + found


def _nanoseconds(modified: datetime | float | str) -> int:
    if isinstance(modified, str):
        modified = datetime.fromisoformat(modified)
    return int((modified.timestamp() if isinstance(modified, datetime) else modified) * 1e9)


@contextmanager
def _store(address: str) -> Iterator[tuple[Any, str]]:
    """Yields the file system of an address and the path in it; its errors become ours."""
    if urlsplit(address).password:
        shown = f"{urlsplit(address).scheme}://{urlsplit(address).hostname}"
        raise ConfigurationError(
            f"The address of {shown} has a password in it. Give it in the environment, such as FSSPEC_SFTP_PASSWORD"
        )
    try:
        yield _open_store(address)
    except FileNotFoundError as error:
        raise MalformedFile(address, 0, "No such file or directory") from error
    except ImportError as error:
        raise ConfigurationError(f"{address} cannot be read: {error}") from error
    except ConfigurationError:
        raise
    except Exception as error:  # each store has errors of its own
        raise UnavailableError(f"{address} cannot be read: {error or type(error).__name__}") from error


def _open_store(address: str) -> tuple[Any, str]:
    import fsspec
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow import fs

    scheme, _, path = address.partition("://")
    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return ArrowFSWrapper(fs.S3FileSystem(endpoint_override=endpoint)), path
    if scheme == "gs":
        return ArrowFSWrapper(fs.GcsFileSystem()), path
    if scheme == "abfs":
        account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
        if not account:
            raise ConfigurationError(f"{address} needs AZURE_STORAGE_ACCOUNT_NAME in the environment")
        return ArrowFSWrapper(fs.AzureFileSystem(account, os.environ.get("AZURE_STORAGE_ACCOUNT_KEY"))), path
    try:
        filesystem, path = fsspec.core.url_to_fs(address, skip_instance_cache=True)
    except ValueError as error:
        raise ConfigurationError(f"{address}: {error}") from error
    return filesystem, path
