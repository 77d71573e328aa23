"""Position bias: the examination propensity of each list position, and inverse propensity weights of clicks.

An item at a position that nobody examines gets no clicks, however relevant it is. Impressions without a click are
therefore never negatives. A click at a rarely examined position has a larger weight.
"""

from __future__ import annotations

import logging

import numpy as np
from scipy.optimize import Bounds, isotonic_regression, minimize
from scipy.special import expit, logit

log = logging.getLogger(__name__)
MAX_POSITIONS = 50
MIN_CLICKS = 200
_START_LOGIT = 2.0  # of all positions
_LOGIT_BOUNDS = (-12.0, 12.0)  # an item without clicks has no finite maximum
_STEP_PRECISION = 1.0  # of the Gaussian prior of the difference between the logits of adjacent positions
_OPTIONS = {"maxiter": 1_000, "maxfun": 2_000, "ftol": 1e-9, "gtol": 1e-5}
_MAX_WEIGHT = 10.0
_EPSILON = 1e-12


def estimate_position_bias(item: np.ndarray, position: np.ndarray, shown: np.ndarray, acted: np.ndarray) -> np.ndarray:
    """Returns the examination propensity [P] of each position relative to the first, by the position-based model.

    P(click | item i, position p) = θ_p γ_i, fitted to counts by maximum likelihood with L-BFGS (Craswell et al. 2008;
    Chuklin, Markov and de Rijke 2015, Click Models for Web Search, 4.2). Expectation maximization takes thousands of
    iterations, as few items are shown at many positions. Such items identify θ and γ; where there are none, a weak
    prior makes all positions equal, which corrects nothing. An isotonic regression makes θ decreasing. Empty with fewer
    than MIN_CLICKS clicks.

    Args:
        item, position: index from 0 of each pair [N].
        shown, acted: number of impressions and of clicks of each pair [N].
    """
    if acted.sum() < MIN_CLICKS:
        return np.zeros(0)
    num_positions, num_clicks = int(position.max()) + 1, float(acted.sum())
    # Starts where all positions are equal and items explain all: the fit leaves it as far as the counts demand.
    rate = (np.bincount(item, acted) + 1e-3) / (np.bincount(item, shown) + 1e-2)
    start = np.concatenate([np.full(num_positions, _START_LOGIT), logit(np.minimum(rate / expit(_START_LOGIT), 0.99))])

    def loss(logits: np.ndarray) -> tuple[float, np.ndarray]:
        """Negative log posterior per click, and its gradient by the log odds of all θ and γ."""
        theta, gamma = np.split(expit(logits), [num_positions])
        click_probability = theta[position] * gamma[item]
        not_acted = shown - acted
        residual = not_acted * click_probability / (1 - click_probability) - acted
        gradient = np.concatenate(
            [
                np.bincount(position, residual * (1 - theta[position]), len(theta)),
                np.bincount(item, residual * (1 - gamma[item]), len(gamma)),
            ]
        )
        steps = _STEP_PRECISION * np.diff(logits[:num_positions])
        gradient[: num_positions - 1] -= steps
        gradient[1:num_positions] += steps
        log_prior = -(steps @ steps) / (2 * _STEP_PRECISION)
        log_likelihood = acted @ np.log(click_probability) + not_acted @ np.log1p(-click_probability)
        return -float(log_likelihood + log_prior) / num_clicks, gradient / num_clicks

    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=Bounds(*_LOGIT_BOUNDS), options=_OPTIONS)
    if not found.success:
        log.warning("The estimate of position bias stopped before its maximum: %s", found.message)
    theta = expit(found.x[:num_positions])
    position_shown = np.bincount(position, shown, num_positions)
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
