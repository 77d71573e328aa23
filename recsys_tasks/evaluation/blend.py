"""Linear blend of two scorers with a weight chosen on validation."""

from __future__ import annotations

import numpy as np

from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import PredictionTasks, Scorer, iterate_batches, rank_scores
from recsys_tasks.features.sequences import Timeline

_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def blend_scorers(first: Scorer, second: Scorer, weight: float) -> Scorer:
    """Returns the weighted mean of two scorers' normalized scores; `weight` is the second scorer's.

    Where the second scorer has no scores, the first scorer alone counts.
    """
    if weight == 0:
        return first

    def scores(tasks: PredictionTasks) -> np.ndarray:
        return _blend_shares(_normalize_rows(first(tasks)), _normalize_rows(second(tasks)), weight)

    return scores


def choose_blend_weight(
    first: Scorer, second: Scorer, timeline: Timeline, tasks: PredictionTasks, exclude_session_items: bool, metric: str
) -> float:
    """Returns the second scorer's weight with the highest validation metric; 0 if the first scorer alone is best."""
    ranks = {weight: np.zeros(len(tasks), np.int64) for weight in _WEIGHTS}
    for part in iterate_batches(timeline, tasks):
        first_shares, second_shares = _normalize_rows(first(tasks[part])), _normalize_rows(second(tasks[part]))
        for weight, found in ranks.items():
            found[part] = rank_scores(
                _blend_shares(first_shares, second_shares, weight), timeline, tasks[part], exclude_session_items
            ).ranks
    return max(ranks, key=lambda weight: ranking_metrics(ranks[weight])[metric])


def _blend_shares(first_shares: np.ndarray, second_shares: np.ndarray, weight: float) -> np.ndarray:
    return np.where(
        second_shares.any(1, keepdims=True), (1 - weight) * first_shares + weight * second_shares, first_shares
    )


def _normalize_rows(scores: np.ndarray) -> np.ndarray:
    totals = scores.sum(1, keepdims=True)
    return scores / np.where(totals > 0, totals, 1.0)
