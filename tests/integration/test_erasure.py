"""Erasure of users from endpoint, feedback files, warehouse and snapshots."""

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
from recsys_tasks.stack.environment import find_free_port
from recsys_tasks.steps import features, ingestion
from recsys_tasks.steps.erasure import ErasureReport, erase_users
from recsys_tasks.warehouse import database_url, engine
from tests.integration.endpoints import TOKEN, install_bundle, running_endpoint
from tests.shops import fill

USER, OTHER = "u1", "u2"


@dataclass(frozen=True)
class Shop:
    """A warehouse with a snapshot, and a serving endpoint with events of two users."""

    warehouse: Engine
    url: str
    home: Path
    patch: pytest.MonkeyPatch

    def set_endpoints(self, *urls: str) -> None:
        self.patch.setenv("RECSYS_ENDPOINT_URLS", json.dumps(urls))
        settings.cache_clear()

    def view_item(self, user_id: str, item_id: str) -> None:
        """Requests recommendations for a user and sends a view event."""
        asked = {"user_id": user_id, "k": 3}
        httpx.post(f"{self.url}/v1/recommendations", json=asked).raise_for_status()
        event = {"event_type": "view", "user_id": user_id, "session_id": f"of {user_id}", "item_id": item_id}
        httpx.post(f"{self.url}/v1/events", json=event).raise_for_status()

    def recommend(self, user_id: str) -> list[object]:
        body = {"user_id": user_id, "k": 5, "record": False}
        found: list[object] = httpx.post(f"{self.url}/v1/recommendations", json=body).json()["items"]
        return found

    def count_events(self, user_id: str) -> int:
        """Returns the number of a user's events in the warehouse."""
        query = text("select count(*) from events where user_id = :user_id")
        with self.warehouse.connect() as connection:
            return int(connection.scalar(query, {"user_id": user_id}) or 0)

    def count_snapshot_rows(self, user_id: str) -> int:
        """Returns the number of a user's rows in the snapshot files."""
        return sum(
            pc.sum(pc.equal(table[column], value)).as_py() or 0
            for table in map(pq.read_table, (self.home / "snapshots").rglob("*.parquet"))
            for column, value in (("user_key", f"u:{user_id}"), ("user_id", user_id))
            if column in table.column_names
        )

    def read_event_log(self) -> bytes:
        """Returns the content of the endpoint's event log."""
        client = AdminClient(self.url, TOKEN)
        return b"".join(client.read_event_log(str(part["name"]), 0) for part in client.list_event_log()["segments"])


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
    _clear_settings_caches()
    fill(warehouse)
    install_bundle(tmp_path / "endpoint", bundles[0])
    with running_endpoint(tmp_path / "endpoint") as url:
        found = Shop(warehouse, url, tmp_path / "home", monkeypatch)
        found.set_endpoints(url)
        for user_id in (USER, OTHER):
            found.view_item(user_id, "i1")
        ingestion.load_feedback(ingestion.fetch_feedback())
        features.build_features()
        for user_id in (USER, OTHER):
            found.view_item(user_id, "i2")
        ingestion.fetch_feedback()  # leaves a portion that is not loaded yet
        yield found
        engine().dispose()
    monkeypatch.undo()
    _clear_settings_caches()


def _clear_settings_caches() -> None:
    for cached in (settings, database_url, engine):
        cached.cache_clear()


def test_a_forgotten_user_is_removed_everywhere_and_other_users_are_kept(shop: Shop) -> None:
    portions = list((shop.home / "feedback").iterdir())
    assert [USER.encode() in portion.read_bytes() for portion in portions] == [True]
    known, rows, nobody = shop.count_events(OTHER), shop.count_snapshot_rows(OTHER), shop.recommend("nobody")
    events = shop.count_events(USER)
    assert events > 4
    assert shop.count_snapshot_rows(USER) > 0
    assert shop.recommend(USER) != nobody

    done = erase_users([USER])

    assert (done.events, done.journal_lines) == (events, 8)
    assert done.files > 0
    assert shop.recommend(USER) == nobody
    assert b'"u1"' not in shop.read_event_log()
    assert not list((shop.home / "feedback").iterdir())
    assert (shop.count_events(USER), shop.count_snapshot_rows(USER)) == (0, 0)
    assert (shop.count_events(OTHER), shop.count_snapshot_rows(OTHER)) == (known, rows)
    assert features.snapshot().events > 0  # still readable

    ingestion.load_feedback(ingestion.fetch_feedback())
    assert shop.count_events(USER) == 0
    assert shop.count_events(OTHER) == known + 4
    features.build_features()
    assert shop.count_snapshot_rows(USER) == 0
    assert erase_users([USER]) == ErasureReport(0, 0, 0)


def test_repeating_a_partly_failed_erasure_completes_it(shop: Shop) -> None:
    away = f"http://127.0.0.1:{find_free_port()}"
    shop.set_endpoints(shop.url, away)
    with pytest.raises(UnavailableError, match=away):
        erase_users([USER])
    assert b'"u1"' not in shop.read_event_log()
    shop.set_endpoints(shop.url)
    assert erase_users([USER]).events > 0
    assert (shop.count_events(USER), shop.count_snapshot_rows(USER)) == (0, 0)
    assert not list((shop.home / "feedback").iterdir())
