"""How likely people look at each place of a list: what a click at the bottom says more than one at the top.

A place that nobody looks at gets no clicks, however good its item: an item that was not clicked is no sign that it was
not wanted, and is never taught as one. A click counts the more, the less likely its place was looked at.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import isotonic_regression

PLACES = 50
_ROUNDS = 200
_CLOSE = 1e-6
LEAST_CLICKS = 200
_MOST_WEIGHT = 10.0


def examination(item: np.ndarray, place: np.ndarray, shown: np.ndarray, acted: np.ndarray) -> np.ndarray:
    """Chances [P] that a place is looked at, as shares of the first one's, by the position-based model.

    P(acted on | item i, place p) = θ_p γ_i, fitted by expectation maximisation over counts (Craswell et al. 2008;
    Chuklin, Markov and de Rijke 2015, Click Models for Web Search, 4.2). Items that stand at several places tell the
    two apart. Further down nothing is looked at more than further up: θ is made to fall by pooling.
    Empty where too little was clicked to say anything.

    Args:
        item, place: numbers from 0 of each pair [N]; shown, acted: how often it was [N].
    """
    if acted.sum() < LEAST_CLICKS:
        return np.zeros(0)
    places = int(place.max()) + 1
    theta, gamma = np.full(places, 0.5), np.full(int(item.max()) + 1, 0.1)
    of_place, of_item = np.bincount(place, shown, places), np.bincount(item, shown, len(gamma))
    for _ in range(_ROUNDS):
        both = theta[place] * gamma[item]
        not_acted = (shown - acted) / np.maximum(1 - both, 1e-12)
        looked = acted + not_acted * theta[place] * (1 - gamma[item])
        wanted = acted + not_acted * gamma[item] * (1 - theta[place])
        before = theta / max(theta.max(), 1e-12)
        theta = np.bincount(place, looked, places) / np.maximum(of_place, 1e-12)
        gamma = np.bincount(item, wanted, len(gamma)) / np.maximum(of_item, 1e-12)
        if np.abs(theta / max(theta.max(), 1e-12) - before).max() < _CLOSE:
            break
    found = falling(theta, of_place)
    return found / found[0]


def click_weights(shown_at: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """How much each event [N] counts, by the place (from 1) where its item was shown; 0 for none: inverse chances of
    having been looked at, at most ten times the least, with a mean of 1 over what was shown (Joachims, Swaminathan and
    Schnabel 2017, "Unbiased Learning-to-Rank with Biased Feedback")."""
    weights = np.ones(len(shown_at), np.float32)
    places = np.flatnonzero(shown_at > 0)
    if len(chances) and len(places):
        at = np.minimum(shown_at[places], len(chances)) - 1
        inverse = np.minimum(1 / np.maximum(chances[at], 1e-12), _MOST_WEIGHT)
        weights[places] = inverse / inverse.mean()
    return weights


def falling(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The falling sequence nearest to values by weighted squares: those that rise are pooled (Ayer et al. 1955)."""
    found: np.ndarray = isotonic_regression(values, weights=np.maximum(weights, 1e-12), increasing=False).x
    return found
