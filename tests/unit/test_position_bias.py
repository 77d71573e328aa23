"""Position bias: examination propensities, inverse propensity weights of clicks, and which events are novel intents."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.features.position_bias import click_weights, estimate_position_bias, fit_decreasing
from recsys_tasks.features.sequences import novel_intents

VIEW, CART, BUY = 2, 3, 4


def _impression_counts(seed: int, items: int = 200, positions: int = 10, lists: int = 400) -> tuple[np.ndarray, ...]:
    """Item, position, impressions and clicks of lists that rank relevant items higher; the true propensity is 1 / p."""
    random = np.random.default_rng(seed)
    relevance = random.beta(1, 8, items)
    order = np.argsort(-(relevance + random.normal(0, 0.1, (lists, items))))[:, :positions]
    item, position = order.ravel(), np.tile(np.arange(positions), lists)
    acted = (random.random(len(item)) < relevance[item] / (position + 1)).astype(int)
    pairs, number = np.unique(np.stack([item, position]), axis=1, return_inverse=True)
    shown = np.bincount(number)
    return pairs[0], pairs[1], shown, np.bincount(number, acted)


def test_propensities_are_recovered_although_relevant_items_rank_higher() -> None:
    item, position, shown, acted = _impression_counts(0, lists=4_000)
    found = estimate_position_bias(item, position, shown, acted)
    truth = 1 / np.arange(1, 11)
    rates = np.bincount(position, acted) / np.bincount(position, shown)
    assert np.abs(found - truth).max() < 0.07
    assert np.abs(found - truth).mean() < np.abs(rates / rates[0] - truth).mean()  # the naive estimate: CTR by position


def test_propensities_are_recovered_where_most_items_keep_their_position() -> None:
    """Expectation maximization stops far from the maximum here: items hardly tell positions apart."""
    random = np.random.default_rng(0)
    items, positions, lists = 200, 20, 20_000
    relevance, usual = random.beta(1, 8, items), np.arange(items) % positions
    order = np.argsort(usual + random.normal(0, 0.6, (lists, items)) + random.random(items) * 9)[:, :positions]
    item, position = order.ravel(), np.tile(np.arange(positions), lists)
    truth = np.arange(1, positions + 1) ** -0.8
    acted = (random.random(len(item)) < relevance[item] * truth[position]).astype(int)
    pairs, number = np.unique(np.stack([item, position]), axis=1, return_inverse=True)
    found = estimate_position_bias(pairs[0], pairs[1], np.bincount(number), np.bincount(number, acted))
    assert np.abs(found / truth - 1).mean() < 0.1


def test_without_an_item_at_two_positions_all_positions_are_equal() -> None:
    """Clicks fall as 1 / p, by examination or by relevance: nothing tells which."""
    items, position = np.arange(200), np.arange(200) % 20
    found = estimate_position_bias(items, position, np.full(200, 1_000), 300 // (position + 1))
    assert found == pytest.approx(np.ones(20), abs=0.02)


@given(st.integers(0, 50))
def test_propensities_never_increase_with_position(seed: int) -> None:
    found = estimate_position_bias(*_impression_counts(seed, items=30, lists=200))
    assert len(found) in (0, 10)
    assert (np.diff(found) <= 1e-12).all()
    assert (found > 0).all()


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 100)), min_size=1, max_size=8))
def test_a_decreasing_fit_keeps_decreasing_values_and_pools_others_to_their_mean(
    pairs: list[tuple[float, float]],
) -> None:
    values, weights = (np.asarray(column) for column in zip(*pairs, strict=True))
    found = fit_decreasing(values, weights)
    assert (np.diff(found) <= 1e-12).all()
    assert fit_decreasing(found, weights) == pytest.approx(found)
    weights = np.maximum(weights, 1e-12)
    assert (weights * found).sum() == pytest.approx((weights * values).sum())
    assert fit_decreasing(values, weights)[0] == pytest.approx(  # the largest mean of any prefix
        (np.cumsum(weights * values) / np.cumsum(weights)).max(), abs=1e-9
    )


def test_with_few_clicks_there_is_no_estimate_and_all_weights_are_equal() -> None:
    nothing = estimate_position_bias(np.asarray([0, 1]), np.asarray([0, 1]), np.asarray([50, 50]), np.asarray([9, 3]))
    assert len(nothing) == 0
    assert (click_weights(np.asarray([0, 1, 7]), nothing) == 1).all()


def test_click_weights_are_inverse_to_propensities_and_clipped() -> None:
    propensities = np.asarray([1.0, 0.5, 0.25, 0.001])
    weights = click_weights(np.asarray([0, 1, 2, 3, 4, 9, 0]), propensities)
    assert weights[0] == weights[-1] == 1  # not from a list
    assert weights[2] == pytest.approx(2 * weights[1])
    assert weights[3] == pytest.approx(4 * weights[1])
    assert weights[4] == pytest.approx(10 * weights[1])  # clipped
    assert weights[5] == weights[4]  # beyond the estimated positions: as the last one
    assert weights[1:6].mean() == pytest.approx(1)


def test_steps_towards_a_purchase_are_not_novel_intents() -> None:
    #                    view i1, cart i1, buy i1, view i2, view i2, buy i1, | view i1, buy i3
    session = np.asarray([0, 0, 0, 0, 0, 0, 1, 1])
    item = np.asarray([1, 1, 1, 2, 2, 1, 1, 3])
    kind = np.asarray([VIEW, CART, BUY, VIEW, VIEW, BUY, VIEW, BUY])
    assert novel_intents(session, item, kind).tolist() == [True, False, False, True, True, True, True, True]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(1, 4)), max_size=30))
def test_the_first_event_of_an_item_in_a_session_is_a_novel_intent(
    rows: list[tuple[int, int, int]],
) -> None:
    rows.sort(key=lambda row: row[0])
    session, item, kind = (
        (np.asarray(column, np.int64) for column in zip(*rows, strict=True)) if rows else (np.zeros(0, np.int64),) * 3
    )
    novel = novel_intents(session, item, kind)
    for number, (of_session, of_item, code) in enumerate(rows):
        earlier = [row[2] for row in rows[:number] if row[:2] == (of_session, of_item)]
        assert novel[number] == (not earlier or max(earlier) >= code)
