"""Counterfactual evaluation of lists: the clicks that a model's lists would have got, from explored lists of another.

Position-based model: a click on item i at position p has the probability θ_p γ_i, where θ_p is the examination
propensity of the position and γ_i does not depend on the list (Craswell et al. 2008). A clicked item therefore tells
about every list that has the item, at whatever position. It is weighted by the examination that the item gets in the
model's list, divided by the examination that it could expect from the exploration that logged it (Li et al. 2018,
"Offline Evaluation of Ranking Policies with Click Models", the PBM estimator).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from recsys_tasks.experiments.off_policy import Estimate, cluster_means, effective_sample_size

_RANK_EDGES = np.asarray([1, 2, 4, 8, 16, 32, 64])  # of the buckets of ranks that share a click rate
_PRIOR_CLICKS = 2.0
_FITTING_ROUNDS = 20
_FOLDS = 2
_TINY = 1e-12


class ExploredLists(NamedTuple):
    """Complete lists whose positions exploration filled, without pinned items.

    Attributes:
        cluster: cluster id of each list, such as the visitor [L].
        share: share of the positions that were drawn at random [L].
        num_candidates: number of items that exploration drew from [L], at least the number of positions.
        list: index of each impression's list, non-decreasing [N].
        position: its position: 1, 2, … in each list [N].
        rank: rank of its item among the candidates, from 1 [N].
        item: number of its item; negative for one that is in no other list [N].
        clicked: whether it was clicked [N].
    """

    cluster: np.ndarray
    share: np.ndarray
    num_candidates: np.ndarray
    list: np.ndarray
    position: np.ndarray
    rank: np.ndarray
    item: np.ndarray
    clicked: np.ndarray


class CounterfactualComparison(NamedTuple):
    """Estimated click-through rates of a model's and of its rival's lists, from the same explored lists.

    The bounds of all estimates are two-sided at 95 %, clustered, and do not include the error of the examination.

    Attributes:
        model, rival: CTR, doubly robust; the effective sample size is a number of lists.
        model_snips, rival_snips: CTR, self-normalized.
        difference: of the doubly robust CTRs, paired by list.
        overlap: share of the model's positions, weighted by examination, with an item that exploration could have
            shown; estimated as the mean of the weights, which may be above 1.
        num_lists, num_clusters, num_clicks: numbers of explored lists, of their clusters, and of clicks on them.
    """

    model: Estimate
    rival: Estimate
    model_snips: Estimate
    rival_snips: Estimate
    difference: Estimate
    overlap: Estimate
    num_lists: int
    num_clusters: int
    num_clicks: int

    @property
    def is_finite(self) -> bool:
        """Whether the estimates and their bounds are finite, and the rival has a rate to compare with."""
        estimates = (self.model, self.rival, self.difference)
        return self.rival.value > 0 and all(math.isfinite(part) for estimate in estimates for part in estimate)

    def as_dict(self) -> dict[str, object]:
        """Returns all fields for JSON; a bound that is not finite is None."""
        found: dict[str, object] = {}
        for name, value in self._asdict().items():
            is_estimate = isinstance(value, Estimate)
            found[name] = {key: _finite(part) for key, part in value._asdict().items()} if is_estimate else value
        return found


class _Policy(NamedTuple):
    """A model's lists beside the logged ones.

    Attributes:
        weight: examination of each logged item in the model's list, divided by the expected one [N]; 0 for none.
        slots: examination of each position of the model's list [L, K], 0 for none.
        own_rank, other_rank: rank of the item at each position for the model and for its rival [L, K], 0 for none.
    """

    weight: np.ndarray
    slots: np.ndarray
    own_rank: np.ndarray
    other_rank: np.ndarray


class _Ranking:
    """Ranks of the items in lists [L, C] of item numbers, best first, padded with 0."""

    def __init__(self, lists: np.ndarray) -> None:
        self.lists = lists
        self._size = int(lists.max(initial=0)) + 1
        row, column = np.nonzero(lists > 0)
        keys = row * self._size + lists[row, column]
        order = np.argsort(keys, kind="stable")
        self._keys, self._ranks = keys[order], column[order] + 1

    def of(self, row: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Rank of items in the lists of rows, of the same shape, from 1; 0 for an item that is not in the list."""
        keys = row * self._size + item
        place = np.minimum(np.searchsorted(self._keys, keys), max(len(self._keys) - 1, 0))
        if not len(self._keys):
            return np.zeros(keys.shape, np.int64)
        is_listed = (self._keys[place] == keys) & (item > 0) & (item < self._size)
        ranks: np.ndarray = np.where(is_listed, self._ranks[place], 0)
        return ranks


