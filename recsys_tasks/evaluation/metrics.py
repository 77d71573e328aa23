"""Ranking metrics from the rank of one target per request (1 is best), and metrics of the recommended lists."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.plugins import METRIC_GROUP, check_plugin_names, load_plugin, plugin_names

CUTOFFS = (5, 10, 20)
_METRIC_NAME = re.compile(r"[a-z][a-z0-9_]*_\d+")
_NAMES = ("recall", "ndcg", "mrr", "precision", "f1", "coverage", "popularity", "novelty")
_BUILT_IN = {f"{name}_{k}" for name in _NAMES for k in CUTOFFS}
MISSED = np.iinfo(np.int64).max
_NUM_RESAMPLES = 500


def target_ranks(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns the rank [B] of each target [B] by scores [B, V]; ties and NaN scores count against the target.

    A target whose own score is NaN ranks last.
    """
    own = np.take_along_axis(scores, target[:, None], 1)
    ranks: np.ndarray = (~(scores < own)).sum(1)
    return ranks


def per_target_metrics(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """Returns recall, ndcg and mrr at 5, 10 and 20 of each request [B], keyed as `recall_20`.

    With one target, recall@k is 1 if rank <= k, ndcg@k is 1 / log2(1 + rank) (Järvelin and Kekäläinen 2002) and mrr@k
    is 1 / rank; all are 0 beyond k.
    """
    rank, found = ranks.astype(np.float64), {}
    for k in CUTOFFS:
        hit = rank <= k
        found[f"recall_{k}"] = hit.astype(np.float64)
        found[f"ndcg_{k}"] = np.where(hit, 1 / np.log2(1 + rank), 0.0)
        found[f"mrr_{k}"] = np.where(hit, 1 / rank, 0.0)
    return found


def plugin_values(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the metrics that packages add, of each request [B].

    Raises:
        ConfigurationError: a metric does not return a finite number for each rank.
    """
    found = {}
    for name, metric in plugin_metrics().items():
        values = np.asarray(metric(ranks.astype(np.float64)), dtype=np.float64)
        if values.shape != ranks.shape or not np.isfinite(values).all():
            wrong = f"shape {values.shape}" if values.shape != ranks.shape else "values that are NaN or infinite"
            raise ConfigurationError(
                f"Metric {name} of {METRIC_GROUP} must return a finite number for each rank, an array of shape"
                f" {ranks.shape}; it returned {wrong}"
            )
        found[name] = values
    return found


@cache
def plugin_metrics() -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
    """Returns the metrics that packages add: each turns the rank of each target [B] into its value [B].

    Raises:
        ConfigurationError: a name is that of a built-in metric or does not end with a number of positions, or a package
            cannot be imported.
    """
    in_words = "lower-case letters, digits and _, with the number of positions at the end, as in success_3"
    check_plugin_names(METRIC_GROUP, _BUILT_IN, _METRIC_NAME, in_words)
    return {name: load_plugin(METRIC_GROUP, name) for name in plugin_names(METRIC_GROUP)}


def reported_metrics(ranks: np.ndarray) -> dict[str, float]:
    """Returns `ranking_metrics`, and the means of the metrics that packages add."""
    return ranking_metrics(ranks) | {name: _mean(values) for name, values in plugin_values(ranks).items()}


def ranking_metrics(ranks: np.ndarray) -> dict[str, float]:
    """Returns the means of `per_target_metrics`, with precision and f1."""
    return add_precision_and_f1({name: _mean(values) for name, values in per_target_metrics(ranks).items()})


def add_precision_and_f1(means: dict[str, float]) -> dict[str, float]:
    """Adds precision_k (recall_k / k with one target) and f1_k for every recall_k."""
    found = dict(means)
    for k in CUTOFFS:
        recall = found.get(f"recall_{k}")
        if recall is None:
            continue
        precision = recall / k
        found[f"precision_{k}"] = precision
        found[f"f1_{k}"] = 2 * precision * recall / (precision + recall) if recall else 0.0
    return found


def graded_ndcg(gains: np.ndarray, available: np.ndarray, k: int) -> float:
    """Returns nDCG@k of a list (Järvelin and Kekäläinen 2002).

    Args:
        gains: gain of each item of the list, in order.
        available: gains of all items that could be listed, the highest above 0.
        k: number of positions that count.
    """
    discounts = 1 / np.log2(np.arange(k) + 2)
    best = np.sort(available)[::-1][:k]
    return float((gains[:k] * discounts[: len(gains)]).sum() / (best * discounts[: len(best)]).sum())


def list_metrics(lists: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Returns metrics of item lists [B, k] that do not depend on the target; 0 entries are padding.

    Args:
        lists: item numbers, best first.
        counts: training count of each item [V].

    Returns:
        coverage: share of the catalog in any list; popularity: mean share of training events of listed items, relative
        to the mean item (average recommendation popularity, Yin et al. 2012); novelty: mean self-information in bits,
        -log2 of that share (Zhou et al. 2010).
    """
    coverage = {f"coverage_{lists.shape[1]}": catalog_coverage(lists, len(counts))}
    return coverage | {name: _mean(values) for name, values in per_list_metrics(lists, counts).items()}


def catalog_coverage(lists: np.ndarray, num_items: int) -> float:
    """Returns the share of a catalog's item numbers, below `num_items`, in any of the lists [B, k]."""
    return len(np.unique(lists[lists >= FIRST_ITEM])) / max(num_items - FIRST_ITEM, 1)


def per_list_metrics(lists: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Returns popularity and novelty of each list [B], as in `list_metrics`; 0 for an empty list."""
    num_items, k = max(len(counts) - FIRST_ITEM, 1), lists.shape[1]
    share = (counts + 1) / (counts[FIRST_ITEM:] + 1).sum()
    is_item = lists >= FIRST_ITEM
    length = np.maximum(is_item.sum(1), 1)
    return {
        f"popularity_{k}": (share[lists] * is_item).sum(1) / length * num_items,
        f"novelty_{k}": (-np.log2(share[lists]) * is_item).sum(1) / length,
    }


def bootstrap_interval(
    values: np.ndarray, groups: np.ndarray, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Returns a two-sided confidence interval of the mean of values [B], by bootstrap over groups [B] (Efron 1979).

    Requests of one user are correlated. Therefore users are resampled, not requests.
    """
    _, number = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(number, values), np.bincount(number)
    random = np.random.default_rng(seed)
    means = np.empty(_NUM_RESAMPLES)
    for at in range(_NUM_RESAMPLES):
        drawn = np.bincount(random.integers(len(sums), size=len(sums)), minlength=len(sums))
        means[at] = drawn @ sums / (drawn @ sizes)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
