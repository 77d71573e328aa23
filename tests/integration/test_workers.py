"""Two workers on one port."""

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
from recsys_tasks.stack.environment import any_free_port
from tests.integration.endpoints import TOKEN, running_process, wait_for

HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def workers(tmp_path: Path, bundles: list[Path]) -> Iterator[tuple[int, str, list[str]]]:
    """The process that watches them, the port they share and their own."""
    port = _three_free_ports()
    urls = [f"http://127.0.0.1:{port + number}" for number in range(3)]
    with running_process(tmp_path / "home", TOKEN, port, workers=2) as watcher:
        for url in urls[1:]:
            httpx.put(f"{url}/v1/admin/model", content=pack(bundles[0]), headers=HEADERS, timeout=60).raise_for_status()
        yield watcher, urls[0], urls[1:]


def _three_free_ports() -> int:
    """The first of three in a row that nothing listens on now."""
    for _ in range(100):
        port = any_free_port()
        with ExitStack() as stack, suppress(OSError, OverflowError):
            for number in range(3):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port + number))
            return port
    raise AssertionError("no three ports in a row are free")


def _items(url: str, **asked: object) -> list[str]:
    answer = httpx.post(f"{url}/v1/recommendations", json={"k": 5, "record": False, **asked})
    answer.raise_for_status()
    return [item["item_id"] for item in answer.json()["items"]]


def _tell(url: str, **event: object) -> None:
    httpx.post(f"{url}/v1/events", json={"event_type": "view", **event}).raise_for_status()


def test_what_one_worker_is_told_counts_in_the_very_next_answer_of_the_other(
    workers: tuple[int, str, list[str]], tmp_path: Path, bundles: list[Path]
) -> None:
    watcher, shared, (first, second) = workers
    before = _items(second, session_id="s")
    for number in range(20):
        told, asked = (first, second) if number % 2 else (second, first)
        _tell(told, session_id="s", user_id="new", item_id=f"i{number}")
        assert _items(asked, session_id="s") == _items(told, session_id="s") != before
        assert _items(asked, user_id="new") == _items(told, user_id="new")
        before = _items(asked, session_id="s")
    assert _items(shared, session_id="s") == before

    worker = psutil.Process(watcher).children()[0]
    worker.send_signal(signal.SIGKILL)
    worker.wait(10)
    wait_for(first)
    wait_for(second)
    assert _items(first, session_id="s") == _items(second, session_id="s") == before

    _tell(second, session_id="s", user_id="new", item_id="i30")
    httpx.delete(f"{first}/v1/admin/users/new", headers=HEADERS).raise_for_status()
    assert _items(first, session_id="s") == _items(first, session_id="another")

    item = {"title": "Bottle, blue"}
    httpx.put(f"{first}/v1/items/bottle", json=item, headers=HEADERS).raise_for_status()
    assert "bottle" in _items(first, k=60)
    deadline = time.monotonic() + 10
    while "bottle" not in _items(second, k=60):
        assert time.monotonic() < deadline, "the other worker has not heard of the item"

    homes = [tmp_path / "home" / name / "bundles" / bundle_digest(bundles[0]) for name in ("endpoint", "endpoint-1")]
    assert len({(home / VECTORS).stat().st_ino for home in homes}) == 1


def test_a_worker_that_is_told_to_stop_answers_what_is_under_way(workers: tuple[int, str, list[str]]) -> None:
    watcher, shared, _ = workers
    body = b'[{"event_type": "view", "user_id": "late", "item_id": "i1"}]'

    def slowly() -> Iterator[bytes]:
        yield body[:10]
        psutil.Process(watcher).terminate()
        yield body[10:]

    answer = httpx.post(f"{shared}/v1/events", content=slowly(), timeout=20)
    assert answer.json()["accepted"] == 1
