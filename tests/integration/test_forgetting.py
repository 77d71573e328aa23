"""A user who asks to be forgotten goes out of all that holds them at once: endpoint, feedback, warehouse, snapshots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, text

from recsys_tasks.client.admin import AdminClient
from recsys_tasks.errors import UnavailableError
from recsys_tasks.settings import settings
from recsys_tasks.stack.environment import any_free_port
from recsys_tasks.steps import features, ingestion
from recsys_tasks.steps.erasure import Forgotten, forget_users
from recsys_tasks.warehouse import database_url, engine
from tests.integration.endpoints import TOKEN, running_endpoint, serves_already
from tests.shops import fill

USER, OTHER = "u1", "u2"


@dataclass(frozen=True)
class Shop:
    """A warehouse with a snapshot, and an endpoint that serves and was told of two users."""

    warehouse: Engine
    url: str
    home: Path
    patch: pytest.MonkeyPatch

    def talk_to(self, *urls: str) -> None:
        self.patch.setenv("RECSYS_ENDPOINT_URLS", json.dumps(urls))
        settings.cache_clear()

    def did(self, user_id: str, item_id: str) -> None:
        """Somebody is shown something and looks at an item."""
        asked = {"user_id": user_id, "k": 3}
        httpx.post(f"{self.url}/v1/recommendations", json=asked).raise_for_status()
        event = {"event_type": "view", "user_id": user_id, "session_id": f"of {user_id}", "item_id": item_id}
        httpx.post(f"{self.url}/v1/events", json=event).raise_for_status()

    def answer(self, user_id: str) -> list[object]:
        body = {"user_id": user_id, "k": 5, "record": False}
        found: list[object] = httpx.post(f"{self.url}/v1/recommendations", json=body).json()["items"]
        return found

    def events(self, user_id: str) -> int:
        """How many events of a user the warehouse has."""
        query = text("select count(*) from events where user_id = :user_id")
        with self.warehouse.connect() as connection:
            return int(connection.scalar(query, {"user_id": user_id}) or 0)

    def in_snapshots(self, user_id: str) -> int:
        """How many rows of the snapshots' files are of a user."""
        return sum(
            pc.sum(pc.equal(table[column], value)).as_py() or 0
            for table in map(pq.read_table, (self.home / "snapshots").rglob("*.parquet"))
            for column, value in (("user_key", f"u:{user_id}"), ("user_id", user_id))
            if column in table.column_names
        )

    def journal(self) -> bytes:
        """All that the endpoint's journal says."""
        client = AdminClient(self.url, TOKEN)
        return b"".join(client.read_journal(str(part["name"]), 0) for part in client.journal()["segments"])


@pytest.fixture
def shop(warehouse: Engine, bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "HOME": tmp_path / "home",
        "WAREHOUSE_URL": warehouse.url.render_as_string(hide_password=False),
        "ADMIN_TOKEN": TOKEN,
        "MIN_ITEM_EVENTS": 1,
    }.items():
        monkeypatch.setenv(f"RECSYS_{name}", str(value))
    _forget_the_environment()
    fill(warehouse)
    serves_already(tmp_path / "endpoint", bundles[0])
    with running_endpoint(tmp_path / "endpoint") as url:
        found = Shop(warehouse, url, tmp_path / "home", monkeypatch)
        found.talk_to(url)
        for user_id in (USER, OTHER):
            found.did(user_id, "i1")
        ingestion.load_feedback(ingestion.fetch_feedback())
        features.build_features()
        for user_id in (USER, OTHER):
            found.did(user_id, "i2")
        ingestion.fetch_feedback()  # a portion that waits to be loaded
        yield found
        engine().dispose()
    monkeypatch.undo()
    _forget_the_environment()


def _forget_the_environment() -> None:
    for cached in (settings, database_url, engine):
        cached.cache_clear()


def test_a_user_is_forgotten_everywhere_and_others_nowhere(shop: Shop) -> None:
    portions = list((shop.home / "feedback").iterdir())
    assert [USER.encode() in portion.read_bytes() for portion in portions] == [True]
    known, rows, nobody = shop.events(OTHER), shop.in_snapshots(OTHER), shop.answer("nobody")
    events = shop.events(USER)
    assert events > 4
    assert shop.in_snapshots(USER) > 0
    assert shop.answer(USER) != nobody

    done = forget_users([USER])

    assert (done.events, done.journal_lines) == (events, 8)
    assert done.files > 0
    assert shop.answer(USER) == nobody
    assert b'"u1"' not in shop.journal()
    assert not list((shop.home / "feedback").iterdir())
    assert (shop.events(USER), shop.in_snapshots(USER)) == (0, 0)
    assert (shop.events(OTHER), shop.in_snapshots(OTHER)) == (known, rows)
    assert features.snapshot().events > 0  # it can be read as ever

    ingestion.load_feedback(ingestion.fetch_feedback())
    assert shop.events(USER) == 0
    assert shop.events(OTHER) == known + 4
    features.build_features()
    assert shop.in_snapshots(USER) == 0
    assert forget_users([USER]) == Forgotten(0, 0, 0)


def test_forgetting_that_failed_half_way_is_done_by_repeating_it(shop: Shop) -> None:
    away = f"http://127.0.0.1:{any_free_port()}"
    shop.talk_to(shop.url, away)
    with pytest.raises(UnavailableError, match=away):
        forget_users([USER])
    assert b'"u1"' not in shop.journal()
    shop.talk_to(shop.url)
    assert forget_users([USER]).events > 0
    assert (shop.events(USER), shop.in_snapshots(USER)) == (0, 0)
    assert not list((shop.home / "feedback").iterdir())
