"""The log of an endpoint in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.integration.endpoints import running_endpoint, serves_already


def test_every_line_is_json_with_the_request_and_without_the_person(
    tmp_path: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECSYS_LOG_FORMAT", "json")
    monkeypatch.setenv("RECSYS_ACCESS_LOG", "true")
    serves_already(tmp_path, bundles[0])
    with running_endpoint(tmp_path) as url:
        asked = {"user_id": "somebody", "query": "something private", "k": 0}
        refused = httpx.post(f"{url}/v1/recommendations", json=asked, headers={"X-Request-ID": "ours-1"})
        forgotten = httpx.delete(f"{url}/v1/admin/users/somebody", headers={"X-Request-ID": "not one\tline"})
    assert refused.headers["X-Request-ID"] == "ours-1"
    assert len(forgotten.headers["X-Request-ID"]) == 32  # what cannot stand in a log is replaced
    written = "".join(capfd.readouterr())
    lines = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line.get("request_id") == "ours-1"]
    assert (line["level"], line["route"], line["status"]) == ("info", "/v1/recommendations", 422)
    assert line["milliseconds"] > 0
    assert [line["status"] for line in lines if line.get("request_id") == forgotten.headers["X-Request-ID"]] == [401]
    assert "somebody" not in written
    assert "private" not in written
