"""Trending items: significantly more visitors in organic events than the model's popularity predicts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.engine.scoring import BlendedScores, PrecomputedScores, TrendingItems
from recsys_tasks.engine.trending import PopularityTracker
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import FIRST_ITEM

HOUR = 3600.0
BEGIN = 1.7e9
ITEMS = [f"i{number}" for number in range(50)]
NO_TEXTS = ("",) * len(ITEMS)
VOCABULARY = Vocabulary(tuple(ITEMS), NO_TEXTS, NO_TEXTS, NO_TEXTS, (1,) * len(ITEMS))
UNIFORM = np.r_[np.zeros(FIRST_ITEM), np.full(len(ITEMS), 1 / len(ITEMS))]


def _trending_scores(tracker: PopularityTracker, now: float) -> dict[str, float]:
    trending = tracker.recent_popularity(now).find_trending(UNIFORM, VOCABULARY)
    if trending is None:
        return {}
    blended = BlendedScores(PrecomputedScores(UNIFORM), trending).top_k(len(UNIFORM))
    scores = dict(zip(blended.numbers.tolist(), blended.scores.tolist(), strict=True))
    return {VOCABULARY.item_id(number): scores[number] for number in trending.numbers.tolist()}


def test_a_rare_item_with_many_visitors_trends() -> None:
    tracker = PopularityTracker(half_life_hours=6)
    for visitor in range(100):
        tracker.add("i7" if visitor % 2 else ITEMS[visitor % 50], f"u{visitor}", BEGIN + visitor)
    scores = _trending_scores(tracker, BEGIN + 100)
    assert list(scores) == ["i7"]
    assert scores["i7"] > 10 * UNIFORM[-1]


def test_an_item_as_popular_as_expected_does_not_trend() -> None:
    tracker = PopularityTracker(half_life_hours=6)
    for visitor in range(1_000):
        tracker.add(ITEMS[visitor % 50], f"u{visitor}", BEGIN + visitor)
    assert not _trending_scores(tracker, BEGIN + 1_000)


def test_one_visitor_alone_makes_no_trend() -> None:
    tracker = PopularityTracker(half_life_hours=6)
    for number in range(1_000):
        tracker.add("i7", "bot", BEGIN + number)
    assert not _trending_scores(tracker, BEGIN + 1_000)


@pytest.mark.parametrize("num_visitors", [1, 10, 100, 1_000])
def test_all_visitors_of_one_sender_count_as_three_at_most(num_visitors: int) -> None:
    tracker = PopularityTracker(half_life_hours=6)
    for visitor in range(num_visitors):
        tracker.add("i7", f"u{visitor}", BEGIN, "one sender")
    assert not _trending_scores(tracker, BEGIN)
    assert tracker.recent_popularity(BEGIN).total <= 3


def test_visitors_of_many_senders_count_all() -> None:
    tracker = PopularityTracker(half_life_hours=6)
    for visitor in range(20):
        tracker.add("i7", f"u{visitor}", BEGIN, f"sender {visitor}")
    assert tracker.recent_popularity(BEGIN).counts == pytest.approx([20.0])


def test_a_trend_decays_with_its_half_life() -> None:
    tracker = PopularityTracker(half_life_hours=1)
    for visitor in range(60):
        tracker.add("i7", f"u{visitor}", BEGIN)
    assert _trending_scores(tracker, BEGIN + HOUR)
    assert not _trending_scores(tracker, BEGIN + 5 * HOUR)


def test_a_forgotten_visitor_no_longer_counts() -> None:
    tracker = PopularityTracker(half_life_hours=6)
    for visitor in range(5):
        tracker.add("i7", f"u{visitor}", BEGIN)
    assert _trending_scores(tracker, BEGIN)
    for visitor in range(5):
        tracker.forget(f"u{visitor}")
    assert not _trending_scores(tracker, BEGIN)


def test_weights_do_not_overflow_over_years() -> None:
    tracker = PopularityTracker(half_life_hours=1)
    for year in range(10):
        for visitor in range(20):
            tracker.add("i7", f"u{visitor}", BEGIN + year * 365 * 24 * HOUR)
    last = BEGIN + 9 * 365 * 24 * HOUR
    assert tracker.recent_popularity(last).counts == pytest.approx([20.0])
    assert tracker.recent_popularity(last).total == pytest.approx(20.0)


@given(
    events=st.lists(
        st.tuples(st.sampled_from(ITEMS[:5]), st.integers(0, 30), st.floats(0, 100 * HOUR)), min_size=1, max_size=200
    )
)
def test_a_visitor_counts_once_per_item_by_the_latest_event_in_any_order(
    events: list[tuple[str, int, float]],
) -> None:
    tracker, latest = PopularityTracker(half_life_hours=6), dict[tuple[str, int], float]()
    for item_id, visitor, seconds in events:
        tracker.add(item_id, f"u{visitor}", BEGIN + seconds)
        latest[item_id, visitor] = max(latest.get((item_id, visitor), 0.0), seconds)
    now = max(latest.values())
    weights = {key: 0.5 ** ((now - seconds) / (6 * HOUR)) for key, seconds in latest.items()}
    popularity = tracker.recent_popularity(BEGIN + now)
    assert popularity.total == pytest.approx(sum(weights.values()))
    for item_id, count in zip(popularity.items, popularity.counts.tolist(), strict=True):
        assert count == pytest.approx(sum(weight for key, weight in weights.items() if key[0] == item_id))


@given(
    shares=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=50),
    item=st.integers(0, 49),
    share=st.floats(0, 0.5),
)
def test_blended_shares_sum_to_one(shares: list[float], item: int, share: float) -> None:
    item %= len(shares)
    model_shares = np.r_[np.zeros(FIRST_ITEM), np.asarray(shares) / sum(shares)]
    trending = TrendingItems(np.asarray([FIRST_ITEM + item]), np.asarray([share]), len(model_shares))
    best = BlendedScores(PrecomputedScores(model_shares), trending).top_k(len(model_shares))
    scores = dict(zip(best.numbers.tolist(), best.scores.tolist(), strict=True))
    assert sum(scores.values()) == pytest.approx(1.0)
    assert scores[FIRST_ITEM + item] >= model_shares[FIRST_ITEM + item] * (1 - share)


def test_a_hidden_trending_item_stays_hidden() -> None:
    hidden = np.full(len(UNIFORM), 0.0, np.float32)
    hidden[FIRST_ITEM + 7] = -np.inf
    trending = TrendingItems(np.asarray([FIRST_ITEM + 7]), np.asarray([0.5]), len(UNIFORM))
    best = BlendedScores(PrecomputedScores(UNIFORM), trending).top_k(10, hidden)
    assert best.scores[best.numbers == FIRST_ITEM + 7].max() == 0.0
