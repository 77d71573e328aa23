"""Off-policy evaluation: the mean reward of a target policy, from impressions logged under another policy.

The logging policy's propensities are known. Intervals are clustered, for example by visitor, because the rows of a
cluster are not independent.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

_Z = 1.959963984540054  # two-sided 95 %


class LoggedImpressions(NamedTuple):
    """Logged impressions [N].

    Attributes:
        reward: observed reward, such as a click.
        logging_propensity: probability of the impression under the logging policy, above 0.
        target_propensity: its probability under the target policy.
        cluster: cluster id, such as the visitor.
    """

    reward: np.ndarray
    logging_propensity: np.ndarray
    target_propensity: np.ndarray
    cluster: np.ndarray


class PredictedRewards(NamedTuple):
    """Predictions of a reward model: for the logged item [N], and for the target policy's choice in its place [N]."""

    logged_item: np.ndarray
    target_policy: np.ndarray


class Estimate(NamedTuple):
    """A mean reward with its 95 % confidence interval, and the effective sample size (Kish 1965)."""

    value: float
    low: float
    high: float
    effective_sample_size: float

    @property
    def standard_error(self) -> float:
        """Standard error of the value."""
        return (self.high - self.value) / _Z


def estimate_ips(logged: LoggedImpressions) -> Estimate:
    """Returns the inverse propensity score estimate, the mean of w·r with w = target / logging propensity.

    Unbiased, with high variance where logging propensities are small (Horvitz and Thompson 1952).
    """
    weight = logged.target_propensity / logged.logging_propensity
    return _estimate_mean(weight * logged.reward, logged, weight)


def estimate_snips(logged: LoggedImpressions) -> Estimate:
    """Returns the self-normalized inverse propensity score estimate, Σ w·r / Σ w (Swaminathan and Joachims 2015).

    Slightly biased, with less variance than IPS, and within the range of the rewards.
    """
    weight = logged.target_propensity / logged.logging_propensity
    return cluster_means(weight * logged.reward, weight, logged.cluster, effective_sample_size(weight))


def estimate_doubly_robust(logged: LoggedImpressions, predicted: PredictedRewards) -> Estimate:
    """Returns the doubly robust estimate, the mean of q(target) + w·(r - q(logged)) (Dudík, Langford and Li 2011).

    Consistent if either the propensities or the predictions are right; better predictions reduce its variance.
    """
    weight = logged.target_propensity / logged.logging_propensity
    return _estimate_mean(predicted.target_policy + weight * (logged.reward - predicted.logged_item), logged, weight)


def _estimate_mean(values: np.ndarray, logged: LoggedImpressions, weight: np.ndarray) -> Estimate:
    return cluster_means(values, np.ones(len(values)), logged.cluster, effective_sample_size(weight))


def cluster_means(values: np.ndarray, sizes: np.ndarray, cluster: np.ndarray, num_effective: float) -> Estimate:
    """Returns Σ values / Σ sizes of rows [N], with an interval by the variance of a ratio of cluster totals.

    Args:
        values, sizes: of each row; the sizes are 1 for a mean.
        cluster: cluster id of each row.
        num_effective: effective sample size of the rows.
    """
    total = float(sizes.sum())
    if not total:
        return Estimate(0.0, 0.0, math.inf, 0.0)
    value = float(values.sum()) / total
    error = _standard_error(values - value * sizes, cluster) / total
    return Estimate(value, value - _Z * error, value + _Z * error, num_effective)


def _standard_error(residuals: np.ndarray, cluster: np.ndarray) -> float:
    """Clustered standard error of a sum of residuals; infinite with a single cluster."""
    _, number = np.unique(cluster, return_inverse=True)
    sums = np.bincount(number, weights=residuals)
    return math.sqrt(float((sums**2).sum()) * len(sums) / (len(sums) - 1)) if len(sums) > 1 else math.inf


def effective_sample_size(weight: np.ndarray) -> float:
    """Returns (Σ w)² / Σ w² (Kish 1965)."""
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares else 0.0
