"""Two models on the same questions: how much more one has of each measure, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from recsys_tasks.evaluation.metrics import gains, interval, list_metrics

if TYPE_CHECKING:  # it brings torch, which those who read a comparison do not need
    from recsys_tasks.evaluation.protocol import Answers

_METRICS = ("mrr_20", "recall_20", "ndcg_20")


@dataclass(frozen=True)
class Gain:
    """A measure of a model and of its rival, and between what the difference lies; without bounds it has no spread."""

    model: float
    rival: float
    low: float
    high: float
    questions: int

    def as_share(self, difference: float) -> float:
        """A difference as a share of the rival's measure; infinite where that is nothing."""
        if difference == 0:
            return 0.0
        return difference / self.rival if self.rival else math.copysign(math.inf, difference)

    def as_dict(self) -> dict[str, float]:
        """All of it, for JSON."""
        return asdict(self)


Comparison = dict[str, Gain]
"""Gains by metric (`mrr_20`) and by segment and metric (`new users: mrr_20`)."""


def compare(
    model: Answers,
    rival: Answers,
    users: np.ndarray,
    segments: dict[str, np.ndarray],
    counts: np.ndarray,
    rival_counts: np.ndarray,
    confidence: float,
) -> Comparison:
    """Compares two models' answers [B] to the same questions.

    Args:
        model, rival: answers, each in the numbers of its own vocabulary.
        users: whose question each is [B]; they are drawn in the bootstrap, paired, so that what is hard for both does
            not count.
        segments: which questions belong to each [B].
        counts, rival_counts: how often each item came in training, in each one's numbers.
        confidence: one-sided, of either bound.
    """
    ours, theirs = gains(model.ranks), gains(rival.ranks)
    everything = {"": np.ones(len(users), bool), **{f"{name}: ": members for name, members in segments.items()}}
    found = {
        f"{prefix}{metric}": _paired(ours[metric][members], theirs[metric][members], users[members], confidence)
        for prefix, members in everything.items()
        for metric in _METRICS
    }
    lists = zip(
        list_metrics(model.lists, counts).items(), list_metrics(rival.lists, rival_counts).values(), strict=True
    )
    for (metric, own), other in lists:
        found[metric] = Gain(own, other, own - other, own - other, len(users))
    return found


def _paired(ours: np.ndarray, theirs: np.ndarray, users: np.ndarray, confidence: float) -> Gain:
    if not len(users):  # what nobody asked says nothing
        return Gain(0.0, 0.0, 0.0, 0.0, 0)
    low, high = interval(ours - theirs, users, level=2 * confidence - 1)
    return Gain(float(ours.mean()), float(theirs.mean()), low, high, len(users))
