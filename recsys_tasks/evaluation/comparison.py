"""Paired comparison of two models on the same prediction tasks, with bootstrap confidence bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from recsys_tasks.evaluation.metrics import (
    catalog_coverage,
    per_list_metrics,
    per_target_metrics,
    plugin_metrics,
    plugin_values,
)
from recsys_tasks.evaluation.segments import segment_metric
from recsys_tasks.experiments.counterfactual import CounterfactualComparison
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.names import FIRST_ITEM

if TYPE_CHECKING:  # imports torch, which readers of a comparison do not need
    from recsys_tasks.evaluation.protocol import PredictionTasks, RankingResult

NUM_RESAMPLES = 10_000  # bounds at up to 99.99 % confidence
_RESAMPLES_AT_ONCE = 500
_METRICS = ("mrr_20", "recall_20", "ndcg_20")


@dataclass(frozen=True)
class MetricGain:
    """A metric of a model and of its rival, and the bootstrap distribution of their difference.

    Attributes:
        model, rival: the metric of either.
        differences: difference in each bootstrap resample; empty without tasks.
        num_tasks: number of tasks.
    """

    model: float
    rival: float
    differences: np.ndarray
    num_tasks: int

    def low(self, confidence: float) -> float:
        """Returns a one-sided lower bound of the difference; -inf if the resamples are too few for the confidence."""
        return -_upper_bound(-self.differences, confidence)

    def high(self, confidence: float) -> float:
        """Returns a one-sided upper bound of the difference; inf if the resamples are too few for the confidence."""
        return _upper_bound(self.differences, confidence)

    @property
    def is_tie(self) -> bool:
        """Whether the models do not differ in any resample."""
        return len(self.differences) > 0 and not self.differences.any()

    def relative_to_rival(self, difference: float) -> float:
        """Returns a difference as a fraction of the rival's metric; infinite if that metric is 0."""
        if difference == 0:
            return 0.0
        return difference / self.rival if self.rival else math.copysign(math.inf, difference)

    def as_dict(self, confidence: float) -> dict[str, float | None]:
        """Returns the gain with its bounds for JSON; a bound is None if the resamples are too few for it."""
        bounds = {"low": self.low(confidence), "high": self.high(confidence)}
        finite = {name: value if math.isfinite(value) else None for name, value in bounds.items()}
        return {"model": self.model, "rival": self.rival, **finite, "questions": self.num_tasks}


@dataclass(frozen=True)
class Comparison:
    """A comparison of two models on sessions that neither can have been trained on.

    Attributes:
        gains: by metric (`mrr_20`) and by segment and metric (`new users: mrr_20`).
        num_tasks: number of comparable sessions.
        num_excluded: number of other sessions of the test part.
        since: time from which on a session that starts is in neither training.
        counterfactual: comparison of the clicks on lists since then that exploration filled; None without any.
    """

    gains: dict[str, MetricGain]
    num_tasks: int
    num_excluded: int
    since: datetime
    counterfactual: CounterfactualComparison | None = None

    def as_dict(self, confidence: float) -> dict[str, object]:
        """Returns all fields for JSON with bounds at a confidence; the stored keys of the numbers are `questions` and
        `excluded`.
        """
        return {
            "questions": self.num_tasks,
            "excluded": self.num_excluded,
            "since": self.since.isoformat(),
            "confidence": confidence,
            "gains": {name: gain.as_dict(confidence) for name, gain in self.gains.items()},
            "counterfactual": self.counterfactual and self.counterfactual.as_dict(),
        }


def _per_task_metrics(result: RankingResult, names: Sequence[str]) -> dict[str, np.ndarray]:
    found = per_target_metrics(result.ranks) | plugin_values(result.ranks)
    return {name: found[name] for name in names}


def tasks_since(timeline: Timeline, tasks: PredictionTasks, since: datetime) -> PredictionTasks:
    """Returns the tasks whose session starts at or after a time."""
    return tasks[np.flatnonzero(timeline.session_seconds[tasks.first] >= since.timestamp())]


