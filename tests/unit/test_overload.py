"""Load shedding, rate limit, and exploration."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from typing import Any
from unittest.mock import AsyncMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.engine.ranking import Exploration
from recsys_tasks.serving.overload import LoadSheddingMiddleware, QueueEstimator, RateLimiter


@given(st.integers(0, 500), st.integers(0, 100), st.floats(0.001, 0.01))
def test_lists_are_rejected_while_the_estimated_wait_exceeds_the_maximum(
    num_waiting: int, num_started: int, seconds: float
) -> None:
    queue = QueueEstimator(0.1)
    queue.count_arrived = lambda: num_waiting + num_started
    for _ in range(1_000):
        queue.record_duration(seconds)
    with ExitStack() as stack:
        for _ in range(num_started):
            stack.enter_context(queue.mark_started())
        if abs(num_waiting * seconds - 0.1) > 1e-3:
            assert queue.should_reject() == (num_waiting * seconds > 0.1)


def test_nothing_is_rejected_before_the_first_measured_duration() -> None:
    queue = QueueEstimator(0.1)
    queue.count_arrived = lambda: 10_000
    assert not queue.should_reject()


@pytest.mark.parametrize(("scope_type", "num_waiting"), [("lifespan", 1), ("http", 0)])
def test_only_http_scopes_count_as_started_requests(scope_type: str, num_waiting: int) -> None:
    queue, waits = QueueEstimator(0.1), []
    queue.count_arrived = lambda: 1
    queue.record_duration(0.01)
    wait_of_one = queue.wait_seconds

    async def app(*_: Any) -> None:
        waits.append(queue.wait_seconds)

    middleware = LoadSheddingMiddleware(app, queue, is_exempt=lambda _: False, on_rejected=lambda: None)
    scope = {"type": scope_type, "method": "POST", "path": "/v1/search", "headers": []}
    asyncio.run(middleware(scope, AsyncMock(), AsyncMock()))
    assert waits == [num_waiting * wait_of_one]


@given(st.lists(st.floats(0.0, 0.5), min_size=1, max_size=200), st.floats(0.5, 20.0))
def test_a_caller_gets_at_most_the_rate_plus_a_burst_of_one_second(gaps: list[float], rate: float) -> None:
    limiter, now, num_accepted = RateLimiter(), 0.0, 0
    for gap in gaps:
        now += gap
        num_accepted += not limiter.should_reject("one", now, rate)
    assert num_accepted <= max(rate, 1.0) + rate * now + 1e-6
    assert not limiter.should_reject("another", now, rate)
    assert not limiter.should_reject("one", now, 2 * rate), "another rate of the same caller is counted apart"


def test_a_caller_below_the_rate_is_never_rejected() -> None:
    limiter = RateLimiter()
    assert not any(limiter.should_reject("one", 0.11 * number, 10.0) for number in range(200))


def test_the_propensity_is_the_frequency_of_an_item_at_a_position() -> None:
    ranked, share, num_lists = list(range(100, 110)), 0.4, 20_000
    first_counts, propensities = Counter[int](), {}
    for number in range(num_lists):
        shown, explored = Exploration(share, str(number)).draw(ranked, set(), 3)
        first_counts[shown[0]] += 1
        propensities[shown[0]] = explored.propensities[0]
    assert sum(propensities.values()) == pytest.approx(1.0)
    for item, propensity in propensities.items():
        assert first_counts[item] / num_lists == pytest.approx(propensity, abs=0.01)


@given(st.integers(1, 12), st.sets(st.integers(0, 11), max_size=4), st.floats(0.0, 0.9), st.text(max_size=5))
def test_an_explored_list_has_distinct_items_and_keeps_pinned_positions(
    k: int, pins: set[int], share: float, seed: str
) -> None:
    ranked = list(range(12))
    shown, explored = Exploration(share, seed).draw(ranked, pins, k)
    assert len(shown) == len(set(shown)) == len(explored.propensities) == k
    assert all(0 < propensity <= 1 for propensity in explored.propensities)
    candidates = [item for item in ranked if item not in pins]
    assert explored.num_candidates == len(candidates)
    assert explored.ranks == [0 if item in pins else 1 + candidates.index(item) for item in shown]
    assert all(shown[position] == position for position in pins if position < k)
    assert Exploration(share, seed).draw(ranked, pins, k) == (shown, explored)
    if share == 0:
        assert shown == ranked[:k]
