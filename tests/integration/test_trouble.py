"""Callers and days that are not as they should be."""

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
from recsys_tasks.stack.environment import any_free_port
from tests.integration.endpoints import TOKEN, running_process, serves_already

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
ASKED = {"user_id": "u1", "k": 5}


def _client(tmp_path: Path, bundle: Path, **settings: Any) -> TestClient:
    if not (tmp_path / "endpoint").exists():
        serves_already(tmp_path, bundle)
    return TestClient(create_app(Settings(home=tmp_path, admin_token=TOKEN, **settings)))


def _noted(tmp_path: Path) -> list[dict[str, Any]]:
    lines = [line for file in sorted((tmp_path / "endpoint" / "journal").glob("*.jsonl")) for line in file.open()]
    return [json.loads(line) for line in lines]


def test_a_full_disk_refuses_events_before_it_answers_for_them_and_lists_go_on(
    tmp_path: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    event = {"event_type": "view", "user_id": "u1", "item_id": "i1"}
    with _client(tmp_path, bundles[0]) as client:
        write = os.write

        def full(file: int, data: bytes) -> int:
            write(file, data[:7])  # some of it still fits
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("recsys_tasks.serving.event_log.os.write", full)
        refused = client.post("/v1/events", json=event)
        assert refused.status_code == 503
        assert "No space left" in refused.json()["detail"]
        assert client.post("/v1/recommendations", json=ASKED).status_code == 200
        monkeypatch.undo()
        assert client.post("/v1/events", json={**event, "event_id": "later"}).status_code == 200
    assert [line["event_id"] for line in _noted(tmp_path)] == ["later"]


def test_while_all_wait_lists_are_refused_and_events_and_the_administrator_are_not(
    tmp_path: Path, bundles: list[Path]
) -> None:
    with _client(tmp_path, bundles[0]) as client:
        endpoint = client.app.state.endpoint  # type: ignore[attr-defined]
        endpoint.overload.took(0.05)
        endpoint.overload.arrived = lambda: 1_000
        refused = client.post("/v1/recommendations", json=ASKED)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        event = {"event_type": "view", "user_id": "u1", "item_id": "i1"}
        assert client.post("/v1/events", json=event).status_code == 200
        assert client.post("/v1/recommendations", json={"record": False}, headers=HEADERS).status_code == 200
        assert 'recsys_refused_total{why="busy"} 1.0' in client.get("/metrics").text


def test_one_who_asks_too_much_is_told_to_wait(tmp_path: Path, bundles: list[Path]) -> None:
    with _client(tmp_path, bundles[0], rate_limit=2.0) as client:
        answers = [client.post("/v1/recommendations", json=ASKED).status_code for _ in range(8)]
        assert answers[:2] == [200, 200]
        assert 429 in answers
        assert client.post("/v1/recommendations", json=ASKED, headers=HEADERS).status_code == 200
        assert client.get("/readyz").status_code == 200


def test_places_filled_by_chance_note_the_chance(tmp_path: Path, bundles: list[Path]) -> None:
    with _client(tmp_path, bundles[0], explore_share=0.5) as client:
        usual = client.post("/v1/recommendations", json={**ASKED, "record": False}).json()["items"]
        lists = [client.post("/v1/recommendations", json=ASKED).json()["items"] for _ in range(5)]
    assert any([item["item_id"] for item in found] != [item["item_id"] for item in usual] for found in lists)
    noted = _noted(tmp_path)
    assert [line["item_id"] for line in noted] == [item["item_id"] for found in lists for item in found]
    best = {usual[0]["item_id"]}
    for line in noted:
        chance = line["properties"]["propensity"]
        assert 0 < chance <= 1
        assert line["position"] != 1 or (chance > 0.5) == (line["item_id"] in best)


def test_what_the_metrics_show(tmp_path: Path, bundles: list[Path]) -> None:
    with _client(tmp_path, bundles[0]) as client:
        for _ in range(2):
            client.post("/v1/recommendations", json=ASKED)
        page = client.get("/metrics").text
        assert 'recsys_histories_total{kept="no"} 1.0' in page
        assert 'recsys_histories_total{kept="yes"} 1.0' in page
        assert 'recsys_stage_seconds_count{stage="decoder"} 2.0' in page
        assert _value(page, "recsys_journal_uncollected_bytes") == _value(page, "recsys_journal_bytes") > 0
        segment = client.get("/v1/admin/journal", headers=HEADERS).json()["segments"][-1]
        url = f"/v1/admin/journal/{segment['name']}?offset={segment['bytes']}"
        assert client.get(url, headers=HEADERS).content == b""
        assert _value(client.get("/metrics").text, "recsys_journal_uncollected_bytes") == 0


def _value(page: str, name: str) -> float:
    return next(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name + " "))


@pytest.fixture
def port(tmp_path: Path, bundles: list[Path]) -> Iterator[int]:
    home = tmp_path / "home"
    home.mkdir()
    serves_already(home, bundles[0])
    found = any_free_port()
    with running_process(home, TOKEN, found, RECSYS_DRAIN_SECONDS="2") as process:
        (tmp_path / "pid").write_text(str(process))
        yield found


def test_callers_that_hang_up_or_never_end_keep_nobody_from_an_answer(port: int) -> None:
    head = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n[{"
    waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    try:
        for number, caller in enumerate(waiting):
            caller.sendall(head if number % 2 else head[:20])
        for caller in waiting[::3]:
            caller.close()
        for _ in range(5):
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/recommendations", json=ASKED, timeout=5)
            assert answer.status_code == 200
    finally:
        for caller in waiting:
            caller.close()


def test_who_is_told_to_stop_is_not_ready_and_goes_on_for_a_while(port: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{url}/readyz").status_code == 200
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    while httpx.get(f"{url}/readyz").status_code == 200:
        pass
    assert httpx.post(f"{url}/v1/recommendations", json=ASKED).status_code == 200
    while _answers(url):
        pass


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False
