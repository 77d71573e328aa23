import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.features.sequences import (
    Timeline,
    build_timeline,
    day_of_week,
    gap_bucket,
    hour_of_day,
    session_inputs,
)
from recsys_tasks.names import FIRST_ITEM
from tests.shops import START, random_timeline


def _cut(timeline: Timeline, stop: int) -> Timeline:
    return build_timeline(
        timeline.user[:stop],
        timeline.session[:stop],
        timeline.item[:stop],
        timeline.kind[:stop],
        timeline.seconds[:stop],
        timeline.session_seconds[:stop],
    )


def test_calendar_is_utc() -> None:
    monday_eight = np.asarray([START.timestamp()])  # 1 January 2024 was a Monday
    assert hour_of_day(monday_eight).tolist() == [8]
    assert day_of_week(monday_eight).tolist() == [0]


@given(st.integers(0, 500), st.floats(0.05, 0.95))
def test_no_feature_of_an_event_depends_on_a_later_event(seed: int, share: float) -> None:
    whole = random_timeline(seed)
    stop = max(1, int(len(whole) * share))
    prefix = _cut(whole, stop)
    for name in ("gap", "session_gap", "repeats", "recurrence"):
        assert getattr(whole, name)[:stop].tolist() == getattr(prefix, name).tolist()


@given(st.lists(st.floats(0, 1e9), min_size=2, max_size=20))
def test_a_longer_gap_never_has_a_smaller_bucket(gaps: list[float]) -> None:
    buckets = gap_bucket(np.sort(np.asarray(gaps)))
    assert (np.diff(buckets) >= 0).all()


def test_the_history_ends_where_the_session_starts() -> None:
    timeline = random_timeline(3)
    first = timeline.session_start[:-1]
    target = timeline.session_start[1:] - 1
    _, query = session_inputs(timeline, first, target, history=512)
    for row, (begin, end) in enumerate(zip(first, target, strict=True)):
        user_begin = timeline.user_start[timeline.user[begin]]
        history = query["history"][row]
        assert history[history > 0].tolist() == timeline.item[user_begin:begin].tolist()
        tokens = query["tokens"][row]
        assert tokens[1 : query["length"][row]].tolist() == timeline.item[begin:end].tolist()


def test_repeats_count_the_users_own_earlier_events_with_the_item() -> None:
    item = np.asarray([5, 6, 5, 5, 5]) + FIRST_ITEM
    user = np.asarray([0, 0, 0, 0, 1])
    seconds = np.arange(5) * 3600.0
    timeline = build_timeline(user, np.arange(5), item, np.ones(5, np.int64), seconds, seconds)
    assert timeline.repeats.tolist() == [0, 0, 1, 2, 0]
    assert timeline.next_same.tolist() == [2, 5, 3, 5, 5]
