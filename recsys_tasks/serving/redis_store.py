"""Recent user actions in Redis or Valkey, for `SharedState`.

A key, of a user or a session, has a sorted set of event ids by the server's time in microseconds, and a hash of events
by id. Each is changed by one script, which also removes what is too old or too much. A user has a set of sessions, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any

import msgspec

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.wire.messages import Event

_MAX_CONNECTIONS = 8
_MAX_EVENTS_OF_KEY = 1_000  # the latest
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PUBLISH = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local function text(number) return string.format('%.0f', number) end
if redis.call('ZADD', KEYS[1], 'NX', text(now), ARGV[1]) == 1 then
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
local surplus = redis.call('ZCARD', KEYS[1]) - ARGV[4]
local removed = redis.call('ZRANGE', KEYS[1], '-inf', text(now - ARGV[3] * 1000), 'BYSCORE')
if surplus > #removed then removed = redis.call('ZRANGE', KEYS[1], 0, surplus - 1) end
for _, id in ipairs(removed) do
    redis.call('ZREM', KEYS[1], id)
    redis.call('HDEL', KEYS[2], id)
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
"""
_READ = """
local found = redis.call('ZRANGE', KEYS[1], '(' .. ARGV[1], '+inf', 'BYSCORE', 'WITHSCORES')
local rows = {}
for at = 1, #found, 2 do
    local event = redis.call('HGET', KEYS[2], found[at])
    if event then
        rows[#rows + 1] = found[at + 1]
        rows[#rows + 1] = event
    end
end
return rows
"""


class RedisStore:
    """Events by key in one server of Redis 6.2 or newer, or Valkey; not in a Redis Cluster.

    Attributes:
        max_batch: number of events that are published at once.

    Args:
        url: `redis://`, or `rediss://` with TLS.
        timeout: seconds that a command may take.
        retention: how long events are kept.

    Raises:
        ConfigurationError: the client is not installed, or the URL is invalid.
    """

    max_batch = 100

    def __init__(self, url: str, timeout: float, retention: timedelta) -> None:
        if find_spec("redis") is None:
            raise ConfigurationError("RECSYS_SHARED_STATE_URL needs redis: pip install 'session-recommender[shared]'")
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError

        self.errors: tuple[type[Exception], ...] = (RedisError, OSError)  # with TimeoutError
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=_MAX_CONNECTIONS,
                timeout=timeout,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry=Retry(NoBackoff(), 0),  # `SharedState` decides when to try again
            )
        except ValueError as error:
            raise ConfigurationError(f"RECSYS_SHARED_STATE_URL is no URL of Redis: {error}") from error
        self._redis: Any = Redis.from_pool(pool)
        self._publish, self._read = (self._redis.register_script(script) for script in (_PUBLISH, _READ))
        self._retention, self._retention_ms = retention, int(retention / timedelta(milliseconds=1))
        self._decode = msgspec.json.Decoder(Event).decode

    async def open(self) -> None:
        """Does nothing: the first command connects."""

    async def close(self) -> None:
        """Disconnects."""
        await self._redis.aclose()

    async def drop_idle_connections(self) -> None:
        """Closes idle connections, which are probably broken, too; connections in use go on."""
        await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def publish(self, rows: Sequence[tuple[str, Event]]) -> None:
        """Adds events by key; events that a key has already do not change."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key, event in rows:
                limits = self._retention_ms, _MAX_EVENTS_OF_KEY
                values: list[str | bytes | int] = [event.event_id or "", msgspec.json.encode(event), *limits]
                await self._publish(keys=[_order(key), _events(key)], args=values, client=pipeline)
                if event.user_id is not None and event.session_id is not None:
                    sessions = _sessions(event.user_id)
                    pipeline.sadd(sessions, event.session_id)
                    pipeline.pexpire(sessions, 2 * self._retention_ms)  # as long as events are in a session
            await pipeline.execute()

    async def read(self, since: dict[str, datetime]) -> list[tuple[str, datetime, str | bytes]]:
        """Returns key, publication time and JSON of the events of each key that were published after its time."""
        oldest = datetime.now(UTC) - self._retention
        since = {key: max(moment, oldest) for key, moment in since.items()}
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key, moment in since.items():
                await self._read(
                    keys=[_order(key), _events(key)], args=[(moment - _EPOCH) // _MICROSECOND], client=pipeline
                )
            answers = await pipeline.execute()
        rows = [
            (key, _EPOCH + int(float(published)) * _MICROSECOND, event)
            for key, answer in zip(since, answers, strict=True)
            for published, event in zip(answer[::2], answer[1::2], strict=True)
        ]
        return sorted(rows, key=lambda row: row[1])

    async def erase_user(self, user_id: str) -> None:
        """Deletes the events of a user, under the user and in sessions."""
        sessions = await self._redis.smembers(_sessions(user_id))
        for session_id in sessions:
            key = f"session:{session_id.decode()}"
            events = await self._redis.hgetall(_events(key))
            erased = [event_id for event_id, event in events.items() if self._decode(event).user_id == user_id]
            if erased:
                await self._redis.zrem(_order(key), *erased)
                await self._redis.hdel(_events(key), *erased)
        key = f"user:{user_id}"
        await self._redis.delete(_order(key), _events(key))
        if sessions:  # not those that another endpoint added meanwhile
            await self._redis.srem(_sessions(user_id), *sessions)


def _order(key: str) -> str:
    return f"recsys:{{{key}}}:order"


def _events(key: str) -> str:
    return f"recsys:{{{key}}}:events"


def _sessions(user_id: str) -> str:
    return f"recsys:{{user:{user_id}}}:sessions"
