"""The popularity prior is a distribution that grows with the number of events and is above 0 without any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.features.popularity_prior import expected_counts, log_popularity
from recsys_tasks.names import FIRST_ITEM


def _with_reserved(counts: list[int]) -> np.ndarray:
    return np.asarray([0] * FIRST_ITEM + counts)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_shares_sum_to_one_and_grow_with_the_events(counts: list[int]) -> None:
    shares = np.exp(log_popularity(_with_reserved(counts)))[FIRST_ITEM:]
    assert (shares > 0).all()
    assert shares.sum() <= 1 + 1e-9
    ordered = shares[np.argsort(counts, kind="stable")]
    assert (np.diff(ordered) >= -1e-12).all()


def test_items_seen_once_are_expected_less_often_than_seen() -> None:
    counts = [0] * 2_000 + [1] * 500 + [2] * 100 + [50] * 20
    log_shares = log_popularity(_with_reserved(counts))
    zero, one, many = log_shares[FIRST_ITEM], log_shares[FIRST_ITEM + 2_000], log_shares[-1]
    assert np.exp(zero - many) == pytest.approx(500 / 2_000 / 50)  # N(1) / N(0)
    assert np.exp(one - many) == pytest.approx(2 * 100 / 500 / 50)  # 2 N(2) / N(1)


def test_a_catalog_without_events_is_uniform() -> None:
    log_shares = log_popularity(_with_reserved([0] * 7))
    assert len(set(np.round(log_shares[FIRST_ITEM:], 9))) == 1


DAY = 86_400.0


def _new_items(count: int, events: int, days: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, and start and end of the availability, of items that were available for some days and sold evenly."""
    start = np.linspace(1, 30 - days, count) * DAY
    return np.full(count, events), start, start + days * DAY


def _expected(
    counts: np.ndarray, since: np.ndarray, until: np.ndarray, first: np.ndarray | None = None
) -> np.ndarray | None:
    return expected_counts(counts, since if first is None else first, since, until, 0.0, 30 * DAY)


def test_an_item_that_was_just_published_is_expected_to_be_as_popular_as_others_were() -> None:
    counts, since, until = _new_items(100, 20, 3)
    counts, since = np.append(counts, [0, 7]), np.append(since, [30 * DAY, 29 * DAY])
    until = np.append(until, [33 * DAY, 32 * DAY])
    expected = _expected(counts, since, until)
    assert expected is not None
    assert expected[-2] == pytest.approx(20, rel=0.05)  # no time to be sold yet
    assert 20 < expected[-1] < 21  # 7 in a day of three, but all others are alike
    assert expected[:100] == pytest.approx(20, rel=0.05)
    shares = log_popularity(np.append(np.zeros(FIRST_ITEM), counts), np.append(np.full(FIRST_ITEM, np.nan), expected))
    assert shares[-2] == pytest.approx(shares[FIRST_ITEM], abs=0.1)


@given(st.integers(0, 49))
def test_of_a_few_new_items_nothing_is_estimated(count: int) -> None:
    counts, since, until = _new_items(count, 100, 3)
    old = np.full(200, -DAY)
    counts, since = np.append(counts, np.full(200, 50)), np.append(since, old)
    assert _expected(counts, since, np.append(until, np.full(200, np.nan))) is None


def test_items_from_before_the_period_and_without_a_time_keep_their_counts() -> None:
    counts, since, until = _new_items(100, 20, 3)
    counts, since = np.append(counts, [5, 5]), np.append(since, [-DAY, np.nan])
    until = np.append(until, [np.nan, np.nan])
    expected = _expected(counts, since, until)
    assert expected is not None
    assert np.isnan(expected[-2:]).all()
    assert not np.isnan(expected[:-2]).any()


def test_the_more_items_differ_the_more_the_own_events_of_an_item_count() -> None:
    _, since, until = _new_items(200, 0, 3)
    counts = np.repeat([2, 38], 100)
    counts, since, until = np.append(counts, 15), np.append(since, 29 * DAY), np.append(until, 32 * DAY)
    expected = _expected(counts, since, until)
    assert expected is not None
    assert 20 < expected[-1] < 45
    assert expected[0] < 5 < 34 < expected[150]


def test_unsold_items_of_a_catalog_with_few_sellers_are_expected_to_stay_unsold() -> None:
    _, since, until = _new_items(1_000, 0, 20)
    counts = np.where(np.arange(1_000) < 20, 500, 0)
    expected = _expected(counts, since, until)
    assert expected is not None
    assert expected[500] < 0.5


def test_an_item_with_events_before_it_became_available_is_not_new() -> None:
    counts, since, until = _new_items(100, 20, 3)
    counts, since, until = np.append(counts, 10_000), np.append(since, 29 * DAY), np.append(until, np.nan)
    first = np.append(since[:-1], 1 * DAY)
    expected = _expected(counts, since, until, first)
    assert expected is not None
    assert np.isnan(expected[-1])
    assert expected[0] == pytest.approx(20, rel=0.05)


def test_items_that_become_available_at_the_end_change_nothing() -> None:
    counts, since = np.full(100, 20), np.full(100, 30 * DAY)
    assert _expected(counts, since, np.full(100, np.nan)) is None
