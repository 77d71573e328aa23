"""Paired comparison of two models on the same prediction tasks, with bootstrap confidence bounds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from recsys_tasks.evaluation.metrics import bootstrap_interval, list_metrics, per_target_metrics
from recsys_tasks.features.sequences import Timeline

if TYPE_CHECKING:  # imports torch, which readers of a comparison do not need
    from recsys_tasks.evaluation.protocol import PredictionTasks, RankingResult

_METRICS = ("mrr_20", "recall_20", "ndcg_20")


@dataclass(frozen=True)
class MetricGain:
    """A metric of a model and of its rival, with confidence bounds of the difference; list metrics have no spread."""

    model: float
    rival: float
    low: float
    high: float
    num_tasks: int

    def relative_to_rival(self, difference: float) -> float:
        """Returns a difference as a fraction of the rival's metric; infinite if that metric is 0."""
        if difference == 0:
            return 0.0
        return difference / self.rival if self.rival else math.copysign(math.inf, difference)

    def as_dict(self) -> dict[str, float]:
        """Returns all fields for JSON; the stored key of `num_tasks` is `questions`."""
        fields = asdict(self)
        return {"questions" if name == "num_tasks" else name: value for name, value in fields.items()}


@dataclass(frozen=True)
class Comparison:
    """A comparison of two models on sessions that neither can have been trained on.

    Attributes:
        gains: by metric (`mrr_20`) and by segment and metric (`new users: mrr_20`).
        num_tasks: number of comparable sessions.
        num_excluded: number of other sessions of the test part.
        since: time from which on a session that starts is in neither training.
    """

    gains: dict[str, MetricGain]
    num_tasks: int
    num_excluded: int
    since: datetime

    def as_dict(self) -> dict[str, object]:
        """Returns all fields for JSON; the stored keys of the numbers are `questions` and `excluded`."""
        return {
            "questions": self.num_tasks,
            "excluded": self.num_excluded,
            "since": self.since.isoformat(),
            "gains": {name: gain.as_dict() for name, gain in self.gains.items()},
        }


def tasks_since(timeline: Timeline, tasks: PredictionTasks, since: datetime) -> PredictionTasks:
    """Returns the tasks whose session starts at or after a time."""
    return tasks[np.flatnonzero(timeline.session_seconds[tasks.first] >= since.timestamp())]


def compare(
    model: RankingResult,
    rival: RankingResult,
    users: np.ndarray,
    segments: dict[str, np.ndarray],
    counts: np.ndarray,
    rival_counts: np.ndarray,
    confidence: float,
) -> dict[str, MetricGain]:
    """Returns a model's gains on its rival, by metric, and by segment and metric, from results [B] on the same tasks.

    Args:
        model, rival: results, each in the item numbers of its own vocabulary.
        users: user of each task [B]; the bootstrap resamples users, paired, so that difficulty common to both models
            cancels.
        segments: membership mask [B] of each segment.
        counts, rival_counts: training count of each item, in each model's item numbers.
        confidence: of either one-sided bound.
    """
    ours, theirs = per_target_metrics(model.ranks), per_target_metrics(rival.ranks)
    masks = {"": np.ones(len(users), bool), **{f"{name}: ": members for name, members in segments.items()}}
    found = {
        f"{prefix}{metric}": _paired_gain(ours[metric][members], theirs[metric][members], users[members], confidence)
        for prefix, members in masks.items()
        for metric in _METRICS
    }
    lists = zip(
        list_metrics(model.lists, counts).items(), list_metrics(rival.lists, rival_counts).values(), strict=True
    )
    for (metric, own), other in lists:
        found[metric] = MetricGain(own, other, own - other, own - other, len(users))
    return found


def _paired_gain(ours: np.ndarray, theirs: np.ndarray, users: np.ndarray, confidence: float) -> MetricGain:
    if not len(users):  # an empty segment
        return MetricGain(0.0, 0.0, 0.0, 0.0, 0)
    low, high = bootstrap_interval(ours - theirs, users, level=2 * confidence - 1)
    return MetricGain(float(ours.mean()), float(theirs.mean()), low, high, len(users))
