"""Which database this process talks to, and the one SQLAlchemy engine it does so with."""

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

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


@cache
def database_url(database: str = "warehouse") -> str:
    """SQLAlchemy URL of the warehouse, or of another database of the embedded server.

    `RECSYS_WAREHOUSE_URL` decides about the warehouse; without it the embedded server is started.
    """
    configured = settings().warehouse_url
    if database == "warehouse" and configured is not None:
        return configured.get_secret_value()
    return embedded.url(embedded.start(settings().home), database)


@cache
def engine() -> Engine:
    """The engine of this process, on a warehouse whose schema is up to date.

    Raises:
        UnavailableError: the warehouse does not answer.
    """
    made = sqlalchemy.create_engine(database_url(), pool_pre_ping=True, connect_args={"options": "-c timezone=UTC"})
    try:
        migrate(made)
    except OperationalError as error:
        raise UnavailableError(
            f"The warehouse {made.url.render_as_string(hide_password=True)} does not answer: {error.orig}. "
            "Check RECSYS_WAREHOUSE_URL and that the server runs."
        ) from error
    return made


def answering(step: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    """The step, with a warehouse that goes away or cannot write in its midst named as such.

    Raises (from the step it wraps):
        UnavailableError: the transaction in hand came to nothing; the step can be tried again.
    """

    @wraps(step)
    def answered(*args: _Given.args, **kwargs: _Given.kwargs) -> _Found:
        try:
            return step(*args, **kwargs)
        except (DBAPIError, psycopg.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            if not isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError):
                raise
            what = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
            raise UnavailableError(
                f"The warehouse failed in the middle ({what}). Nothing of it was half applied;"
                " see that it runs and has free disk, then run this again."
            ) from error

    return answered