@lru_cache(4_096)
def expected_examination(num_candidates: int, share: float, slots: tuple[float, ...]) -> np.ndarray:
    """Returns the examination [C] that the candidate of each rank can expect from epsilon-greedy exploration.

    Each position takes the best remaining candidate with probability 1 - share, else a uniformly random one. Computed
    backwards over the positions, for an item that is not shown yet, by the number of better candidates that remain.

    Args:
        num_candidates: C, at least the number of positions.
        share: of the positions that are drawn at random.
        slots: examination of each position [K].
    """
    better = np.arange(num_candidates, dtype=np.float64)
    expected = np.zeros(num_candidates)
    for slot in range(len(slots) - 1, -1, -1):
        remaining = num_candidates - slot
        taken = share / remaining + (1 - share) * (better == 0)
        # Of b better candidates that remain, the best is taken first, or each at random.
        better_taken = np.minimum(share * better / remaining + (1 - share) * (better > 0), 1.0)
        worse_taken = np.maximum(1 - taken - better_taken, 0.0)
        fewer = np.concatenate([[0.0], expected[:-1]])
        expected = taken * slots[slot] + better_taken * fewer + worse_taken * expected
    return expected


def compare_counterfactually(
    logged: ExploredLists, model: np.ndarray, rival: np.ndarray, examination: np.ndarray
) -> CounterfactualComparison:
    """Compares the lists that two models would have shown in place of explored ones.

    The doubly robust estimate (Dudík, Langford and Li 2011) predicts clicks by the rank that either model gives an
    item. These rates are fitted on the lists of other visitors.

    Args:
        logged: the explored lists.
        model, rival: item numbers that either would rank, best first [L, C], padded with 0; the best are shown.
        examination: examination propensity of each position, from 1 [P].
    """
    theta = _extended(examination, int(logged.position.max(initial=1)))
    seen, expected, slots = theta[logged.position - 1], _logged_examination(logged, theta), _slots(logged, theta)
    rankings = _Ranking(model), _Ranking(rival)
    ranks = [ranking.of(logged.list, logged.item) for ranking in rankings]
    own = _policy(logged, expected, slots, ranks[0], rankings)
    other = _policy(logged, expected, slots, ranks[1], rankings[::-1])
    rates = _ClickRates(logged, ranks[0], ranks[1], seen)
    own_clicks = rates.doubly_robust(own, own.own_rank, own.other_rank)
    other_clicks = rates.doubly_robust(other, other.other_rank, other.own_rank)
    own_weights, other_weights = rates.list_weights(own), rates.list_weights(other)
    shown = np.bincount(logged.list, minlength=len(logged.cluster)).astype(np.float64)
    effective = effective_sample_size(own_weights), effective_sample_size(other_weights)
    return CounterfactualComparison(
        model=cluster_means(own_clicks, shown, logged.cluster, effective[0]),
        rival=cluster_means(other_clicks, shown, logged.cluster, effective[1]),
        model_snips=_self_normalized(logged, own, own_weights, shown),
        rival_snips=_self_normalized(logged, other, other_weights, shown),
        difference=cluster_means(own_clicks - other_clicks, shown, logged.cluster, min(effective)),
        overlap=cluster_means(own_weights, own.slots.sum(1), logged.cluster, effective[0]),
        num_lists=len(logged.cluster),
        num_clusters=len(np.unique(logged.cluster)),
        num_clicks=int(logged.clicked.sum()),
    )


def _extended(examination: np.ndarray, num_positions: int) -> np.ndarray:
    """Examination of all positions; those without an estimate are examined like the last one that has it."""
    return np.pad(examination, (0, max(num_positions - len(examination), 0)), mode="edge")


def _slots(logged: ExploredLists, theta: np.ndarray) -> np.ndarray:
    """Examination of the positions of each logged list [L, K], 0 for none."""
    slots = np.zeros((len(logged.cluster), int(logged.position.max(initial=0))))
    slots[logged.list, logged.position - 1] = theta[logged.position - 1]
    return slots


def _logged_examination(logged: ExploredLists, theta: np.ndarray) -> np.ndarray:
    """Examination that each logged item could expect from the exploration of its list [N]."""
    expected = np.zeros(len(logged.list))
    edges = np.searchsorted(logged.list, np.arange(len(logged.cluster) + 1))
    for row, (begin, end) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        slots = tuple(theta[: end - begin].tolist())
        of_rank = expected_examination(int(logged.num_candidates[row]), float(logged.share[row]), slots)
        expected[begin:end] = of_rank[logged.rank[begin:end] - 1]
    return expected


def _policy(
    logged: ExploredLists,
    expected: np.ndarray,
    slots: np.ndarray,
    rank: np.ndarray,
    rankings: tuple[_Ranking, _Ranking],
) -> _Policy:
    """The lists of the first ranking, whose ranks of the logged items are given [N]."""
    count, num_slots = slots.shape
    padded = np.pad(slots, ((0, 0), (1, 0)))  # rank 0: not listed
    examined = padded[logged.list, np.where(rank <= num_slots, rank, 0)]
    weight = np.divide(examined, expected, out=np.zeros_like(examined), where=expected > 0)
    lists = rankings[0].lists[:, :num_slots]
    best = np.pad(lists, ((0, 0), (0, num_slots - lists.shape[1])))
    own_rank = np.where(best > 0, np.arange(1, num_slots + 1), 0)
    other_rank = rankings[1].of(np.repeat(np.arange(count), num_slots).reshape(best.shape), best)
    return _Policy(weight, np.where(best > 0, slots, 0.0), own_rank, other_rank)


