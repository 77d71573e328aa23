"""Endpoints on different machines that share recent user actions through Redis."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError
from starlette.testclient import TestClient

from recsys_tasks.serving import redis_store
from recsys_tasks.serving.app import create_app
from recsys_tasks.serving.redis_store import RedisStore
from recsys_tasks.settings import Settings
from recsys_tasks.stack.environment import find_free_port
from recsys_tasks.wire.messages import Event
from tests.integration.endpoints import TOKEN, install_bundle

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
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
        _wait_until(self._responds)

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
def replicas(tmp_path: Path, bundles: list[Path], server: Server) -> Iterator[tuple[TestClient, TestClient]]:
    """Two endpoints."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(_replica(tmp_path / name, bundles[0], server)) for name in ("one", "two"))
        yield first, second


def _replica(home: Path, bundle: Path, server: Server) -> TestClient:
    home.mkdir()
    install_bundle(home, bundle)
    return TestClient(create_app(Settings(home=home, admin_token=TOKEN, shared_state_url=server.url)))


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _recommend(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/recommendations", json={"k": 8, "record": False, **body})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def _items(client: TestClient, **body: Any) -> list[str]:
    return [item["item_id"] for item in _recommend(client, **body)["items"]]


def _post_event(client: TestClient, **event: Any) -> None:
    assert client.post("/v1/events", json={"event_type": "view", **event}).status_code == 200


def test_an_event_at_one_replica_counts_in_the_next_answer_of_the_other(
    replicas: tuple[TestClient, TestClient],
) -> None:
    previous: list[str] = []
    for number in range(12):
        writer, reader = replicas if number % 2 else replicas[::-1]
        _post_event(writer, session_id="s", user_id="new", item_id=f"i{number}")
        current = _items(reader, session_id="s")
        assert current == _items(writer, session_id="s") != previous
        assert _items(reader, user_id="new") == _items(writer, user_id="new")
        previous = current


def test_an_erased_user_is_erased_from_redis(replicas: tuple[TestClient, TestClient], server: Server) -> None:
    first, second = replicas
    _post_event(first, user_id="leaves", session_id="s", item_id="i3")
    _post_event(first, user_id="stays", session_id="s", item_id="i4")
    assert first.delete("/v1/admin/users/leaves", headers=HEADERS).status_code == 200
    with Redis.from_url(server.url, decode_responses=True) as client:
        kept = {key: client.hvals(key) for key in client.keys("*:events")}
    assert set(kept) == {"recsys:{user:stays}:events", "recsys:{session:s}:events"}
    assert "leaves" not in str(kept)
    assert _recommend(second, user_id="leaves")["items"][0]["source"] == "popular"


def test_while_redis_is_away_lists_are_incomplete_and_afterwards_nothing_is_lost(
    replicas: tuple[TestClient, TestClient], server: Server
) -> None:
    first, second = replicas
    _post_event(first, session_id="s", item_id="i1")
    server.kill()
    _post_event(first, session_id="s", item_id="i3")
    assert _recommend(first, session_id="s")["complete"] is False
    assert first.get("/readyz").json()["shared_state"] == "away"
    assert first.delete("/v1/admin/users/u1", headers=HEADERS).status_code == 503
    server.start()
    for replica in replicas:
        _wait_until(lambda replica=replica: _recommend(replica, session_id="s")["complete"] is True)  # type: ignore[misc]
    assert _items(second, session_id="s") == _items(first, session_id="s")
    with Redis.from_url(server.url) as client:
        assert client.zcard("recsys:{session:s}:order") == 2


def test_events_of_an_outage_are_published_in_batches(replicas: tuple[TestClient, TestClient], server: Server) -> None:
    first, second = replicas
    server.kill()
    many = [{"event_type": "view", "user_id": f"u{n}", "session_id": f"s{n}", "item_id": "i1"} for n in range(1_000)]
    assert first.post("/v1/events", json=many).status_code == 200
    server.start()
    with Redis.from_url(server.url) as client:
        _wait_until(lambda: len(client.keys("recsys:{user:u*}:order")) == len(many))
    _wait_until(lambda: _recommend(second, user_id="u999")["complete"] is True)
    assert _items(second, user_id="u999") == _items(first, user_id="u999")


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
        _wait_until(lambda: client.keys("*") == [])
