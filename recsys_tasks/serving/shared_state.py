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
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import msgspec

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.names import IMPRESSION
from recsys_tasks.serving.live_state import LiveState
from recsys_tasks.serving.messages import Event
from recsys_tasks.sql_files import source

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger(__name__)

_MOST_SECONDS = 0.25
_AGAIN_SECONDS = 1.0  # one that does not answer is asked no more often than this
_BACK = timedelta(seconds=10)
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_KEYS = 200_000
_MOST_OWED, _MOST_TOLD = 100_000, 1_000
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
        if url is not None and find_spec("psycopg") is None:
            raise ConfigurationError("RECSYS_SHARED_STATE needs psycopg: pip install 'session-recommender[shared]'")
        self._url = None if url is None else _DIALECT.sub("postgresql://", url)
        self._state = state
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._known: OrderedDict[str, datetime] = OrderedDict()  # until when each key was heard of
        self._owed: deque[Event] = deque(maxlen=_MOST_OWED)
        self._away_until = 0.0
        self._decode = msgspec.json.Decoder(Event).decode

    @property
    def reached(self) -> bool | None:
        """Whether the table could be asked lately; None where nothing is shared."""
        return None if self._url is None else self._away_until == 0.0

    async def tell(self, events: Sequence[Event]) -> None:
        """Tells of events; those that cannot be told now are told later."""
        if self._url is None:
            return
        self._owed.extend(event for event in events if event.event_type != IMPRESSION)
        await self.tell_what_is_owed()

    async def hear(self, user_id: str | None, session_id: str | None) -> bool:
        """Takes in what others were told of a user and a session; whether all of it is known now."""
        if self._url is None:
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
        if self._url is None:
            return True
        self._owed = deque((event for event in self._owed if event.user_id != user_id), _MOST_OWED)
        self._away_until = 0.0
        return await self._ask("delete_user_events", user_id=user_id) is not None

    async def close(self) -> None:
        """Tells what is owed, if that can be done, and hangs up."""
        await self.tell_what_is_owed()
        if self._connection is not None:
            await self._connection.close()

    async def tell_what_is_owed(self) -> None:
        """Tells of what could not be told before."""
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

    async def _ask(self, name: str, **values: object) -> list[tuple[Any, ...]] | None:
        """The rows a statement gives; None where the database does not answer in time."""
        if time.monotonic() < self._away_until:
            return None
        import psycopg

        try:
            async with asyncio.timeout(_MOST_SECONDS), self._one_at_a_time:
                if self._connection is None:
                    assert self._url is not None, "it is shared"  # noqa: S101
                    self._connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
                cursor = await self._connection.execute(_statement(name), values)
                rows = await cursor.fetchall() if cursor.description else []
        except (psycopg.Error, OSError, TimeoutError) as error:
            if self._away_until == 0.0:
                log.error("The shared state does not answer: %s: %s", type(error).__name__, error)
            self._away_until = time.monotonic() + _AGAIN_SECONDS
            if self._connection is not None:
                connection, self._connection = self._connection, None
                await connection.close()
            return None
        self._away_until = 0.0
        return rows


@cache
def _statement(name: str) -> bytes:
    # The driver marks parameters in another way than the files do.
    return _PARAMETER.sub(r"%(\1)s", source(f"serving/{name}")).encode()
