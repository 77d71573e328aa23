"""What people take lately, against what a model expects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.engine.scoring import Known, Mixed, Rising
from recsys_tasks.engine.trending import Trending
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import FIRST_ITEM

HOUR = 3600.0
BEGIN = 1.7e9
ITEMS = [f"i{number}" for number in range(50)]
NOTHING = ("",) * len(ITEMS)
VOCABULARY = Vocabulary(tuple(ITEMS), NOTHING, NOTHING, NOTHING, (1,) * len(ITEMS))
EVEN = np.r_[np.zeros(FIRST_ITEM), np.full(len(ITEMS), 1 / len(ITEMS))]


def rising(trending: Trending, now: float) -> dict[str, float]:
    found = trending.lately(now).above(EVEN, VOCABULARY)
    if found is None:
        return {}
    mixed = Mixed(Known(EVEN), found).best(len(EVEN))
    scores = dict(zip(mixed.numbers.tolist(), mixed.scores.tolist(), strict=True))
    return {VOCABULARY.item_id(number): scores[number] for number in found.numbers.tolist()}


def test_what_many_take_that_was_rare_rises() -> None:
    trending = Trending(hours=6)
    for person in range(100):
        trending.add("i7" if person % 2 else ITEMS[person % 50], f"u{person}", BEGIN + person)
    found = rising(trending, BEGIN + 100)
    assert list(found) == ["i7"]
    assert found["i7"] > 10 * EVEN[-1]


def test_what_is_as_popular_as_ever_does_not() -> None:
    trending = Trending(hours=6)
    for person in range(1_000):
        trending.add(ITEMS[person % 50], f"u{person}", BEGIN + person)
    assert not rising(trending, BEGIN + 1_000)


def test_one_person_alone_makes_no_trend() -> None:
    trending = Trending(hours=6)
    for number in range(1_000):
        trending.add("i7", "a machine", BEGIN + number)
    assert not rising(trending, BEGIN + 1_000)


def test_a_trend_is_over_when_it_is_old_news() -> None:
    trending = Trending(hours=1)
    for person in range(60):
        trending.add("i7", f"u{person}", BEGIN)
    assert rising(trending, BEGIN + HOUR)
    assert not rising(trending, BEGIN + 5 * HOUR)


def test_a_forgotten_person_counts_no_more() -> None:
    trending = Trending(hours=6)
    for person in range(5):
        trending.add("i7", f"u{person}", BEGIN)
    assert rising(trending, BEGIN)
    for person in range(5):
        trending.forget(f"u{person}")
    assert not rising(trending, BEGIN)


def test_years_between_two_acts_do_no_harm() -> None:
    trending = Trending(hours=1)
    for year in range(10):
        for person in range(20):
            trending.add("i7", f"u{person}", BEGIN + year * 365 * 24 * HOUR)
    last = BEGIN + 9 * 365 * 24 * HOUR
    assert trending.lately(last).people == pytest.approx([20.0])
    assert trending.lately(last).total == pytest.approx(20.0)


@given(
    acts=st.lists(
        st.tuples(st.sampled_from(ITEMS[:5]), st.integers(0, 30), st.floats(0, 100 * HOUR)), min_size=1, max_size=200
    )
)
def test_each_person_counts_once_for_an_item_by_the_latest_time_in_any_order(
    acts: list[tuple[str, int, float]],
) -> None:
    trending, latest = Trending(hours=6), dict[tuple[str, int], float]()
    for item_id, person, seconds in acts:
        trending.add(item_id, f"u{person}", BEGIN + seconds)
        latest[item_id, person] = max(latest.get((item_id, person), 0.0), seconds)
    now = max(latest.values())
    weights = {key: 0.5 ** ((now - seconds) / (6 * HOUR)) for key, seconds in latest.items()}
    found = trending.lately(BEGIN + now)
    assert found.total == pytest.approx(sum(weights.values()))
    for item_id, people in zip(found.items, found.people.tolist(), strict=True):
        assert people == pytest.approx(sum(weight for key, weight in weights.items() if key[0] == item_id))


@given(
    shares=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=50), risen=st.integers(0, 49), share=st.floats(0, 0.5)
)
def test_shares_stay_shares_when_something_rises(shares: list[float], risen: int, share: float) -> None:
    risen %= len(shares)
    known = np.r_[np.zeros(FIRST_ITEM), np.asarray(shares) / sum(shares)]
    found = Mixed(Known(known), Rising(np.asarray([FIRST_ITEM + risen]), np.asarray([share]), len(known)))
    best = found.best(len(known))
    scores = dict(zip(best.numbers.tolist(), best.scores.tolist(), strict=True))
    assert sum(scores.values()) == pytest.approx(1.0)
    assert scores[FIRST_ITEM + risen] >= known[FIRST_ITEM + risen] * (1 - share)


def test_what_cannot_be_shown_does_not_rise_into_a_list() -> None:
    hidden = np.full(len(EVEN), 0.0, np.float32)
    hidden[FIRST_ITEM + 7] = -np.inf
    found = Mixed(Known(EVEN), Rising(np.asarray([FIRST_ITEM + 7]), np.asarray([0.5]), len(EVEN)))
    best = found.best(10, hidden)
    assert best.scores[best.numbers == FIRST_ITEM + 7].max() == 0.0
