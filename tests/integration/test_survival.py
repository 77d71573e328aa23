"""Exactly-once delivery of acknowledged events under random kills; `benchmarks/feedback.py` runs it at scale."""

from __future__ import annotations

from pathlib import Path

from benchmarks.feedback import survive


def test_random_kills_neither_lose_nor_duplicate_acknowledged_events(tmp_path: Path) -> None:
    found = survive(tmp_path, events=10_000, kills=8, away=2.0)
    assert found.acknowledged == 10_000
    assert (found.lost, found.doubled) == (0, 0)
    assert found.kills == 8
    assert "0 databases" not in found.killed
