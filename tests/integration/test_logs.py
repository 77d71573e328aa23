"""The log of an endpoint process."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.integration.endpoints import install_bundle, running_endpoint


def test_log_lines_are_json_with_the_request_id_and_no_personal_data(
    tmp_path: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECSYS_LOG_FORMAT", "json")
    monkeypatch.setenv("RECSYS_ACCESS_LOG", "true")
    install_bundle(tmp_path, bundles[0])
    with running_endpoint(tmp_path) as url:
        body = {"user_id": "somebody", "query": "something private", "k": 0}
        rejected = httpx.post(f"{url}/v1/recommendations", json=body, headers={"X-Request-ID": "caller-1"})
        unauthorized = httpx.delete(f"{url}/v1/admin/users/somebody", headers={"X-Request-ID": "not one\tline"})
    assert rejected.headers["X-Request-ID"] == "caller-1"
    assert len(unauthorized.headers["X-Request-ID"]) == 32  # an invalid id is replaced
    output = "".join(capfd.readouterr())
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line.get("request_id") == "caller-1"]
    assert (line["level"], line["route"], line["status"]) == ("info", "/v1/recommendations", 422)
    assert line["milliseconds"] > 0
    assert [line["status"] for line in lines if line.get("request_id") == unauthorized.headers["X-Request-ID"]] == [401]
    assert "somebody" not in output
    assert "private" not in output
