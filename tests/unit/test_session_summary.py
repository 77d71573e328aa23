"""The session summary: the same features in training, from a timeline, and in the engine, from one session."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.features.sequences import MAX_TOKENS, Timeline, build_timeline, day_of_week, hour_of_day
from recsys_tasks.features.session_summary import (
    SUMMARY_FEATURES,
    ItemStatistics,
    summarize_prefixes,
    summarize_session,
)
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, UNKNOWN_ITEM
from tests.shops import random_timeline

HISTORY = 5


def _summarize_as_the_engine(timeline: Timeline, first: int, target: int) -> np.ndarray:
    """The features before an event, from its session and history alone."""
    past = slice(max(int(timeline.user_start[timeline.user[first]]), first - HISTORY), first)
    session = slice(max(first, target - MAX_TOKENS + 1), target)
    start = timeline.session_seconds[first : first + 1]
    summary: np.ndarray = summarize_session(
        (timeline.item[session], timeline.kind[session], timeline.gap[session]),
        float(timeline.seconds[target - 1] - start[0]) if target > first else 0.0,
        np.asarray([hour_of_day(start)[0], day_of_week(start)[0], timeline.session_gap[first]]),
        (timeline.item[past], timeline.kind[past], timeline.seconds[past]),
    )[0]
    return summary


def _feature(timeline: Timeline, name: str, target: int) -> float:
    row = summarize_prefixes(timeline, np.zeros(1, int), np.asarray([target]), 512)[0]
    return float(row[SUMMARY_FEATURES.index(name)])


def _one_session(*events: tuple[int, str, float]) -> Timeline:
    item, kind, seconds = zip(*events, strict=True)
    codes = np.asarray([EVENT_TYPE_CODES[name] for name in kind])
    zeros, times = np.zeros(len(item), int), np.asarray(seconds)
    return build_timeline(zeros, zeros, np.asarray(item), codes, times, np.full(len(item), times[0]))


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_training_and_engine_compute_the_same_features(seed: int) -> None:
    timeline = random_timeline(seed)
    target = np.arange(len(timeline))
    first = timeline.session_start[:-1][timeline.session]
    found = summarize_prefixes(timeline, first, target, HISTORY)
    expected = [_summarize_as_the_engine(timeline, int(first[at]), at) for at in target.tolist()]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-9)


def test_a_session_longer_than_the_decoder_reads_is_summarized_by_its_latest_events() -> None:
    events = [(FIRST_ITEM + number % 3, "view", 10.0 * number) for number in range(MAX_TOKENS + 50)]
    timeline = _one_session(*events)
    target = len(timeline) - 1
    found = summarize_prefixes(timeline, np.zeros(1, int), np.asarray([target]), HISTORY)[0]
    np.testing.assert_allclose(found, _summarize_as_the_engine(timeline, 0, target))
    assert found[SUMMARY_FEATURES.index("log_session_view")] == pytest.approx(np.log(MAX_TOKENS))


def test_a_cart_is_open_until_a_purchase() -> None:
    timeline = _one_session((5, "view", 0.0), (5, "add_to_cart", 9.0), (5, "purchase", 20.0), (7, "view", 30.0))
    assert [_feature(timeline, "has_open_cart", target) for target in range(4)] == [0, 0, 1, 0]
    assert [_feature(timeline, "has_purchase", target) for target in range(4)] == [0, 0, 0, 1]
    assert _feature(timeline, "log_distinct_items", 3) == pytest.approx(np.log(2))


def test_unknown_items_are_not_the_same_item() -> None:
    timeline = _one_session((UNKNOWN_ITEM, "view", 0.0), (UNKNOWN_ITEM, "view", 9.0), (4, "view", 20.0))
    assert _feature(timeline, "latest_repeats_item", 2) == 0
    assert _feature(timeline, "log_unknown_items", 2) == pytest.approx(np.log(3))
    assert _feature(timeline, "log_distinct_items", 2) == 0


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=20)
def test_a_summary_depends_only_on_earlier_events(seed: int) -> None:
    timeline = random_timeline(seed, users=1)
    target = np.arange(len(timeline))
    first = timeline.session_start[:-1][timeline.session]
    cut = len(timeline) // 2
    earlier = build_timeline(
        *(
            getattr(timeline, name)[: cut + 1]
            for name in ("user", "session", "item", "kind", "seconds", "session_seconds")
        )
    )
    found = summarize_prefixes(timeline, first, target, HISTORY)
    again = summarize_prefixes(earlier, first[: cut + 1], target[: cut + 1], HISTORY)
    np.testing.assert_allclose(found[: cut + 1], again)


def test_item_statistics_count_sessions_and_shrink_to_the_share_of_all() -> None:
    session = np.repeat(np.arange(100), 2)
    item = np.where(session < 90, 5, 6)  # twice in each session, which counts once
    buys = session >= 60  # 30 of the 90 sessions with item 5, all ten with item 6
    found = ItemStatistics.of_sessions(session, item, buys, 8)
    share = 41 / 102
    rate = np.exp(found.log_rate)
    assert rate[5] == pytest.approx((30 + 20 * share) / 110)
    assert rate[6] == pytest.approx((10 + 20 * share) / 30)
    assert rate[[0, UNKNOWN_ITEM, 7]] == pytest.approx(share)
    assert np.expm1(found.log_sessions).tolist() == pytest.approx([0, 0, 0, 0, 0, 90, 10, 0])


def test_an_item_newer_than_the_statistics_counts_as_unknown() -> None:
    statistics = ItemStatistics(np.log([0.2, 0.1, 0.4]), np.asarray([0.0, 0.0, 3.0]))
    items = np.asarray([2, 9])
    empty, known, both = statistics.features(items, np.zeros(3, int), np.arange(3))
    assert empty.tolist() == pytest.approx([np.log(0.1), np.log(0.1), 0])
    assert known.tolist() == pytest.approx([np.log(0.4), np.log(0.4), 3])
    assert both.tolist() == pytest.approx([np.log(0.1), np.log(0.2), 0])
