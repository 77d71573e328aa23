"""Supervision of workers: restarts with backoff, and shutdown."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.serving import server, workers
from recsys_tasks.settings import Settings


class _Clock:
    """A clock that advances only in `sleep`, and sends SIGINT after some seconds."""

    def __init__(self, seconds: float) -> None:
        self._now, self._end = 0.0, seconds

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        if self._now >= self._end:
            os.kill(os.getpid(), signal.SIGINT)


def _supervise(monkeypatch: pytest.MonkeyPatch, program: str, seconds: float) -> list[subprocess.Popen[bytes]]:
    """Runs one worker; returns its processes. Each has written a line or exited before the clock advances."""
    started = []

    def start(*_: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["sh", "-c", program], stdout=subprocess.PIPE)
        assert process.stdout is not None
        if not process.stdout.readline():
            process.wait()
        started.append(process)
        return process

    monkeypatch.setattr(workers, "_start", start)
    monkeypatch.setattr(workers, "time", _Clock(seconds))
    workers.run_workers("127.0.0.1", 1, 1, stop_seconds=0)
    return started


def test_a_crashing_worker_is_restarted_with_increasing_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_minute = len(_supervise(monkeypatch, "exit 3", seconds=60))
    assert 5 <= in_a_minute <= 8
    in_an_hour = len(_supervise(monkeypatch, "exit 3", seconds=3_600))
    assert 100 <= in_an_hour - in_a_minute <= 120  # restarts never stop


def test_a_worker_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    (stubborn,) = _supervise(monkeypatch, "trap '' TERM; echo; exec sleep 600", seconds=1)
    try:
        assert stubborn.poll() == -signal.SIGKILL
    finally:
        stubborn.kill()
        stubborn.wait()


@pytest.mark.parametrize("drain_seconds", [0, 300])
def test_workers_are_killed_only_after_draining_and_graceful_shutdown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, drain_seconds: float
) -> None:
    arguments: list[float] = []
    monkeypatch.delenv(workers.WORKER_VARIABLE, raising=False)
    monkeypatch.setattr(server, "settings", lambda: Settings(home=tmp_path, drain_seconds=drain_seconds))
    monkeypatch.setattr(server, "_listen", lambda *_: socket.socket())
    monkeypatch.setattr(server, "run_workers", lambda *values: arguments.extend(values[3:]))
    server.serve("127.0.0.1", 8080, workers=2)
    (stop_seconds,) = arguments
    assert stop_seconds > drain_seconds + server._GRACEFUL_SHUTDOWN_SECONDS


@pytest.mark.parametrize(
    ("host", "keys", "is_open", "starts"),
    [
        ("127.0.0.1", {}, False, True),
        ("::1", {}, False, True),
        ("0.0.0.0", {}, False, False),  # noqa: S104
        ("0.0.0.0", {"read_keys": ("r",)}, False, False),  # noqa: S104
        ("0.0.0.0", {"read_keys": ("r",), "write_keys": ("w",)}, False, True),  # noqa: S104
        ("0.0.0.0", {}, True, True),  # noqa: S104
    ],
)
def test_a_public_address_needs_keys_or_consent(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    host: str,
    keys: dict[str, Any],
    is_open: bool,
    starts: bool,
) -> None:
    monkeypatch.delenv(workers.WORKER_VARIABLE, raising=False)
    monkeypatch.setattr(server, "settings", lambda: Settings(home=tmp_path, **keys))
    monkeypatch.setattr(server, "_listen", lambda *_: socket.socket())
    monkeypatch.setattr(server, "run_workers", lambda *_: None)
    if starts:
        server.serve(host, 8080, workers=2, is_open=is_open)
    else:
        with pytest.raises(ConfigurationError, match="RECSYS_WRITE_KEYS"):
            server.serve(host, 8080, workers=2, is_open=is_open)
    assert ("open to everybody" in caplog.text) == is_open