def _bucket(rank: np.ndarray) -> np.ndarray:
    """Bucket of each rank, from 0; the last one is for items without a rank."""
    found: np.ndarray = np.where(rank > 0, np.searchsorted(_RANK_EDGES, rank, side="right") - 1, len(_RANK_EDGES))
    return found


class _ClickRates:
    """Clicks per examination by the ranks that both models give an item.

    Each half of the visitors is predicted from the other half.

    A factor for each bucket of either rank, fitted by turns, and one for each pair of buckets. Each is smoothed as if
    it had got some clicks more: a factor of a bucket like those of the bucket before, so that items that a model does
    not rank are taken for the last ones that it ranks; that of a pair like one.

    Args:
        logged: the explored lists.
        model_rank, rival_rank: of each logged item [N].
        seen: examination of each impression [N].
    """

    def __init__(self, logged: ExploredLists, model_rank: np.ndarray, rival_rank: np.ndarray, seen: np.ndarray) -> None:
        self._logged, self._seen = logged, seen
        self._ranks = _bucket(model_rank), _bucket(rival_rank)
        self._fold = np.unique(logged.cluster, return_inverse=True)[1] % _FOLDS
        self._rates = np.stack([self._fitted(self._fold[logged.list] != fold) for fold in range(_FOLDS)])

    def _fitted(self, chosen: np.ndarray) -> np.ndarray:
        size = len(_RANK_EDGES) + 1
        cell = self._ranks[0][chosen] * size + self._ranks[1][chosen]
        clicks = np.bincount(cell, self._logged.clicked[chosen], size * size).reshape(size, size)
        examined = np.bincount(cell, self._seen[chosen], size * size).reshape(size, size)
        mean = clicks.sum() / max(examined.sum(), _TINY)
        row, column = np.ones(size), np.ones(size)
        for _ in range(_FITTING_ROUNDS):
            row = _smoothed(clicks.sum(1), mean * examined @ column)
            column = _smoothed(clicks.sum(0), mean * examined.T @ row)
        expected = mean * examined * np.outer(row, column)
        rates: np.ndarray = mean * np.outer(row, column) * (clicks + _PRIOR_CLICKS) / (expected + _PRIOR_CLICKS)
        return rates

    def doubly_robust(self, policy: _Policy, model_rank: np.ndarray, rival_rank: np.ndarray) -> np.ndarray:
        """Estimated clicks [L] on the list of a policy in place of each logged one.

        Args:
            policy: the policy.
            model_rank, rival_rank: of the items in its list [L, K].
        """
        rates = self._rates[self._fold[:, None], _bucket(model_rank), _bucket(rival_rank)]
        of_logged = self._seen * self._rates[self._fold[self._logged.list], self._ranks[0], self._ranks[1]]
        residuals = self._sum_by_list(policy.weight * (self._logged.clicked - of_logged))
        clicks: np.ndarray = (policy.slots * rates).sum(1) + residuals
        return clicks

    def list_weights(self, policy: _Policy) -> np.ndarray:
        """Weighted examination of each logged list [L]; the mean is that of the policy's lists if all overlap."""
        return self._sum_by_list(policy.weight * self._seen)

    def _sum_by_list(self, values: np.ndarray) -> np.ndarray:
        sums: np.ndarray = np.bincount(self._logged.list, values, len(self._logged.cluster))
        return sums


def _smoothed(clicks: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Ratio of clicks to expected clicks of each bucket, smoothed towards that of the bucket before."""
    factors = np.ones(len(clicks))
    for bucket in range(len(clicks)):
        before = factors[bucket - 1] if bucket else 1.0
        factors[bucket] = (clicks[bucket] + _PRIOR_CLICKS * before) / (expected[bucket] + _PRIOR_CLICKS)
    return factors


def _self_normalized(logged: ExploredLists, policy: _Policy, weights: np.ndarray, num_shown: np.ndarray) -> Estimate:
    """CTR by weighted clicks per weighted examination (Swaminathan and Joachims 2015)."""
    clicks = np.bincount(logged.list, policy.weight * logged.clicked, len(logged.cluster))
    found = cluster_means(clicks, weights, logged.cluster, effective_sample_size(weights))
    scale = float(policy.slots.sum()) / max(float(num_shown.sum()), 1.0)
    if not scale:
        return found
    return Estimate(found.value * scale, found.low * scale, found.high * scale, found.effective_sample_size)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
