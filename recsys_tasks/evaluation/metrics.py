"""Ranking metrics from the rank of one target per request (1 is the best), over the full catalogue."""

from __future__ import annotations

import numpy as np

CUTS = (5, 10, 20)
MISSED = np.iinfo(np.int64).max


def rank_of(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rank [B] of each target [B] by scores [B, V]; ties count against the target."""
    own = np.take_along_axis(scores, target[:, None], 1)
    ranks: np.ndarray = (scores >= own).sum(1)
    return ranks


def ranking_metrics(ranks: np.ndarray) -> dict[str, float]:
    """recall, precision, f1, ndcg and mrr at 5, 10 and 20, keyed as `recall_20`.

    With one target, recall is whether it is found, precision is that divided by k, f1 their harmonic mean,
    ndcg 1 / log2(1 + rank) (Järvelin and Kekäläinen 2002), mrr 1 / rank where it is found.
    """
    found: dict[str, float] = {}
    rank = ranks.astype(np.float64)
    for k in CUTS:
        hit = rank <= k
        recall = _mean(hit)
        precision = recall / k
        found[f"recall_{k}"] = recall
        found[f"precision_{k}"] = precision
        found[f"f1_{k}"] = 2 * precision * recall / (precision + recall) if recall else 0.0
        found[f"ndcg_{k}"] = _mean(np.where(hit, 1 / np.log2(1 + rank), 0.0))
        found[f"mrr_{k}"] = _mean(np.where(hit, 1 / rank, 0.0))
    return found


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
