"""Endpoints on different machines that share recent user actions through PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from recsys_tasks.ingestion.retention import drop_expired
from recsys_tasks.serving.live_state import LiveState
from recsys_tasks.serving.postgres_store import PostgresStore
from recsys_tasks.serving.shared_state import SharedState, SharedStore
from tests.integration.ingesting import LONG_AGO, count
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


@pytest.fixture
def replicas(tmp_path: Path, bundles: list[Path], warehouse: Engine) -> Iterator[Replicas]:
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(replica(tmp_path / name, bundles[0], _url(warehouse))) for name in ("one", "two")
        )
        yield first, second


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


def test_an_event_at_one_replica_counts_in_the_next_answer_of_the_other(replicas: Replicas) -> None:
    assert_events_are_shared(replicas)


def test_a_replica_that_starts_later_reads_earlier_events(
    replicas: Replicas, tmp_path: Path, bundles: list[Path], warehouse: Engine
) -> None:
    post_event(replicas[0], session_id="s", item_id="i3")
    with replica(tmp_path / "three", bundles[0], _url(warehouse)) as third:
        assert items(third, session_id="s") == items(replicas[0], session_id="s")


def test_an_erased_user_is_erased_from_the_shared_state(replicas: Replicas, warehouse: Engine) -> None:
    first, second = replicas
    post_event(first, user_id="leaves", session_id="s", item_id="i3")
    post_event(first, user_id="stays", session_id="t", item_id="i3")
    assert first.delete("/v1/admin/users/leaves", headers=HEADERS).status_code == 200
    assert count(warehouse, "select count(*) from live_events where event like '%leaves%'") == 0
    assert count(warehouse, "select count(*) from live_events") == 2  # the other user's, under user and session
    assert recommend(second, user_id="leaves")["items"][0]["source"] == "popular"


def test_without_the_database_lists_are_marked_incomplete_and_events_are_published_later(
    replicas: Replicas, tmp_path: Path, bundles: list[Path], warehouse: Engine
) -> None:
    with _unreachable(warehouse), replica(tmp_path / "lonely", bundles[0], _url(warehouse)) as isolated:
        post_event(isolated, session_id="s", item_id="i3")
        attributed = {
            "event_type": "view",
            "item_id": "i1",
            "request_id": "a list",
        }  # not organic, so not trending
        many = [{"user_id": f"many{number}", **attributed} for number in range(700)]
        for _ in range(3):
            assert isolated.post("/v1/events", json=many).status_code == 200
        answer = recommend(isolated, session_id="s")
        assert answer["complete"] is False
        assert answer["items"][0]["source"] == "model"
        assert isolated.get("/readyz").json()["shared_state"] == "away"
        assert isolated.delete("/v1/admin/users/u1", headers=HEADERS).status_code == 503
        _allow(warehouse, True)
        wait_until(lambda: isolated.get("/readyz").json()["shared_state"] == "reached")
        assert recommend(isolated, session_id="s")["complete"] is True
        many_published = "select count(*) from live_events where key like 'user:many%'"
        wait_until(lambda: count(warehouse, many_published) == 3 * len(many))
    assert items(replicas[0], session_id="s") == [item["item_id"] for item in answer["items"]]


def test_a_timed_out_statement_closes_no_other_connection(warehouse: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "recsys_tasks.serving.postgres_store._statement", lambda name: b"select 1 from pg_sleep(%(seconds)s)"
    )
    slow, *others = _run_concurrently(warehouse, 2.0, 0.15, 0.15, 0.15)
    assert slow is None
    assert None not in others


def test_a_frozen_database_does_not_delay_lists(replicas: Replicas, warehouse: Engine) -> None:
    recommend(replicas[0], session_id="s")
    with warehouse.connect() as connection:
        query = "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        backends = list(connection.scalars(text(query)))
    try:
        for backend in backends:
            os.kill(backend, signal.SIGSTOP)
        # The stopped backends never answer: any list at all was not delayed by them.
        assert recommend(replicas[0], session_id="s")["complete"] is False
    finally:
        for backend in backends:
            os.kill(backend, signal.SIGCONT)
    wait_until(lambda: recommend(replicas[0], session_id="s")["complete"] is True)


def test_old_shared_events_are_dropped(replicas: Replicas, warehouse: Engine) -> None:
    post_event(replicas[0], session_id="s", item_id="i3")
    retention = timedelta(hours=1)
    assert drop_expired(warehouse, LONG_AGO, retention, retention).live_events == 0
    with warehouse.begin() as connection:
        connection.execute(text("update live_events set published_at = published_at - interval '2 hours'"))
    assert drop_expired(warehouse, LONG_AGO, retention, retention).live_events == 1
