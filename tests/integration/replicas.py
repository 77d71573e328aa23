"""Endpoints that share recent events, and what is asked of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from recsys_tasks.serving.app import create_app
from recsys_tasks.settings import Settings
from tests.integration.endpoints import TOKEN, install_bundle

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
Replicas = tuple[TestClient, TestClient]
_DEADLINE_SECONDS = 20


def replica(home: Path, bundle: Path, url: str) -> TestClient:
    """An endpoint with a home folder of its own and a shared state at a URL."""
    if not home.exists():
        home.mkdir()
        install_bundle(home, bundle)
    return TestClient(create_app(Settings(home=home, admin_token=TOKEN, shared_state_url=url)))


def recommend(client: TestClient, **body: Any) -> dict[str, Any]:
    """Returns the answer to a request for a list."""
    answer = client.post("/v1/recommendations", json={"k": 8, "record": False, **body})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def items(client: TestClient, **body: Any) -> list[str]:
    """Returns the items of a list."""
    return [item["item_id"] for item in recommend(client, **body)["items"]]


def post_event(client: TestClient, **event: Any) -> None:
    """Posts an event, by default a view."""
    assert client.post("/v1/events", json={"event_type": "view", **event}).status_code == 200


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_events_are_shared(replicas: Replicas) -> None:
    """An event at one replica counts in the next answer of the other, whichever of the two it is."""
    previous: list[str] = []
    for number in range(12):
        writer, reader = replicas if number % 2 else replicas[::-1]
        post_event(writer, session_id="s", user_id="new", item_id=f"i{number}")
        current = items(reader, session_id="s")
        assert current == items(writer, session_id="s") != previous
        assert items(reader, user_id="new") == items(writer, user_id="new")
        previous = current
    first, second = replicas
    first.post("/v1/search", json={"query": "blue", "session_id": "s"})
    assert items(second, session_id="s") == items(first, session_id="s") != previous
