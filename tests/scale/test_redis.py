"""Endpoints on different machines that share recent user actions through Redis."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from recsys_tasks.serving import redis_store
from recsys_tasks.serving.redis_store import RedisStore
from recsys_tasks.stack.environment import find_free_port
from recsys_tasks.wire.messages import Event
from tests.integration.replicas import (
    HEADERS,
    Replicas,
    assert_events_are_shared,
    items,
    post_event,
    recommend,
    replica,
    wait_until,
)

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass
class Server:
    """A Redis server that writes every change to disk before it answers."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts the server and waits for it."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(self._responds)

    def _responds(self) -> bool:
        try:
            with Redis.from_url(self.url) as client:
                return bool(client.ping())
        except RedisError:
            return False

    def kill(self) -> None:
        """Kills the server at once."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running server."""
    server = Server(tmp_path, find_free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def replicas(tmp_path: Path, bundles: list[Path], server: Server) -> Iterator[Replicas]:
    """Two endpoints."""
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(replica(tmp_path / name, bundles[0], server.url)) for name in ("one", "two")
        )
        yield first, second


def test_an_event_at_one_replica_counts_in_the_next_answer_of_the_other(replicas: Replicas) -> None:
    assert_events_are_shared(replicas)


def test_an_erased_user_is_erased_from_redis(replicas: Replicas, server: Server) -> None:
    first, second = replicas
    post_event(first, user_id="leaves", session_id="s", item_id="i3")
    post_event(first, user_id="stays", session_id="s", item_id="i4")
    assert first.delete("/v1/admin/users/leaves", headers=HEADERS).status_code == 200
    with Redis.from_url(server.url, decode_responses=True) as client:
        kept = {key: client.hvals(key) for key in client.keys("*:events")}
    assert set(kept) == {"recsys:{user:stays}:events", "recsys:{session:s}:events"}
    assert "leaves" not in str(kept)
    assert recommend(second, user_id="leaves")["items"][0]["source"] == "popular"


def test_while_redis_is_away_lists_are_incomplete_and_afterwards_nothing_is_lost(
    replicas: Replicas, server: Server
) -> None:
    first, second = replicas
    post_event(first, session_id="s", item_id="i1")
    server.kill()
    post_event(first, session_id="s", item_id="i3")
    assert recommend(first, session_id="s")["complete"] is False
    assert first.get("/readyz").json()["shared_state"] == "away"
    assert first.delete("/v1/admin/users/u1", headers=HEADERS).status_code == 503
    server.start()
    for each in replicas:
        wait_until(lambda each=each: recommend(each, session_id="s")["complete"] is True)  # type: ignore[misc]
    assert items(second, session_id="s") == items(first, session_id="s")
    with Redis.from_url(server.url) as client:
        assert client.zcard("recsys:{session:s}:order") == 2


def test_events_of_an_outage_are_published_in_batches(replicas: Replicas, server: Server) -> None:
    first, second = replicas
    server.kill()
    many = [{"event_type": "view", "user_id": f"u{n}", "session_id": f"s{n}", "item_id": "i1"} for n in range(1_000)]
    assert first.post("/v1/events", json=many).status_code == 200
    server.start()
    with Redis.from_url(server.url) as client:
        wait_until(lambda: len(client.keys("recsys:{user:u*}:order")) == len(many))
    wait_until(lambda: recommend(second, user_id="u999")["complete"] is True)
    assert items(second, user_id="u999") == items(first, user_id="u999")


def test_old_events_are_not_read_though_their_session_goes_on(server: Server) -> None:
    async def publish_and_read() -> list[str]:
        store = RedisStore(server.url, 1.0, timedelta(seconds=1))
        events = [Event(event_type="view", event_id=f"e{n}", session_id="s", item_id=f"i{n}") for n in range(2)]
        await store.publish([("session:s", events[0])])
        await asyncio.sleep(0.7)
        await store.publish([("session:s", events[1])])
        await asyncio.sleep(0.5)
        found = await store.read({"session:s": LONG_AGO})
        await store.close()
        return [str(event) for _, _, event in found]

    (kept,) = asyncio.run(publish_and_read())
    assert "e1" in kept


def test_a_key_has_each_event_once_and_only_the_latest(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "_MAX_EVENTS_OF_KEY", 3)
    events = [Event(event_type="view", event_id=f"e{n}", session_id="s", item_id=f"i{n}") for n in range(5)]

    async def publish_twice() -> list[tuple[str, datetime, str | bytes]]:
        store = RedisStore(server.url, 1.0, timedelta(hours=1))
        for event in [*events, *events[3:]]:
            await store.publish([("session:s", event)])
        found = await store.read({"session:s": LONG_AGO, "session:other": LONG_AGO})
        later = await store.read({"session:s": found[-1][1]})
        await store.close()
        assert later == []
        return found

    rows = asyncio.run(publish_twice())
    assert [str(event).count(f"i{n}") for n, (_, _, event) in zip((2, 3, 4), rows, strict=True)] == [1, 1, 1]
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)


def test_old_events_are_dropped(server: Server) -> None:
    async def publish() -> None:
        store = RedisStore(server.url, 1.0, timedelta(milliseconds=200))
        await store.publish([("session:s", Event(event_type="view", event_id="e", session_id="s", item_id="i"))])
        await store.close()

    asyncio.run(publish())
    with Redis.from_url(server.url) as client:
        wait_until(lambda: client.keys("*") == [])
