"""Shopping missions: a mixture of multinomials over the categories of a session, fitted by EM.

Letters in shapes: K missions, C categories, S sessions, N categories of sessions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_MAX_MISSIONS, _SESSIONS_PER_MISSION = 8, 50
_ITERATIONS = 40
_PRIOR_COUNT = 200.0  # each mission starts with this many purchases, distributed as those of all sessions
_HOUSEHOLD_PRIOR_SESSIONS = 5.0


class Missions(NamedTuple):
    """Shares of the missions [K], and of the categories in each [K, C]."""

    shares: np.ndarray
    category_shares: np.ndarray

    @property
    def lift(self) -> np.ndarray:
        """Share of each category in a mission relative to its share in all [K, C]."""
        lift: np.ndarray = self.category_shares / (self.shares @ self.category_shares)
        return lift

    def posterior(self, category: np.ndarray, session: np.ndarray) -> np.ndarray:
        """Returns the probability of each mission given the categories of a session [S, K].

        Args:
            category: numbers [N]; session: of each, from 0 to S - 1 [N].
        """
        log_shares = np.log(self.category_shares[:, category])
        likelihood = np.stack([np.bincount(session, weights=row) for row in log_shares], axis=1)
        return _normalize(np.log(self.shares) + likelihood)

    def session_mix(self, mix: np.ndarray, category: np.ndarray) -> np.ndarray:
        """Returns the probability of each mission of a session [K], given the household's mix [K] and some of the
        session's categories [N]."""
        return _normalize(np.log(mix) + np.log(self.category_shares[:, category]).sum(1))

    def mix(self, category: np.ndarray, session: np.ndarray) -> np.ndarray:
        """Returns a household's share of each mission [K] from its sessions, shrunk to the shares of all."""
        found = self.posterior(category, session).sum(0) if len(category) else np.zeros(len(self.shares))
        found = found + _HOUSEHOLD_PRIOR_SESSIONS * self.shares
        mix: np.ndarray = found / found.sum()
        return mix

    def main(self, mix: np.ndarray) -> int:
        """Returns the mission that most distinguishes a household with a mix [K] from the others."""
        return int(np.argmax(mix / self.shares))


def _normalize(log_weights: np.ndarray) -> np.ndarray:
    """Returns probabilities along the last axis from their logarithms, which lack a constant."""
    weights = np.exp(log_weights - log_weights.max(-1, keepdims=True))
    probabilities: np.ndarray = weights / weights.sum(-1, keepdims=True)
    return probabilities


def fit_missions(category: np.ndarray, session: np.ndarray, base: np.ndarray, random: np.random.Generator) -> Missions:
    """Fits a mixture of multinomials by EM (McLachlan and Peel 2000); one mission where there are few sessions.

    Args:
        category: distinct numbers in each session [N]; session: of each, from 0 to S - 1 [N].
        base: positive share of each category in the shop [C], the mean of the Dirichlet prior.
        random: draws the start.
    """
    num_sessions = int(session.max(initial=-1)) + 1
    count = min(_MAX_MISSIONS, max(num_sessions // _SESSIONS_PER_MISSION, 1))
    overall = np.bincount(category, minlength=len(base)) + _PRIOR_COUNT * base
    overall /= overall.sum()
    missions = Missions(np.ones(1), overall[None])
    if count == 1:
        return missions
    responsibility = random.dirichlet(np.ones(count), num_sessions)
    for _ in range(_ITERATIONS):
        counts = np.stack(
            [np.bincount(category, weights=weights[session], minlength=len(base)) for weights in responsibility.T]
        )
        smoothed = counts + _PRIOR_COUNT * overall
        shares = responsibility.sum(0) + 1.0
        missions = Missions(shares / shares.sum(), smoothed / smoothed.sum(1, keepdims=True))
        responsibility = missions.posterior(category, session)
    return missions
