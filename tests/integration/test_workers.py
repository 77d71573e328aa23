"""Two worker processes on one shared port."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from recsys_tasks.engine.bundle import VECTORS, bundle_digest, pack
from recsys_tasks.engine.item_search import SEARCH_INDEX
from recsys_tasks.stack.environment import find_free_port
from tests.integration.endpoints import TOKEN, running_process, wait_for

HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def workers(tmp_path: Path, bundles: list[Path]) -> Iterator[tuple[int, str, list[str]]]:
    """The supervisor's process id, the URL of the shared port, and the workers' own URLs."""
    port = _three_free_ports()
    urls = [f"http://127.0.0.1:{port + number}" for number in range(3)]
    with running_process(tmp_path / "home", TOKEN, port, workers=2) as supervisor:
        for url in urls[1:]:
            httpx.put(f"{url}/v1/admin/model", content=pack(bundles[0]), headers=HEADERS, timeout=60).raise_for_status()
        yield supervisor, urls[0], urls[1:]


def _three_free_ports() -> int:
    """The first of three consecutive free ports."""
    for _ in range(100):
        port = find_free_port()
        with ExitStack() as stack, suppress(OSError, OverflowError):
            for number in range(3):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port + number))
            return port
    raise AssertionError("no three consecutive ports are free")


def _items(url: str, **body: object) -> list[str]:
    answer = httpx.post(f"{url}/v1/recommendations", json={"k": 40, "record": False, **body})
    answer.raise_for_status()
    return [item["item_id"] for item in answer.json()["items"]]


def _post_event(url: str, **event: object) -> None:
    httpx.post(f"{url}/v1/events", json={"event_type": "view", **event}).raise_for_status()


def test_an_event_at_one_worker_counts_in_the_next_answer_of_the_other(
    workers: tuple[int, str, list[str]], tmp_path: Path, bundles: list[Path]
) -> None:
    supervisor, shared, (first, second) = workers
    previous = _items(second, session_id="s")
    for number in range(20):
        writer, reader = (first, second) if number % 2 else (second, first)
        _post_event(writer, session_id="s", user_id="new", item_id=f"i{number}")
        assert _items(reader, session_id="s") == _items(writer, session_id="s") != previous
        assert _items(reader, user_id="new") == _items(writer, user_id="new")
        previous = _items(reader, session_id="s")
    assert _items(shared, session_id="s") == previous

    worker = psutil.Process(supervisor).children()[0]
    worker.send_signal(signal.SIGKILL)
    worker.wait(10)
    wait_for(first)
    wait_for(second)
    assert _items(first, session_id="s") == _items(second, session_id="s") == previous

    _post_event(second, session_id="s", user_id="new", item_id="i30")
    httpx.delete(f"{first}/v1/admin/users/new", headers=HEADERS).raise_for_status()
    assert _items(first, session_id="s") == _items(first, session_id="another")

    item = {"title": "Bottle, blue"}
    httpx.put(f"{first}/v1/items/bottle", json=item, headers=HEADERS).raise_for_status()
    assert "bottle" in _items(first, k=60)
    deadline = time.monotonic() + 10
    while "bottle" not in _items(second, k=60):
        assert time.monotonic() < deadline, "the other worker did not read the item update"

    homes = [tmp_path / "home" / name / "bundles" / bundle_digest(bundles[0]) for name in ("endpoint", "endpoint-1")]
    assert len({(home / VECTORS).stat().st_ino for home in homes}) == 1
    assert len({next((home / SEARCH_INDEX).glob("*.idx")).stat().st_ino for home in homes}) == 1


def test_a_terminated_worker_answers_the_requests_in_progress(workers: tuple[int, str, list[str]]) -> None:
    supervisor, shared, _ = workers
    body = b'[{"event_type": "view", "user_id": "late", "item_id": "i1"}]'

    def slowly() -> Iterator[bytes]:
        yield body[:10]
        psutil.Process(supervisor).terminate()
        yield body[10:]

    answer = httpx.post(f"{shared}/v1/events", content=slowly(), timeout=20)
    assert answer.json()["accepted"] == 1
