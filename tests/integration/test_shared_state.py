"""Endpoints on different machines that share recent user actions through PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from starlette.testclient import TestClient

from recsys_tasks.ingestion.retention import drop_expired
from recsys_tasks.serving.app import create_app
from recsys_tasks.serving.live_state import LiveState
from recsys_tasks.serving.postgres_store import PostgresStore
from recsys_tasks.serving.shared_state import SharedState, SharedStore
from recsys_tasks.settings import Settings
from tests.integration.endpoints import TOKEN, install_bundle
from tests.integration.ingesting import LONG_AGO, count

HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def replicas(tmp_path: Path, bundles: list[Path], warehouse: Engine) -> Iterator[tuple[TestClient, TestClient]]:
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(_replica(tmp_path / name, bundles[0], _url(warehouse))) for name in ("one", "two")
        )
        yield first, second


def _replica(home: Path, bundle: Path, url: str) -> TestClient:
    if not home.exists():
        home.mkdir()
        install_bundle(home, bundle)
    return TestClient(create_app(Settings(home=home, admin_token=TOKEN, shared_state_url=url)))


def _url(warehouse: Engine) -> str:
    return warehouse.url.render_as_string(hide_password=False)


@contextmanager
def _unreachable(warehouse: Engine) -> Iterator[None]:
    """The warehouse refuses new connections."""
    _allow(warehouse, False)
    try:
        yield
    finally:
        _allow(warehouse, True)


def _allow(warehouse: Engine, connections: bool) -> None:
    server = create_engine(warehouse.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"alter database {warehouse.url.database} allow_connections {connections}"))
    server.dispose()


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _run_concurrently(warehouse: Engine, *durations: float) -> list[float | None]:
    """Runs statements of given durations at once; returns the seconds until each result, None without one."""

    async def run_one(shared: SharedState, duration: float) -> float | None:
        began = time.monotonic()
        done = await shared._succeeds(lambda store: _sleep(store, duration))
        return time.monotonic() - began if done else None

    async def run_all() -> list[float | None]:
        shared = SharedState(_url(warehouse), LiveState(1))
        await shared.open()
        while not await shared._succeeds(lambda store: _sleep(store, 0)):
            await asyncio.sleep(0.05)
        results = await asyncio.gather(*(run_one(shared, duration) for duration in durations))
        await shared.close()
        return list(results)

    return asyncio.run(run_all())


async def _sleep(store: SharedStore, seconds: float) -> None:
    assert isinstance(store, PostgresStore)
    await store.execute("sleep", seconds=seconds)


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
    first, second = replicas
    first.post("/v1/search", json={"query": "blue", "session_id": "s"})
    assert _items(second, session_id="s") == _items(first, session_id="s") != previous


def test_a_replica_that_starts_later_reads_earlier_events(
    replicas: tuple[TestClient, TestClient], tmp_path: Path, bundles: list[Path], warehouse: Engine
) -> None:
    _post_event(replicas[0], session_id="s", item_id="i3")
    with _replica(tmp_path / "three", bundles[0], _url(warehouse)) as third:
        assert _items(third, session_id="s") == _items(replicas[0], session_id="s")


def test_an_erased_user_is_erased_from_the_shared_state(
    replicas: tuple[TestClient, TestClient], warehouse: Engine
) -> None:
    first, second = replicas
    _post_event(first, user_id="leaves", session_id="s", item_id="i3")
    _post_event(first, user_id="stays", session_id="t", item_id="i3")
    assert first.delete("/v1/admin/users/leaves", headers=HEADERS).status_code == 200
    assert count(warehouse, "select count(*) from live_events where event like '%leaves%'") == 0
    assert count(warehouse, "select count(*) from live_events") == 2  # the other user's, under user and session
    assert _recommend(second, user_id="leaves")["items"][0]["source"] == "popular"


def test_without_the_database_lists_are_marked_incomplete_and_events_are_published_later(
    replicas: tuple[TestClient, TestClient], tmp_path: Path, bundles: list[Path], warehouse: Engine
) -> None:
    with _unreachable(warehouse), _replica(tmp_path / "lonely", bundles[0], _url(warehouse)) as isolated:
        _post_event(isolated, session_id="s", item_id="i3")
        attributed = {
            "event_type": "view",
            "item_id": "i1",
            "request_id": "a list",
        }  # not organic, so not trending
        many = [{"user_id": f"many{number}", **attributed} for number in range(700)]
        for _ in range(3):
            assert isolated.post("/v1/events", json=many).status_code == 200
        answer = _recommend(isolated, session_id="s")
        assert answer["complete"] is False
        assert answer["items"][0]["source"] == "model"
        assert isolated.get("/readyz").json()["shared_state"] == "away"
        assert isolated.delete("/v1/admin/users/u1", headers=HEADERS).status_code == 503
        _allow(warehouse, True)
        _wait_until(lambda: isolated.get("/readyz").json()["shared_state"] == "reached")
        assert _recommend(isolated, session_id="s")["complete"] is True
        many_published = "select count(*) from live_events where key like 'user:many%'"
        _wait_until(lambda: count(warehouse, many_published) == 3 * len(many))
    assert _items(replicas[0], session_id="s") == [item["item_id"] for item in answer["items"]]


def test_a_timed_out_statement_closes_no_other_connection(warehouse: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "recsys_tasks.serving.postgres_store._statement", lambda name: b"select 1 from pg_sleep(%(seconds)s)"
    )
    slow, *others = _run_concurrently(warehouse, 2.0, 0.15, 0.15, 0.15)
    assert slow is None
    assert None not in others


def test_a_frozen_database_does_not_delay_lists(replicas: tuple[TestClient, TestClient], warehouse: Engine) -> None:
    _recommend(replicas[0], session_id="s")
    with warehouse.connect() as connection:
        query = "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        backends = list(connection.scalars(text(query)))
    try:
        for backend in backends:
            os.kill(backend, signal.SIGSTOP)
        # The stopped backends never answer: any list at all was not delayed by them.
        assert _recommend(replicas[0], session_id="s")["complete"] is False
    finally:
        for backend in backends:
            os.kill(backend, signal.SIGCONT)
    _wait_until(lambda: _recommend(replicas[0], session_id="s")["complete"] is True)


def test_old_shared_events_are_dropped(replicas: tuple[TestClient, TestClient], warehouse: Engine) -> None:
    _post_event(replicas[0], session_id="s", item_id="i3")
    retention = timedelta(hours=1)
    assert drop_expired(warehouse, LONG_AGO, retention, retention).live_events == 0
    with warehouse.begin() as connection:
        connection.execute(text("update live_events set published_at = published_at - interval '2 hours'"))
    assert drop_expired(warehouse, LONG_AGO, retention, retention).live_events == 1
