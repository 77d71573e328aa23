from datetime import UTC, datetime, timedelta

import pytest

from recsys_tasks import orchestration as loop
from recsys_tasks.settings import settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEEKS = [loop.FIRST_INTERVAL + n * timedelta(days=7) for n in range(4)]


@pytest.fixture(params=[None, "2017-12-25T00:00:00+00:00"])
def _replayed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.cache_clear()
    if request.param:
        monkeypatch.setenv("RECSYS_REPLAY_FROM", request.param)
    else:
        monkeypatch.delenv("RECSYS_REPLAY_FROM", raising=False)


@pytest.mark.usefixtures("_replayed")
def test_a_catch_up_announces_its_events_once_after_its_last_week() -> None:
    starts = [start for start in WEEKS if start <= loop.ingestion_end() - loop.WEEK]
    latest = [loop.is_latest(start + loop.WEEK, NOW) for start in starts]
    assert latest == [False] * (len(starts) - 1) + [True]
    settings.cache_clear()


def test_a_live_week_announces_its_events_at_once() -> None:
    assert loop.is_latest(WEEKS[1], WEEKS[1] + timedelta(hours=1))


def test_the_first_interval_takes_the_year_before_it_along() -> None:
    first = loop.interval_to_ingest(WEEKS[0], WEEKS[1])
    second = loop.interval_to_ingest(WEEKS[1], WEEKS[2])
    assert (first.start, first.end) == (loop.YEAR_START, second.start)
    assert second.end == WEEKS[2]
