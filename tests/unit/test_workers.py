"""How workers are watched: started again in peace, and none left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from recsys_tasks.serving import server, workers
from recsys_tasks.settings import Settings


class _Clock:
    """Passes only while somebody sleeps, and ends the watching after a while as Ctrl-C does."""

    def __init__(self, seconds: float) -> None:
        self._now, self._end = 0.0, seconds

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        if self._now >= self._end:
            os.kill(os.getpid(), signal.SIGINT)


def _watch(monkeypatch: pytest.MonkeyPatch, program: str, seconds: float) -> list[subprocess.Popen[bytes]]:
    """All processes that one worker had; each has said something or ended before the watching went on."""
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


def test_a_worker_that_keeps_crashing_is_started_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_minute = len(_watch(monkeypatch, "exit 3", seconds=60))
    assert 5 <= in_a_minute <= 8
    in_an_hour = len(_watch(monkeypatch, "exit 3", seconds=3_600))
    assert 100 <= in_an_hour - in_a_minute <= 120  # never given up


def test_a_worker_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    (stubborn,) = _watch(monkeypatch, "trap '' TERM; echo; exec sleep 600", seconds=1)
    try:
        assert stubborn.poll() == -signal.SIGKILL
    finally:
        stubborn.kill()
        stubborn.wait()


@pytest.mark.parametrize("drain_seconds", [0, 300])
def test_workers_are_given_the_time_that_they_go_on_and_answer_before_they_are_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, drain_seconds: float
) -> None:
    given: list[float] = []
    monkeypatch.delenv(workers.WORKER, raising=False)
    monkeypatch.setattr(server, "settings", lambda: Settings(home=tmp_path, drain_seconds=drain_seconds))
    monkeypatch.setattr(server, "_listening", lambda *_: socket.socket())
    monkeypatch.setattr(server, "run_workers", lambda *found: given.extend(found[3:]))
    server.serve("127.0.0.1", 8080, workers=2)
    (stop_seconds,) = given
    assert stop_seconds > drain_seconds + server._DRAIN_SECONDS
