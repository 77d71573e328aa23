"""What an endpoint does not take on."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.engine.ranking import Exploration
from recsys_tasks.serving.overload import Overload, RateLimit


@given(st.integers(0, 500), st.integers(0, 100), st.floats(0.001, 0.01))
def test_lists_are_refused_while_what_waits_takes_longer_than_is_allowed(
    arrived: int, begun: int, seconds: float
) -> None:
    overload = Overload(0.1)
    overload.arrived = lambda: arrived + begun
    for _ in range(1_000):
        overload.took(seconds)
    with ExitStack() as stack:
        for _ in range(begun):
            stack.enter_context(overload.begun())
        if abs(arrived * seconds - 0.1) > 1e-3:
            assert overload.refuses() == (arrived * seconds > 0.1)


def test_before_anything_took_time_nothing_is_refused() -> None:
    overload = Overload(0.1)
    overload.arrived = lambda: 10_000
    assert not overload.refuses()


@given(st.lists(st.floats(0.0, 0.5), min_size=1, max_size=200), st.floats(0.5, 20.0))
def test_a_caller_gets_no_more_than_the_rate_and_a_second_s_worth_at_once(gaps: list[float], rate: float) -> None:
    limit, now, taken = RateLimit(rate), 0.0, 0
    for gap in gaps:
        now += gap
        taken += not limit.refuses("one", now)
    assert taken <= max(rate, 1.0) + rate * now + 1e-6
    assert not limit.refuses("another", now)


def test_who_stays_below_the_rate_is_never_refused() -> None:
    limit = RateLimit(10.0)
    assert not any(limit.refuses("one", 0.11 * number) for number in range(200))


def test_the_noted_chance_is_how_often_an_item_comes_to_a_place() -> None:
    ranked, share, lists = list(range(100, 110)), 0.4, 20_000
    first, noted = Counter[int](), {}
    for number in range(lists):
        shown, chances = Exploration(share, str(number)).draw(ranked, set(), 3)
        first[shown[0]] += 1
        noted[shown[0]] = chances[0]
    assert sum(noted.values()) == pytest.approx(1.0)
    for item, chance in noted.items():
        assert first[item] / lists == pytest.approx(chance, abs=0.01)


@given(st.integers(1, 12), st.sets(st.integers(0, 11), max_size=4), st.floats(0.0, 0.9), st.text(max_size=5))
def test_a_drawn_list_has_no_item_twice_and_pins_where_they_were(
    k: int, pins: set[int], share: float, seed: str
) -> None:
    ranked = list(range(12))
    shown, chances = Exploration(share, seed).draw(ranked, pins, k)
    assert len(shown) == len(set(shown)) == len(chances) == k
    assert all(0 < chance <= 1 for chance in chances)
    assert all(shown[place] == place for place in pins if place < k)
    assert Exploration(share, seed).draw(ranked, pins, k) == (shown, chances)
    if share == 0:
        assert shown == ranked[:k]
