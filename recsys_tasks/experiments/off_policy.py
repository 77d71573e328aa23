"""What another policy would have got, from what was shown by one whose chances are known.

A row is one thing shown: what came of it (reward), the chance with which it was shown, and the chance with which the
other policy would have shown it there. Intervals are by clusters, such as visitors, whose rows are not independent.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

_Z = 1.959963984540054  # two-sided 95 %


class Logged(NamedTuple):
    """What was shown [N].

    Attributes:
        reward: what came of it; shown: the chance with which it was shown, above 0; wanted: that of the other policy.
        cluster: whose it is.
    """

    reward: np.ndarray
    shown: np.ndarray
    wanted: np.ndarray
    cluster: np.ndarray


class Predicted(NamedTuple):
    """What a model of rewards expects: of what was shown [N], and of what the other policy would show there [N]."""

    shown: np.ndarray
    wanted: np.ndarray


class Estimate(NamedTuple):
    """A mean reward with its 95 % interval, and of how many rows with equal weights it is worth (Kish 1965)."""

    value: float
    low: float
    high: float
    effective: float


def inverse_propensity(logged: Logged) -> Estimate:
    """Mean of w·r with w = wanted / shown (Horvitz and Thompson 1952): unbiased, and restless where chances are
    small."""
    weight = logged.wanted / logged.shown
    return _mean(weight * logged.reward, logged, weight)


def self_normalised(logged: Logged) -> Estimate:
    """Σ w·r / Σ w (Swaminathan and Joachims 2015): a little biased, calmer, and within the rewards' range."""
    weight = logged.wanted / logged.shown
    total = float(weight.sum())
    if not total:
        return Estimate(0.0, 0.0, math.inf, 0.0)
    value = float((weight * logged.reward).sum()) / total
    error = _error(weight * (logged.reward - value), logged.cluster) / total
    return Estimate(value, value - _Z * error, value + _Z * error, _effective(weight))


def doubly_robust(logged: Logged, predicted: Predicted) -> Estimate:
    """Mean of q(wanted) + w·(r - q(shown)) (Dudík, Langford and Li 2011): right where either the chances or the
    predictions are, and calmer the better those are."""
    weight = logged.wanted / logged.shown
    return _mean(predicted.wanted + weight * (logged.reward - predicted.shown), logged, weight)


def _mean(values: np.ndarray, logged: Logged, weight: np.ndarray) -> Estimate:
    count = len(values)
    if not count:
        return Estimate(0.0, 0.0, math.inf, 0.0)
    value = float(values.mean())
    error = _error(values - value, logged.cluster) / count
    return Estimate(value, value - _Z * error, value + _Z * error, _effective(weight))


def _error(residuals: np.ndarray, cluster: np.ndarray) -> float:
    """Standard error of a sum of residuals, by clusters; infinite with a single one."""
    _, number = np.unique(cluster, return_inverse=True)
    sums = np.bincount(number, weights=residuals)
    return math.sqrt(float((sums**2).sum()) * len(sums) / (len(sums) - 1)) if len(sums) > 1 else math.inf


def _effective(weight: np.ndarray) -> float:
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares else 0.0
