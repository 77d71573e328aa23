"""Position bias: the examination propensity of each list position, and inverse propensity weights of clicks.

An item at a position that nobody examines gets no clicks, however relevant it is. Impressions without a click are
therefore never negatives. A click at a rarely examined position has a larger weight.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import isotonic_regression

MAX_POSITIONS = 50
MIN_CLICKS = 200
_MAX_ITERATIONS = 200
_TOLERANCE = 1e-6
_MAX_WEIGHT = 10.0
_EPSILON = 1e-12


def estimate_position_bias(item: np.ndarray, position: np.ndarray, shown: np.ndarray, acted: np.ndarray) -> np.ndarray:
    """Returns the examination propensity [P] of each position relative to the first, by the position-based model.

    P(click | item i, position p) = θ_p γ_i, fitted by expectation maximization over counts (Craswell et al. 2008;
    Chuklin, Markov and de Rijke 2015, Click Models for Web Search, 4.2). Items shown at several positions identify θ
    and γ. An isotonic regression makes θ decreasing. Empty with fewer than MIN_CLICKS clicks.

    Args:
        item, position: index from 0 of each pair [N].
        shown, acted: number of impressions and of clicks of each pair [N].
    """
    if acted.sum() < MIN_CLICKS:
        return np.zeros(0)
    num_positions = int(position.max()) + 1
    theta, gamma = np.full(num_positions, 0.5), np.full(int(item.max()) + 1, 0.1)
    position_shown = np.bincount(position, shown, num_positions)
    item_shown = np.bincount(item, shown, len(gamma))
    for _ in range(_MAX_ITERATIONS):
        # E-step: expected examinations and attractions; every click implies both.
        click_probability = theta[position] * gamma[item]
        per_non_click = (shown - acted) / np.maximum(1 - click_probability, _EPSILON)
        examined = acted + per_non_click * theta[position] * (1 - gamma[item])
        attracted = acted + per_non_click * gamma[item] * (1 - theta[position])
        previous = theta / max(theta.max(), _EPSILON)
        # M-step.
        theta = np.bincount(position, examined, num_positions) / np.maximum(position_shown, _EPSILON)
        gamma = np.bincount(item, attracted, len(gamma)) / np.maximum(item_shown, _EPSILON)
        if np.abs(theta / max(theta.max(), _EPSILON) - previous).max() < _TOLERANCE:
            break
    fitted = fit_decreasing(theta, position_shown)
    return fitted / fitted[0]


def click_weights(shown_at: np.ndarray, propensities: np.ndarray) -> np.ndarray:
    """Returns the inverse propensity weight [N] of each event (Joachims, Swaminathan and Schnabel 2017, "Unbiased
    Learning-to-Rank with Biased Feedback").

    Weights of clicks are clipped at 10 and then have a mean of 1. Events outside lists have weight 1.

    Args:
        shown_at: list position from 1 at which the event's item was shown, 0 for none [N].
        propensities: examination propensity of each position [P]; may be empty.
    """
    weights = np.ones(len(shown_at), np.float32)
    clicks = np.flatnonzero(shown_at > 0)
    if len(propensities) and len(clicks):
        index = np.minimum(shown_at[clicks], len(propensities)) - 1
        inverse = np.minimum(1 / np.maximum(propensities[index], _EPSILON), _MAX_WEIGHT)
        weights[clicks] = inverse / inverse.mean()
    return weights


def fit_decreasing(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the weighted least-squares decreasing fit: pool adjacent violators (Ayer et al. 1955)."""
    fitted: np.ndarray = isotonic_regression(values, weights=np.maximum(weights, _EPSILON), increasing=False).x
    return fitted
