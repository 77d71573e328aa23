"""Addresses of remote stores, and Arrow's file systems for those it knows.

Credentials come from the environment, under the names that the stores' own tools use; an address contains none.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from recsys_tasks.errors import ConfigurationError

if TYPE_CHECKING:
    from pyarrow import fs

WILDCARD = "*"
_WEB = ("http", "https")
_WEB_QUERY = re.compile(r"(https?://[^\s?]*)\?[^\s)]*")
_CONNECT_SECONDS, _REQUEST_SECONDS, _ATTEMPTS = 5, 60, 8  # of a request to S3


def is_remote(address: str) -> bool:
    """Whether an address is one of a remote store, and no path of this machine."""
    return "://" in address


def is_web(address: str) -> bool:
    """Whether an address is one of a web server."""
    return urlsplit(address).scheme in _WEB


def check_address(address: str) -> None:
    """Checks that an address is of a known form, and contains no credentials.

    Raises:
        ConfigurationError: it has a password, or a user of a web server, or is a chain of addresses (`::`).
    """
    parts = urlsplit(address)
    shown = f"{parts.scheme}://{parts.hostname or '…'}"
    try:
        is_valid = "::" not in address and (parts.port or True)
    except ValueError:  # text in the place of the port: a password with a slash
        is_valid = False
    if not is_valid or parts.password or (parts.username and parts.scheme in _WEB):
        raise ConfigurationError(
            f"The address {shown} contains credentials, or is a chain of addresses. Write a plain address, and set"
            " credentials in the environment, for example FSSPEC_SFTP_PASSWORD"
        )
    if parts.scheme in _WEB and WILDCARD in address and parts.query:
        raise ConfigurationError(f"The address {without_secrets(address)} has both * and a query; leave one out")


def without_secrets(address: str) -> str:
    """Returns an address without user, password and, of a web server, the query, which may be signed."""
    parts = urlsplit(address)
    shown = address.replace(f"{parts.netloc.rpartition('@')[0]}@", "", 1) if "@" in parts.netloc else address
    return shown.partition("?")[0] if parts.scheme in _WEB else shown


def describe_error(error: Exception) -> str:
    """Returns an error of a store in words, without signed addresses."""
    return _WEB_QUERY.sub(r"\1", str(error)) or type(error).__name__


def object_store(address: str) -> fs.FileSystem | None:
    """Returns Arrow's file system for an address of `s3://`, `gs://` or `abfs://`; None for any other.

    Raises:
        ConfigurationError: a setting of the store is missing in the environment.
    """
    from pyarrow import fs

    match address.partition("://")[0]:
        case "s3":
            return fs.S3FileSystem(
                endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
                connect_timeout=_CONNECT_SECONDS,
                request_timeout=_REQUEST_SECONDS,
                retry_strategy=fs.AwsStandardS3RetryStrategy(int(os.environ.get("AWS_MAX_ATTEMPTS", _ATTEMPTS))),
                allow_delayed_open=True,  # one request for a small file
            )
        case "gs":
            return fs.GcsFileSystem()
        case "abfs":
            account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
            if not account:
                raise ConfigurationError(f"{address} needs AZURE_STORAGE_ACCOUNT_NAME in the environment")
            return fs.AzureFileSystem(account, os.environ.get("AZURE_STORAGE_ACCOUNT_KEY"))
    return None
