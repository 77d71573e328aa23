"""Endpoints of different machines that share what users just did through the warehouse."""

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

from recsys_tasks.ingestion.retention import drop_old
from recsys_tasks.serving.app import create_app
from recsys_tasks.serving.live_state import LiveState
from recsys_tasks.serving.shared_state import SharedState
from recsys_tasks.settings import Settings
from tests.integration.endpoints import TOKEN, serves_already
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
        serves_already(home, bundle)
    return TestClient(create_app(Settings(home=home, admin_token=TOKEN, shared_state=url)))


def _url(warehouse: Engine) -> str:
    return warehouse.url.render_as_string(hide_password=False)


@contextmanager
def _unreachable(warehouse: Engine) -> Iterator[None]:
    """Nobody new gets a connection to the warehouse."""
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


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _together(warehouse: Engine, *seconds: float) -> list[float | None]:
    """Of statements that take so long and begin at once: how long each took until it was answered, if it was."""

    async def one(shared: SharedState, lasts: float) -> float | None:
        began = time.monotonic()
        rows = await shared._ask("sleep", seconds=lasts)
        return None if rows is None else time.monotonic() - began

    async def all_of_them() -> list[float | None]:
        shared = SharedState(_url(warehouse), LiveState(1))
        await shared.open()
        while await shared._ask("sleep", seconds=0) is None:
            await asyncio.sleep(0.05)
        found = await asyncio.gather(*(one(shared, lasts) for lasts in seconds))
        await shared.close()
        return list(found)

    return asyncio.run(all_of_them())


def _asked(client: TestClient, **asked: Any) -> dict[str, Any]:
    answer = client.post("/v1/recommendations", json={"k": 8, "record": False, **asked})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _items(client: TestClient, **asked: Any) -> list[str]:
    return [item["item_id"] for item in _asked(client, **asked)["items"]]


def _tell(client: TestClient, **event: Any) -> None:
    assert client.post("/v1/events", json={"event_type": "view", **event}).status_code == 200


def test_what_one_replica_is_told_counts_in_the_very_next_answer_of_the_other(
    replicas: tuple[TestClient, TestClient],
) -> None:
    before: list[str] = []
    for number in range(12):
        told, asked = replicas if number % 2 else replicas[::-1]
        _tell(told, session_id="s", user_id="new", item_id=f"i{number}")
        now = _items(asked, session_id="s")
        assert now == _items(told, session_id="s") != before
        assert _items(asked, user_id="new") == _items(told, user_id="new")
        before = now
    first, second = replicas
    first.post("/v1/search", json={"query": "blue", "session_id": "s"})
    assert _items(second, session_id="s") == _items(first, session_id="s") != before


def test_a_replica_that_begins_later_knows_it_too(
    replicas: tuple[TestClient, TestClient], tmp_path: Path, bundles: list[Path], warehouse: Engine
) -> None:
    _tell(replicas[0], session_id="s", item_id="i3")
    with _replica(tmp_path / "three", bundles[0], _url(warehouse)) as third:
        assert _items(third, session_id="s") == _items(replicas[0], session_id="s")


def test_a_forgotten_user_is_forgotten_there_too(replicas: tuple[TestClient, TestClient], warehouse: Engine) -> None:
    first, second = replicas
    _tell(first, user_id="leaves", session_id="s", item_id="i3")
    _tell(first, user_id="stays", session_id="t", item_id="i3")
    assert first.delete("/v1/admin/users/leaves", headers=HEADERS).status_code == 200
    assert count(warehouse, "select count(*) from live_events where event like '%leaves%'") == 0
    assert count(warehouse, "select count(*) from live_events") == 2  # of the other's user and session
    assert _asked(second, user_id="leaves")["items"][0]["source"] == "popular"


def test_without_the_database_lists_go_on_and_say_so_and_nothing_is_lost(
    replicas: tuple[TestClient, TestClient], tmp_path: Path, bundles: list[Path], warehouse: Engine
) -> None:
    with _unreachable(warehouse), _replica(tmp_path / "lonely", bundles[0], _url(warehouse)) as lonely:
        _tell(lonely, session_id="s", item_id="i3")
        seen = {"event_type": "view", "item_id": "i1", "request_id": "a list"}  # or i1 would rise here alone
        many = [{"user_id": f"many{number}", **seen} for number in range(700)]
        for _ in range(3):
            assert lonely.post("/v1/events", json=many).status_code == 200
        answer = _asked(lonely, session_id="s")
        assert answer["complete"] is False
        assert answer["items"][0]["source"] == "model"
        assert lonely.get("/readyz").json()["shared_state"] == "away"
        assert lonely.delete("/v1/admin/users/u1", headers=HEADERS).status_code == 503
        _allow(warehouse, True)
        _until(lambda: lonely.get("/readyz").json()["shared_state"] == "reached")
        assert _asked(lonely, session_id="s")["complete"] is True
        many_told = "select count(*) from live_events where key like 'user:many%'"
        _until(lambda: count(warehouse, many_told) == 3 * len(many))
    assert _items(replicas[0], session_id="s") == [item["item_id"] for item in answer["items"]]


def test_who_gets_no_answer_in_time_hangs_up_on_nobody_else(warehouse: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "recsys_tasks.serving.shared_state._statement", lambda name: b"select 1 from pg_sleep(%(seconds)s)"
    )
    slow, *others = _together(warehouse, 2.0, 0.15, 0.15, 0.15)
    assert slow is None
    assert None not in others


def test_a_database_that_is_frozen_keeps_nobody_waiting(
    replicas: tuple[TestClient, TestClient], warehouse: Engine
) -> None:
    _asked(replicas[0], session_id="s")
    with warehouse.connect() as connection:
        asked = "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        backends = list(connection.scalars(text(asked)))
    try:
        for backend in backends:
            os.kill(backend, signal.SIGSTOP)
        began = time.monotonic()
        assert _asked(replicas[0], session_id="s")["complete"] is False
        assert time.monotonic() - began < 1.5
    finally:
        for backend in backends:
            os.kill(backend, signal.SIGCONT)
    _until(lambda: _asked(replicas[0], session_id="s")["complete"] is True)


def test_what_was_shared_long_ago_is_dropped(replicas: tuple[TestClient, TestClient], warehouse: Engine) -> None:
    _tell(replicas[0], session_id="s", item_id="i3")
    kept = timedelta(hours=1)
    assert drop_old(warehouse, LONG_AGO, kept, kept).live_events == 0
    with warehouse.begin() as connection:
        connection.execute(text("update live_events set told_at = told_at - interval '2 hours'"))
    assert drop_old(warehouse, LONG_AGO, kept, kept).live_events == 1
