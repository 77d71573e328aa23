"""A push to several endpoints: all of them serve the bundle, or all serve what they served before.

And users that all of them forget.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from recsys_tasks.endpoints import forget
from recsys_tasks.errors import ConfigurationError, UnavailableError
from recsys_tasks.promotion.push import PushFailed, push, roll_back
from recsys_tasks.stack.environment import any_free_port

TOKEN = "secret"  # noqa: S105


@contextmanager
def _endpoint(home: Path, token: str = TOKEN) -> Iterator[str]:
    port = any_free_port()
    environment = {**os.environ, "RECSYS_HOME": str(home), "RECSYS_ADMIN_TOKEN": token}
    command = [sys.executable, "-m", "recsys_tasks", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, cwd=home)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 30
    while True:
        try:
            httpx.get(f"{url}/healthz")
            break
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the endpoint did not come up"
    try:
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def homes(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    return folders


def _versions(urls: list[str]) -> list[str | None]:
    return [httpx.get(f"{url}/v1/model").json().get("model_version") for url in urls]


def test_a_bundle_reaches_every_endpoint_and_can_be_taken_back(homes: list[Path], bundles: list[Path]) -> None:
    with ExitStack() as stack:
        urls = [stack.enter_context(_endpoint(home)) for home in homes]
        push(bundles[0], urls, TOKEN)
        push(bundles[0], urls, TOKEN)  # again: nothing to do
        push(bundles[1], urls, TOKEN)
        assert _versions(urls) == ["2", "2"]
        assert roll_back(urls, TOKEN) == "1"
        assert _versions(urls) == ["1", "1"]


def test_an_endpoint_with_another_token_stops_the_push_everywhere(homes: list[Path], bundles: list[Path]) -> None:
    with _endpoint(homes[0]) as first, _endpoint(homes[1], "other") as second:
        with pytest.raises(ConfigurationError, match="RECSYS_ADMIN_TOKEN"):
            push(bundles[0], [first, second], TOKEN)
        assert _versions([first, second]) == [None, None]


def test_an_endpoint_that_is_away_leaves_the_old_model_on_the_others(homes: list[Path], bundles: list[Path]) -> None:
    with _endpoint(homes[0]) as url:
        push(bundles[0], [url], TOKEN)
        away = f"http://127.0.0.1:{any_free_port()}"
        with pytest.raises(UnavailableError, match="does not answer"):
            push(bundles[1], [url, away], TOKEN)
        assert _versions([url]) == ["1"]


def test_a_broken_bundle_is_refused_before_it_is_sent(homes: list[Path], bundles: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in bundles[1].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "decoder.onnx").write_bytes(b"no graph")
    with pytest.raises(Exception, match=r"decoder\.onnx does not match its checksum"):
        push(broken, ["http://127.0.0.1:9"], TOKEN)


def test_going_back_where_nothing_was_before_says_so(homes: list[Path], bundles: list[Path]) -> None:
    with _endpoint(homes[0]) as url:
        push(bundles[0], [url], TOKEN)
        with pytest.raises(PushFailed, match="no bundle served before"):
            roll_back([url], TOKEN)
        assert _versions([url]) == ["1"]


def test_users_are_forgotten_by_every_endpoint_though_one_is_away(
    homes: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    users = ["a/b", "..", "ü?#%2F"]
    event = {"event_type": "view", "item_id": "i1"}
    with ExitStack() as stack, caplog.at_level("INFO"):
        urls = [stack.enter_context(_endpoint(home)) for home in homes]
        for url in urls:
            httpx.post(f"{url}/v1/events", json=[event | {"user_id": user} for user in users]).raise_for_status()
        away = f"http://127.0.0.1:{any_free_port()}"
        with pytest.raises(UnavailableError, match=f"at {away};"):
            forget([urls[0], away, urls[1]], TOKEN, users)
        assert forget(urls, TOKEN, users) == 0
        with pytest.raises(ConfigurationError, match="RECSYS_ADMIN_TOKEN"):
            forget(urls, "wrong", users)
    journals = [path.read_text("utf-8") for home in homes for path in home.glob("endpoint/journal/*.jsonl")]
    assert [text.split() for text in journals] == [[], []]
    assert not any(f"users/{name}" in caplog.text for name in ("a", "%", "ü", "."))
