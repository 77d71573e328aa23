"""Two scorers as one, in the proportion that validation prefers."""

from __future__ import annotations

import numpy as np

from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import Questions, Scorer, batches, rank
from recsys_tasks.features.sequences import Timeline

_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def blend(first: Scorer, second: Scorer, weight: float) -> Scorer:
    """Mean of the scorers' shares, the second with a weight; where it has no scores at all, the first alone."""
    if weight == 0:
        return first

    def scores(asked: Questions) -> np.ndarray:
        return _mixed(_shares(first(asked)), _shares(second(asked)), weight)

    return scores


def best_weight(
    first: Scorer, second: Scorer, timeline: Timeline, asked: Questions, skip_session: bool, measure: str
) -> float:
    """The second scorer's weight in the blend that does best on validation questions; 0 if the first alone does."""
    ranks = {weight: np.zeros(len(asked), np.int64) for weight in _WEIGHTS}
    for part in batches(timeline, asked):
        ours, theirs = _shares(first(asked[part])), _shares(second(asked[part]))
        for weight, found in ranks.items():
            found[part] = rank(_mixed(ours, theirs, weight), timeline, asked[part], skip_session).ranks
    return max(ranks, key=lambda weight: ranking_metrics(ranks[weight])[measure])


def _mixed(ours: np.ndarray, theirs: np.ndarray, weight: float) -> np.ndarray:
    return np.where(theirs.any(1, keepdims=True), (1 - weight) * ours + weight * theirs, ours)


def _shares(scores: np.ndarray) -> np.ndarray:
    totals = scores.sum(1, keepdims=True)
    return scores / np.where(totals > 0, totals, 1.0)
