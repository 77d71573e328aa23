"""Impression discounting: how the click probability of an item falls with its unclicked impressions.

Estimated from feedback and stored with each snapshot (Lee, Lakshmanan, Tiwari and Shah 2014, "Modeling Impression
Discounting in Large-scale Recommender Systems").
"""

from __future__ import annotations

from typing import Final

import numpy as np

from recsys_tasks.features.position_bias import MIN_CLICKS, fit_decreasing

MAX_UNCLICKED_IMPRESSIONS: Final = 20
_NUM_ITERATIONS = 100
_PRIOR_CLICKS = 20.0
_EPSILON = 1e-12


def estimate_impression_discount(
    score_bucket: np.ndarray, unclicked: np.ndarray, examined: np.ndarray, acted: np.ndarray
) -> np.ndarray:
    """Returns the click discounts [MAX_UNCLICKED_IMPRESSIONS + 1] after 0, 1, … unclicked impressions of an item.

    Repeated items are those with high scores, so that items are compared within buckets of equal scores:
    acted ~ Poisson(examined · s(score) · r(unclicked)), fitted by alternating between s and r, with r(0) = 1 and r
    decreasing. A prior of a few clicks pulls r(n) towards r(n - 1) where data are sparse. Empty with fewer than
    MIN_CLICKS clicks.

    Args:
        score_bucket: bucket of the model's score [N], any numbers.
        unclicked: earlier unclicked impressions of the item [N]; at most MAX_UNCLICKED_IMPRESSIONS.
        examined, acted: expected number of examined impressions, and number of clicks [N].
    """
    if acted.sum() < MIN_CLICKS:
        return np.zeros(0)
    _, bucket = np.unique(score_bucket, return_inverse=True)
    discount = np.ones(MAX_UNCLICKED_IMPRESSIONS + 1)
    clicks_by_unclicked = np.bincount(unclicked, acted, len(discount))
    clicks_by_bucket = np.bincount(bucket, acted)
    for _ in range(_NUM_ITERATIONS):
        rate = clicks_by_bucket / np.maximum(np.bincount(bucket, examined * discount[unclicked]), _EPSILON)
        expected = np.bincount(unclicked, examined * rate[bucket], len(discount))
        prior = np.concatenate([[1.0], discount[:-1]])
        discount = (clicks_by_unclicked + _PRIOR_CLICKS * prior) / (expected + _PRIOR_CLICKS)
        discount /= discount[0]
    fitted = fit_decreasing(discount, np.bincount(unclicked, examined, len(discount)))
    return fitted / fitted[0]
