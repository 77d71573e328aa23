"""Shared state: recent user actions, exchanged with endpoints on other machines through a PostgreSQL table.

An endpoint publishes an event before it confirms it, and reads the table before it makes a list. Each event therefore
counts in the next answer of every endpoint. Where the database does not answer in time, lists are made from local
events and marked as incomplete; unpublished events stay pending and are published later.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict, deque
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.names import IMPRESSION
from recsys_tasks.serving.live_state import LiveState
from recsys_tasks.sql_files import load_sql
from recsys_tasks.wire.messages import Event

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

log = logging.getLogger(__name__)
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # an outage is logged once, below

_TIMEOUT_SECONDS = 0.25  # for a connection and the result of a statement
_MAX_CONNECTIONS = 4
_RETRY_SECONDS = 1.0  # minimum time between attempts during an outage
_READ_OVERLAP = timedelta(seconds=10)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_KEYS = 200_000
_MAX_PENDING_EVENTS, _MAX_BATCH_EVENTS = 100_000, 1_000
_Result = TypeVar("_Result")
_Row = tuple[Any, ...]
_PARAMETER, _DIALECT = re.compile(r"(?<!:):(\w+)"), re.compile(r"^postgresql\+\w+://")


class SharedState:
    """One endpoint's access to the shared table.

    Args:
        url: of PostgreSQL; with None, nothing is shared and every read is complete.
        state: receives the events that are read.

    Raises:
        ConfigurationError: the driver is not installed.
    """

    def __init__(self, url: str | None, state: LiveState) -> None:
        self._pool = None if url is None else _create_pool(_DIALECT.sub("postgresql://", url))
        self._state = state
        self._publish_lock = asyncio.Lock()  # an erasure never overlaps a publication of the erased events
        self._read_until: OrderedDict[str, datetime] = OrderedDict()  # publication time of each key's last event read
        self._pending: deque[Event] = deque(maxlen=_MAX_PENDING_EVENTS)
        self._retry_at = 0.0  # 0: reachable
        self._decode = msgspec.json.Decoder(Event).decode

    @property
    def is_reachable(self) -> bool | None:
        """Whether the last statement got a result; None where nothing is shared."""
        return None if self._pool is None else self._retry_at == 0.0

    async def open(self) -> None:
        """Starts to connect in the background."""
        if self._pool is not None:
            await self._pool.open()

    async def publish(self, events: Sequence[Event]) -> None:
        """Publishes events; those that cannot be published now stay pending."""
        if self._pool is None:
            return
        self._pending.extend(event for event in events if event.event_type != IMPRESSION)
        await self.publish_pending()

    async def read(self, user_id: str | None, session_id: str | None) -> bool:
        """Adds the new events of a user and a session to the live state; returns whether the read succeeded."""
        if self._pool is None:
            return True
        keys = [f"{kind}:{key}" for kind, key in (("user", user_id), ("session", session_id)) if key is not None]
        if not keys:
            return True
        await self.publish_pending()
        since = [self._read_until.get(key, _EPOCH) - _READ_OVERLAP for key in keys]
        rows = await self._execute("read_events", keys=keys, since=since)
        if rows is None:
            return False
        for key, published_at, event in rows:
            self._state.add(self._decode(event), sender=None)
            self._read_until[key] = published_at
            self._read_until.move_to_end(key)
        while len(self._read_until) > _MAX_KEYS:
            self._read_until.popitem(last=False)
        return True

    async def erase_user(self, user_id: str) -> bool:
        """Deletes a user's events; returns whether the deletion succeeded."""
        if self._pool is None:
            return True
        async with self._publish_lock:
            self._pending = deque((event for event in self._pending if event.user_id != user_id), _MAX_PENDING_EVENTS)
            self._retry_at = 0.0
            return await self._execute("delete_user_events", user_id=user_id) is not None

    async def close(self) -> None:
        """Publishes the pending events if possible, and disconnects."""
        await self.publish_pending()
        if self._pool is not None:
            await self._pool.close()

    async def publish_pending(self) -> None:
        """Publishes the pending events, one caller at a time; a caller that waited finds few left."""
        async with self._publish_lock:
            while self._pending:
                events = [self._pending.popleft() for _ in range(min(len(self._pending), _MAX_BATCH_EVENTS))]
                if not await self._publish_batch(events):
                    self._pending.extendleft(reversed(events))
                    return

    async def _publish_batch(self, events: Sequence[Event]) -> bool:
        rows = [
            (f"{kind}:{key}", event)
            for event in events
            for kind, key in (("user", event.user_id), ("session", event.session_id))
            if key is not None
        ]
        result = await self._execute(
            "publish_events",
            keys=[key for key, _ in rows],
            event_ids=[event.event_id for _, event in rows],
            user_ids=[event.user_id for _, event in rows],
            event_times=[event.event_time for _, event in rows],
            events=[msgspec.json.encode(event).decode() for _, event in rows],
        )
        return result is not None

    async def publish_pending_periodically(self) -> None:
        """Publishes the pending events every second until cancelled."""
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            await self.publish_pending()

    async def _execute(self, name: str, **values: object) -> list[_Row] | None:
        """Returns the rows of a statement; None where the database does not answer in time."""
        now = time.monotonic()
        if self._pool is None or now < self._retry_at:
            return None
        if self._retry_at:
            self._retry_at = now + _RETRY_SECONDS  # one caller probes the database; the others do not wait for it
        import psycopg

        try:
            rows = await _with_timeout(_TIMEOUT_SECONDS, _fetch_rows(self._pool, name, values))
        except (psycopg.Error, OSError, TimeoutError) as error:
            if self._retry_at == 0.0:
                log.error("The shared state database does not answer: %s: %s", type(error).__name__, error)
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            if not isinstance(error, TimeoutError):
                await self._pool.drain()  # idle connections are broken too; connections in use go on
            return None
        self._retry_at = 0.0
        return rows


def _create_pool(url: str) -> AsyncConnectionPool[AsyncConnection[Any]]:
    """Returns a connection pool. One statement has one connection, so a timeout affects no other statement."""
    if find_spec("psycopg_pool") is None:
        raise ConfigurationError("RECSYS_SHARED_STATE_URL needs psycopg: pip install 'session-recommender[shared]'")
    from psycopg_pool import AsyncConnectionPool

    return AsyncConnectionPool(
        url,
        kwargs={"autocommit": True},
        min_size=1,
        max_size=_MAX_CONNECTIONS,
        open=False,
        timeout=_TIMEOUT_SECONDS,
        reconnect_timeout=_RETRY_SECONDS,
    )


async def _fetch_rows(
    pool: AsyncConnectionPool[AsyncConnection[Any]], name: str, values: dict[str, object]
) -> list[_Row]:
    async with pool.connection() as connection:
        cursor = await connection.execute(_statement(name), values)
        return await cursor.fetchall() if cursor.description else []


async def _with_timeout(seconds: float, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Returns the result of a coroutine, if it ends in time. Otherwise cancels it without waiting for its end.

    `asyncio.timeout` would wait for that end, which takes seconds for a statement of a frozen database.

    Raises:
        TimeoutError: the coroutine did not end in time.
    """
    task = asyncio.create_task(work)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        task.cancel()
        raise TimeoutError(f"no answer in {seconds} s")
    return task.result()


@cache
def _statement(name: str) -> bytes:
    # psycopg writes parameters as %(name)s, the SQL files as :name.
    return _PARAMETER.sub(r"%(\1)s", load_sql(f"serving/{name}")).encode()
