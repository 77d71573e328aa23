"""The popularity prior is a distribution that grows with the number of events and is above 0 without any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.features.popularity_prior import log_popularity
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
