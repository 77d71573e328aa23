"""Impression discounting: estimated factors, tracked impressions, and discounted scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.engine.impression_discounting import DiscountedItems, UnclickedImpressions
from recsys_tasks.features.impression_discounting import MAX_UNCLICKED_IMPRESSIONS, estimate_impression_discount
from recsys_tasks.names import DISCOUNT_RESET_HOURS

TRUTH = 0.85 ** np.arange(MAX_UNCLICKED_IMPRESSIONS + 1)
PROPENSITIES = np.asarray([1.0, 0.5, 0.25])
HOUR, NOON = 3600.0, 1.7e9


def _counts(seed: int, looks: float) -> tuple[np.ndarray, ...]:
    """Simulated counts: items with high scores are clicked more and shown again more often."""
    random = np.random.default_rng(seed)
    size, previous = (
        grid.ravel() for grid in np.meshgrid(np.arange(-8, 0), np.arange(MAX_UNCLICKED_IMPRESSIONS + 1), indexing="ij")
    )
    expected = looks * np.exp(-previous / (size + 9))
    return size, previous, expected, random.poisson(expected * 0.4 * np.exp(size / 3) * TRUTH[previous])


def test_factors_are_unbiased_though_better_items_are_shown_more_often() -> None:
    counts = _counts(0, looks=3_000)
    factors = estimate_impression_discount(*counts)
    _, previous, looks, acted = counts
    rates = np.bincount(previous, acted) / np.bincount(previous, looks)
    assert np.abs(factors - TRUTH)[:10].max() < 0.06  # higher counts have little data
    assert np.abs(factors - TRUTH).mean() < np.abs(rates / rates[0] - TRUTH).mean()  # the naive estimate


@given(st.integers(0, 50), st.floats(10, 1_000))
def test_factors_never_rise_with_the_number_of_impressions(seed: int, looks: float) -> None:
    factors = estimate_impression_discount(*_counts(seed, looks))
    assert len(factors) in (0, MAX_UNCLICKED_IMPRESSIONS + 1)
    assert (np.diff(factors) <= 1e-12).all()
    assert ((factors > 0) & (factors <= 1)).all()


def test_few_clicks_give_no_estimate() -> None:
    assert len(estimate_impression_discount(*_counts(0, looks=5))) == 0


def test_impressions_add_up_by_examination_propensity() -> None:
    impressions = UnclickedImpressions()
    for _ in range(3):
        impressions.add_list("u1", ["a", "b", "c"], PROPENSITIES, NOON)
    assert impressions.counts("u1", NOON) == pytest.approx({"a": 3.0, "b": 1.5, "c": 0.75})
    assert not impressions.counts("u2", NOON)
    assert not impressions.counts(None, NOON)


def test_an_action_or_a_pause_resets_the_count() -> None:
    impressions = UnclickedImpressions()
    impressions.add_list("u1", ["a", "b"], PROPENSITIES, NOON)
    impressions.remove("u1", "a")
    assert set(impressions.counts("u1", NOON)) == {"b"}
    later = NOON + DISCOUNT_RESET_HOURS * HOUR + 1
    assert not impressions.counts("u1", later)
    impressions.add_list("u1", ["b"], PROPENSITIES, later)
    assert impressions.counts("u1", later) == {"b": 1.0}


def test_a_forgotten_visitor_has_no_impressions() -> None:
    impressions = UnclickedImpressions()
    impressions.add_list("u1", ["a"], PROPENSITIES, NOON)
    impressions.forget("u1")
    assert not impressions.counts("u1", NOON)


@given(st.dictionaries(st.integers(0, 99), st.floats(0.01, 1.0), min_size=1), st.lists(st.integers(0, 99), min_size=1))
def test_only_discounted_items_lose_score(discounts: dict[int, float], numbers: list[int]) -> None:
    items = DiscountedItems(np.asarray(list(discounts)), np.asarray(list(discounts.values())))
    assert items.factors(np.asarray(numbers)).tolist() == [discounts.get(number, 1.0) for number in numbers]
