"""Each acknowledged event is in the warehouse exactly once, whatever is killed. The same, with a million events and two
hundred kills, is `benchmarks/feedback.py`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.feedback import survive


def test_killed_at_random_no_acknowledged_event_is_lost_or_doubled(tmp_path: Path) -> None:
    found = survive(tmp_path, events=10_000, kills=8, away=2.0)
    assert found.acknowledged == 10_000
    assert (found.lost, found.doubled) == (0, 0)
    assert found.kills == 8
    assert "0 databases" not in found.killed
