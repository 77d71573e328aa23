"""Recent user actions in a PostgreSQL table, for `SharedState`."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import msgspec

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.sql_files import load_sql
from recsys_tasks.wire.messages import Event

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # `SharedState` logs an outage once

_MAX_CONNECTIONS = 4
_PARAMETER, _DIALECT = re.compile(r"(?<!:):(\w+)"), re.compile(r"^postgresql\+\w+://")


class PostgresStore:
    """The table `live_events`. One statement has one connection, so a timeout affects no other statement.

    Attributes:
        max_batch: number of events that are published at once.

    Args:
        url: of PostgreSQL.
        timeout: seconds that a statement waits for a connection.
        retry: seconds between attempts to connect.

    Raises:
        ConfigurationError: the driver is not installed.
    """

    max_batch = 1_000

    def __init__(self, url: str, timeout: float, retry: float) -> None:
        if find_spec("psycopg_pool") is None:
            raise ConfigurationError("RECSYS_SHARED_STATE_URL needs psycopg: pip install 'session-recommender[shared]'")
        import psycopg
        from psycopg_pool import AsyncConnectionPool

        self.errors: tuple[type[Exception], ...] = (psycopg.Error, OSError)  # with TimeoutError
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
            _DIALECT.sub("postgresql://", url),
            kwargs={"autocommit": True},
            min_size=1,
            max_size=_MAX_CONNECTIONS,
            open=False,
            timeout=timeout,
            reconnect_timeout=retry,
        )

    async def open(self) -> None:
        """Starts to connect in the background."""
        await self._pool.open()

    async def close(self) -> None:
        """Disconnects."""
        await self._pool.close()

    async def drop_idle_connections(self) -> None:
        """Closes idle connections, which are probably broken, too; connections in use go on."""
        await self._pool.drain()

    async def publish(self, rows: Sequence[tuple[str, Event]]) -> None:
        """Adds events by key; events that a key has already do not change."""
        await self.execute(
            "publish_events",
            keys=[key for key, _ in rows],
            event_ids=[event.event_id for _, event in rows],
            user_ids=[event.user_id for _, event in rows],
            event_times=[event.event_time for _, event in rows],
            events=[msgspec.json.encode(event).decode() for _, event in rows],
        )

    async def read(self, since: dict[str, datetime]) -> list[tuple[str, datetime, str | bytes]]:
        """Returns key, publication time and JSON of the events of each key that were published after its time."""
        rows = await self.execute("read_events", keys=list(since), since=list(since.values()))
        return [(key, published_at, event) for key, published_at, event in rows]

    async def erase_user(self, user_id: str) -> None:
        """Deletes the events of a user."""
        await self.execute("delete_user_events", user_id=user_id)

    async def execute(self, name: str, **values: object) -> list[tuple[Any, ...]]:
        """Returns the rows of a statement in `sql/serving`."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_statement(name), values)
            return await cursor.fetchall() if cursor.description else []


@cache
def _statement(name: str) -> bytes:
    # psycopg writes parameters as %(name)s, the SQL files as :name.
    return _PARAMETER.sub(r"%(\1)s", load_sql(f"serving/{name}")).encode()
