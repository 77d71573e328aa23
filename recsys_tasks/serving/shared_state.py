"""Shared state: recent user actions, exchanged with endpoints on other machines through PostgreSQL or Redis.

An endpoint publishes an event before it confirms it, and reads the store before it makes a list. Each event therefore
counts in the next answer of every endpoint. Where the store does not answer in time, lists are made from local events
and marked as incomplete; unpublished events stay pending and are published later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

import msgspec

from recsys_tasks.names import IMPRESSION
from recsys_tasks.serving.live_state import LiveState
from recsys_tasks.wire.messages import Event

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 0.25  # for a connection and the result of a statement
_RETRY_SECONDS = 1.0  # minimum time between attempts during an outage
_READ_OVERLAP = timedelta(seconds=10)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_KEYS = 200_000
_MAX_PENDING_EVENTS = 100_000
_ERASURE_SECONDS = 5.0
_REDIS = ("redis://", "rediss://")
_Result = TypeVar("_Result")


class SharedStore(Protocol):
    """A store of recent events by key, which endpoints on several machines share.

    Attributes:
        errors: exceptions of a store that does not answer.
        max_batch: number of events that are published at once.
    """

    errors: tuple[type[Exception], ...]
    max_batch: int

    async def open(self) -> None:
        """Starts to connect."""

    async def close(self) -> None:
        """Disconnects."""

    async def drop_idle_connections(self) -> None:
        """Closes idle connections after an error."""

    async def publish(self, rows: Sequence[tuple[str, Event]]) -> None:
        """Adds events by key; events that a key has already do not change."""

    async def read(self, since: dict[str, datetime]) -> list[tuple[str, datetime, str | bytes]]:
        """Returns key, publication time and JSON of the events of each key that were published after its time."""

    async def erase_user(self, user_id: str) -> None:
        """Deletes the events of a user."""


class _StoreAway(Exception):
    """The store did not answer in time."""


class SharedState:
    """One endpoint's access to the shared store.

    Args:
        url: of PostgreSQL, or of Redis (`redis://`); with None, nothing is shared and every read is complete.
        state: receives the events that are read.
        retention: how long Redis keeps events; maintenance of the warehouse removes those in PostgreSQL.

    Raises:
        ConfigurationError: the client of the store is not installed.
    """

    def __init__(self, url: str | None, state: LiveState, retention: timedelta = timedelta(hours=48)) -> None:
        self._store = None if url is None else _create_store(url, retention)
        self._state = state
        self._publish_lock = asyncio.Lock()  # an erasure never overlaps a publication of the erased events
        self._read_until: OrderedDict[str, datetime] = OrderedDict()  # publication time of each key's last event read
        self._pending: deque[Event] = deque(maxlen=_MAX_PENDING_EVENTS)
        self._retry_at = 0.0  # 0: reachable
        self._decode = msgspec.json.Decoder(Event).decode

    @property
    def is_reachable(self) -> bool | None:
        """Whether the last statement got a result; None where nothing is shared."""
        return None if self._store is None else self._retry_at == 0.0

    async def open(self) -> None:
        """Starts to connect in the background."""
        if self._store is not None:
            await self._store.open()

    async def publish(self, events: Sequence[Event]) -> None:
        """Publishes events; those that cannot be published now stay pending."""
        if self._store is None:
            return
        self._pending.extend(event for event in events if event.event_type != IMPRESSION)
        await self.publish_pending()

    async def read(self, user_id: str | None, session_id: str | None) -> bool:
        """Adds the new events of a user and a session to the live state; returns whether the read succeeded."""
        if self._store is None:
            return True
        keys = [f"{kind}:{key}" for kind, key in (("user", user_id), ("session", session_id)) if key is not None]
        if not keys:
            return True
        await self.publish_pending()
        since = {key: self._read_until.get(key, _EPOCH) - _READ_OVERLAP for key in keys}
        try:
            rows = await self._attempt(lambda store: store.read(since))
        except _StoreAway:
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
        if self._store is None:
            return True
        async with self._publish_lock:
            self._pending = deque((event for event in self._pending if event.user_id != user_id), _MAX_PENDING_EVENTS)
            self._retry_at = 0.0
            return await self._succeeds(lambda store: store.erase_user(user_id), _ERASURE_SECONDS)

    async def close(self) -> None:
        """Publishes the pending events if possible, and disconnects."""
        await self.publish_pending()
        if self._store is not None:
            await self._store.close()

    async def publish_pending(self) -> None:
        """Publishes the pending events, one caller at a time; a caller that waited finds few left."""
        async with self._publish_lock:
            while self._pending and self._store is not None:
                events = [self._pending.popleft() for _ in range(min(len(self._pending), self._store.max_batch))]
                is_published = False
                try:
                    is_published = await self._publish_batch(events)
                finally:
                    if not is_published:
                        self._pending.extendleft(reversed(events))
                if not is_published:
                    return

    async def _publish_batch(self, events: Sequence[Event]) -> bool:
        rows = [
            (f"{kind}:{key}", event)
            for event in events
            for kind, key in (("user", event.user_id), ("session", event.session_id))
            if key is not None
        ]
        return await self._succeeds(lambda store: store.publish(rows))

    async def publish_pending_periodically(self) -> None:
        """Publishes the pending events every second until cancelled."""
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            await self.publish_pending()

    async def _succeeds(
        self, work: Callable[[SharedStore], Coroutine[Any, Any, None]], seconds: float = _TIMEOUT_SECONDS
    ) -> bool:
        try:
            await self._attempt(work, seconds)
        except _StoreAway:
            return False
        return True

    async def _attempt(
        self, work: Callable[[SharedStore], Coroutine[Any, Any, _Result]], seconds: float = _TIMEOUT_SECONDS
    ) -> _Result:
        """Returns the result of the store.

        Raises:
            _StoreAway: it does not answer in time, or did not a moment ago.
        """
        now = time.monotonic()
        if self._store is None or now < self._retry_at:
            raise _StoreAway
        if self._retry_at:
            self._retry_at = now + _RETRY_SECONDS  # one caller probes the store; the others do not wait for it
        try:
            result = await _with_timeout(seconds, work(self._store))
        except self._store.errors as error:
            if self._retry_at == 0.0:
                reason = str(error).rpartition("caused error: ")[2]  # Redis names the command first, with a user's id
                log.error("The store of the shared state does not answer: %s: %s", type(error).__name__, reason)
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            if not isinstance(error, TimeoutError):
                with suppress(*self._store.errors):
                    await self._store.drop_idle_connections()
            raise _StoreAway from error
        self._retry_at = 0.0
        return result


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


def _create_store(url: str, retention: timedelta) -> SharedStore:
    if url.startswith(_REDIS):
        from recsys_tasks.serving.redis_store import RedisStore

        return RedisStore(url, _TIMEOUT_SECONDS, retention)
    from recsys_tasks.serving.postgres_store import PostgresStore

    return PostgresStore(url, _TIMEOUT_SECONDS, _RETRY_SECONDS)
