"""What users just did, shared with endpoints on other machines through a table of the warehouse.

An event is told before it is answered for, and asked for before a list is made, so that it counts in the very next
answer of any endpoint. Where the database does not answer at once, lists are made of what is known here, and say so;
what could not be told is told later.
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
from recsys_tasks.serving.messages import Event
from recsys_tasks.sql_files import source

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

log = logging.getLogger(__name__)
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # that the database is away is said once, below

_MOST_SECONDS = 0.25  # for a connection and an answer over it
_MOST_CONNECTIONS = 4
_AGAIN_SECONDS = 1.0  # one that does not answer is asked no more often than this
_BACK = timedelta(seconds=10)
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_KEYS = 200_000
_MOST_OWED, _MOST_TOLD = 100_000, 1_000
_Found = TypeVar("_Found")
_Row = tuple[Any, ...]
_PARAMETER, _DIALECT = re.compile(r"(?<!:):(\w+)"), re.compile(r"^postgresql\+\w+://")


class SharedState:
    """The shared table, as one endpoint uses it.

    Args:
        url: of PostgreSQL; None: nothing is shared, and nothing is missing.
        state: takes in what is heard.

    Raises:
        ConfigurationError: the driver is not installed.
    """

    def __init__(self, url: str | None, state: LiveState) -> None:
        self._pool = None if url is None else _pool(_DIALECT.sub("postgresql://", url))
        self._state = state
        self._telling = asyncio.Lock()  # what is forgotten is not on its way to the table meanwhile
        self._known: OrderedDict[str, datetime] = OrderedDict()  # until when each key was heard of
        self._owed: deque[Event] = deque(maxlen=_MOST_OWED)
        self._away_until = 0.0
        self._decode = msgspec.json.Decoder(Event).decode

    @property
    def reached(self) -> bool | None:
        """Whether the table could be asked lately; None where nothing is shared."""
        return None if self._pool is None else self._away_until == 0.0

    async def open(self) -> None:
        """Begins to connect; nobody waits for that."""
        if self._pool is not None:
            await self._pool.open()

    async def tell(self, events: Sequence[Event]) -> None:
        """Tells of events; those that cannot be told now are told later."""
        if self._pool is None:
            return
        self._owed.extend(event for event in events if event.event_type != IMPRESSION)
        await self.tell_what_is_owed()

    async def hear(self, user_id: str | None, session_id: str | None) -> bool:
        """Takes in what others were told of a user and a session; whether all of it is known now."""
        if self._pool is None:
            return True
        keys = [f"{kind}:{key}" for kind, key in (("user", user_id), ("session", session_id)) if key is not None]
        if not keys:
            return True
        await self.tell_what_is_owed()
        since = [self._known.get(key, _LONG_AGO) - _BACK for key in keys]
        rows = await self._ask("read_events", keys=keys, since=since)
        if rows is None:
            return False
        for key, told_at, event in rows:
            self._state.add(self._decode(event))
            self._known[key] = told_at
            self._known.move_to_end(key)
        while len(self._known) > _KEYS:
            self._known.popitem(last=False)
        return True

    async def forget(self, user_id: str) -> bool:
        """Deletes a user's events; whether it could be done."""
        if self._pool is None:
            return True
        async with self._telling:
            self._owed = deque((event for event in self._owed if event.user_id != user_id), _MOST_OWED)
            self._away_until = 0.0
            return await self._ask("delete_user_events", user_id=user_id) is not None

    async def close(self) -> None:
        """Tells what is owed, if that can be done, and hangs up."""
        await self.tell_what_is_owed()
        if self._pool is not None:
            await self._pool.close()

    async def tell_what_is_owed(self) -> None:
        """Tells of what could not be told before; whoever comes meanwhile waits, and finds little left to tell."""
        async with self._telling:
            while self._owed:
                events = [self._owed.popleft() for _ in range(min(len(self._owed), _MOST_TOLD))]
                if not await self._told(events):
                    self._owed.extendleft(reversed(events))
                    return

    async def _told(self, events: Sequence[Event]) -> bool:
        rows = [
            (f"{kind}:{key}", event)
            for event in events
            for kind, key in (("user", event.user_id), ("session", event.session_id))
            if key is not None
        ]
        answer = await self._ask(
            "publish_events",
            keys=[key for key, _ in rows],
            event_ids=[event.event_id for _, event in rows],
            user_ids=[event.user_id for _, event in rows],
            event_times=[event.event_time for _, event in rows],
            events=[msgspec.json.encode(event).decode() for _, event in rows],
        )
        return answer is not None

    async def keep_telling(self) -> None:
        """Tells of what is owed as soon as that can be done, as long as the endpoint serves."""
        while True:
            await asyncio.sleep(_AGAIN_SECONDS)
            await self.tell_what_is_owed()

    async def _ask(self, name: str, **values: object) -> list[_Row] | None:
        """The rows a statement gives; None where the database does not answer in time."""
        now = time.monotonic()
        if self._pool is None or now < self._away_until:
            return None
        if self._away_until:
            self._away_until = now + _AGAIN_SECONDS  # one alone finds out whether it is back; the others do not wait
        import psycopg

        try:
            rows = await _within(_MOST_SECONDS, _rows(self._pool, name, values))
        except (psycopg.Error, OSError, TimeoutError) as error:
            if self._away_until == 0.0:
                log.error("The shared state does not answer: %s: %s", type(error).__name__, error)
            self._away_until = time.monotonic() + _AGAIN_SECONDS
            if not isinstance(error, TimeoutError):
                await self._pool.drain()  # what broke one connection broke the idle ones; those in use go on
            return None
        self._away_until = 0.0
        return rows


def _pool(url: str) -> AsyncConnectionPool[AsyncConnection[Any]]:
    """Connections, each of which one statement uses at a time; that it does not get one in time hurts no other."""
    if find_spec("psycopg_pool") is None:
        raise ConfigurationError("RECSYS_SHARED_STATE_URL needs psycopg: pip install 'session-recommender[shared]'")
    from psycopg_pool import AsyncConnectionPool

    return AsyncConnectionPool(
        url,
        kwargs={"autocommit": True},
        min_size=1,
        max_size=_MOST_CONNECTIONS,
        open=False,
        timeout=_MOST_SECONDS,
        reconnect_timeout=_AGAIN_SECONDS,
    )


async def _rows(pool: AsyncConnectionPool[AsyncConnection[Any]], name: str, values: dict[str, object]) -> list[_Row]:
    async with pool.connection() as connection:
        cursor = await connection.execute(_statement(name), values)
        return await cursor.fetchall() if cursor.description else []


async def _within(seconds: float, work: Coroutine[Any, Any, _Found]) -> _Found:
    """What work comes to, if it does in time. Work that does not is called off, and has its end alone: that of a
    statement takes seconds where the database is frozen, which `asyncio.timeout` would wait for.

    Raises:
        TimeoutError: it did not.
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
    # The driver marks parameters in another way than the files do.
    return _PARAMETER.sub(r"%(\1)s", source(f"serving/{name}")).encode()
