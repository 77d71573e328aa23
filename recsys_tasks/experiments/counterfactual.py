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
    """Lists whose positions exploration filled. An impression of an item that kept its position (a pin) is left out.

    Attributes:
        cluster: cluster id of each list, such as the visitor [L].
        share: share of the positions that were drawn at random [L].
        num_candidates: number of items that exploration drew from [L].
        list: index of each impression's list, non-decreasing [N].
        position: its position, from 1, ascending in a list [N].
        rank: rank of its item among the candidates, from 1 [N].
        item: number of its item [N].
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

    Attributes:
        model, rival: CTR, doubly robust; the effective sample size is a number of lists.
        model_snips, rival_snips: CTR, self-normalized.
        difference: of the doubly robust CTRs, paired by list.
        overlap: share of the examined positions of the model's lists with an item that exploration could have shown.
        num_lists: number of explored lists.
        num_clicks: number of clicks on them.
    """

    model: Estimate
    rival: Estimate
    model_snips: Estimate
    rival_snips: Estimate
    difference: Estimate
    overlap: float
    num_lists: int
    num_clicks: int

    def as_dict(self) -> dict[str, object]:
        """Returns all fields for JSON; infinite bounds are None."""
        found: dict[str, object] = {}
        for name, value in self._asdict().items():
            is_estimate = isinstance(value, Estimate)
            found[name] = {key: _finite(part) for key, part in value._asdict().items()} if is_estimate else value
        return found


class _Policy(NamedTuple):
    """A model's lists beside the logged ones.

    Attributes:
        examined: examination of each logged item in the model's list [N]; 0 if it is not in it.
        weight: that, divided by the expected examination of the logged item [N].
        slots: examination of each position of the model's list that no pin keeps [L, K], padded with 0.
        own_rank, other_rank: rank of the item at each position for the model and for its rival [L, K], 0 for none.
    """

    examined: np.ndarray
    weight: np.ndarray
    slots: np.ndarray
    own_rank: np.ndarray
    other_rank: np.ndarray


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
        model, rival: item numbers that either would rank, best first [L, C], padded with 0. The best take the positions
            that no pin keeps.
        examination: examination propensity of each position, from 1 [P].
    """
    theta = _extended(examination, int(logged.position.max(initial=1)))
    expected, slots = _logged_examination(logged, theta), _free_slots(logged, theta)
    model_rank, rival_rank = (_ranks_of(logged.item, listed[logged.list]) for listed in (model, rival))
    own = _policy(logged, expected, slots, model_rank, model, rival)
    other = _policy(logged, expected, slots, rival_rank, rival, model)
    rates = _ClickRates(logged, model_rank, rival_rank, theta[logged.position - 1])
    own_clicks = rates.doubly_robust(own, own.own_rank, own.other_rank)
    other_clicks = rates.doubly_robust(other, other.other_rank, other.own_rank)
    own_weights, other_weights = rates.list_weights(own), rates.list_weights(other)
    shown = np.bincount(logged.list, minlength=len(logged.cluster)).astype(np.float64)
    effective = effective_sample_size(own_weights), effective_sample_size(other_weights)
    is_candidate = (own.other_rank > 0) & (own.other_rank <= logged.num_candidates[:, None])
    return CounterfactualComparison(
        model=cluster_means(own_clicks, shown, logged.cluster, effective[0]),
        rival=cluster_means(other_clicks, shown, logged.cluster, effective[1]),
        model_snips=_self_normalized(logged, own, own_weights, shown),
        rival_snips=_self_normalized(logged, other, other_weights, shown),
        difference=cluster_means(own_clicks - other_clicks, shown, logged.cluster, min(effective)),
        overlap=float((own.slots * is_candidate).sum()) / max(float(own.slots.sum()), _TINY),
        num_lists=len(logged.cluster),
        num_clicks=int(logged.clicked.sum()),
    )


def _extended(examination: np.ndarray, num_positions: int) -> np.ndarray:
    """Examination of all positions; those without an estimate are examined like the last one that has it."""
    return np.pad(examination, (0, max(num_positions - len(examination), 0)), mode="edge")


def _free_slots(logged: ExploredLists, theta: np.ndarray) -> np.ndarray:
    """Examination of the positions that no pin keeps [L, K], in their order, padded with 0."""
    counts = np.bincount(logged.list, minlength=len(logged.cluster))
    start = np.cumsum(counts) - counts
    slots = np.zeros((len(counts), int(counts.max(initial=0))))
    slots[logged.list, np.arange(len(logged.list)) - start[logged.list]] = theta[logged.position - 1]
    return slots


def _logged_examination(logged: ExploredLists, theta: np.ndarray) -> np.ndarray:
    """Examination that each logged item could expect from the exploration of its list [N]."""
    expected = np.zeros(len(logged.list))
    edges = np.searchsorted(logged.list, np.arange(len(logged.cluster) + 1))
    for row, (begin, end) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        slots = tuple(theta[logged.position[begin:end] - 1].tolist())
        of_rank = expected_examination(int(logged.num_candidates[row]), float(logged.share[row]), slots)
        expected[begin:end] = of_rank[logged.rank[begin:end] - 1]
    return expected


def _ranks_of(item: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """Rank [N] of each item [N] in a list [N, C], from 1; 0 if it is not in it."""
    hit = listed == item[:, None]
    return np.where(hit.any(1), 1 + hit.argmax(1), 0)


def _policy(
    logged: ExploredLists,
    expected: np.ndarray,
    slots: np.ndarray,
    rank: np.ndarray,
    listed: np.ndarray,
    other: np.ndarray,
) -> _Policy:
    num_slots = slots.shape[1]
    padded = np.pad(slots, ((0, 0), (1, 0)))  # rank 0: not listed
    examined = padded[logged.list, np.where(rank <= num_slots, rank, 0)]
    best = np.pad(listed[:, :num_slots], ((0, 0), (0, max(num_slots - listed.shape[1], 0))))
    filled = best > 0
    own_rank = np.where(filled, np.arange(1, num_slots + 1), 0)
    hit = (best[:, :, None] == other[:, None]) & filled[:, :, None]
    other_rank = np.where(hit.any(2), 1 + hit.argmax(2), 0)
    return _Policy(examined, examined / expected, np.where(filled, slots, 0.0), own_rank, other_rank)


def _bucket(rank: np.ndarray) -> np.ndarray:
    """Bucket of each rank, from 0; the last one is for items without a rank."""
    found: np.ndarray = np.where(rank > 0, np.searchsorted(_RANK_EDGES, rank, side="right") - 1, len(_RANK_EDGES))
    return found


class _ClickRates:
    """Clicks per examination by the ranks that both models give an item, for the lists of each fold of visitors from
    those of the others.

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
    per_examination = cluster_means(clicks, weights, logged.cluster, effective_sample_size(weights))
    scale = float(policy.slots.sum()) / max(float(num_shown.sum()), 1.0)
    value, low, high = (part * scale for part in per_examination[:3])
    return Estimate(value, low, high, per_examination.effective_sample_size)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
