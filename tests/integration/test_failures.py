"""Faults: full disk, overload, rate limits, hanging callers and shutdown; and the metrics that show them."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from recsys_tasks.serving.app import create_app
from recsys_tasks.settings import Settings
from recsys_tasks.stack.environment import find_free_port
from tests.integration.endpoints import TOKEN, install_bundle, running_process

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
REQUEST = {"user_id": "u1", "k": 5}


def _client(tmp_path: Path, bundle: Path, **settings: Any) -> TestClient:
    if not (tmp_path / "endpoint").exists():
        install_bundle(tmp_path, bundle)
    return TestClient(create_app(Settings(home=tmp_path, admin_token=TOKEN, **settings)))


def _events(tmp_path: Path) -> list[dict[str, Any]]:
    lines = [line for file in sorted((tmp_path / "endpoint" / "journal").glob("*.jsonl")) for line in file.open()]
    return [json.loads(line) for line in lines]


def test_a_full_disk_rejects_events_and_lists_are_still_served(
    tmp_path: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    event = {"event_type": "view", "user_id": "u1", "item_id": "i1"}
    with _client(tmp_path, bundles[0]) as client:
        write = os.write

        def write_until_full(file: int, data: bytes) -> int:
            write(file, data[:7])  # a partial write
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("recsys_tasks.serving.event_log.os.write", write_until_full)
        rejected = client.post("/v1/events", json=event)
        assert rejected.status_code == 503
        assert "No space left" in rejected.json()["detail"]
        assert client.post("/v1/recommendations", json=REQUEST).status_code == 200
        monkeypatch.undo()
        assert client.post("/v1/events", json={**event, "event_id": "later"}).status_code == 200
    assert [line["event_id"] for line in _events(tmp_path)] == ["later"]


def test_under_overload_lists_are_rejected_but_events_and_admin_requests_are_not(
    tmp_path: Path, bundles: list[Path]
) -> None:
    with _client(tmp_path, bundles[0]) as client:
        endpoint = client.app.state.endpoint  # type: ignore[attr-defined]
        endpoint.queue.record_duration(0.05)
        endpoint.queue.count_arrived = lambda: 1_000
        rejected = client.post("/v1/recommendations", json=REQUEST)
        assert rejected.status_code == 503
        assert rejected.headers["retry-after"] == "1"
        event = {"event_type": "view", "user_id": "u1", "item_id": "i1"}
        assert client.post("/v1/events", json=event).status_code == 200
        assert client.post("/v1/recommendations", json={"record": False}, headers=HEADERS).status_code == 200
        assert 'recsys_rejected_requests_total{reason="overload"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/recommendations", REQUEST),
        ("/v1/recommendations/batch", {"requests": [REQUEST, REQUEST]}),
        ("/v1/search", {**REQUEST, "query": "blue"}),
    ],
)
def test_every_kind_of_list_counts_in_the_estimated_queue_wait(
    tmp_path: Path, bundles: list[Path], path: str, body: dict[str, Any]
) -> None:
    with _client(tmp_path, bundles[0]) as client:
        queue = client.app.state.endpoint.queue  # type: ignore[attr-defined]
        assert client.post(path, json=body).status_code == 200
        queue.count_arrived = lambda: 1  # the lifespan of the process is no request in progress
        assert queue.wait_seconds > 0


def test_a_caller_above_its_rate_limit_is_rejected(tmp_path: Path, bundles: list[Path]) -> None:
    with _client(tmp_path, bundles[0], rate_limit=2.0) as client:
        answers = [client.post("/v1/recommendations", json=REQUEST).status_code for _ in range(8)]
        assert answers[:2] == [200, 200]
        assert 429 in answers
        assert client.post("/v1/recommendations", json=REQUEST, headers=HEADERS).status_code == 200
        assert client.get("/readyz").status_code == 200


def test_explored_positions_record_their_propensity(tmp_path: Path, bundles: list[Path]) -> None:
    with _client(tmp_path, bundles[0], exploration_share=0.5) as client:
        greedy = client.post("/v1/recommendations", json={**REQUEST, "record": False}).json()["items"]
        lists = [client.post("/v1/recommendations", json=REQUEST).json()["items"] for _ in range(5)]
    assert any([item["item_id"] for item in explored] != [item["item_id"] for item in greedy] for explored in lists)
    impressions = _events(tmp_path)
    assert [impression["item_id"] for impression in impressions] == [
        item["item_id"] for explored in lists for item in explored
    ]
    best = {greedy[0]["item_id"]}
    for impression in impressions:
        propensity = impression["properties"]["propensity"]
        assert 0 < propensity <= 1
        assert impression["position"] != 1 or (propensity > 0.5) == (impression["item_id"] in best)


def test_metrics_count_cache_results_stages_and_uncollected_bytes(tmp_path: Path, bundles: list[Path]) -> None:
    with _client(tmp_path, bundles[0]) as client:
        for _ in range(2):
            client.post("/v1/recommendations", json=REQUEST)
        page = client.get("/metrics").text
        assert 'recsys_history_cache_requests_total{result="miss"} 1.0' in page
        assert 'recsys_history_cache_requests_total{result="hit"} 1.0' in page
        assert 'recsys_stage_seconds_count{stage="decoder"} 2.0' in page
        assert _value(page, "recsys_event_log_uncollected_bytes") == _value(page, "recsys_event_log_bytes") > 0
        segment = client.get("/v1/admin/journal", headers=HEADERS).json()["segments"][-1]
        end = {"segment": segment["name"], "offset": segment["bytes"]}
        assert client.put("/v1/admin/journal/consumers/shop", json=end, headers=HEADERS).json() is not None
        assert _value(client.get("/metrics").text, "recsys_event_log_uncollected_bytes") == 0


def _value(page: str, name: str) -> float:
    return next(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name + " "))


@pytest.fixture
def port(tmp_path: Path, bundles: list[Path]) -> Iterator[int]:
    home = tmp_path / "home"
    home.mkdir()
    install_bundle(home, bundles[0])
    port = find_free_port()
    with running_process(home, TOKEN, port, RECSYS_DRAIN_SECONDS="2") as process:
        (tmp_path / "pid").write_text(str(process))
        yield port


def test_callers_that_hang_up_or_stall_do_not_block_others(port: int) -> None:
    head = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n[{"
    callers = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    try:
        for number, caller in enumerate(callers):
            caller.sendall(head if number % 2 else head[:20])
        for caller in callers[::3]:
            caller.close()
        for _ in range(5):
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/recommendations", json=REQUEST, timeout=5)
            assert answer.status_code == 200
    finally:
        for caller in callers:
            caller.close()


def test_a_draining_endpoint_is_not_ready_and_still_answers(port: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{url}/readyz").status_code == 200
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    while httpx.get(f"{url}/readyz").status_code == 200:
        pass
    assert httpx.post(f"{url}/v1/recommendations", json=REQUEST).status_code == 200
    while _is_alive(url):
        pass


def _is_alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False
