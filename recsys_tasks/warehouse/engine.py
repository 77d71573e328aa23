"""The database URLs and the one SQLAlchemy engine of this process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import psycopg
import sqlalchemy
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from recsys_tasks.errors import UnavailableError
from recsys_tasks.settings import settings
from recsys_tasks.warehouse import embedded
from recsys_tasks.warehouse.migrations import migrate

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


@cache
def database_url(database: str = "warehouse") -> str:
    """SQLAlchemy URL of the warehouse, or of another database of the embedded server.

    `RECSYS_WAREHOUSE_URL` sets the warehouse; without it the embedded server is started.
    """
    configured = settings().warehouse_url
    if database == "warehouse" and configured is not None:
        return configured.get_secret_value()
    return embedded.url(embedded.start(settings().home), database)


@cache
def engine() -> Engine:
    """The engine of this process; applies pending migrations first.

    Raises:
        UnavailableError: the warehouse does not answer.
    """
    new_engine = sqlalchemy.create_engine(
        database_url(), pool_pre_ping=True, connect_args={"options": "-c timezone=UTC"}
    )
    try:
        migrate(new_engine)
    except OperationalError as error:
        raise UnavailableError(
            f"The warehouse {new_engine.url.render_as_string(hide_password=True)} does not answer: {error.orig}. "
            "Check RECSYS_WAREHOUSE_URL and that the server runs."
        ) from error
    return new_engine


def raises_unavailable(function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
    """Decorator: translates connection and disk errors of the database driver to `UnavailableError`.

    Raises (from the function it wraps):
        UnavailableError: the warehouse failed and the open transaction was rolled back; retrying is safe.
    """

    @wraps(function)
    def wrapper(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except (DBAPIError, psycopg.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            if not isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError):
                raise
            reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
            raise UnavailableError(
                f"The warehouse failed during a transaction ({reason}). The transaction was rolled back."
                " Check that the server runs and has free disk space, then run this again."
            ) from error

    return wrapper
