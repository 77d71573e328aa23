"""Baskets: how often items and categories go together, and how often by chance."""

from __future__ import annotations

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


def test_chance_is_the_share_of_an_item_among_all_baskets() -> None:
    baskets = baskets_of([[0, 1], [0, 2], [3, 2], [3, 2]], CATEGORY_OF)
    found, expected = baskets.of_item(0, np.asarray([1, 2]))
    assert found.tolist() == [1, 1]
    assert expected.tolist() == [0.5, 1.5]


def test_an_item_is_not_its_own_companion_but_its_category_can_be() -> None:
    baskets = baskets_of([[0, 4], [0, 0, 1]], CATEGORY_OF)
    assert baskets.of_item(0, np.asarray([0]))[0].tolist() == [0]
    found, _ = baskets.of_category(0)
    assert found.tolist() == [2, 1, 0, 0]


@pytest.mark.parametrize("lists", [[], [[5]], [[5], [6], [7, 7]]])
def test_baskets_of_one_item_say_nothing(lists: list[list[int]]) -> None:
    baskets = baskets_of(lists, CATEGORY_OF)
    for found, expected in (baskets.of_category(1), baskets.of_item(5, np.arange(NUM_ITEMS))):
        assert not found.any()
        assert companion_rates(found, expected, 1.0) == pytest.approx(np.ones(len(found)))


@given(st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), min_size=1, max_size=6), max_size=12))
def test_companions_are_as_many_by_chance_and_in_both_directions_without_weights(lists: list[list[int]]) -> None:
    baskets = baskets_of(lists, CATEGORY_OF)
    total = sum(len(set(items)) for items in lists if len(set(items)) > 1)
    of_category = [baskets.of_category(number) for number in range(NUM_CATEGORIES)]
    assert sum(found.sum() for found, _ in of_category) == pytest.approx(total)
    for found, expected in of_category:
        assert found.sum() == pytest.approx(expected.sum())
        assert found.min() >= 0
    matrix = np.stack([found for found, _ in of_category])
    assert matrix == pytest.approx(matrix.T)


def test_a_prior_shrinks_rates_to_chance() -> None:
    found, expected = np.asarray([4.0, 0.0]), np.asarray([1.0, 1.0])
    assert companion_rates(found, expected, 1.0).tolist() == [2.5, 0.5]
    assert companion_rates(found, expected, 1e9) == pytest.approx(np.ones(2))
