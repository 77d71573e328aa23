"""Learns the weights of the search signals from what people chose after their searches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import msgspec
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from recsys_tasks.engine.bundle import Bundle
from recsys_tasks.engine.item_search import ItemSearch
from recsys_tasks.engine.query_clicks import LearnedQuery
from recsys_tasks.engine.search_options import DEFAULT_SEARCH, SearchSetup
from recsys_tasks.engine.throttle import no_pause
from recsys_tasks.evaluation.metrics import graded_ndcg
from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.search.settings import SignalWeights, read_search_settings

log = logging.getLogger(__name__)

LEARNED_SIGNALS: Final = ("text", "words", "name", "popularity")
MIN_QUERIES: Final = 100
_MAX_QUERIES = 1_000
_MAX_CHOSEN, _MAX_OTHERS = 10, 30  # items per query
_HELD_OUT = 4  # every fourth query
_MIN_GAIN = 0.005  # in nDCG@10 on held-out queries
_PENALTY = 0.1  # of squared differences from the defaults
_CUTOFF = 10


class _Example(NamedTuple):
    """The matches of one query: unweighted signals [N, S] and how strongly people chose each item [N]."""

    signals: np.ndarray
    gains: np.ndarray


def learn_search_weights(bundle: Bundle) -> dict[str, float]:
    """Returns weights of the signals in `LEARNED_SIGNALS`; empty if the defaults are as good on held-out queries.

    Pairwise logistic regression (RankNet with a linear model, Burges et al. 2005): for each query, items that people
    chose against the best ones that nobody chose. The weights are at least 0, drawn to the defaults, and have the same
    sum. What the queries taught about their items does not take part. Less than 100 queries are too
    few.
    """
    defaults = read_search_settings(None)
    if len(bundle.learned_queries) < MIN_QUERIES:
        return {}
    search = _plain_search(bundle)
    examples = [_example(search, bundle, query) for query in bundle.learned_queries[:_MAX_QUERIES]]
    examples = [example for example in examples if 0 < (example.gains > 0).sum() < len(example.gains)]
    if len(examples) < MIN_QUERIES:
        return {}
    default = np.asarray([getattr(defaults.signals, name) for name in LEARNED_SIGNALS])
    held_out = examples[::_HELD_OUT]
    fitted = _fit([example for row, example in enumerate(examples) if row % _HELD_OUT], default)
    before, after = _mean_ndcg(held_out, default), _mean_ndcg(held_out, fitted)
    log.info("Search weights: nDCG@10 %.4f with the defaults, %.4f learned, on held-out queries", before, after)
    if after < before + _MIN_GAIN:
        return {}
    return dict(zip(LEARNED_SIGNALS, _fit(examples, default).round(4).tolist(), strict=True))


def search_ndcg(bundle: Bundle, queries: Sequence[LearnedQuery]) -> float:
    """Mean nDCG@10 of a bundle's search for what people chose, without what it learned of these queries.

    Args:
        bundle: the bundle, with its weights.
        queries: at least one; a query whose choices are not among the matches counts 0.
    """
    weights = msgspec.structs.replace(read_search_settings(None).signals, **bundle.search_weights)
    search = _plain_search(bundle)
    default = np.asarray([getattr(weights, name) for name in LEARNED_SIGNALS])
    examples = [_example(search, bundle, query) for query in queries[:_MAX_QUERIES]]
    return float(np.mean([_ndcg(example, default) if example.gains.any() else 0.0 for example in examples]))


def _plain_search(bundle: Bundle) -> ItemSearch:
    """Search whose signals have weight 1, without learned queries."""
    ones = SignalWeights(**dict.fromkeys(SignalWeights.__struct_fields__, 1.0))
    setup = SearchSetup(msgspec.structs.replace(read_search_settings(None), signals=ones, learned_weights=False))
    return ItemSearch.build(replace(bundle, learned_queries=()), setup, no_pause)


def _example(search: ItemSearch, bundle: Bundle, query: LearnedQuery) -> _Example:
    found = search.find(query.query, None, DEFAULT_SEARCH)
    if not len(found.matches.numbers):
        return _Example(np.zeros((0, len(LEARNED_SIGNALS))), np.zeros(0))
    signals = search.rank(found, None).signals
    scores = dict(zip(query.item_ids, query.scores, strict=True))
    item_ids = [bundle.vocabulary.item_ids[number - FIRST_ITEM] for number in found.matches.numbers.tolist()]
    gains = np.asarray([scores.get(item_id, 0.0) for item_id in item_ids])
    return _Example(np.stack([signals[name] for name in LEARNED_SIGNALS], axis=1), gains)


def _fit(examples: Sequence[_Example], default: np.ndarray) -> np.ndarray:
    """Weights [S] that order the chosen items before the others."""
    differences, importance = (
        np.concatenate(part) for part in zip(*(_pairs(e, default) for e in examples), strict=True)
    )
    importance = importance / importance.sum()

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margins = differences @ weights
        slope = -importance * expit(-margins)
        distance = weights - default
        value = float(importance @ np.logaddexp(0.0, -margins)) + _PENALTY * float(distance @ distance)
        return value, differences.T @ slope + 2 * _PENALTY * distance

    found = minimize(loss, default, jac=True, bounds=[(0.0, None)] * len(default)).x
    return np.asarray(found * default.sum() / max(found.sum(), 1e-9))


def _pairs(example: _Example, default: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences of signals between chosen and other items [P, S], and the importance of each pair [P]."""
    order = np.argsort(-(example.signals @ default), kind="stable")
    chosen = np.argsort(-example.gains, kind="stable")[:_MAX_CHOSEN]
    chosen = chosen[example.gains[chosen] > 0]
    others = order[example.gains[order] == 0][:_MAX_OTHERS]
    differences = example.signals[chosen][:, None] - example.signals[others][None]
    importance = np.repeat(example.gains[chosen] / len(others), len(others))
    return differences.reshape(-1, len(default)), importance / max(importance.sum(), 1e-9)


def _mean_ndcg(examples: Sequence[_Example], weights: np.ndarray) -> float:
    return float(np.mean([_ndcg(example, weights) for example in examples]))


def _ndcg(example: _Example, weights: np.ndarray) -> float:
    order = np.argsort(-(example.signals @ weights), kind="stable")
    return graded_ndcg(example.gains[order], example.gains, _CUTOFF)