def compare(
    model: RankingResult, rival: RankingResult, users: np.ndarray, segments: dict[str, np.ndarray], counts: np.ndarray
) -> dict[str, MetricGain]:
    """Returns a model's gains on its rival, by metric, and by segment and metric, from results [B] on the same tasks.

    The bootstrap resamples users, paired, so that difficulty common to both models cancels (Efron 1979). Coverage is
    that of the resampled users' lists. They are fewer than all users and list fewer items; therefore the differences in
    coverage are shifted so that their mean is the measured difference.

    Args:
        model, rival: results; the listed items are numbers of one catalog.
        users: user of each task [B].
        segments: membership mask [B] of each segment.
        counts: training count of each item of the catalog [V].
    """
    names = (*_METRICS, *plugin_metrics())
    values = [_per_task_metrics(result, names) | per_list_metrics(result.lists, counts) for result in (model, rival)]
    ours, theirs = (np.stack(list(columns.values()), 1) for columns in values)
    masks = np.stack([np.ones(len(users), bool), *segments.values()], 1)
    number = np.unique(users, return_inverse=True)[1]
    difference, coverage = _resample(ours - theirs, masks, number, (model.lists, rival.lists), len(counts))
    found = {}
    for row, segment in enumerate(("", *segments)):
        members = masks[:, row]
        for column, metric in enumerate(values[0]):
            if segment and metric not in names:
                continue
            resampled = difference[:, row, column]
            found[segment_metric(segment, metric)] = MetricGain(
                _mean(ours[members, column]),
                _mean(theirs[members, column]),
                resampled[~np.isnan(resampled)],
                int(members.sum()),
            )
    own, other = (catalog_coverage(result.lists, len(counts)) for result in (model, rival))
    shifted = coverage - coverage.mean() + (own - other) if len(coverage) else coverage
    found[f"coverage_{model.lists.shape[1]}"] = MetricGain(own, other, shifted, len(users))
    return found


def _resample(
    values: np.ndarray, masks: np.ndarray, user: np.ndarray, lists: tuple[np.ndarray, np.ndarray], num_items: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns means [R, S, M] of values [B, M] of the tasks in masks [B, S], and differences in coverage [R].

    A mean over no task is NaN. R is the number of resamples of users [B].
    """
    num_users, (num_masks, num_values) = int(user.max(initial=-1)) + 1, (masks.shape[1], values.shape[1])
    if not num_users:
        return np.zeros((0, num_masks, num_values)), np.zeros(0)
    of_user = sparse.csr_matrix((np.ones(len(user)), (user, np.arange(len(user)))))
    sums = of_user @ (masks[:, :, None] * values[:, None, :]).reshape(len(user), -1)
    sizes = of_user @ masks.astype(np.float64)
    listed = [_listed_items(items, user, num_users, num_items) for items in lists]
    random = np.random.default_rng(0)
    means, coverage = [], []
    for _ in range(NUM_RESAMPLES // _RESAMPLES_AT_ONCE):
        drawn = random.integers(num_users, size=(_RESAMPLES_AT_ONCE, num_users))
        drawn += num_users * np.arange(_RESAMPLES_AT_ONCE)[:, None]
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        with np.errstate(invalid="ignore"):
            means.append((times @ sums).reshape(-1, num_masks, num_values) / (times @ sizes)[:, :, None])
        is_drawn = (times > 0).astype(np.float32)
        own, other = (((is_drawn @ items) > 0).sum(1) for items in listed)
        coverage.append((own - other) / max(num_items - FIRST_ITEM, 1))
    return np.concatenate(means), np.concatenate(coverage)


def _listed_items(lists: np.ndarray, user: np.ndarray, num_users: int, num_items: int) -> sparse.csr_matrix:
    """Returns which items [V] of the catalog each user's lists [B, k] contain [U, V], without items in no list."""
    entries = (np.ones(lists.size, np.float32), (np.repeat(user, lists.shape[1]), lists.ravel()))
    matrix = sparse.csc_matrix(entries, (num_users, num_items))[:, FIRST_ITEM:]
    return matrix[:, np.diff(matrix.indptr) > 0].tocsr()


def _upper_bound(differences: np.ndarray, confidence: float) -> float:
    if (1 - confidence) * len(differences) < 1:
        return math.inf
    return float(np.quantile(differences, confidence, method="higher"))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
