"""Metrics of rankings, from the rank of one target per request (1 is the best) and the lists that were shown."""

from __future__ import annotations

import numpy as np

from recsys_tasks.names import FIRST_ITEM

CUTS = (5, 10, 20)
MISSED = np.iinfo(np.int64).max
_RESAMPLES = 500


def rank_of(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rank [B] of each target [B] by scores [B, V]; ties count against the target, and so do scores that are no number.

    A target whose own score is no number comes last.
    """
    own = np.take_along_axis(scores, target[:, None], 1)
    ranks: np.ndarray = (~(scores < own)).sum(1)
    return ranks


def gains(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """recall, ndcg and mrr at 5, 10 and 20 of each request [B], keyed as `recall_20`.

    With one target, recall is whether it is found, ndcg 1 / log2(1 + rank) (Järvelin and Kekäläinen 2002), mrr
    1 / rank where it is found.
    """
    rank, found = ranks.astype(np.float64), {}
    for k in CUTS:
        hit = rank <= k
        found[f"recall_{k}"] = hit.astype(np.float64)
        found[f"ndcg_{k}"] = np.where(hit, 1 / np.log2(1 + rank), 0.0)
        found[f"mrr_{k}"] = np.where(hit, 1 / rank, 0.0)
    return found


def ranking_metrics(ranks: np.ndarray) -> dict[str, float]:
    """Means of `gains`, with precision and f1."""
    return with_precision({name: _mean(values) for name, values in gains(ranks).items()})


def with_precision(means: dict[str, float]) -> dict[str, float]:
    """Adds to every recall_k its precision_k, which with one target is recall divided by k, and f1_k of the two."""
    found = dict(means)
    for k in CUTS:
        recall = found.get(f"recall_{k}")
        if recall is None:
            continue
        precision = recall / k
        found[f"precision_{k}"] = precision
        found[f"f1_{k}"] = 2 * precision * recall / (precision + recall) if recall else 0.0
    return found


def list_metrics(lists: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """What lists of items [B, k] are like, whether or not they hold the target; an entry of 0 is none.

    Args:
        lists: item numbers, best first.
        counts: how often each item came in training [V].

    Returns:
        coverage: share of the catalogue that is in any list; popularity: mean share of training events of what is
        listed, in units of the mean item's (average recommendation popularity, Yin et al. 2012); novelty: mean
        self-information in bits, -log2 of that share (Zhou et al. 2010).
    """
    items, k = max(len(counts) - FIRST_ITEM, 1), lists.shape[1]
    listed = lists[lists >= FIRST_ITEM]
    share = (counts + 1) / (counts[FIRST_ITEM:] + 1).sum()
    return {
        f"coverage_{k}": len(np.unique(listed)) / items,
        f"popularity_{k}": _mean(share[listed]) * items,
        f"novelty_{k}": _mean(-np.log2(share[listed])),
    }


def interval(values: np.ndarray, groups: np.ndarray, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """A two-sided confidence interval of the mean of values [B], by bootstrap over groups [B] (Efron 1979).

    Requests of one user are alike, so that users are drawn, not requests.
    """
    _, number = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(number, values), np.bincount(number)
    random = np.random.default_rng(seed)
    means = np.empty(_RESAMPLES)
    for at in range(_RESAMPLES):
        drawn = np.bincount(random.integers(len(sums), size=len(sums)), minlength=len(sums))
        means[at] = drawn @ sums / (drawn @ sizes)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
