"""Checks of an installation: whether all that the DAGs need is there, one line per part."""

from __future__ import annotations

import re
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Final, NamedTuple

import sqlalchemy
from packaging.version import Version
from sqlalchemy import text

from recsys_tasks.errors import RecsysError
from recsys_tasks.settings import settings
from recsys_tasks.storage.folder import Folder

_MIN_PYTHON: Final = (3, 11)
_MIN_POSTGRES: Final = 16  # has pg_input_is_valid
_AIRFLOW: Final = (Version("3.3"), Version("4"))
_SHARED_FOLDERS = ("snapshots", "feedback", "great_expectations", "landing", "forget", "checkpoints")
_DRIVER: Final = "postgresql+psycopg"
_RIGHTS: Final = (
    "select has_database_privilege(current_database(), 'create') and has_schema_privilege('public', 'create'),"
    " current_database(), current_user"
)


class InstallationCheck(NamedTuple):
    """One part of an installation: whether it is as it must be, and what it is or lacks."""

    part: str
    is_ok: bool
    finding: str


class _Missing(Exception):
    """A part is missing; the message says what to do."""


def check_installation(needs_airflow: bool = True) -> list[InstallationCheck]:
    """Checks versions, the shared folder, the warehouse, MLflow and the endpoints; creates the folder if it is missing.

    Args:
        needs_airflow: whether Airflow must be installed beside this package.
    """
    checks: dict[str, Callable[[], str]] = {
        "Python": _check_python,
        "Airflow": _check_airflow,
        "RECSYS_HOME": _check_home,
        "RECSYS_STORE": _check_store,
        "warehouse": _check_warehouse,
        "MLflow": _check_mlflow,
        "endpoints": _check_endpoints,
    }
    if not needs_airflow:
        del checks["Airflow"]
    return list(_run(checks))


def _run(checks: dict[str, Callable[[], str]]) -> Iterator[InstallationCheck]:
    for part, check in checks.items():
        try:
            yield InstallationCheck(part, True, check())
        except (_Missing, RecsysError, OSError, sqlalchemy.exc.SQLAlchemyError) as problem:
            lines = str(problem).strip().splitlines() or [type(problem).__name__]
            yield InstallationCheck(part, False, lines[0])


def _check_python() -> str:
    if sys.version_info[:2] < _MIN_PYTHON:
        raise _Missing(f"Python {sys.version.split()[0]}; 3.11 or newer is needed")
    return sys.version.split()[0]


def _check_airflow() -> str:
    try:
        found = Version(version("apache-airflow-core"))
    except PackageNotFoundError as error:
        raise _Missing("not installed beside this package; pip install '.[pipeline]' where its workers run") from error
    first, end = _AIRFLOW
    if not first <= found < end:
        raise _Missing(f"version {found}; {first} or newer, before {end}, is needed")
    return str(found)


def _check_home() -> str:
    home = settings().home.absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=home, prefix=".check-"):
            pass
    except OSError as error:
        raise _Missing(f"{home} cannot be written ({error.strerror})") from error
    return f"{home} can be written"


def _check_store() -> str:
    folder = settings().shared_files
    if not settings().store:
        return f"not set: {folder}, which all workers must share"
    old = Folder.of(settings().home)
    left = [name for name in _SHARED_FOLDERS if (old / name).names(recursive=True)]
    if left and folder.local_path != settings().home:
        raise _Missing(
            f"{settings().home} has {', '.join(left)} from before RECSYS_STORE was set: move them to {folder}, since"
            " nothing reads or erases them where they are"
        )
    file = folder.file(f".check-{uuid.uuid4().hex}")
    file.write(b"written and read")
    content = file.read()
    file.remove()
    if content != b"written and read":
        raise _Missing(f"{folder} returned other content than was written")
    return f"{folder} can be written and read"


def _check_warehouse() -> str:
    configured = settings().warehouse_url
    if configured is None:
        return "not set: the embedded PostgreSQL, for one machine"
    url = sqlalchemy.make_url(configured.get_secret_value())
    if url.drivername != _DRIVER:
        raise _Missing(f"the driver is {url.drivername}; RECSYS_WAREHOUSE_URL must begin with {_DRIVER}://")
    engine = sqlalchemy.create_engine(url, connect_args={"connect_timeout": 5})
    try:
        with engine.connect() as connection:
            number = int(connection.scalar(text("show server_version_num")) or 0) // 10_000
            may_create, database, user = connection.execute(text(_RIGHTS)).one()
    except sqlalchemy.exc.OperationalError as error:
        raise _Missing(
            f"does not answer ({str(error.orig).strip().splitlines()[0]}); see RECSYS_WAREHOUSE_URL"
        ) from error
    finally:
        engine.dispose()
    if number < _MIN_POSTGRES:
        raise _Missing(f"PostgreSQL {number}; {_MIN_POSTGRES} or newer is needed")
    if not may_create:
        raise _Missing(
            f"{user} may not create schemas and tables: grant create on database {database} to {user}; grant create on"
            f" schema public to {user}"
        )
    return f"PostgreSQL {number}, database {database}"


def _check_mlflow() -> str:
    uri = settings().mlflow_tracking_uri
    if uri is None:
        return "not set: a database of the embedded PostgreSQL"
    if not uri.startswith("http"):
        return "a database"
    import httpx

    shown = re.sub(r"//[^/@]*@", "//", uri)  # without a password
    try:
        httpx.get(f"{uri.rstrip('/')}/health", timeout=5.0).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _Missing(f"{shown} does not answer ({type(error).__name__}); see RECSYS_MLFLOW_TRACKING_URI") from error
    return shown


def _check_endpoints() -> str:
    from recsys_tasks.client.admin import AdminClient

    urls = settings().endpoint_urls
    token = settings().require_admin_token() if urls else ""
    for url in urls:
        AdminClient(url, token).models()
    return ", ".join(urls) or "none"
