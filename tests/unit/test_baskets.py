"""Baskets: co-occurrence of items and categories, observed and expected under independence."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.simulation.baskets import companion_rates
from tests.shops import baskets_of

NUM_ITEMS, NUM_CATEGORIES = 12, 4
CATEGORY_OF = np.arange(NUM_ITEMS) % NUM_CATEGORIES


def test_each_item_of_a_basket_has_its_others_as_companions() -> None:
    baskets = baskets_of([[0, 1, 2], [0, 1], [3, 4]], CATEGORY_OF)
    found, _ = baskets.of_item(0, np.arange(NUM_ITEMS))
    assert found.tolist() == [0, 1.5, 0.5, *[0] * 9]


def test_counts_under_independence_are_in_proportion_to_the_baskets_of_an_item() -> None:
    baskets = baskets_of([[0, 1], [0, 2], [3, 2], [3, 2]], CATEGORY_OF)
    found, expected = baskets.of_item(0, np.asarray([1, 2]))
    assert found.tolist() == [1, 1]
    assert expected.tolist() == [0.5, 1.5]


def test_an_item_is_not_its_own_companion_but_its_category_can_be() -> None:
    baskets = baskets_of([[0, 4], [0, 0, 1]], CATEGORY_OF)
    assert baskets.of_item(0, np.asarray([0]))[0].tolist() == [0]
    found, _ = baskets.of_category(0)
    assert found.tolist() == [2, 1, 0, 0]


def test_independent_items_of_one_category_have_the_rate_one() -> None:
    """All pairs of five items are in as many baskets."""
    items = np.arange(0, 20, 4)
    baskets = baskets_of(list(combinations(items.tolist(), 2)), np.zeros(20, np.int64))
    others = items[1:]
    for among in (items, others):
        observed, expected = baskets.of_item(0, among)
        assert observed[-4:] == pytest.approx(expected[-4:])
        assert companion_rates([(observed, expected)], 0.1) == pytest.approx(np.ones(len(among)))


@pytest.mark.parametrize("lists", [[], [[5]], [[5], [6], [7, 7]]])
def test_baskets_of_one_item_say_nothing(lists: list[list[int]]) -> None:
    baskets = baskets_of(lists, CATEGORY_OF)
    for found, expected in (baskets.of_category(1), baskets.of_item(5, np.arange(NUM_ITEMS))):
        assert not found.any()
        assert companion_rates([(found, expected)], 1.0) == pytest.approx(np.ones(len(found)))


@given(st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), min_size=1, max_size=6), max_size=12))
def test_counts_of_categories_are_symmetric_and_have_the_sum_of_the_expected_ones(lists: list[list[int]]) -> None:
    baskets = baskets_of(lists, CATEGORY_OF)
    total = sum(len(set(items)) for items in lists if len(set(items)) > 1)
    of_category = [baskets.of_category(number) for number in range(NUM_CATEGORIES)]
    assert sum(found.sum() for found, _ in of_category) == pytest.approx(total)
    for found, expected in of_category:
        assert found.sum() == pytest.approx(expected.sum())
        assert found.min() >= 0
    matrix = np.stack([found for found, _ in of_category])
    assert matrix == pytest.approx(matrix.T)


def test_a_prior_shrinks_rates_to_independence() -> None:
    counts = [(np.asarray([4.0, 0.0]), np.asarray([1.0, 1.0]))]
    assert companion_rates(counts, 1.0).tolist() == [2.5, 0.5]
    assert companion_rates(counts, 1e9) == pytest.approx(np.ones(2))


def test_rates_are_the_mean_over_the_earlier_items() -> None:
    first, second = (np.asarray([3.0, 0.0]), np.ones(2)), (np.asarray([1.0, 3.0]), np.ones(2))
    assert companion_rates([first, second], 1.0).tolist() == [1.5, 1.25]
